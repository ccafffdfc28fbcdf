-- name: page_destinations
SELECT *, 0 AS pending, 0 AS dead FROM receiver.destinations WHERE name > :a ORDER BY name LIMIT :limit;

-- name: page_submissions
SELECT * FROM receiver.whole_submissions WHERE id > :a ORDER BY id LIMIT :limit;

-- name: page_callbacks
SELECT number, submission_id, received_ms, cause, convert_to(body, 'UTF8') AS body
FROM receiver.callbacks WHERE number > :a ORDER BY number LIMIT :limit;

-- name: page_events
SELECT * FROM receiver.events WHERE number > :a ORDER BY number LIMIT :limit;

-- name: page_deliveries
SELECT * FROM receiver.deliveries WHERE id > :a ORDER BY id LIMIT :limit;

-- name: page_attempts
(
    SELECT delivery_id, number, started_ms, finished_ms, outcome, detail, manual FROM receiver.attempts
    WHERE (delivery_id, number) > (:a, :b) ORDER BY delivery_id, number LIMIT :limit
) UNION ALL
SELECT id, attempt, started_ms, NULL, NULL, NULL, manual AND failures = 0 FROM receiver.deliveries
WHERE status = 'running' AND started_ms IS NOT NULL AND (id, attempt) > (:a, :b)
ORDER BY delivery_id, number LIMIT :limit;

-- name: page_files
SELECT * FROM receiver.files WHERE (submission_id, digest) > (:a, :b) ORDER BY submission_id, digest LIMIT :limit;

-- name: page_leftovers
SELECT * FROM receiver.leftovers WHERE digest > :a ORDER BY digest LIMIT :limit;

-- name: page_troubles
SELECT * FROM receiver.troubles WHERE name > :a ORDER BY name LIMIT :limit;

-- name: clear_destinations
DELETE FROM receiver.destinations;

-- name: clear_troubles
DELETE FROM receiver.troubles;

-- name: hold_still
-- Others read, and whoever wants to write waits.
LOCK TABLE receiver.destinations, receiver.submissions, receiver.callbacks, receiver.events, receiver.deliveries,
    receiver.attempts, receiver.files, receiver.leftovers, receiver.troubles IN SHARE ROW EXCLUSIVE MODE;

-- name: holds_rows
SELECT EXISTS (SELECT 1 FROM receiver.submissions) OR EXISTS (SELECT 1 FROM receiver.callbacks)
    OR EXISTS (SELECT 1 FROM receiver.events) OR EXISTS (SELECT 1 FROM receiver.deliveries)
    OR EXISTS (SELECT 1 FROM receiver.attempts) OR EXISTS (SELECT 1 FROM receiver.files)
    OR EXISTS (SELECT 1 FROM receiver.leftovers) AS held;

-- name: begin_running
-- An attempt that runs stands in its delivery.
WITH running AS (
    DELETE FROM receiver.attempts USING receiver.deliveries
    WHERE delivery_id = id AND number = attempt AND status = 'running' AND outcome IS NULL
    RETURNING id, attempts.started_ms
)
UPDATE receiver.deliveries SET started_ms = running.started_ms FROM running WHERE deliveries.id = running.id;

-- name: number_on
-- What comes next is numbered behind all that was copied.
SELECT setval(pg_get_serial_sequence('receiver.callbacks', 'number'), (SELECT max(number) FROM receiver.callbacks)),
    setval(pg_get_serial_sequence('receiver.events', 'number'), (SELECT max(number) FROM receiver.events));

-- name: analyze_copied
ANALYZE receiver.submissions, receiver.callbacks, receiver.events, receiver.deliveries, receiver.attempts;
