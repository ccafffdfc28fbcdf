-- name: need_file
INSERT INTO files (submission_id, digest) VALUES (:submission_id, :digest) ON CONFLICT DO NOTHING;

-- name: settled
-- Nothing is owed and nothing is under way, so that a submission may go.
SELECT 1 FROM submissions
WHERE id = :id AND (ended IS NOT NULL OR status = 'refused')
  AND send_due_ms IS NULL AND poll_due_ms IS NULL AND media_due_ms IS NULL AND claim IS NULL
  AND NOT EXISTS (
      SELECT 1 FROM deliveries WHERE submission_id = submissions.id AND status IN ('pending', 'running'));

-- name: settled_before
-- Ids are time-ordered: `:before` is a time.
SELECT id FROM submissions
WHERE id > :after AND id < :before AND (ended IS NOT NULL OR status = 'refused')
  AND send_due_ms IS NULL AND poll_due_ms IS NULL AND media_due_ms IS NULL AND claim IS NULL
  AND NOT EXISTS (
      SELECT 1 FROM deliveries WHERE submission_id = submissions.id AND status IN ('pending', 'running'))
ORDER BY id LIMIT :limit;

-- name: with_files_before
SELECT DISTINCT submission_id AS id FROM files
WHERE submission_id > :after AND submission_id < :before AND EXISTS (
    SELECT 1 FROM submissions
    WHERE id = files.submission_id AND (ended IS NOT NULL OR status = 'refused')
      AND send_due_ms IS NULL AND poll_due_ms IS NULL AND media_due_ms IS NULL AND claim IS NULL
      AND NOT EXISTS (
          SELECT 1 FROM deliveries WHERE submission_id = submissions.id AND status IN ('pending', 'running')))
ORDER BY submission_id LIMIT :limit;

-- name: callbacks_after
-- Callbacks are numbered as they came, so the oldest stand first.
SELECT number, received_ms FROM callbacks WHERE number > :after ORDER BY number LIMIT :limit;

-- name: newest_callback
SELECT received_ms FROM callbacks WHERE number = (SELECT max(number) FROM callbacks);

-- name: delete_callback
DELETE FROM callbacks WHERE number = :number;

-- name: delete_callbacks
DELETE FROM callbacks WHERE submission_id = :id;

-- name: delete_attempts
DELETE FROM attempts WHERE delivery_id IN (SELECT id FROM deliveries WHERE submission_id = :id);

-- name: delete_deliveries
DELETE FROM deliveries WHERE submission_id = :id;

-- name: delete_events
-- Event ids start with their submission's.
DELETE FROM events WHERE id > :id || '.' AND id < :id || '/';

-- name: delete_submission
DELETE FROM submissions WHERE id = :id;

-- name: drop_media
UPDATE submissions SET media = '[]', media_problem = :problem WHERE id = :id AND media <> '[]';

-- name: leave_files
-- Files nobody else needs; they are removed from the disk afterwards.
INSERT INTO leftovers
SELECT digest FROM files AS mine
WHERE submission_id = :id AND NOT EXISTS (
    SELECT 1 FROM files AS other WHERE other.digest = mine.digest AND other.submission_id <> :id)
ON CONFLICT DO NOTHING;

-- name: count_files
SELECT count(*) FROM files AS mine
WHERE submission_id = :id AND NOT EXISTS (
    SELECT 1 FROM files AS other WHERE other.digest = mine.digest AND other.submission_id <> :id);

-- name: delete_files
DELETE FROM files WHERE submission_id = :id;

-- name: list_files
SELECT digest FROM files WHERE submission_id = :id;

-- name: list_leftovers
SELECT digest, EXISTS (SELECT 1 FROM files WHERE files.digest = leftovers.digest) AS needed
FROM leftovers WHERE digest > :after ORDER BY digest LIMIT :limit;

-- name: forget_leftover
DELETE FROM leftovers WHERE digest = :digest;

-- name: list_children
SELECT id FROM submissions WHERE parent_id = :id ORDER BY id;

-- name: list_owed
SELECT * FROM deliveries WHERE submission_id = :id AND status IN ('pending', 'running') ORDER BY id;
