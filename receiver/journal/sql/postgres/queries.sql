-- Named statements. `:name` is a parameter. `:name::text::…[]` takes a list as one literal (see `statements.array`).
-- The planner avoids sorting at any price (`connections.PLANS`) and would rather walk through a whole table in the
-- order of its key. Where few rows are found by another key, `|| ''` keeps it from that. Statuses that are parameters
-- keep it from partial indexes.

-- name: load
-- Documents with their open deliveries, one row for each delivery. All is of one moment.
SELECT submissions.id AS document_id, version, submissions.body AS submission, working,
    deliveries.id, event_id, deliveries.submission_id, destination, deliveries.created_ms, due_ms, deliveries.status,
    attempt, failures, owner, deliveries.detail, receipt, deliveries.finished_ms, deliveries.manual,
    events.body AS event, started_ms, attempts.manual AS attempt_manual
FROM receiver.submissions
LEFT JOIN receiver.deliveries
    ON deliveries.submission_id = submissions.id AND deliveries.status = ANY (:open::text[])
LEFT JOIN receiver.events ON events.id = deliveries.event_id
LEFT JOIN receiver.attempts
    ON attempts.delivery_id = deliveries.id AND attempts.number = deliveries.attempt AND deliveries.status = 'running'
WHERE submissions.id = ANY (:ids::text::text[]);

-- name: lock
-- One order for all, so that no two transactions wait for each other.
SELECT id FROM receiver.submissions WHERE id = ANY (:ids::text::text[]) ORDER BY id FOR UPDATE;

-- name: versions
SELECT id, version FROM receiver.submissions WHERE id = ANY (:ids::text::text[]);

-- name: create
-- A name (`once`) that is taken keeps the new submission out.
INSERT INTO receiver.submissions (
    id, version, kind, prompt, labels, parent_id, task_id, once, status, display, task_status, ended, hooked, settled,
    send_due_ms, poll_due_ms, media_due_ms, deadline_due_ms, body, working)
SELECT * FROM unnest(
    :id::text::text[], :version::text::bigint[], :kind::text::text[], :prompt::text[], :labels::text[],
    :parent_id::text::text[], :task_id::text::text[], :once::text::text[], :status::text::text[],
    :display::text::text[], :task_status::text::text[], :ended::text::text[], :hooked::text::boolean[], :settled::text::boolean[],
    :send_due_ms::text::bigint[], :poll_due_ms::text::bigint[], :media_due_ms::text::bigint[], :deadline_due_ms::text::bigint[],
    :body::text[], :working::text[])
ON CONFLICT (once) WHERE once IS NOT NULL DO NOTHING RETURNING id, pg_current_xact_id()::text AS xid;

-- name: named
SELECT once, body FROM receiver.submissions WHERE once = ANY (:names::text[]);

-- The parts of a write: `batch.write` makes one statement of those that have rows.

-- name: written
-- Documents that still have the version we know. A body or working set that is NULL stays as it is.
UPDATE receiver.submissions SET
    version = submissions.version + 1, task_id = new.task_id, once = new.once, status = new.status,
    display = new.display, task_status = new.task_status, ended = new.ended, hooked = new.hooked,
    settled = new.settled, send_due_ms = new.send_due_ms, poll_due_ms = new.poll_due_ms,
    media_due_ms = new.media_due_ms, deadline_due_ms = new.deadline_due_ms,
    body = coalesce(new.body, submissions.body), working = coalesce(new.working, submissions.working)
FROM unnest(
    :written_id::text::text[], :written_version::text::bigint[], :written_task_id::text::text[],
    :written_once::text::text[], :written_status::text::text[], :written_display::text::text[],
    :written_task_status::text::text[], :written_ended::text::text[], :written_hooked::text::boolean[],
    :written_settled::text::boolean[], :written_send_due_ms::text::bigint[], :written_poll_due_ms::text::bigint[],
    :written_media_due_ms::text::bigint[], :written_deadline_due_ms::text::bigint[], :written_body::text[],
    :written_working::text[]
) AS new (
    id, version, task_id, once, status, display, task_status, ended, hooked, settled, send_due_ms, poll_due_ms,
    media_due_ms, deadline_due_ms, body, working)
WHERE submissions.id = new.id AND submissions.version = new.version
RETURNING 1;

-- name: events
INSERT INTO receiver.events (id, submission_id, type, created_ms, body)
SELECT * FROM unnest(
    :events_id::text::text[], :events_submission_id::text::text[], :events_type::text::text[],
    :events_created_ms::text::bigint[], :events_body::text[]);

-- name: callbacks
INSERT INTO receiver.callbacks (submission_id, received_ms, cause, body)
SELECT called, received_ms, cause, convert_from(body, 'UTF8')
FROM unnest(
    :callbacks_submission_id::text::text[], :callbacks_received_ms::text::bigint[], :callbacks_cause::text::text[],
    :callbacks_body::bytea[]) AS new (called, received_ms, cause, body);

