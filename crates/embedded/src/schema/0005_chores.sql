-- What is done once in a while, by whichever process takes its turn, and what came of it last.
CREATE TABLE chores (
    name     TEXT NOT NULL PRIMARY KEY,
    due      INTEGER NOT NULL,
    reported INTEGER,
    report   TEXT
) STRICT, WITHOUT ROWID;
