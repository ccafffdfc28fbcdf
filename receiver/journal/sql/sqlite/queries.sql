-- name: insert_submission
-- A name (`once`) that is taken keeps the newcomer out.
INSERT INTO submissions (
    id, kind, created_ms, prompt, request, inputs, speed, labels, user_state, parent_id, button, auto, destinations,
    once, once_digest, reply, hooked, status, outcome, detail, sends, send_due_ms, task_id, task, ended, deadline_ms,
    poll_due_ms, polls, misses, claim, callbacks, media, media_problem, media_tries, media_due_ms, fallback_urls
) VALUES (
    :id, :kind, :created_ms, :prompt, :request, :inputs, :speed, :labels, :user_state, :parent_id, :button, :auto,
    :destinations, :once, :once_digest, :reply, :hooked, :status, :outcome, :detail, :sends, :send_due_ms, :task_id,
    :task, :ended, :deadline_ms, :poll_due_ms, :polls, :misses, :claim, :callbacks, :media, :media_problem,
    :media_tries, :media_due_ms, :fallback_urls
) ON CONFLICT (once) DO NOTHING;

-- name: get_once
SELECT * FROM whole_submissions WHERE once = :once;

-- name: family
-- Everything from the first ancestor down, oldest first.
WITH RECURSIVE
    up (id, parent_id) AS (
        SELECT id, parent_id FROM submissions WHERE id = :id
        UNION SELECT parent.id, parent.parent_id FROM submissions AS parent JOIN up ON parent.id = up.parent_id),
    down (id) AS (
        SELECT id FROM up WHERE parent_id IS NULL OR parent_id NOT IN (SELECT id FROM submissions)
        UNION SELECT child.id FROM submissions AS child JOIN down ON child.parent_id = down.id)
SELECT * FROM whole_submissions WHERE id IN (SELECT id FROM down) ORDER BY id;

-- name: update_submission
-- What never changes after the insert (id, kind, request, labels …) is left out.
UPDATE submissions SET
    once = :once, reply = :reply, status = :status, outcome = :outcome, detail = :detail, sends = :sends,
    send_due_ms = :send_due_ms, task_id = :task_id, task = :task, told = NULL, ended = :ended,
    deadline_ms = :deadline_ms, poll_due_ms = :poll_due_ms, polls = :polls, misses = :misses, claim = :claim,
    callbacks = :callbacks, media = :media, media_problem = :media_problem, media_tries = :media_tries,
    media_due_ms = :media_due_ms, fallback_urls = :fallback_urls
WHERE id = :id;

-- name: update_heard
-- What most callbacks and polls change. SQLite maintains the index of every column a statement names, changed or not.
-- What each callback needs has its parameters by position, in the order they stand here: by name they cost twice as much.
UPDATE submissions SET task = CAST(? AS TEXT), told = ?, callbacks = ?, poll_due_ms = ?, polls = ?, misses = ?
WHERE id = ?;


-- name: get_submission
SELECT * FROM whole_submissions WHERE id = :id;

-- name: find_by_task
-- The newest one that has it.
SELECT * FROM whole_submissions WHERE task_id = :task_id ORDER BY id DESC LIMIT 1;

-- name: find_by_part
-- By the start or end of an id, which reads all of them; two rows are enough to see that it is not the only one.
SELECT * FROM whole_submissions
WHERE length(:part) >= 6 AND (substr(id, 1, length(:part)) = :part OR substr(id, -length(:part)) = :part)
ORDER BY id DESC LIMIT 2;

-- name: list_submissions
SELECT * FROM whole_submissions
WHERE :status IS NULL OR status = :status OR ended = 'task.' || :status
   OR json_extract(task, '$.status') = upper(:status)
ORDER BY id DESC LIMIT :limit;

-- name: due_sends
SELECT * FROM whole_submissions WHERE send_due_ms <= :now_ms ORDER BY send_due_ms LIMIT :limit;

-- name: due_polls
SELECT * FROM whole_submissions WHERE poll_due_ms <= :now_ms ORDER BY poll_due_ms LIMIT :limit;

