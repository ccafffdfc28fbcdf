-- `status || ''` stands where a row is found by its key: see changes.sql.

-- name: look
-- What a claim has to know first, without a transaction: an idle engine asks often.
SELECT
    EXISTS (
        SELECT FROM receiver.deliveries
        WHERE destination = :destination AND status = 'pending' AND due_ms <= :now_ms AND NOT alone) AS due,
    failures, paused_until_ms
FROM (SELECT) AS always LEFT JOIN receiver.destinations ON name = :destination;

-- name: lock_destination
SELECT *, 0 AS pending, 0 AS dead FROM receiver.destinations WHERE name = :name FOR UPDATE;

-- name: lock_destinations
SELECT *, 0 AS pending, 0 AS dead FROM receiver.destinations WHERE name = ANY (:names::text[]) ORDER BY name FOR UPDATE;

-- name: any_running
SELECT 1 FROM receiver.deliveries WHERE destination = :destination AND status = 'running' LIMIT 1;

-- name: claim
-- Due ones that nobody else is about to take, the oldest of each submission; their attempts begin. (`IS NULL`, not `NOT
-- EXISTS`: one look by key for each; a join would go through all that runs.) A destination that is paused or fails gives
-- nothing, unless whoever asks has looked at it under its lock (:probing). With it comes all that attempts need.
WITH due AS (
    SELECT id, submission_id FROM receiver.deliveries AS mine
    WHERE destination = :destination AND status = 'pending' AND due_ms <= :now_ms AND NOT alone
      AND (
          SELECT 1 FROM receiver.deliveries AS other
          WHERE other.submission_id = mine.submission_id AND other.destination = mine.destination
            AND other.status = 'running') IS NULL
      AND (:probing::boolean OR NOT EXISTS (
          SELECT FROM receiver.destinations
          WHERE name = :destination AND (paused_until_ms > :now_ms OR failures > 0)))
    ORDER BY due_ms LIMIT :limit FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE receiver.deliveries SET status = 'running', attempt = attempt + 1, owner = :owner, started_ms = :now_ms
    WHERE id = ANY (ARRAY(SELECT min(id) FROM due GROUP BY submission_id))
    RETURNING *
), wiped AS (
    DELETE FROM receiver.commits WHERE mark = ANY (:needless::text::text[])
), marked AS (
    INSERT INTO receiver.commits (mark) SELECT :mark WHERE EXISTS (SELECT FROM taken)
)
SELECT taken.*, needs.*, events.body AS event
FROM taken
LEFT JOIN receiver.needs ON submission = taken.submission_id
LEFT JOIN receiver.events ON events.id = taken.event_id
ORDER BY taken.due_ms, taken.id;

-- name: alone_due
-- The one that is next of those that run alone. Few ever have to, so their index is the one to use.
SELECT id FROM receiver.deliveries AS mine
WHERE status = 'pending' AND alone AND due_ms <= :now_ms AND destination = ANY (:destinations::text[])
  AND (
      SELECT 1 FROM receiver.deliveries AS other
      WHERE other.submission_id = mine.submission_id AND other.destination = mine.destination
        AND other.status = 'running') IS NULL
  AND (SELECT 1 FROM receiver.destinations WHERE name = mine.destination AND paused_until_ms > :now_ms) IS NULL
ORDER BY due_ms LIMIT 1;

-- name: claim_alone
WITH due AS (
    SELECT id FROM receiver.deliveries WHERE id = :id AND status || '' = 'pending' AND alone FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE receiver.deliveries SET status = 'running', attempt = attempt + 1, owner = :owner, started_ms = :now_ms
    WHERE id = ANY (ARRAY(SELECT id FROM due))
    RETURNING *
), wiped AS (
    DELETE FROM receiver.commits WHERE mark = ANY (:needless::text[])
), marked AS (
    INSERT INTO receiver.commits (mark) SELECT :mark WHERE EXISTS (SELECT FROM taken)
)
SELECT taken.*, needs.*, events.body AS event
FROM taken
LEFT JOIN receiver.needs ON submission = taken.submission_id
LEFT JOIN receiver.events ON events.id = taken.event_id;

-- name: list_strays
-- What :owner claimed and has not heard of.
SELECT id FROM receiver.deliveries WHERE status = 'running' AND owner = :owner AND id <> ALL (:held::text[]);

