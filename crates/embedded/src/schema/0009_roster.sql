-- The devices of a directory elsewhere, by their objects there: a copy, and never what a device is trusted by.
CREATE TABLE roster (
    object  BLOB NOT NULL PRIMARY KEY,
    device  BLOB,
    record  TEXT NOT NULL,
    gone    INTEGER NOT NULL,
    round   INTEGER NOT NULL,
    changed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX roster_by_device ON roster (device) WHERE gone = 0;
CREATE INDEX roster_by_change ON roster (changed);

-- How far the feed of its changes was read, and who is at it until when. A round that is under way has begun_at.
CREATE TABLE roster_feed (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    step       INTEGER NOT NULL,
    place      TEXT,
    round      INTEGER NOT NULL,
    whole      INTEGER NOT NULL,
    begun_at   INTEGER,
    read_at    INTEGER,
    due_at     INTEGER NOT NULL,
    holder     BLOB,
    held_until INTEGER NOT NULL
) STRICT;

INSERT INTO roster_feed (one, step, round, whole, due_at, held_until) VALUES (1, 0, 0, 0, 0, 0);
