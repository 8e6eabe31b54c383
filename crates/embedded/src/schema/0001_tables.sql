-- Times are milliseconds since 1970-01-01T00:00:00Z. Identifiers are raw bytes. Nothing in this file but
-- vault_versions holds a password, and that one only sealed.

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The oldest release that may open this file, by the number of its newest schema.
INSERT INTO meta (key, value) VALUES ('compatible_from', '1');

-- What tells a restored file from one that went on: see epoch.rs. Lanes name the generation in which they were last
-- heard for certain.
CREATE TABLE epoch (
    one         INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    epoch       BLOB NOT NULL,
    mark        INTEGER NOT NULL,
    marked_at   INTEGER NOT NULL,
    generation  INTEGER NOT NULL,
    restored_at INTEGER
) STRICT;

-- One row per queue: its name, how much is in it, so that nobody has to count, and the number of the last message
-- that was given out for the first time. Those after it are new: nobody has had them.
CREATE TABLE queue_counters (
    queue INTEGER NOT NULL PRIMARY KEY,
    name  TEXT NOT NULL,
    total INTEGER NOT NULL,
    dead  INTEGER NOT NULL,
    taken INTEGER NOT NULL
) STRICT;

INSERT INTO queue_counters (queue, name, total, dead, taken)
VALUES (1, 'requests', 0, 0, 0), (2, 'findings', 0, 0, 0), (3, 'outcomes', 0, 0, 0),
       (4, 'alarms', 0, 0, 0);

-- The messages of a queue in the order in which they were sent. A row is written once, and deleted once.
CREATE TABLE queue_requests (
    id          INTEGER NOT NULL PRIMARY KEY,
    enqueued_at INTEGER NOT NULL,
    request     BLOB NOT NULL,
    device      BLOB NOT NULL,
    body        TEXT NOT NULL
) STRICT;

CREATE TABLE queue_findings (
    id          INTEGER NOT NULL PRIMARY KEY,
    enqueued_at INTEGER NOT NULL,
    request     BLOB NOT NULL,
    device      BLOB NOT NULL,
    body        TEXT NOT NULL
) STRICT;

CREATE TABLE queue_outcomes (
    id          INTEGER NOT NULL PRIMARY KEY,
    enqueued_at INTEGER NOT NULL,
    request     BLOB NOT NULL,
    device      BLOB NOT NULL,
    body        TEXT NOT NULL
) STRICT;

CREATE TABLE queue_alarms (
    id          INTEGER NOT NULL PRIMARY KEY,
    enqueued_at INTEGER NOT NULL,
    request     BLOB NOT NULL,
    device      BLOB NOT NULL,
    body        TEXT NOT NULL
) STRICT;

-- What leasing and settling rewrite: a small row for each message that has been given out, so as many as there are
-- in work or waiting to be tried again. `lease` is null while nobody has the message; `failures` is how many
-- attempts queue_attempts has had of it.
CREATE TABLE held_requests (
    id         INTEGER NOT NULL PRIMARY KEY,
    visible_at INTEGER NOT NULL,
    lease      BLOB,
    deliveries INTEGER NOT NULL,
    failures   INTEGER NOT NULL
) STRICT;

CREATE INDEX held_requests_by_visibility ON held_requests (visible_at);

CREATE TABLE held_findings (
    id         INTEGER NOT NULL PRIMARY KEY,
    visible_at INTEGER NOT NULL,
    lease      BLOB,
    deliveries INTEGER NOT NULL,
    failures   INTEGER NOT NULL
) STRICT;

CREATE INDEX held_findings_by_visibility ON held_findings (visible_at);

CREATE TABLE held_outcomes (
    id         INTEGER NOT NULL PRIMARY KEY,
    visible_at INTEGER NOT NULL,
    lease      BLOB,
    deliveries INTEGER NOT NULL,
    failures   INTEGER NOT NULL
) STRICT;

CREATE INDEX held_outcomes_by_visibility ON held_outcomes (visible_at);

CREATE TABLE held_alarms (
    id         INTEGER NOT NULL PRIMARY KEY,
    visible_at INTEGER NOT NULL,
    lease      BLOB,
    deliveries INTEGER NOT NULL,
    failures   INTEGER NOT NULL
) STRICT;

CREATE INDEX held_alarms_by_visibility ON held_alarms (visible_at);

