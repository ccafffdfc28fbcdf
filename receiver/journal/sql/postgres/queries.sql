-- Named statements with `$1`, `$2` …. `documents.py` makes the statements that write rows.
-- The planner avoids sorting at any price (`connections.PLANS`) and would rather walk through a whole table in the
-- order of its key. Where few rows are found by another key, `|| ''` keeps it from that. Statuses that are parameters
-- keep it from partial indexes.

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

-- name: remove_events
-- Event ids start with their submission's. An array for each keeps the planner from beginning with all events.
DELETE FROM receiver.events WHERE number = ANY (ARRAY(
    SELECT unnest(ARRAY(SELECT number FROM receiver.events WHERE events.id > gone || '.' AND events.id < gone || '/'))
    FROM unnest($1::text[]) AS gone));

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
