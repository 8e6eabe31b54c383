-- The devices of a directory elsewhere, by their objects there: a copy, and never what a device is trusted by.
CREATE TABLE roster (
    object  bytea   NOT NULL PRIMARY KEY,
    device  bytea,
    record  text    NOT NULL,
    gone    boolean NOT NULL,
    round   bigint  NOT NULL,
    changed bigint  NOT NULL
);

CREATE INDEX roster_by_device ON roster (device) WHERE NOT gone;
CREATE INDEX roster_by_change ON roster (changed);

-- How far the feed of its changes was read, and who is at it until when. A round that is under way has begun_at.
CREATE TABLE roster_feed (
    one        smallint NOT NULL PRIMARY KEY CHECK (one = 1),
    step       bigint   NOT NULL,
    place      text,
    round      bigint   NOT NULL,
    whole      boolean  NOT NULL,
    begun_at   bigint,
    read_at    bigint,
    due_at     bigint   NOT NULL,
    holder     bytea,
    held_until bigint   NOT NULL
);

INSERT INTO roster_feed (one, step, round, whole, due_at, held_until) VALUES (1, 0, 0, false, 0, 0);
