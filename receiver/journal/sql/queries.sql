-- Statements of both databases. They are written for PostgreSQL: see `rows.py`.

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

-- name: leave_files
-- Files that no other submission needs are removed from the media store afterwards.
INSERT INTO receiver.leftovers
SELECT DISTINCT digest FROM receiver.files AS mine
WHERE submission_id = ANY ($1) AND (
    SELECT 1 FROM receiver.files AS other
    WHERE other.digest = mine.digest AND NOT other.submission_id = ANY ($1) LIMIT 1) IS NULL
ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest;

-- name: remove_files
DELETE FROM receiver.files WHERE submission_id = ANY ($1);

-- name: remove_attempts
DELETE FROM receiver.attempts WHERE delivery_id IN (
    SELECT id FROM receiver.deliveries WHERE submission_id = ANY ($1));

-- name: remove_deliveries
DELETE FROM receiver.deliveries WHERE submission_id = ANY ($1);

-- name: remove_callbacks
DELETE FROM receiver.callbacks WHERE submission_id = ANY ($1);

-- name: remove_requests
DELETE FROM receiver.requests WHERE id = ANY ($1);

-- name: remove_submissions
DELETE FROM receiver.submissions WHERE id = ANY ($1);

-- name: forget_callbacks
DELETE FROM receiver.callbacks WHERE number = ANY ($1);

-- name: forget_leftovers
DELETE FROM receiver.leftovers WHERE digest = ANY ($1);

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
