-- How far the audit (1) and the events (2) were taken over by somebody outside, and who is at it until when.
CREATE TABLE shipped (
    stream     INTEGER PRIMARY KEY,
    place      INTEGER NOT NULL,
    holder     BLOB,
    held_until INTEGER NOT NULL
) STRICT;

INSERT INTO shipped (stream, place, held_until) VALUES (1, 0, 0), (2, 0, 0);
