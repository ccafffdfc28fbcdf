-- name: lock_submissions
-- One order for all, so that nobody waits for somebody who waits for him.
SELECT id, xmin::text AS version
FROM receiver.submissions WHERE id = ANY (:ids::text::text[]) ORDER BY id FOR UPDATE;

-- name: get_submissions
SELECT * FROM receiver.whole_submissions WHERE id = ANY (:ids::text[]);

-- name: insert_submissions
-- A name (`once`) that is taken keeps the newcomer out.
INSERT INTO receiver.submissions (
    id, kind, created_ms, prompt, request, inputs, speed, labels, user_state, parent_id, button, auto, destinations,
    once, once_digest, reply, hooked, status, outcome, detail, sends, send_due_ms, task_id, task, ended, deadline_ms,
    poll_due_ms, polls, misses, claim, callbacks, media, media_problem, media_tries, media_due_ms, fallback_urls,
    task_status
) SELECT * FROM unnest(
    :id::text::text[], :kind::text::text[], :created_ms::bigint[], :prompt::text::text[], :request::text[],
    :inputs::text::text[], :speed::text::text[], :labels::text::text[], :user_state::text::text[],
    :parent_id::text::text[], :button::text::text[], :auto::text::text[], :destinations::text::text[],
    :once::text::text[], :once_digest::text::text[], :reply::text::text[], :hooked::boolean[],
    :status::text::text[], :outcome::text::text[], :detail::text::text[], :sends::bigint[],
    :send_due_ms::bigint[], :task_id::text::text[], :task::text[], :ended::text::text[],
    :deadline_ms::bigint[], :poll_due_ms::bigint[], :polls::bigint[], :misses::bigint[],
    :claim::text::text[], :callbacks::bigint[], :media::text[], :media_problem::text::text[],
    :media_tries::bigint[], :media_due_ms::bigint[], :fallback_urls::text::text[],
    :task_status::text::text[]
) ON CONFLICT (once) WHERE once IS NOT NULL DO NOTHING RETURNING id, xmin::text AS version;

