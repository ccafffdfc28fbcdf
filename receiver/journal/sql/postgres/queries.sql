-- Named statements with `$1`, `$2` …. `tables.py` makes the statements that write rows.
-- The planner avoids sorting at any price (`connections.PLANS`) and would rather walk through a whole table in the
-- order of its key. Where few rows are found by another key, `|| ''` keeps it from that. Statuses that are parameters
-- keep it from partial indexes.

-- name: load
-- Documents ($1) with their open deliveries ($2: statuses), one row for each delivery. All is of one moment.
SELECT submissions.id AS document_id, version, submissions.body AS body, working, events.body AS event,
    attempts.number, started_ms, attempts.manual AS attempt_manual,
    deliveries.id, event_id, deliveries.submission_id, destination, deliveries.created_ms, due_ms, deliveries.status,
    attempt, failures, owner, deliveries.detail, receipt, deliveries.finished_ms, deliveries.manual
FROM receiver.submissions
LEFT JOIN receiver.deliveries ON deliveries.submission_id = submissions.id AND deliveries.status = ANY ($2)
LEFT JOIN receiver.events ON events.id = deliveries.event_id
LEFT JOIN receiver.attempts
    ON attempts.delivery_id = deliveries.id AND attempts.number = deliveries.attempt AND deliveries.status = 'running'
WHERE submissions.id = ANY ($1);

-- name: lock
-- One order for all, so that no two transactions wait for each other.
SELECT id FROM receiver.submissions WHERE id = ANY ($1) ORDER BY id FOR UPDATE;

-- name: named
SELECT once, body FROM receiver.submissions WHERE once = ANY ($1);

-- name: look
SELECT EXISTS (SELECT FROM receiver.deliveries WHERE destination = $1 AND status = 'pending' AND due_ms <= $2);

-- name: candidates
-- $1 destination, $2 now, $3 submissions that were tried, $4 'running', $5 limit.
-- (`IS NULL`, not `NOT EXISTS`: one look by key for each, where a join would read all that runs.)
SELECT submissions.id, version
FROM receiver.deliveries AS mine JOIN receiver.submissions ON submissions.id = mine.submission_id
WHERE mine.destination = $1 AND mine.status = 'pending' AND due_ms <= $2 AND mine.submission_id <> ALL ($3)
  AND (
      SELECT 1 FROM receiver.deliveries AS other
      WHERE other.submission_id = mine.submission_id AND other.status = $4
        AND other.destination || '' = mine.destination LIMIT 1) IS NULL
ORDER BY due_ms LIMIT $5 FOR UPDATE OF submissions SKIP LOCKED;

-- name: fresh
-- As `candidates`, of those that have not failed. The one at place $4 (0 to 1) among the first comes first.
SELECT submissions.id, version
FROM (
    SELECT submission_id FROM (
        SELECT submission_id FROM receiver.deliveries
        WHERE destination = $1 AND status = 'pending' AND due_ms <= $2 AND failures = 0 AND submission_id <> ALL ($3)
        ORDER BY due_ms LIMIT 1000) AS due
    ORDER BY abs(row_number() OVER () - $4::float8 * count(*) OVER ()) LIMIT $5) AS mine
JOIN receiver.submissions ON submissions.id = mine.submission_id
FOR UPDATE OF submissions SKIP LOCKED;

-- name: one_deletes
-- Two that delete at once would each leave a shared file to the other.
SELECT pg_advisory_xact_lock(7283910554230117);

-- name: remove
-- Event ids start with their submission's. An array for each keeps the planner from beginning with all events.
WITH callbacks AS (DELETE FROM receiver.callbacks WHERE submission_id = ANY ($1) RETURNING 1),
events AS (
    DELETE FROM receiver.events WHERE number = ANY (ARRAY(
        SELECT unnest(ARRAY(
            SELECT number FROM receiver.events WHERE events.id > gone || '.' AND events.id < gone || '/'))
        FROM unnest($1::text[]) AS gone)) RETURNING 1),
deliveries AS (DELETE FROM receiver.deliveries WHERE submission_id = ANY ($1) RETURNING id),
attempts AS (DELETE FROM receiver.attempts WHERE delivery_id = ANY (ARRAY(SELECT id FROM deliveries)) RETURNING 1),
requests AS (DELETE FROM receiver.requests WHERE id = ANY ($1)),
submissions AS (DELETE FROM receiver.submissions WHERE id = ANY ($1) RETURNING 1)
SELECT (SELECT count(*) FROM submissions) AS submissions, (SELECT count(*) FROM callbacks) AS callbacks,
    (SELECT count(*) FROM events) AS events, (SELECT count(*) FROM deliveries) AS deliveries,
    (SELECT count(*) FROM attempts) AS attempts;

-- name: leave_files
-- Files that no other submission needs are removed from the media store afterwards.
WITH mine AS (DELETE FROM receiver.files WHERE submission_id = ANY ($1) RETURNING digest), left_over AS (
    INSERT INTO receiver.leftovers (digest)
    SELECT DISTINCT digest FROM mine
    WHERE (SELECT 1 FROM receiver.files AS other
           WHERE other.digest = mine.digest AND other.submission_id <> ALL ($1) LIMIT 1) IS NULL
    ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest RETURNING 1
)
SELECT count(*) AS files FROM left_over;

-- name: forget_callbacks
DELETE FROM receiver.callbacks WHERE number = ANY ($1) RETURNING 1;

-- name: forget_leftovers
DELETE FROM receiver.leftovers WHERE digest = ANY ($1) RETURNING 1;

-- name: values
SELECT key, convert_to(data, 'UTF8') AS data, version FROM receiver.shared_values WHERE starts_with(key, $1);

-- name: add_value
INSERT INTO receiver.shared_values (key, data, version) VALUES ($1, $2, pg_current_xact_id()::text)
ON CONFLICT (key) DO NOTHING RETURNING version;

-- name: replace_value
UPDATE receiver.shared_values SET data = $2, version = pg_current_xact_id()::text
WHERE key = $1 AND version = $3 RETURNING version;

-- name: delete_value
DELETE FROM receiver.shared_values WHERE key = $1 AND version = $2 RETURNING '' AS version;

-- name: number_on
-- The next rows are numbered behind all that were copied.
SELECT setval(pg_get_serial_sequence('receiver.callbacks', 'number'), (SELECT max(number) FROM receiver.callbacks)),
    setval(pg_get_serial_sequence('receiver.events', 'number'), (SELECT max(number) FROM receiver.events));

-- name: bytes_used
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint
FROM pg_class WHERE relnamespace = 'receiver'::regnamespace AND relkind = 'r';

-- name: abandoned_deliveries
SELECT id FROM receiver.deliveries WHERE status = 'running' AND owner <> ALL ($1) ORDER BY id;

-- name: careless_settings
-- With these a crash of the server's machine may take back what was committed.
SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name;

-- name: is_old_layout
SELECT to_regclass('receiver.submissions') IS NOT NULL AND to_regclass('receiver.requests') IS NULL;
