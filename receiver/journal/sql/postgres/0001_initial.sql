-- All is in a schema of its own: the database may hold other things. Ids are compared byte by byte ("C").

CREATE INDEX deliveries_due ON receiver.deliveries (destination, due_ms, failures) WHERE status = 'pending';
CREATE INDEX deliveries_running ON receiver.deliveries (destination, id) WHERE status = 'running';
CREATE INDEX deliveries_dead ON receiver.deliveries ((id || ''), destination) WHERE status = 'dead';
CREATE INDEX deliveries_submission ON receiver.deliveries (submission_id, status);

-- Values that all processes share: engines, destinations, troubles. `version` is the transaction that wrote it.
CREATE TABLE receiver.shared_values (key text COLLATE "C" PRIMARY KEY, data text NOT NULL, version text NOT NULL);

-- Room on each page for the next version of a row, so that it stays on its own page.
ALTER TABLE receiver.submissions SET (fillfactor = 60);
ALTER TABLE receiver.attempts SET (fillfactor = 70);
-- Rows that change often are cleaned up after a fiftieth of them is dead, not a fifth.
ALTER TABLE receiver.submissions SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE receiver.deliveries SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- Where the server has it: a callback is compressed in a quarter of the time.
DO $$
BEGIN
    ALTER TABLE receiver.submissions ALTER COLUMN body SET COMPRESSION lz4, ALTER COLUMN working SET COMPRESSION lz4;
    ALTER TABLE receiver.callbacks ALTER COLUMN body SET COMPRESSION lz4;
    ALTER TABLE receiver.events ALTER COLUMN body SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;