-- name: insert_events
-- The same fact twice is one event. What is returned is new.
INSERT INTO receiver.events (id, submission_id, type, created_ms, body)
SELECT * FROM unnest(
    :event_ids::text::text[], :event_submissions::text::text[], :event_types::text::text[], :event_times::bigint[],
    :event_bodies::text[])
ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: write_batch
-- All that changes of rows come down to: what was heard, what else is new, what is owed now and what gives way to it, and
-- what came. What never changes after the insert (id, kind, request, labels …) is left out.
-- It fails, by a division by zero and before it writes anything else, unless every row still has the version that was
-- decided on: nobody need have locked them. A fact that is known already fails it, too.
-- At least once, of the last word: what has not run yet gives way to the newer event, unless a person asked for it.
-- (`status || ''`: what is found by its key. While few rows are there, the planner would as soon read the index of all
-- that is pending from end to end; and it keeps its plan.)
WITH heard AS (
    UPDATE receiver.submissions SET
        task = new.task, told = new.told, task_status = new.task_status, callbacks = new.callbacks,
        poll_due_ms = new.poll_due_ms, polls = new.polls, misses = new.misses
    FROM unnest(
        :heard::text::text[], :tasks::text[], :told::text::text[], :task_statuses::text::text[],
        :counts::bigint[], :polls_due::bigint[], :polls::bigint[], :misses::bigint[],
        :versions::text::text[]
    ) AS new (id, task, told, task_status, callbacks, poll_due_ms, polls, misses, version)
    WHERE submissions.id = new.id AND submissions.xmin::text = new.version
    RETURNING 1
), changed AS (
    UPDATE receiver.submissions SET
        once = new.once, reply = new.reply, status = new.status, outcome = new.outcome, detail = new.detail,
        sends = new.sends, send_due_ms = new.send_due_ms, task_id = new.task_id, task = new.task, ended = new.ended,
        deadline_ms = new.deadline_ms, poll_due_ms = new.poll_due_ms, polls = new.polls, misses = new.misses,
        claim = new.claim, callbacks = new.callbacks, media = new.media, media_problem = new.media_problem,
        media_tries = new.media_tries, media_due_ms = new.media_due_ms, fallback_urls = new.fallback_urls,
        task_status = new.task_status, told = new.told
    FROM unnest(
        :full_id::text::text[], :full_once::text::text[], :full_reply::text::text[], :full_status::text::text[],
        :full_outcome::text::text[], :full_detail::text::text[], :full_sends::bigint[],
        :full_send_due_ms::bigint[], :full_task_id::text::text[], :full_task::text[], :full_ended::text::text[],
        :full_deadline_ms::bigint[], :full_poll_due_ms::bigint[], :full_polls::bigint[],
        :full_misses::bigint[], :full_claim::text::text[], :full_callbacks::bigint[], :full_media::text[],
        :full_media_problem::text::text[], :full_media_tries::bigint[], :full_media_due_ms::bigint[],
        :full_fallback_urls::text::text[], :full_task_status::text::text[], :full_told::text::text[],
        :full_versions::text::text[]
    ) AS new (
        id, once, reply, status, outcome, detail, sends, send_due_ms, task_id, task, ended, deadline_ms, poll_due_ms,
        polls, misses, claim, callbacks, media, media_problem, media_tries, media_due_ms, fallback_urls, task_status,
        told, version
    ) WHERE submissions.id = new.id AND submissions.xmin::text = new.version
    RETURNING 1
), told AS (
    INSERT INTO receiver.events (id, submission_id, type, created_ms, body)
    SELECT * FROM unnest(
        :event_ids::text::text[], :event_submissions::text::text[], :event_types::text::text[],
        :event_times::bigint[], :event_bodies::text[])
), outdated AS (
    UPDATE receiver.deliveries SET
        status = 'cancelled', finished_ms = older.ms, detail = 'a newer event took its place'
    FROM unnest(:older::text::text[], :older_times::bigint[]) AS older (id, ms)
    WHERE deliveries.id = older.id AND status || '' = 'pending' AND NOT manual
), outdated_too AS (
    UPDATE receiver.deliveries SET
        status = 'cancelled', finished_ms = newer.created_ms, detail = 'a newer event took its place'
    FROM unnest(:newer_submissions::text::text[], :newer_destinations::text::text[], :newer_created::bigint[])
        AS newer (submission_id, destination, created_ms)
    WHERE deliveries.submission_id = newer.submission_id AND deliveries.destination = newer.destination
      AND status || '' = 'pending' AND NOT manual
), owed AS (
    INSERT INTO receiver.deliveries (
        id, event_id, submission_id, destination, created_ms, due_ms, status, detail, finished_ms, manual,
        attempt, failures)
    SELECT id, event_id, submission_id, destination, created_ms, due_ms,
        CASE WHEN finished_ms IS NULL THEN 'pending' ELSE 'cancelled' END,
        CASE WHEN finished_ms IS NOT NULL THEN 'a newer event took its place' END,
        finished_ms, manual, 0, 0
    FROM unnest(
        :owed::text::text[], :owed_events::text::text[], :owed_submissions::text::text[],
        :owed_destinations::text::text[], :owed_created::bigint[], :owed_due::bigint[], :owed_finished::bigint[],
        :owed_manual::boolean[]
    ) AS new (id, event_id, submission_id, destination, created_ms, due_ms, finished_ms, manual)
), needed AS (
    INSERT INTO receiver.files (submission_id, digest)
    SELECT * FROM unnest(:needing::text::text[], :needed::text::text[]) ON CONFLICT DO NOTHING
), kept AS (
    INSERT INTO receiver.callbacks (submission_id, received_ms, cause, body)
    SELECT called, received_ms, cause, convert_from(body, 'UTF8')
    FROM unnest(:called::text::text[], :called_times::bigint[], :causes::text::text[], :bodies::bytea[])
        AS new (called, received_ms, cause, body)
), wiped AS (
    DELETE FROM receiver.commits WHERE mark = ANY (:needless::text::text[])
), marked AS (
    INSERT INTO receiver.commits (mark) VALUES (:mark)
)
-- Read first, and so are the two it counts; whatever else is to be written is written after that.
SELECT
    1 / ((SELECT count(*) FROM heard) + (SELECT count(*) FROM changed) = :expected)::int AS held,
    pg_current_xact_id()::xid::text AS ours;

-- name: release_deliveries
UPDATE receiver.deliveries SET due_ms = now.ms
FROM unnest(:ids::text[], :times::bigint[]) AS now (submission_id, ms)
WHERE deliveries.submission_id = now.submission_id AND status || '' = 'pending' AND attempt = 0 AND due_ms > now.ms;

-- name: need_files
INSERT INTO receiver.files (submission_id, digest)
SELECT * FROM unnest(:ids::text[], :digests::text[]) ON CONFLICT DO NOTHING;
