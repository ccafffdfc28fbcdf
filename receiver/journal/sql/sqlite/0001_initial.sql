-- The journal of DESIGN: submissions, callbacks, events, deliveries, attempts, destinations.
-- Times are epoch milliseconds. Keys are time-ordered, so that inserts stay flat however many rows there are.

-- Rows of a kilobyte that change often: with a rowid a change rewrites the row and nothing else. What is known of the
-- task is twice as large, and stands in the event that told of it already: then `told` names that event, and `task` is
-- NULL. Read `whole_submissions`.
CREATE TABLE submissions (
    id             TEXT PRIMARY KEY,
    kind           TEXT NOT NULL,
    created_ms     INTEGER NOT NULL,
    prompt         TEXT NOT NULL,
    request        TEXT NOT NULL,
    inputs         TEXT NOT NULL,
    speed          TEXT,
    labels         TEXT NOT NULL,
    user_state     TEXT,
    parent_id      TEXT,
    button         TEXT,
    auto           TEXT NOT NULL,
    destinations   TEXT,
    once           TEXT UNIQUE,
    once_digest    TEXT,
    reply          TEXT,
    hooked         INTEGER NOT NULL,
    status         TEXT NOT NULL,
    outcome        TEXT,
    detail         TEXT,
    sends          INTEGER NOT NULL,
    send_due_ms    INTEGER,
    task_id        TEXT,
    task           TEXT,
    told           TEXT,
    ended          TEXT,
    deadline_ms    INTEGER NOT NULL,
    poll_due_ms    INTEGER,
    polls          INTEGER NOT NULL,
    misses         INTEGER NOT NULL,
    claim          TEXT,
    callbacks      INTEGER NOT NULL,
    media          TEXT NOT NULL,
    media_problem  TEXT,
    media_tries    INTEGER NOT NULL,
    media_due_ms   INTEGER,
    fallback_urls  TEXT NOT NULL
);

CREATE INDEX submissions_task ON submissions (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX submissions_parent ON submissions (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX submissions_send ON submissions (send_due_ms) WHERE send_due_ms IS NOT NULL;
CREATE INDEX submissions_poll ON submissions (poll_due_ms) WHERE poll_due_ms IS NOT NULL;
CREATE INDEX submissions_media ON submissions (media_due_ms) WHERE media_due_ms IS NOT NULL;
CREATE INDEX submissions_deadline ON submissions (deadline_ms) WHERE ended IS NULL AND status <> 'refused';
-- What is asked once in minutes must not read everything. `callbacks` is left out on purpose: every callback changes it.
CREATE INDEX submissions_called_back ON submissions (created_ms)
    WHERE hooked = 1 AND status = 'accepted' AND ended IN ('task.succeeded', 'task.failed');

-- Every verified callback as it came.
CREATE TABLE callbacks (
    number         INTEGER PRIMARY KEY,
    submission_id  TEXT NOT NULL,
    received_ms    INTEGER NOT NULL,
    cause          TEXT,
    body           TEXT NOT NULL
);

CREATE INDEX callbacks_submission ON callbacks (submission_id);

-- `number` is the order in which facts became known.
CREATE TABLE events (
    number         INTEGER PRIMARY KEY,
    id             TEXT NOT NULL UNIQUE,
    submission_id  TEXT NOT NULL,
    type           TEXT NOT NULL,
    created_ms     INTEGER NOT NULL,
    body           TEXT NOT NULL
);

-- Submissions with what is known of their tasks, as everybody but a change reads them.
CREATE VIEW whole_submissions AS
SELECT
    id, kind, created_ms, prompt, request, inputs, speed, labels, user_state, parent_id, button, auto, destinations,
    once, once_digest, reply, hooked, status, outcome, detail, sends, send_due_ms, task_id, ended, deadline_ms,
    poll_due_ms, polls, misses, claim, callbacks, media, media_problem, media_tries, media_due_ms, fallback_urls,
    coalesce(task, (SELECT json_extract(body, '$.task') FROM events WHERE events.id = submissions.told)) AS task
FROM submissions;

CREATE TABLE deliveries (
    id             TEXT PRIMARY KEY,
    event_id       TEXT NOT NULL,
    submission_id  TEXT NOT NULL,
    destination    TEXT NOT NULL,
    created_ms     INTEGER NOT NULL,
    due_ms         INTEGER NOT NULL,
    status         TEXT NOT NULL,
    attempt        INTEGER NOT NULL,
    failures       INTEGER NOT NULL,
    owner          TEXT,
    detail         TEXT,
    receipt        TEXT,
    finished_ms    INTEGER,
    manual         INTEGER NOT NULL,
    alone          INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- One claim looks at one destination's due rows only, so that a paused destination costs the others nothing.
CREATE INDEX deliveries_due ON deliveries (destination, due_ms) WHERE status = 'pending';
CREATE INDEX deliveries_running ON deliveries (destination, submission_id) WHERE status = 'running';
CREATE INDEX deliveries_alone ON deliveries (due_ms) WHERE status = 'pending' AND alone = 1;
CREATE INDEX deliveries_dead ON deliveries (destination) WHERE status = 'dead';
CREATE INDEX deliveries_submission ON deliveries (submission_id, destination);

CREATE TABLE attempts (
    delivery_id    TEXT NOT NULL,
    number         INTEGER NOT NULL,
    started_ms     INTEGER NOT NULL,
    finished_ms    INTEGER,
    outcome        TEXT,
    detail         TEXT,
    manual         INTEGER NOT NULL,
    PRIMARY KEY (delivery_id, number)
) WITHOUT ROWID;

-- `failures` are those in a row. `paused_until_ms` is circuit breaker, rate limit and probe in one.
CREATE TABLE destinations (
    name           TEXT PRIMARY KEY,
    handler        TEXT NOT NULL,
    failures       INTEGER NOT NULL DEFAULT 0,
    paused_until_ms INTEGER,
    paused_reason  TEXT,
    last_success_ms INTEGER,
    last_error_ms  INTEGER,
    last_error     TEXT
) WITHOUT ROWID;

-- What does not work outside, for the operator to see to.
CREATE TABLE troubles (
    name           TEXT PRIMARY KEY,
    since_ms       INTEGER NOT NULL,
    text           TEXT NOT NULL
) WITHOUT ROWID;

-- Which submission needs which file of the media store. Whoever writes one notes it (`needed`);
-- triggers would cost each update 13 µs.
CREATE TABLE files (
    submission_id  TEXT NOT NULL,
    digest         TEXT NOT NULL,
    PRIMARY KEY (submission_id, digest)
) WITHOUT ROWID;

CREATE INDEX files_digest ON files (digest);

-- Files no submission needs any more, until they are removed from the disk: a crash in between leaves none behind.
CREATE TABLE leftovers (
    digest         TEXT PRIMARY KEY
) WITHOUT ROWID;
