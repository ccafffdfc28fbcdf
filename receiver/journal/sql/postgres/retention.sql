-- name: settled
-- Of these, those of which nothing is owed and nothing is under way, so that they may go.
SELECT id FROM receiver.submissions
WHERE id = ANY(:ids::text[]) AND (ended IS NOT NULL OR status = 'refused')
  AND send_due_ms IS NULL AND poll_due_ms IS NULL AND media_due_ms IS NULL AND claim IS NULL
  AND NOT EXISTS (
      SELECT 1 FROM receiver.deliveries
      WHERE submission_id = submissions.id AND status IN ('pending', 'running'))
ORDER BY id;

-- name: settled_before
-- Ids are time-ordered: `:before` is a time.
SELECT id FROM receiver.submissions
WHERE id > :after AND id < :before AND (ended IS NOT NULL OR status = 'refused')
  AND send_due_ms IS NULL AND poll_due_ms IS NULL AND media_due_ms IS NULL AND claim IS NULL
  AND NOT EXISTS (
      SELECT 1 FROM receiver.deliveries
      WHERE submission_id = submissions.id AND status IN ('pending', 'running'))
ORDER BY id LIMIT :limit;

-- name: with_files_before
SELECT DISTINCT submission_id AS id FROM receiver.files
WHERE submission_id > :after AND submission_id < :before AND EXISTS (
    SELECT 1 FROM receiver.submissions
    WHERE id = files.submission_id AND (ended IS NOT NULL OR status = 'refused')
      AND send_due_ms IS NULL AND poll_due_ms IS NULL AND media_due_ms IS NULL AND claim IS NULL
      AND NOT EXISTS (
          SELECT 1 FROM receiver.deliveries
          WHERE submission_id = submissions.id AND status IN ('pending', 'running')))
ORDER BY submission_id LIMIT :limit;

-- name: callbacks_after
-- Callbacks are numbered as they came, so the oldest stand first.
SELECT number, received_ms FROM receiver.callbacks WHERE number > :after ORDER BY number LIMIT :limit;

-- name: newest_callback
SELECT received_ms FROM receiver.callbacks WHERE number = (SELECT max(number) FROM receiver.callbacks);

-- name: delete_numbered_callbacks
DELETE FROM receiver.callbacks WHERE number = ANY(:numbers::bigint[]);

-- name: delete_callbacks
DELETE FROM receiver.callbacks WHERE submission_id = ANY(:ids::text[]);

-- name: delete_attempts
DELETE FROM receiver.attempts
WHERE delivery_id = ANY(ARRAY(SELECT id FROM receiver.deliveries WHERE submission_id = ANY(:ids::text[])));

-- name: delete_deliveries
DELETE FROM receiver.deliveries WHERE submission_id = ANY(:ids::text[]);

-- name: delete_events
-- Event ids start with their submission's.
DELETE FROM receiver.events WHERE number = ANY(ARRAY(
    SELECT fact.number FROM unnest(:ids::text[]) AS gone (id)
    CROSS JOIN LATERAL (
        SELECT number FROM receiver.events WHERE events.id > gone.id || '.' AND events.id < gone.id || '/') AS fact));

-- name: delete_submissions
DELETE FROM receiver.submissions WHERE id = ANY(:ids::text[]);

-- name: drop_media
UPDATE receiver.submissions SET media = '[]', media_problem = :problem WHERE id = ANY(:ids::text[]) AND media <> '[]';

-- name: one_deletes
-- Two who delete at once would each leave a file to the other.
SELECT pg_advisory_xact_lock(7283910554230117);

-- name: leave_files
-- Files nobody else needs; they are removed from the store afterwards.
WITH lone AS (
    SELECT DISTINCT digest FROM receiver.files AS mine
    WHERE submission_id = ANY(:ids::text[]) AND NOT EXISTS (
        SELECT 1 FROM receiver.files AS other
        WHERE other.digest = mine.digest AND other.submission_id <> ALL(:ids::text[]))),
left_over AS (
    INSERT INTO receiver.leftovers (digest) SELECT digest FROM lone ON CONFLICT DO NOTHING)
SELECT count(*) AS files FROM lone;

-- name: delete_files
DELETE FROM receiver.files WHERE submission_id = ANY(:ids::text[]);

-- name: list_leftovers
SELECT digest, EXISTS (SELECT 1 FROM receiver.files WHERE files.digest = leftovers.digest) AS needed
FROM receiver.leftovers WHERE digest > :after ORDER BY digest LIMIT :limit;

-- name: forget_leftovers
DELETE FROM receiver.leftovers WHERE digest = ANY(:digests::text[]);

-- name: list_children
SELECT id FROM receiver.submissions WHERE parent_id = :id ORDER BY id;

-- name: list_owed
-- `|| ''`: see replay.sql.
SELECT * FROM receiver.deliveries WHERE submission_id = :id AND status IN ('pending', 'running') ORDER BY id || '';

-- name: vacuum
VACUUM receiver.submissions, receiver.callbacks, receiver.events, receiver.deliveries, receiver.attempts,
    receiver.files, receiver.leftovers;

-- name: vacuum_full
VACUUM FULL receiver.submissions, receiver.callbacks, receiver.events, receiver.deliveries, receiver.attempts,
    receiver.files, receiver.leftovers;

-- name: bytes_used
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint AS bytes
FROM pg_class WHERE relnamespace = 'receiver'::regnamespace AND relkind = 'r';
