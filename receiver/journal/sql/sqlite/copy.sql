-- name: page_destinations
SELECT *, 0 AS pending, 0 AS dead FROM destinations WHERE name > :a ORDER BY name LIMIT :limit;

-- name: page_submissions
SELECT * FROM whole_submissions WHERE id > :a ORDER BY id LIMIT :limit;

-- name: page_callbacks
SELECT number, submission_id, received_ms, cause, CAST(body AS BLOB) AS body
FROM callbacks WHERE number > :a ORDER BY number LIMIT :limit;

-- name: page_events
SELECT * FROM events WHERE number > :a ORDER BY number LIMIT :limit;

-- name: page_deliveries
SELECT * FROM deliveries WHERE id > :a ORDER BY id LIMIT :limit;

-- name: page_attempts
SELECT * FROM attempts WHERE (delivery_id, number) > (:a, :b) ORDER BY delivery_id, number LIMIT :limit;

-- name: page_files
SELECT * FROM files WHERE (submission_id, digest) > (:a, :b) ORDER BY submission_id, digest LIMIT :limit;

-- name: page_leftovers
SELECT * FROM leftovers WHERE digest > :a ORDER BY digest LIMIT :limit;

-- name: page_troubles
SELECT * FROM troubles WHERE name > :a ORDER BY name LIMIT :limit;

-- name: put_destinations
INSERT INTO destinations (
    name, handler, failures, paused_until_ms, paused_reason, last_success_ms, last_error_ms, last_error
) VALUES (
    :name, :handler, :failures, :paused_until_ms, :paused_reason, :last_success_ms, :last_error_ms, :last_error);

-- name: put_submissions
INSERT INTO submissions (
    id, kind, created_ms, prompt, request, inputs, speed, labels, user_state, parent_id, button, auto, destinations,
    once, once_digest, reply, hooked, status, outcome, detail, sends, send_due_ms, task_id, task, ended, deadline_ms,
    poll_due_ms, polls, misses, claim, callbacks, media, media_problem, media_tries, media_due_ms, fallback_urls
) VALUES (
    :id, :kind, :created_ms, :prompt, :request, :inputs, :speed, :labels, :user_state, :parent_id, :button, :auto,
    :destinations, :once, :once_digest, :reply, :hooked, :status, :outcome, :detail, :sends, :send_due_ms, :task_id,
    :task, :ended, :deadline_ms, :poll_due_ms, :polls, :misses, :claim, :callbacks, :media, :media_problem,
    :media_tries, :media_due_ms, :fallback_urls);

-- name: put_callbacks
INSERT INTO callbacks (number, submission_id, received_ms, cause, body)
VALUES (:number, :submission_id, :received_ms, :cause, CAST(:body AS TEXT));

-- name: put_events
INSERT INTO events (number, id, submission_id, type, created_ms, body)
VALUES (:number, :id, :submission_id, :type, :created_ms, :body);

-- name: put_deliveries
INSERT INTO deliveries (
    id, event_id, submission_id, destination, created_ms, due_ms, status, attempt, failures, owner, detail, receipt,
    finished_ms, manual, alone
) VALUES (
    :id, :event_id, :submission_id, :destination, :created_ms, :due_ms, :status, :attempt, :failures, :owner, :detail,
    :receipt, :finished_ms, :manual, :alone);

-- name: put_attempts
INSERT INTO attempts (delivery_id, number, started_ms, finished_ms, outcome, detail, manual)
VALUES (:delivery_id, :number, :started_ms, :finished_ms, :outcome, :detail, :manual);

-- name: put_files
INSERT INTO files (submission_id, digest) VALUES (:submission_id, :digest);

-- name: put_leftovers
INSERT INTO leftovers (digest) VALUES (:digest);

-- name: put_troubles
INSERT INTO troubles (name, since_ms, text) VALUES (:name, :since_ms, :text);

-- name: clear_destinations
DELETE FROM destinations;

-- name: clear_troubles
DELETE FROM troubles;

-- name: holds_rows
SELECT EXISTS (SELECT 1 FROM submissions) OR EXISTS (SELECT 1 FROM callbacks) OR EXISTS (SELECT 1 FROM events)
    OR EXISTS (SELECT 1 FROM deliveries) OR EXISTS (SELECT 1 FROM attempts) OR EXISTS (SELECT 1 FROM files)
    OR EXISTS (SELECT 1 FROM leftovers);
