-- Statements of both databases. Without `receiver.` they are SQL for SQLite, too.

-- name: count_submissions
SELECT display, count(*) FROM receiver.submissions WHERE display <> 'alert' GROUP BY display;

-- name: count_deliveries
-- Each part reads its partial index. `|| ''` keeps the last one from the index of all deliveries, whose order fits.
SELECT destination, 'pending', count(*), min(due_ms)
FROM receiver.deliveries WHERE status = 'pending' GROUP BY destination
UNION ALL SELECT destination, 'running', count(*), NULL
FROM receiver.deliveries WHERE status = 'running' GROUP BY destination
UNION ALL SELECT destination || '', 'dead', count(*), NULL
FROM receiver.deliveries WHERE status = 'dead' GROUP BY destination || '';

-- name: deliveries_without_event
-- This and all that follow find rows that contradict each other.
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

-- name: ends_without_event
SELECT id FROM receiver.submissions WHERE ended IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM receiver.events WHERE events.id = submissions.id || '.' || submissions.ended);

-- name: unfinished_attempts
SELECT DISTINCT delivery_id AS id FROM receiver.attempts JOIN receiver.deliveries ON deliveries.id = attempts.delivery_id
WHERE attempts.outcome IS NULL AND deliveries.status <> 'running';
