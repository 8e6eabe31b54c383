-- The queue of alarms on their way to webhooks; see the other queues.
INSERT INTO queue_counters (queue, name, total, dead) VALUES (4, 'alarms', 0, 0);

CREATE TABLE queue_alarms (
    id          INTEGER NOT NULL PRIMARY KEY,
    visible_at  INTEGER NOT NULL,
    lease       BLOB,
    deliveries  INTEGER NOT NULL,
    failures    INTEGER NOT NULL,
    enqueued_at INTEGER NOT NULL
) STRICT;

CREATE INDEX queue_alarms_by_visibility ON queue_alarms (visible_at);
