-- What is done to many dead letters. AUTOINCREMENT: a command names a job by its number, so a number must never come
-- to mean another job.
CREATE TABLE letter_jobs (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    actor      TEXT NOT NULL,
    act        TEXT NOT NULL,
    reason     TEXT NOT NULL,
    selection  TEXT NOT NULL,
    per_minute INTEGER,
    letters    INTEGER NOT NULL,
    done       INTEGER NOT NULL,
    moved      INTEGER NOT NULL,
    last       INTEGER
) STRICT;

-- The letters that a job is not done with.
CREATE TABLE letter_job_letters (
    job    INTEGER NOT NULL,
    letter INTEGER NOT NULL,
    PRIMARY KEY (job, letter)
) STRICT, WITHOUT ROWID;
