-- When the next turn of a bucket is, in microseconds since the Unix epoch.
CREATE TABLE turns (
    bucket  TEXT NOT NULL PRIMARY KEY,
    next_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
