CREATE INDEX deliveries_due ON deliveries (destination, due_ms, failures, status) WHERE status = 'pending';
CREATE INDEX deliveries_running ON deliveries (destination, submission_id) WHERE status = 'running';
CREATE INDEX deliveries_dead ON deliveries (id, destination, status) WHERE status = 'dead';
CREATE INDEX deliveries_submission ON deliveries (submission_id, destination);

-- Values that all processes share. AUTOINCREMENT never gives a version twice, not even after a deletion.
CREATE TABLE shared_values (
    version INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, data BLOB NOT NULL
);
