-- Statements of each callback have their parameters by position: by name they cost twice as much.

-- name: insert_submission
-- A name (`once`) that is taken keeps the newcomer out.
INSERT INTO submissions (
    version, working, task_id, once, status, display, ended, hooked, settled, send_due_ms, media_due_ms,
    deadline_due_ms, task_status, poll_due_ms, body, id, parent_id
) VALUES (?, CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?, ?)
ON CONFLICT (once) WHERE once IS NOT NULL DO NOTHING;

-- name: insert_request
INSERT INTO requests VALUES (?, ?, ?, ?);

-- name: update_submission
UPDATE submissions SET
    version = ?, working = CAST(? AS TEXT), task_id = ?, once = ?, status = ?, display = ?, ended = ?, hooked = ?,
    settled = ?, send_due_ms = ?, media_due_ms = ?, deadline_due_ms = ?, task_status = ?, poll_due_ms = ?, body = CAST(? AS TEXT)
WHERE id = ?;

-- name: update_progress
-- The changes of most callbacks and polls. SQLite maintains the index of every column that a statement names.
UPDATE submissions SET
    version = ?, working = CAST(? AS TEXT), poll_due_ms = ?, body = CAST(? AS TEXT) WHERE id = ?;

-- name: update_working
-- The changes of claims and completions.
UPDATE submissions SET version = ?, working = CAST(? AS TEXT) WHERE id = ?;

-- name: insert_callback
INSERT INTO callbacks VALUES (?, ?, ?, ?, CAST(? AS TEXT));

-- name: insert_event
INSERT INTO events VALUES (?, ?, ?, ?, ?, CAST(? AS TEXT));

-- name: write_delivery
-- A row of another submission stays as it is, and does not count.
INSERT INTO deliveries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?, ?)
ON CONFLICT DO UPDATE SET
    due_ms = excluded.due_ms, status = excluded.status, attempt = excluded.attempt, failures = excluded.failures,
    owner = excluded.owner, detail = excluded.detail, receipt = excluded.receipt, finished_ms = excluded.finished_ms,
    manual = excluded.manual
WHERE submission_id = excluded.submission_id;

-- name: write_attempt
REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_file
INSERT INTO files (submission_id, digest) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- name: insert_leftover
INSERT INTO leftovers (digest) VALUES (?) ON CONFLICT DO NOTHING;

-- name: insert_value
INSERT INTO shared_values (key, data) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- name: get_once
SELECT id FROM submissions WHERE once = ?;

-- name: claimable
-- One that waits for another of its submission is left out early, so that it costs no document.
SELECT submission_id FROM deliveries AS due
WHERE destination = :destination AND status = 'pending' AND due_ms <= :now_ms
  AND NOT EXISTS (
      SELECT 1 FROM deliveries AS other
      WHERE other.submission_id = due.submission_id AND other.destination = due.destination
        AND other.status = 'running')
ORDER BY due_ms;

-- name: fresh
-- Of the first that have not failed, the one at place `fresh` (0 to 1) comes first, then its neighbours.
SELECT submission_id FROM (
    SELECT submission_id FROM deliveries
    WHERE destination = :destination AND status = 'pending' AND due_ms <= :now_ms AND failures = 0
    ORDER BY due_ms LIMIT 1000)
ORDER BY abs(row_number() OVER () - :fresh * count(*) OVER ());

-- name: remove_events
DELETE FROM events WHERE number IN (
    SELECT number FROM json_each(?1) CROSS JOIN events ON events.id > value || '.' AND events.id < value || '/');