-- name: get_due
SELECT id, due_ms FROM receiver.deliveries WHERE id = ANY (:ids::text[]);

-- name: give_back
UPDATE receiver.deliveries SET status = 'pending', attempt = attempt - 1, owner = NULL
WHERE id = ANY (:ids::text[]) AND status || '' = 'running' AND owner = :owner;

-- name: lock_owing
-- Whoever makes a delivery pending again stands in line with whoever adds a newer one, and gives the submission a new
-- version, so that nobody does that who has not seen it.
WITH locked AS (
    SELECT id FROM receiver.submissions
    WHERE id = ANY (ARRAY(SELECT submission_id FROM receiver.deliveries WHERE id = ANY (:deliveries::text[])))
    ORDER BY id FOR UPDATE
)
UPDATE receiver.submissions SET misses = misses FROM locked WHERE submissions.id = locked.id;

-- name: complete
-- The fence: owner and attempt. What is returned was completed. A person's attempt is what follows a replay; what
-- follows its failure is automatic again.
WITH done AS (
    UPDATE receiver.deliveries SET
        status = new.status, due_ms = new.due_ms, failures = failures + new.counts, detail = new.detail, owner = NULL,
        receipt = coalesce(new.receipt, deliveries.receipt),
        finished_ms = CASE WHEN new.status = 'pending' THEN NULL ELSE new.finished_ms END,
        alone = new.outcome = 'interrupted' AND alone
    FROM unnest(
        :ids::text::text[], :owners::text::text[], :attempts::bigint[], :outcomes::text::text[],
        :statuses::text::text[], :times::bigint[], :dues::bigint[], :counts::bigint[],
        :details::text::text[], :receipts::text::text[]
    ) AS new (id, owner, attempt, outcome, status, finished_ms, due_ms, counts, detail, receipt)
    WHERE deliveries.id = new.id AND deliveries.owner = new.owner AND deliveries.attempt = new.attempt
      AND deliveries.status || '' = 'running'
    RETURNING deliveries.id, deliveries.destination, new.attempt, deliveries.started_ms, new.finished_ms, new.outcome,
        new.detail, deliveries.manual AND deliveries.failures = new.counts AS manual
), ended AS (
    INSERT INTO receiver.attempts (delivery_id, number, started_ms, finished_ms, outcome, detail, manual)
    SELECT id, attempt, coalesce(started_ms, finished_ms), finished_ms, outcome, detail, manual FROM done
    ON CONFLICT (delivery_id, number) DO UPDATE SET
        finished_ms = excluded.finished_ms, outcome = excluded.outcome, detail = excluded.detail
), wiped AS (
    DELETE FROM receiver.commits WHERE mark = ANY (:needless::text::text[])
), marked AS (
    INSERT INTO receiver.commits (mark) SELECT :mark::text WHERE :mark::text IS NOT NULL
)
SELECT done.id, done.destination, failures, paused_until_ms, last_success_ms
FROM done LEFT JOIN receiver.destinations ON name = done.destination;

-- name: completed
-- Which of these attempts have ended just so.
SELECT delivery_id FROM receiver.attempts
JOIN unnest(:ids::text[], :attempts::bigint[], :outcomes::text[], :times::bigint[])
    AS ours (id, attempt, outcome, finished_ms)
    ON delivery_id = ours.id AND number = ours.attempt
WHERE attempts.outcome = ours.outcome AND attempts.finished_ms = ours.finished_ms;

-- name: cancel_outdated
-- An attempt that has to run again gives way to a newer event that came while it ran. Newer is what became known later:
-- ids are of the wall clock, which may have been set back since.
UPDATE receiver.deliveries SET
    status = 'cancelled', finished_ms = ended.ms, detail = 'a newer event took its place'
FROM unnest(:ids::text[], :times::bigint[]) AS ended (delivery_id, ms)
WHERE id = ended.delivery_id AND status || '' = 'pending' AND NOT manual AND EXISTS (
    SELECT FROM receiver.deliveries AS newer JOIN receiver.events AS fact ON fact.id = newer.event_id
    WHERE newer.submission_id = deliveries.submission_id AND newer.destination = deliveries.destination
      AND fact.number > (SELECT number FROM receiver.events WHERE id = deliveries.event_id)
      AND newer.status <> 'cancelled' AND NOT newer.manual);

