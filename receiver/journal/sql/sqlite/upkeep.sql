-- name: deliveries_without_event
SELECT id FROM deliveries WHERE NOT EXISTS (SELECT 1 FROM events WHERE events.id = deliveries.event_id);

-- name: deliveries_without_submission
SELECT id FROM deliveries WHERE NOT EXISTS (SELECT 1 FROM submissions WHERE submissions.id = deliveries.submission_id);

-- name: events_without_submission
SELECT id FROM events WHERE NOT EXISTS (SELECT 1 FROM submissions WHERE submissions.id = events.submission_id);

-- name: callbacks_without_submission
SELECT number AS id FROM callbacks
WHERE NOT EXISTS (SELECT 1 FROM submissions WHERE submissions.id = callbacks.submission_id);

-- name: attempts_without_delivery
SELECT DISTINCT delivery_id AS id FROM attempts
WHERE NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.id = attempts.delivery_id);

-- name: tasks_without_event
SELECT id FROM submissions
WHERE told IS NOT NULL AND NOT EXISTS (SELECT 1 FROM events WHERE events.id = submissions.told);

-- name: ends_without_event
SELECT id FROM submissions
WHERE ended IS NOT NULL AND NOT EXISTS (SELECT 1 FROM events WHERE events.id = submissions.id || '.' || submissions.ended);

-- name: running_deliveries
SELECT id FROM deliveries WHERE status = 'running';

-- name: unfinished_attempts
-- Of deliveries that do not run: each ended attempt has an outcome.
SELECT DISTINCT delivery_id AS id FROM attempts JOIN deliveries ON deliveries.id = attempts.delivery_id
WHERE attempts.outcome IS NULL AND deliveries.status <> 'running';

-- name: needed_files
SELECT DISTINCT digest FROM files WHERE digest > :after ORDER BY digest LIMIT :limit;
