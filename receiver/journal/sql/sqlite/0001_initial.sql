-- Times are epoch milliseconds. Keys are time-ordered, so that inserts stay flat however many rows there are.

-- `body` is the submission as JSON, and `working` is the rest of the document: known events, newest events and receipts
-- by destination. The other columns repeat what is searched for. With a rowid, a change rewrites the row and nothing
-- else.
CREATE TABLE submissions (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, working TEXT NOT NULL,
    parent_id TEXT, task_id TEXT, once TEXT UNIQUE,
    status TEXT NOT NULL, display TEXT NOT NULL, task_status TEXT NOT NULL, ended TEXT, hooked INTEGER NOT NULL,
    settled INTEGER NOT NULL, send_due_ms INTEGER, poll_due_ms INTEGER, media_due_ms INTEGER, deadline_due_ms INTEGER,
    body TEXT NOT NULL
);
CREATE INDEX submissions_task ON submissions (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX submissions_parent ON submissions (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX submissions_display ON submissions (display, id);
CREATE INDEX submissions_send ON submissions (send_due_ms) WHERE send_due_ms IS NOT NULL;
CREATE INDEX submissions_poll ON submissions (poll_due_ms) WHERE poll_due_ms IS NOT NULL;
CREATE INDEX submissions_media ON submissions (media_due_ms) WHERE media_due_ms IS NOT NULL;
CREATE INDEX submissions_deadline ON submissions (deadline_due_ms) WHERE deadline_due_ms IS NOT NULL;
CREATE INDEX submissions_called_back ON submissions (id)
    WHERE hooked AND status = 'accepted' AND ended IN ('task.succeeded', 'task.failed');

-- What people search requests by. It never changes, and is read from end to end where no index helps. `prompt` is
-- case-folded, and `labels` are ,"name":"value",…
CREATE TABLE requests (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, labels TEXT NOT NULL, prompt TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX requests_kind ON requests (kind, id);

CREATE TABLE callbacks (
    number INTEGER PRIMARY KEY, submission_id TEXT NOT NULL, received_ms INTEGER NOT NULL, cause TEXT,
    body TEXT NOT NULL
);
CREATE INDEX callbacks_submission ON callbacks (submission_id);

-- `number` is the order in which facts became known. Event ids start with their submission's id.
CREATE TABLE events (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, submission_id TEXT NOT NULL, type TEXT NOT NULL,
    created_ms INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE INDEX events_type ON events (type);

CREATE TABLE deliveries (
    id TEXT PRIMARY KEY, event_id TEXT NOT NULL, submission_id TEXT NOT NULL, destination TEXT NOT NULL,
    created_ms INTEGER NOT NULL, due_ms INTEGER NOT NULL, status TEXT NOT NULL, attempt INTEGER NOT NULL,
    failures INTEGER NOT NULL, owner TEXT, detail TEXT, receipt TEXT, finished_ms INTEGER, manual INTEGER NOT NULL
) WITHOUT ROWID;
-- A claim reads the due rows of one destination only, so that a paused destination costs the others nothing. Counts
-- read indexes that have `status`, and no row.
CREATE INDEX deliveries_due ON deliveries (destination, due_ms, failures, status) WHERE status = 'pending';
CREATE INDEX deliveries_running ON deliveries (destination, submission_id) WHERE status = 'running';
CREATE INDEX deliveries_dead ON deliveries (id, destination, status) WHERE status = 'dead';
CREATE INDEX deliveries_cancelled ON deliveries (id, destination) WHERE status = 'cancelled';
CREATE INDEX deliveries_destination ON deliveries (destination, id);
CREATE INDEX deliveries_submission ON deliveries (submission_id, destination);

CREATE TABLE attempts (
    delivery_id TEXT NOT NULL, number INTEGER NOT NULL, started_ms INTEGER NOT NULL, finished_ms INTEGER,
    outcome TEXT, detail TEXT, manual INTEGER NOT NULL, traceback TEXT,
    PRIMARY KEY (delivery_id, number)
) WITHOUT ROWID;

-- The files of the media store that each submission needs. Triggers would cost each update 13 µs.
CREATE TABLE files (
    submission_id TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (submission_id, digest)
) WITHOUT ROWID;
CREATE INDEX files_digest ON files (digest);

-- Files that no submission needs any more, until they are removed from the disk.
CREATE TABLE leftovers (digest TEXT PRIMARY KEY) WITHOUT ROWID;

-- AUTOINCREMENT never gives a version twice, not even after a deletion.
CREATE TABLE shared_values (
    version INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, data BLOB NOT NULL
);
