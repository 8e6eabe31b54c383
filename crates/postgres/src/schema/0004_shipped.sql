-- How far the audit (1) and the events (2) were taken over by somebody outside, and who is at it until when.
CREATE TABLE keyturn.shipped (
    stream     smallint NOT NULL PRIMARY KEY,
    place      bigint   NOT NULL,
    holder     bytea,
    held_until bigint   NOT NULL
);

INSERT INTO keyturn.shipped (stream, place, held_until) VALUES (1, 0, 0), (2, 0, 0);