-- name: update_destinations
UPDATE receiver.destinations SET
    failures = new.failures, paused_until_ms = new.paused_until_ms, paused_reason = new.paused_reason,
    last_success_ms = new.last_success_ms, last_error_ms = new.last_error_ms, last_error = new.last_error
FROM unnest(
    :name::text[], :failures::bigint[], :paused_until_ms::bigint[], :paused_reason::text[], :last_success_ms::bigint[],
    :last_error_ms::bigint[], :last_error::text[]
) AS new (name, failures, paused_until_ms, paused_reason, last_success_ms, last_error_ms, last_error)
WHERE destinations.name = new.name;

-- name: accuse
UPDATE receiver.deliveries SET alone = true WHERE id = :id AND status || '' = 'running';

-- name: run_alone
UPDATE receiver.deliveries SET alone = true WHERE id = ANY (:ids::text[]) AND status || '' = 'pending';

-- name: register_destination
INSERT INTO receiver.destinations (name, handler) SELECT * FROM unnest(:names::text[], :handlers::text[])
ON CONFLICT (name) DO UPDATE SET handler = excluded.handler WHERE destinations.handler <> excluded.handler;

-- name: forget_destination
DELETE FROM receiver.destinations WHERE name = :name;

-- name: owed_destinations
SELECT name FROM receiver.destinations
WHERE EXISTS (SELECT FROM receiver.deliveries WHERE destination = name AND status = 'pending') ORDER BY name;

-- name: list_destinations
SELECT *,
    (SELECT count(*) FROM receiver.deliveries WHERE destination = name AND status = 'pending') AS pending,
    (SELECT count(*) FROM receiver.deliveries WHERE destination = name AND status = 'dead') AS dead
FROM receiver.destinations ORDER BY name;

-- name: pause_destination
-- Of two pauses the longer one counts.
UPDATE receiver.destinations SET paused_until_ms = :until_ms, paused_reason = :reason
WHERE name = :name AND coalesce(paused_until_ms, 0) < :until_ms;

-- name: end_wait
-- What was to wait as long as the pause is due when a person ends it.
UPDATE receiver.deliveries SET due_ms = created_ms
WHERE destination = :name AND status = 'pending' AND due_ms > created_ms
  AND due_ms <= (SELECT paused_until_ms FROM receiver.destinations WHERE name = :name);

-- name: resume_destination
UPDATE receiver.destinations SET paused_until_ms = NULL, paused_reason = NULL, failures = 0 WHERE name = :name;

-- name: advance_deliveries
-- After the clock stepped back: by as much as it did, and into reach in any case.
UPDATE receiver.deliveries SET due_ms = least(due_ms - :step_ms::bigint, :now_ms::bigint + :longest_ms::bigint)
WHERE destination = ANY (ARRAY(SELECT name FROM receiver.destinations))
  AND status = 'pending' AND due_ms > :after_ms;

-- name: advance_sends
UPDATE receiver.submissions
SET send_due_ms = least(send_due_ms - :step_ms::bigint, :now_ms::bigint + :longest_ms::bigint)
WHERE send_due_ms > :after_ms;

-- name: advance_polls
UPDATE receiver.submissions
SET poll_due_ms = least(poll_due_ms - :step_ms::bigint, :now_ms::bigint + :longest_ms::bigint)
WHERE poll_due_ms > :after_ms;

-- name: advance_media
UPDATE receiver.submissions
SET media_due_ms = least(media_due_ms - :step_ms::bigint, :now_ms::bigint + :longest_ms::bigint)
WHERE media_due_ms > :after_ms;

-- name: advance_deadlines
UPDATE receiver.submissions
SET deadline_ms = least(deadline_ms - :step_ms::bigint, :now_ms::bigint + :longest_ms::bigint)
WHERE deadline_ms > :after_ms AND ended IS NULL AND status <> 'refused';

-- name: advance_pauses
UPDATE receiver.destinations
SET paused_until_ms = least(paused_until_ms - :step_ms::bigint, :now_ms::bigint + :longest_ms::bigint)
WHERE paused_until_ms > :after_ms;
