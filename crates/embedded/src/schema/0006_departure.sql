-- There is a row when the state moves to another engine, from before the first row is copied. `ended_at` is null until
-- everything is there. Releases that do not know this table refuse the file meanwhile: see `compatible_from`.
CREATE TABLE departure (
    one         INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    id          BLOB NOT NULL,
    destination TEXT NOT NULL,
    began_at    INTEGER NOT NULL,
    ended_at    INTEGER
) STRICT;