-- name: owed
-- Deliveries that were not open. Only a replay opens one again, and only one of its own submission.
INSERT INTO receiver.deliveries (
    id, event_id, submission_id, destination, created_ms, due_ms, status, attempt, failures, owner, detail, receipt,
    finished_ms, manual)
SELECT * FROM unnest(
    :owed_id::text::text[], :owed_event_id::text::text[], :owed_submission_id::text::text[],
    :owed_destination::text::text[], :owed_created_ms::text::bigint[], :owed_due_ms::text::bigint[], :owed_status::text::text[],
    :owed_attempt::text::bigint[], :owed_failures::text::bigint[], :owed_owner::text::text[], :owed_detail::text::text[],
    :owed_receipt::text::text[], :owed_finished_ms::text::bigint[], :owed_manual::text::boolean[])
ON CONFLICT (id) DO UPDATE SET
    due_ms = excluded.due_ms, status = excluded.status, attempt = excluded.attempt, failures = excluded.failures,
    owner = excluded.owner, detail = excluded.detail, receipt = excluded.receipt,
    finished_ms = excluded.finished_ms, manual = excluded.manual
WHERE deliveries.submission_id = excluded.submission_id AND excluded.manual
RETURNING 1;

-- name: moved
-- Deliveries that were open.
UPDATE receiver.deliveries SET
    due_ms = new.due_ms, status = new.status, attempt = new.attempt, failures = new.failures, owner = new.owner,
    detail = new.detail, receipt = new.receipt, finished_ms = new.finished_ms, manual = new.manual
FROM unnest(
    :moved_id::text::text[], :moved_due_ms::text::bigint[], :moved_status::text::text[], :moved_attempt::text::bigint[],
    :moved_failures::text::bigint[], :moved_owner::text::text[], :moved_detail::text::text[], :moved_receipt::text::text[],
    :moved_finished_ms::text::bigint[], :moved_manual::text::boolean[]
) AS new (id, due_ms, status, attempt, failures, owner, detail, receipt, finished_ms, manual)
WHERE deliveries.id = new.id;

-- name: attempts
INSERT INTO receiver.attempts (delivery_id, number, started_ms, finished_ms, outcome, detail, manual)
SELECT * FROM unnest(
    :attempts_delivery_id::text::text[], :attempts_number::text::bigint[], :attempts_started_ms::text::bigint[],
    :attempts_finished_ms::text::bigint[], :attempts_outcome::text::text[], :attempts_detail::text::text[],
    :attempts_manual::text::boolean[])
ON CONFLICT (delivery_id, number) DO UPDATE SET
    finished_ms = excluded.finished_ms, outcome = excluded.outcome, detail = excluded.detail;

-- name: files
INSERT INTO receiver.files (submission_id, digest)
SELECT * FROM unnest(:files_submission_id::text::text[], :files_digest::text::text[]) ON CONFLICT DO NOTHING;

-- Claims

-- name: look
SELECT EXISTS (
    SELECT FROM receiver.deliveries WHERE destination = :destination AND status = 'pending' AND due_ms <= :now_ms);

-- name: candidates
-- (`IS NULL`, not `NOT EXISTS`: one look by key for each, where a join would read all that runs.)
SELECT submissions.id, version
FROM receiver.deliveries AS mine JOIN receiver.submissions ON submissions.id = mine.submission_id
WHERE mine.destination = :destination AND mine.status = 'pending' AND due_ms <= :now_ms
  AND mine.submission_id <> ALL (:tried::text::text[])
  AND (
      SELECT 1 FROM receiver.deliveries AS other
      WHERE other.submission_id = mine.submission_id AND other.status = :running
        AND other.destination || '' = mine.destination LIMIT 1) IS NULL
ORDER BY due_ms LIMIT :limit FOR UPDATE OF submissions SKIP LOCKED;

-- Deleting

-- name: one_deletes
-- Two that delete at once would each leave a shared file to the other.
SELECT pg_advisory_xact_lock(7283910554230117);

-- name: remove
WITH callbacks AS (
    DELETE FROM receiver.callbacks WHERE submission_id = :id RETURNING 1
), events AS (
    -- Event ids start with their submission's.
    DELETE FROM receiver.events WHERE id > :id || '.' AND id < :id || '/' RETURNING 1
), deliveries AS (
    DELETE FROM receiver.deliveries WHERE submission_id = :id RETURNING id
), attempts AS (
    DELETE FROM receiver.attempts WHERE delivery_id = ANY (ARRAY(SELECT id FROM deliveries)) RETURNING 1
), submissions AS (
    DELETE FROM receiver.submissions WHERE id = :id RETURNING 1
)
SELECT (SELECT count(*) FROM submissions) AS submissions, (SELECT count(*) FROM callbacks) AS callbacks,
    (SELECT count(*) FROM events) AS events, (SELECT count(*) FROM deliveries) AS deliveries,
    (SELECT count(*) FROM attempts) AS attempts;

