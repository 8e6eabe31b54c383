-- When the next turn of a bucket is, in microseconds since the Unix epoch.
CREATE TABLE turns (
    bucket  text   NOT NULL PRIMARY KEY,
    next_us bigint NOT NULL
);
