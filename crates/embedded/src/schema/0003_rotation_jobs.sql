-- Rotations asked for of many devices. AUTOINCREMENT: a command names a job by its number, so a number must never
-- come to mean another job.
CREATE TABLE rotation_jobs (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    actor      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    selection  TEXT NOT NULL,
    per_minute INTEGER,
    devices    INTEGER NOT NULL,
    asked      INTEGER NOT NULL,
    last       INTEGER
) STRICT;

CREATE TABLE rotation_job_devices (
    job      INTEGER NOT NULL,
    place    INTEGER NOT NULL,
    device   BLOB NOT NULL,
    asked_at INTEGER,
    PRIMARY KEY (job, place)
) STRICT, WITHOUT ROWID;