-- name: due_media
SELECT * FROM whole_submissions WHERE media_due_ms <= :now_ms ORDER BY media_due_ms LIMIT :limit;

-- name: overdue
SELECT * FROM whole_submissions
WHERE deadline_ms <= :now_ms AND ended IS NULL AND status <> 'refused' ORDER BY deadline_ms LIMIT :limit;

-- name: insert_callback
INSERT INTO callbacks (submission_id, received_ms, cause, body) VALUES (?, ?, ?, CAST(? AS TEXT));


-- name: last_callbacks
SELECT submission_id, received_ms, cause, CAST(body AS BLOB) AS body FROM callbacks WHERE submission_id = :submission_id ORDER BY number DESC LIMIT :limit;

-- name: called_back
-- Those that callbacks should have told of: they took a URL along, and the provider has ended them.
SELECT * FROM whole_submissions
WHERE hooked = 1 AND status = 'accepted' AND ended IN ('task.succeeded', 'task.failed')
  AND created_ms < :created_before_ms
ORDER BY created_ms DESC LIMIT :limit;

-- name: insert_event
-- The same fact twice is one event.
INSERT INTO events (id, submission_id, type, created_ms, body) VALUES (?, ?, ?, ?, CAST(? AS TEXT))
ON CONFLICT (id) DO NOTHING;


-- name: get_event
SELECT body FROM events WHERE id = :id;

-- name: list_events
SELECT body FROM events WHERE :type IS NULL OR type = :type ORDER BY number DESC LIMIT :limit;

-- name: list_submission_events
-- Event ids start with their submission's.
SELECT body FROM events
WHERE id > :submission_id || '.' AND id < :submission_id || '/' AND (:type IS NULL OR type = :type)
ORDER BY number DESC LIMIT :limit;

-- name: insert_delivery
-- What a new one may have.
INSERT INTO deliveries (id, event_id, submission_id, destination, created_ms, due_ms, manual, status, attempt, failures)
VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', 0, 0);


-- name: cancel_older
-- At least once, of the last word: what has not run yet gives way to the newer event, unless a person asked for it.
-- There is one such row at most, and it is the newest but for the clock: found by its key, the row changes in place.
UPDATE deliveries SET status = 'cancelled', finished_ms = ?, detail = 'a newer event took its place'
WHERE id = (
    SELECT id FROM deliveries
    WHERE submission_id = ? AND destination = ? AND status = 'pending' AND NOT manual
    ORDER BY id DESC LIMIT 1);


-- name: cancel_known
-- The same, where the writer remembers which one it is.
UPDATE deliveries SET status = 'cancelled', finished_ms = ?, detail = 'a newer event took its place'
WHERE id = ? AND status = 'pending' AND NOT manual;

-- name: release_deliveries
UPDATE deliveries SET due_ms = :now_ms
WHERE submission_id = :submission_id AND status = 'pending' AND attempt = 0 AND due_ms > :now_ms;

-- name: claim
UPDATE deliveries SET status = 'running', attempt = attempt + 1, owner = :owner
WHERE id IN (
    SELECT id FROM deliveries AS due
    WHERE destination = :destination AND status = 'pending' AND due_ms <= :now_ms AND NOT alone
      AND NOT EXISTS (
          SELECT 1 FROM deliveries AS other
          WHERE other.submission_id = due.submission_id AND other.destination = due.destination
            AND other.status = 'running')
    ORDER BY due_ms LIMIT :limit)
RETURNING *;

-- name: alone_due
-- The one that is next of those that run alone. Few ever have to, so their index is the one to use, however many
-- others are due.
SELECT id FROM deliveries AS due INDEXED BY deliveries_alone
WHERE status = 'pending' AND alone = 1 AND due_ms <= :now_ms
  AND destination IN (SELECT value FROM json_each(:destinations))
  AND NOT EXISTS (
      SELECT 1 FROM deliveries AS other
      WHERE other.submission_id = due.submission_id AND other.destination = due.destination
        AND other.status = 'running')
  AND NOT EXISTS (SELECT 1 FROM destinations WHERE name = due.destination AND paused_until_ms > :now_ms)
