-- name: deliveries_without_event
SELECT id FROM receiver.deliveries WHERE NOT EXISTS (
    SELECT 1 FROM receiver.events WHERE events.id = deliveries.event_id);

-- name: deliveries_without_submission
SELECT id FROM receiver.deliveries WHERE NOT EXISTS (
    SELECT 1 FROM receiver.submissions WHERE submissions.id = deliveries.submission_id);

-- name: events_without_submission
SELECT id FROM receiver.events WHERE NOT EXISTS (
    SELECT 1 FROM receiver.submissions WHERE submissions.id = events.submission_id);

-- name: callbacks_without_submission
SELECT number AS id FROM receiver.callbacks WHERE NOT EXISTS (
    SELECT 1 FROM receiver.submissions WHERE submissions.id = callbacks.submission_id);

-- name: attempts_without_delivery
SELECT DISTINCT delivery_id AS id FROM receiver.attempts WHERE NOT EXISTS (
    SELECT 1 FROM receiver.deliveries WHERE deliveries.id = attempts.delivery_id);

-- name: tasks_without_event
SELECT id FROM receiver.submissions WHERE told IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM receiver.events WHERE events.id = submissions.told);

-- name: ends_without_event
SELECT id FROM receiver.submissions WHERE ended IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM receiver.events WHERE events.id = submissions.id || '.' || submissions.ended);

-- name: unfinished_attempts
-- Of deliveries that do not run: each ended attempt has an outcome.
SELECT DISTINCT delivery_id AS id FROM receiver.attempts JOIN receiver.deliveries ON deliveries.id = attempts.delivery_id
WHERE attempts.outcome IS NULL AND deliveries.status <> 'running';

-- name: abandoned_deliveries
-- Running under an engine that is dead, while no other lives that would free them.
SELECT id FROM receiver.deliveries
WHERE status = 'running' AND NOT EXISTS (
    SELECT 1 FROM receiver.engines
    WHERE beat BETWEEN clock_timestamp() - make_interval(secs => :dead_seconds)
        AND clock_timestamp() + make_interval(secs => :dead_seconds));

-- name: needed_files
SELECT DISTINCT digest FROM receiver.files WHERE digest > :after ORDER BY digest LIMIT :limit;

-- name: careless_settings
-- With these a crash of the server's machine may take back what was committed.
SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name;
