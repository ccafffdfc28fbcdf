-- name: mark
-- :needless are marks of transactions that are known to have been committed.
WITH needless AS (DELETE FROM receiver.commits WHERE mark = ANY (:needless::text[]))
INSERT INTO receiver.commits (mark) VALUES (:mark);

-- name: claim_mark
-- It waits for the transaction that has left the mark, as long as that is under way. Ours is dated a thousand years
-- ahead: an answer may be lost, and whoever asks again must not take the first question's mark for the transaction's.
INSERT INTO receiver.commits (mark, made) VALUES (:mark, clock_timestamp() + interval '1000 years')
ON CONFLICT (mark) DO UPDATE SET mark = excluded.mark
RETURNING commits.made < clock_timestamp() + interval '500 years' AS kept;

-- name: wipe_marks
-- Of processes that are no more. A transaction is asked after for some seconds, not for an hour. (See `claim_mark`.)
DELETE FROM receiver.commits
WHERE made < clock_timestamp() - interval '1 hour'
   OR (made > clock_timestamp() + interval '500 years'
       AND made < clock_timestamp() + interval '1000 years' - interval '1 hour');

-- name: get_submission
SELECT * FROM receiver.whole_submissions WHERE id = :id;

-- name: get_once
SELECT * FROM receiver.whole_submissions WHERE once = ANY (:names::text[]);

-- name: family
-- Everything from the first ancestor down, oldest first.
WITH RECURSIVE
    up (id, parent_id) AS (
        SELECT id, parent_id FROM receiver.submissions WHERE id = :id
        UNION SELECT parent.id, parent.parent_id FROM receiver.submissions AS parent JOIN up ON parent.id = up.parent_id),
    down (id) AS (
        SELECT id FROM up WHERE parent_id IS NULL OR NOT EXISTS (
            SELECT FROM receiver.submissions AS parent WHERE parent.id = up.parent_id)
        UNION SELECT child.id FROM receiver.submissions AS child JOIN down ON child.parent_id = down.id)
SELECT * FROM receiver.whole_submissions WHERE id IN (SELECT id FROM down) ORDER BY id;

-- name: find_by_task
-- The newest one that has it. `|| ''`: see replay.sql.
SELECT * FROM receiver.whole_submissions WHERE task_id = :task_id ORDER BY id || '' DESC LIMIT 1;

-- name: find_by_part
-- By the start or end of an id, which reads all of them; two rows are enough to see that it is not the only one.
SELECT * FROM receiver.whole_submissions
WHERE length(:part::text) >= 6 AND (left(id, length(:part)) = :part OR right(id, length(:part)) = :part)
ORDER BY id DESC LIMIT 2;

-- name: list_submissions
SELECT * FROM receiver.whole_submissions
WHERE :status::text IS NULL OR status = :status OR ended = 'task.' || :status OR task_status = upper(:status)
ORDER BY id DESC LIMIT :limit;

-- name: due_sends
SELECT * FROM receiver.whole_submissions WHERE send_due_ms <= :now_ms ORDER BY send_due_ms LIMIT :limit;

-- name: due_polls
SELECT * FROM receiver.whole_submissions WHERE poll_due_ms <= :now_ms ORDER BY poll_due_ms LIMIT :limit;

-- name: due_media
SELECT * FROM receiver.whole_submissions WHERE media_due_ms <= :now_ms ORDER BY media_due_ms LIMIT :limit;

-- name: overdue
SELECT * FROM receiver.whole_submissions
WHERE deadline_ms <= :now_ms AND ended IS NULL AND status <> 'refused' ORDER BY deadline_ms LIMIT :limit;

-- name: last_callbacks
SELECT submission_id, received_ms, cause, convert_to(body, 'UTF8') AS body
FROM receiver.callbacks WHERE submission_id = :submission_id ORDER BY number DESC LIMIT :limit;

-- name: called_back
-- Those that callbacks should have told of: they took a URL along, and the provider has ended them.
SELECT * FROM receiver.whole_submissions
WHERE hooked AND status = 'accepted' AND ended IN ('task.succeeded', 'task.failed')
  AND created_ms < :created_before_ms
ORDER BY created_ms DESC LIMIT :limit;

-- name: get_event
SELECT body FROM receiver.events WHERE id = :id;

-- name: list_events
SELECT body FROM receiver.events WHERE :type::text IS NULL OR type = :type ORDER BY number DESC LIMIT :limit;

-- name: list_submission_events
-- Event ids start with their submission's. (`+ 0`: it has few, and the planner would go through everybody's by number.)
SELECT body FROM receiver.events
WHERE id > :submission_id || '.' AND id < :submission_id || '/' AND (:type::text IS NULL OR type = :type)
ORDER BY number + 0 DESC LIMIT :limit;

-- name: get_delivery
SELECT * FROM receiver.deliveries WHERE id = :id;

-- name: list_deliveries
SELECT * FROM receiver.deliveries
WHERE (:destination::text IS NULL OR destination = :destination) AND (:status::text IS NULL OR status = :status)
ORDER BY id DESC LIMIT :limit;

-- name: list_submission_deliveries
-- `|| ''`: see replay.sql.
SELECT * FROM receiver.deliveries
WHERE submission_id = :submission_id AND (:destination::text IS NULL OR destination = :destination)
  AND (:status::text IS NULL OR status = :status)
ORDER BY id || '' DESC LIMIT :limit;

-- name: list_attempts
-- One that runs stands in its delivery.
SELECT delivery_id, number, started_ms, finished_ms, outcome, detail, manual FROM receiver.attempts
WHERE delivery_id = :delivery_id
UNION ALL
SELECT id, attempt, started_ms, NULL, NULL, NULL, manual AND failures = 0 FROM receiver.deliveries
WHERE id = :delivery_id AND status || '' = 'running' AND started_ms IS NOT NULL
ORDER BY number;

-- name: list_troubles
SELECT * FROM receiver.troubles ORDER BY since_ms, name;

-- name: note_trouble
INSERT INTO receiver.troubles (name, since_ms, text) VALUES (:name, :since_ms, :text)
ON CONFLICT (name) DO UPDATE SET text = excluded.text;

-- name: clear_trouble
DELETE FROM receiver.troubles WHERE name = :name;