ORDER BY due_ms LIMIT 1;

-- name: claim_one
UPDATE deliveries SET status = 'running', attempt = attempt + 1, owner = :owner
WHERE id = :id AND status = 'pending'
RETURNING *;

-- name: unclaim
UPDATE deliveries SET status = 'pending', attempt = attempt - 1, owner = NULL WHERE id = :id;

-- name: start_attempt
-- A person's is what follows a replay; what follows its failure is automatic again.
INSERT INTO attempts (delivery_id, number, started_ms, manual) VALUES (
    :delivery_id, :number, :started_ms,
    coalesce((SELECT manual AND failures = 0 FROM deliveries WHERE id = :delivery_id), 0));

-- name: complete
UPDATE deliveries SET
    status = :status, due_ms = :due_ms, failures = failures + :counts, detail = :detail, owner = NULL,
    receipt = coalesce(:receipt, receipt), finished_ms = CASE WHEN :status = 'pending' THEN NULL ELSE :finished_ms END,
    alone = CASE WHEN :outcome = 'interrupted' THEN alone ELSE 0 END
WHERE id = :delivery_id AND owner = :owner AND attempt = :attempt AND status = 'running';

-- name: destination_of
-- Asked for by itself: RETURNING costs ten times as much.
SELECT destination FROM deliveries WHERE id = :delivery_id;

-- name: accuse
UPDATE deliveries SET alone = 1 WHERE id = :id AND status = 'running';

-- name: run_alone
UPDATE deliveries SET alone = 1 WHERE id = :id AND status = 'pending';

-- name: cancel_if_outdated
-- An attempt that has to run again gives way to a newer event that came while it ran. Newer is what became known later:
-- ids are of the wall clock, which may have been set back since.
UPDATE deliveries SET status = 'cancelled', finished_ms = :finished_ms, detail = 'a newer event took its place'
WHERE id = :delivery_id AND status = 'pending' AND NOT manual AND EXISTS (
    SELECT 1 FROM deliveries AS newer JOIN events AS fact ON fact.id = newer.event_id
    WHERE newer.submission_id = deliveries.submission_id AND newer.destination = deliveries.destination
      AND fact.number > (SELECT number FROM events WHERE id = deliveries.event_id)
      AND newer.status <> 'cancelled' AND NOT newer.manual);

-- name: finish_attempt
UPDATE attempts SET finished_ms = :finished_ms, outcome = :outcome, detail = :detail
WHERE delivery_id = :delivery_id AND number = :attempt;

-- name: list_running
SELECT * FROM deliveries WHERE status = 'running' AND owner IS NOT :owner;

-- name: list_receipts
-- The newest last, so that it stays when they are read into a mapping.
SELECT destination, receipt FROM deliveries
WHERE submission_id = :submission_id AND receipt IS NOT NULL ORDER BY id;

-- name: get_delivery
SELECT * FROM deliveries WHERE id = :id;

-- name: list_deliveries
SELECT * FROM deliveries
WHERE (:destination IS NULL OR destination = :destination) AND (:status IS NULL OR status = :status)
ORDER BY id DESC LIMIT :limit;

-- name: list_submission_deliveries
SELECT * FROM deliveries
WHERE submission_id = :submission_id AND (:destination IS NULL OR destination = :destination)
  AND (:status IS NULL OR status = :status)
ORDER BY id DESC LIMIT :limit;

-- name: list_attempts
SELECT * FROM attempts WHERE delivery_id = :delivery_id ORDER BY number;

-- name: register_destination
INSERT INTO destinations (name, handler) VALUES (:name, :handler)
ON CONFLICT (name) DO UPDATE SET handler = :handler;

-- name: owed_destinations
SELECT name FROM destinations
WHERE EXISTS (SELECT 1 FROM deliveries WHERE destination = destinations.name AND status = 'pending') ORDER BY name;

