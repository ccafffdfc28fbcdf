-- name: select_deliveries
-- By hand only: it may look at every row after :after. Ids are time-ordered, so a time range narrows it by the key.
SELECT * FROM deliveries
WHERE id > :after AND id < :until AND (:destination IS NULL OR destination = :destination)
  AND (:status IS NULL OR status = :status)
ORDER BY id LIMIT :limit;

-- name: select_submission_deliveries
SELECT * FROM deliveries
WHERE submission_id = :submission_id AND id > :after AND id < :until
  AND (:destination IS NULL OR destination = :destination) AND (:status IS NULL OR status = :status)
ORDER BY id LIMIT :limit;

-- name: select_events
-- By hand only: it may look at every row after :after.
SELECT number, id, submission_id, type FROM events
WHERE number > :after AND (:type IS NULL OR type = :type)
  AND (:since_ms IS NULL OR created_ms >= :since_ms) AND (:until_ms IS NULL OR created_ms < :until_ms)
ORDER BY number LIMIT :limit;

-- name: select_submission_events
SELECT number, id, submission_id, type FROM events
WHERE id > :submission_id || '.' AND id < :submission_id || '/' AND number > :after
  AND (:type IS NULL OR type = :type)
  AND (:since_ms IS NULL OR created_ms >= :since_ms) AND (:until_ms IS NULL OR created_ms < :until_ms)
ORDER BY number LIMIT :limit;

-- name: select_event
SELECT number, id, submission_id, type FROM events WHERE id = :id;

-- name: event_deliveries
-- What one event is or was owed, the newest first.
SELECT * FROM deliveries
WHERE submission_id = :submission_id AND event_id = :event_id AND (:destination IS NULL OR destination = :destination)
ORDER BY id DESC;

-- name: has_event
SELECT 1 FROM events WHERE id = :id;

-- name: revive_delivery
-- Owed again. The id, which is the idempotency key, and the attempts so far stay; the failures start afresh.
UPDATE deliveries SET
    status = 'pending', due_ms = :now_ms, failures = 0, manual = 1, owner = NULL, detail = NULL, finished_ms = NULL
WHERE id = :id AND status <> 'running';

-- name: list_registered
SELECT name, handler FROM destinations WHERE name <> '';

-- name: get_pause
SELECT paused_until_ms, paused_reason FROM destinations WHERE name = :name AND paused_until_ms IS NOT NULL;
