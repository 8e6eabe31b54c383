-- There is a row when the state of another installation moves, or moved, into this database: `state` is 'arriving' until
-- all of it is there, then 'arrived', and 'undone' if it went back. Only in a database that says nothing here, or
-- 'arrived', does anybody work. `progress` is, for each table, where the last row is that was copied.
CREATE TABLE arrival (
    one      boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
    id       bytea   NOT NULL,
    origin   text    NOT NULL,
    state    text    NOT NULL CHECK (state IN ('arriving', 'arrived', 'undone')),
    progress text    NOT NULL
);

-- How many messages were ever put on each queue, for rates.
ALTER TABLE queue_counters ADD COLUMN sent bigint NOT NULL DEFAULT 0;