-- name: leave_files
-- Files that no other submission needs are removed from the media store afterwards.
WITH mine AS (
    DELETE FROM receiver.files WHERE submission_id = :id RETURNING digest
), left_over AS (
    INSERT INTO receiver.leftovers (digest)
    SELECT digest FROM mine
    WHERE (SELECT 1 FROM receiver.files AS other
           WHERE other.digest = mine.digest AND other.submission_id <> :id LIMIT 1) IS NULL
    ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest RETURNING 1
)
SELECT count(*) AS files FROM left_over;

-- name: forget_callbacks
DELETE FROM receiver.callbacks WHERE number = ANY (:keys::bigint[]) RETURNING 1;

-- name: forget_leftovers
DELETE FROM receiver.leftovers WHERE digest = ANY (:keys::text[]) RETURNING 1;

-- Reading

-- name: due_send
SELECT body FROM receiver.submissions WHERE send_due_ms <= :now_ms ORDER BY send_due_ms LIMIT :limit;

-- name: due_poll
SELECT body FROM receiver.submissions WHERE poll_due_ms <= :now_ms ORDER BY poll_due_ms LIMIT :limit;

-- name: due_media
SELECT body FROM receiver.submissions WHERE media_due_ms <= :now_ms ORDER BY media_due_ms LIMIT :limit;

-- name: due_deadline
SELECT body FROM receiver.submissions WHERE deadline_due_ms <= :now_ms ORDER BY deadline_due_ms LIMIT :limit;

-- name: count_submissions
SELECT display, count(*) AS count FROM receiver.submissions GROUP BY display;

-- name: count_deliveries
SELECT destination, status, count(*) AS count,
    CASE WHEN status = 'pending' THEN (
        SELECT due_ms FROM receiver.deliveries AS first
        WHERE first.destination = deliveries.destination AND first.status = 'pending' ORDER BY due_ms LIMIT 1) END
    AS oldest_due_ms
FROM receiver.deliveries WHERE status IN ('pending', 'running', 'dead') GROUP BY status, destination;

-- Shared values

-- name: values
SELECT key, data, version FROM receiver.shared_values WHERE starts_with(key, :prefix);

-- name: add_value
INSERT INTO receiver.shared_values (key, data, version) VALUES (:key, :data, pg_current_xact_id()::text)
ON CONFLICT (key) DO NOTHING RETURNING version;

-- name: replace_value
UPDATE receiver.shared_values SET data = :data, version = pg_current_xact_id()::text
WHERE key = :key AND version = :version RETURNING version;

-- name: delete_value
DELETE FROM receiver.shared_values WHERE key = :key AND version = :version RETURNING '' AS version;

-- The store as a whole

-- name: hold_still
-- Others read, and writers wait. Heartbeats, which are shared values, go on.
LOCK TABLE receiver.submissions, receiver.callbacks, receiver.events, receiver.deliveries, receiver.attempts,
    receiver.files, receiver.leftovers IN SHARE ROW EXCLUSIVE MODE;

-- name: holds_rows
SELECT EXISTS (SELECT 1 FROM receiver.submissions) OR EXISTS (SELECT 1 FROM receiver.callbacks)
    OR EXISTS (SELECT 1 FROM receiver.events) OR EXISTS (SELECT 1 FROM receiver.deliveries)
    OR EXISTS (SELECT 1 FROM receiver.attempts) OR EXISTS (SELECT 1 FROM receiver.files)
    OR EXISTS (SELECT 1 FROM receiver.leftovers) AS held;

-- name: number_on
-- The next rows are numbered behind all that were copied.
SELECT setval(pg_get_serial_sequence('receiver.callbacks', 'number'), (SELECT max(number) FROM receiver.callbacks)),
    setval(pg_get_serial_sequence('receiver.events', 'number'), (SELECT max(number) FROM receiver.events));

-- name: analyze_copied
ANALYZE receiver.submissions, receiver.callbacks, receiver.events, receiver.deliveries, receiver.attempts;

-- name: vacuum
VACUUM receiver.submissions, receiver.callbacks, receiver.events, receiver.deliveries, receiver.attempts,
    receiver.files, receiver.leftovers;

-- name: vacuum_full
VACUUM FULL receiver.submissions, receiver.callbacks, receiver.events, receiver.deliveries, receiver.attempts,
    receiver.files, receiver.leftovers;

-- name: bytes_used
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint AS bytes
FROM pg_class WHERE relnamespace = 'receiver'::regnamespace AND relkind = 'r';

-- name: abandoned_deliveries
SELECT id FROM receiver.deliveries WHERE status = 'running' AND owner <> ALL (:owners::text[]) ORDER BY id;

-- name: careless_settings
-- With these a crash of the server's machine may take back what was committed.
SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name;