-- The last eight failed attempts at a message that is still on its queue.
CREATE TABLE queue_attempts (
    queue     INTEGER NOT NULL,
    message   INTEGER NOT NULL,
    attempt   INTEGER NOT NULL,
    failed_at INTEGER NOT NULL,
    error     TEXT NOT NULL,
    PRIMARY KEY (queue, message, attempt)
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: an operator's command names letters by id, so an id must never come to mean another letter.
CREATE TABLE dead_letters (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    queue       INTEGER NOT NULL,
    request     BLOB NOT NULL,
    device      BLOB NOT NULL,
    body        TEXT NOT NULL,
    reason      TEXT NOT NULL,
    attempts    TEXT NOT NULL,
    deliveries  INTEGER NOT NULL,
    enqueued_at INTEGER NOT NULL,
    died_at     INTEGER NOT NULL
) STRICT;

CREATE INDEX dead_letters_by_queue ON dead_letters (queue, id);

-- Accepted messages in the order of their nonces, so that remembering one touches the newest page only.
CREATE TABLE accepted (
    nonce_ms INTEGER NOT NULL,
    request  BLOB NOT NULL,
    PRIMARY KEY (nonce_ms, request)
) STRICT, WITHOUT ROWID;

-- The ledger. `state` is the lane as JSON; the other columns repeat what is looked up by. The number of a row is made
-- from the device's id (ledger/place.rs), so that all lanes of a device are on one page, and a commit that changes
-- nothing the indexes have touches that page alone: what else it writes is at the end of its table.
CREATE TABLE lanes (
    id          INTEGER NOT NULL PRIMARY KEY,
    lane        BLOB NOT NULL,
    device      BLOB NOT NULL,
    revision    INTEGER NOT NULL,
    generation  INTEGER NOT NULL,
    -- The newest of the lane's events.
    event       INTEGER,
    -- The marks of its last messages, 16 bytes each, newest first.
    marks       BLOB NOT NULL,
    outstanding BLOB,
    serial      TEXT,
    host        TEXT,
    state       TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX lanes_by_lane ON lanes (lane);
CREATE INDEX lanes_by_device ON lanes (device);
CREATE INDEX lanes_by_serial ON lanes (serial) WHERE serial IS NOT NULL;
CREATE INDEX lanes_by_host ON lanes (host) WHERE host IS NOT NULL;

CREATE TABLE issued (
    version   BLOB NOT NULL PRIMARY KEY,
    lane      BLOB NOT NULL,
    vault_ref TEXT NOT NULL,
    minted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which messages took effect, in the order of their nonces. `mark` is the first half of SHA-256 over the key's hash
-- and the sender's mark.
CREATE TABLE effects (
    nonce_ms INTEGER NOT NULL,
    mark     BLOB NOT NULL,
    request  BLOB NOT NULL,
    PRIMARY KEY (nonce_ms, mark)
) STRICT, WITHOUT ROWID;

-- Facts in the order in which they were stored. Those of a lane are a chain that begins in the lane's row; those of
-- messages without a lane, which are few, are found by an index.
CREATE TABLE events (
    id       INTEGER NOT NULL PRIMARY KEY,
    event    BLOB NOT NULL,
    at       INTEGER NOT NULL,
    device   BLOB NOT NULL,
    request  BLOB NOT NULL,
    what     TEXT NOT NULL,
    chained  INTEGER NOT NULL,
    previous INTEGER
) STRICT;

CREATE INDEX events_without_lane ON events (device, id) WHERE chained = 0;

-- A result without a body is the one refusal that is the same for everybody.
CREATE TABLE results (
    id         INTEGER NOT NULL PRIMARY KEY,
    request    BLOB NOT NULL,
    body       TEXT,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX results_by_request ON results (request);
CREATE INDEX results_by_expiry ON results (expires_at);

-- Device records as Microsoft Graph writes them.
CREATE TABLE directory (
    device BLOB NOT NULL PRIMARY KEY,
    name   TEXT,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX directory_by_name ON directory (name) WHERE name IS NOT NULL;

CREATE TABLE audit (
    seq    INTEGER NOT NULL PRIMARY KEY,
    at     INTEGER NOT NULL,
    actor  TEXT NOT NULL,
    action TEXT NOT NULL,
    device BLOB,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    hash   BLOB NOT NULL
) STRICT;

CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit rows are never changed');
END;

CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit rows are never deleted');
END;

-- Kept for good. The row's number is what the ledger calls the vault's own words for a version.
CREATE TABLE vault_versions (
    id         INTEGER NOT NULL PRIMARY KEY,
    version    BLOB NOT NULL,
    request    BLOB NOT NULL,
    lane       BLOB NOT NULL,
    device     BLOB NOT NULL,
    sealed     BLOB NOT NULL,
    tags       TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX vault_versions_by_request ON vault_versions (request);
CREATE INDEX vault_versions_by_device ON vault_versions (device);