-- name: get_destination
SELECT *, 0 AS pending, 0 AS dead FROM destinations WHERE name = :name;

-- name: any_running
SELECT 1 FROM deliveries WHERE destination = :destination AND status = 'running' LIMIT 1;

-- name: pause_destination
-- Of two pauses the longer one counts.
UPDATE destinations SET paused_until_ms = :until_ms, paused_reason = :reason
WHERE name = :name AND coalesce(paused_until_ms, 0) < :until_ms;

-- name: end_wait
-- What was to wait as long as the pause is due when a person ends it.
UPDATE deliveries SET due_ms = created_ms
WHERE destination = :name AND status = 'pending' AND due_ms > created_ms
  AND due_ms <= (SELECT paused_until_ms FROM destinations WHERE name = :name);

-- name: resume_destination
UPDATE destinations SET paused_until_ms = NULL, paused_reason = NULL, failures = 0 WHERE name = :name;

-- name: destination_succeeded
-- Written when it changes something: each second at most while all goes well. A pause that lasts was not made by what
-- has just succeeded.
UPDATE destinations SET
    failures = 0, last_success_ms = :now_ms,
    paused_reason = CASE WHEN paused_until_ms > :now_ms THEN paused_reason END,
    paused_until_ms = CASE WHEN paused_until_ms > :now_ms THEN paused_until_ms END
WHERE name = :name
  AND (failures > 0 OR paused_until_ms <= :now_ms OR abs(coalesce(last_success_ms, 0) - :now_ms) >= 1000);

-- name: destination_failed
UPDATE destinations SET
    failures = :failures, paused_until_ms = :paused_until_ms, paused_reason = :paused_reason,
    last_error_ms = :last_error_ms, last_error = :last_error
WHERE name = :name;

-- name: list_destinations
SELECT *,
    (SELECT count(*) FROM deliveries WHERE destination = name AND status = 'pending') AS pending,
    (SELECT count(*) FROM deliveries WHERE destination = name AND status = 'dead') AS dead
FROM destinations ORDER BY name;

-- name: advance_deliveries
-- After the clock stepped back: by as much as it did, and into reach in any case.
UPDATE deliveries INDEXED BY deliveries_due SET due_ms = min(due_ms - :step_ms, :now_ms + :longest_ms)
WHERE destination IN (SELECT name FROM destinations) AND status = 'pending' AND due_ms > :after_ms;

-- name: advance_sends
UPDATE submissions SET send_due_ms = min(send_due_ms - :step_ms, :now_ms + :longest_ms) WHERE send_due_ms > :after_ms;

-- name: advance_polls
UPDATE submissions SET poll_due_ms = min(poll_due_ms - :step_ms, :now_ms + :longest_ms) WHERE poll_due_ms > :after_ms;

-- name: advance_media
UPDATE submissions SET media_due_ms = min(media_due_ms - :step_ms, :now_ms + :longest_ms)
WHERE media_due_ms > :after_ms;

-- name: advance_deadlines
UPDATE submissions SET deadline_ms = min(deadline_ms - :step_ms, :now_ms + :longest_ms)
WHERE deadline_ms > :after_ms AND ended IS NULL AND status <> 'refused';

-- name: advance_pauses
UPDATE destinations SET paused_until_ms = min(paused_until_ms - :step_ms, :now_ms + :longest_ms)
WHERE paused_until_ms > :after_ms;

-- name: forget_destination
DELETE FROM destinations WHERE name = :name;

-- name: any_due
SELECT 1 FROM deliveries WHERE destination = :destination AND status = 'pending' AND due_ms <= :now_ms LIMIT 1;

-- name: list_troubles
SELECT * FROM troubles ORDER BY since_ms, name;

-- name: note_trouble
INSERT INTO troubles (name, since_ms, text) VALUES (:name, :since_ms, :text)
ON CONFLICT (name) DO UPDATE SET text = :text;

-- name: clear_trouble
DELETE FROM troubles WHERE name = :name;
