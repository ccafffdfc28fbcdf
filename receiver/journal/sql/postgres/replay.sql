-- The planner shuns sorting at any price (`connections.PLANS`), and would rather walk through a whole table in the order of
-- its key. Where few rows are to be sorted, `|| ''` and `+ 0` keep it from that.

-- name: select_deliveries
-- By hand only: it may look at every row after :after. Ids are time-ordered, so a time range narrows it by the key.
SELECT * FROM receiver.deliveries
WHERE id > :after AND id < :until AND (:destination::text IS NULL OR destination = :destination)
  AND (:status::text IS NULL OR status = :status)
ORDER BY id LIMIT :limit;

-- name: select_submission_deliveries
SELECT * FROM receiver.deliveries
WHERE submission_id = :submission_id AND id > :after AND id < :until
  AND (:destination::text IS NULL OR destination = :destination) AND (:status::text IS NULL OR status = :status)
ORDER BY id || '' LIMIT :limit;

-- name: select_events
-- By hand only: it may look at every row after :after.
SELECT number, id FROM receiver.events
WHERE number > :after AND (:type::text IS NULL OR type = :type)
  AND (:since_ms::bigint IS NULL OR created_ms >= :since_ms) AND (:until_ms::bigint IS NULL OR created_ms < :until_ms)
ORDER BY number LIMIT :limit;

-- name: select_submission_events
-- Event ids start with their submission's.
SELECT number, id FROM receiver.events
WHERE id > :submission_id || '.' AND id < :submission_id || '/' AND number > :after
  AND (:type::text IS NULL OR type = :type)
  AND (:since_ms::bigint IS NULL OR created_ms >= :since_ms) AND (:until_ms::bigint IS NULL OR created_ms < :until_ms)
ORDER BY number + 0 LIMIT :limit;

-- name: event_deliveries
-- What one event is or was owed, the newest first.
SELECT * FROM receiver.deliveries
WHERE submission_id = :submission_id AND event_id = :event_id
ORDER BY id || '' DESC;

-- name: events_there
SELECT id FROM receiver.events WHERE id = ANY(:ids::text[]);

-- name: newest_deliveries
-- Of each event at each destination the newest one.
SELECT newest.id FROM unnest(:submission_ids::text[], :event_ids::text[], :destinations::text[])
    AS ordered (submission_id, event_id, destination)
CROSS JOIN LATERAL (
    SELECT id FROM receiver.deliveries
    WHERE submission_id = ordered.submission_id AND destination = ordered.destination AND event_id = ordered.event_id
    ORDER BY id || '' DESC LIMIT 1) AS newest;

-- name: deliveries_of
SELECT * FROM receiver.deliveries WHERE id = ANY(:ids::text[]);

-- name: lock_deliveries
-- In order of id, as everywhere, lest two who want the same rows wait for each other.
SELECT * FROM receiver.deliveries WHERE id = ANY(:ids::text[]) ORDER BY id FOR UPDATE;

-- name: revive_deliveries
-- Owed again. The id, which is the idempotency key, and the attempts so far stay; the failures start afresh.
UPDATE receiver.deliveries SET
    status = 'pending', due_ms = :now_ms, failures = 0, manual = true, owner = NULL, detail = NULL, finished_ms = NULL
WHERE id = ANY(:ids::text[]) AND status <> 'running';

-- name: insert_replays
INSERT INTO receiver.deliveries (
    id, event_id, submission_id, destination, created_ms, due_ms, manual, status, attempt, failures)
SELECT id, event_id, submission_id, destination, :now_ms, :now_ms, true, 'pending', 0, 0
FROM unnest(:ids::text[], :event_ids::text[], :submission_ids::text[], :destinations::text[])
    AS fresh (id, event_id, submission_id, destination);

-- name: tell
SELECT pg_notify(:channel, :process);

-- name: list_registered
SELECT name, handler FROM receiver.destinations WHERE name <> '';

-- name: get_pause
SELECT paused_until_ms, paused_reason FROM receiver.destinations
WHERE name = :name AND paused_until_ms IS NOT NULL;
