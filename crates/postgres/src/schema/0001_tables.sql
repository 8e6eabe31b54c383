-- Times are milliseconds since 1970-01-01T00:00:00Z. Identifiers are raw bytes. Texts of others, which may hold any
-- character, are raw bytes too. Nothing in these tables but vault_versions holds a password, and that one only sealed.

-- The time that leases go by: the one given, for tests, or else the server's.
CREATE FUNCTION now_ms(given bigint) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
AS 'SELECT coalesce(given, floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint)';

-- What tells a restored database from one that went on: see epoch.rs. Lanes name the generation in which they were last
-- heard for certain.
CREATE TABLE epoch (
    one         boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
    place       text    NOT NULL,
    generation  bigint  NOT NULL,
    restored_at bigint
);

-- Where this database is: the cluster, its timeline, the database and this very table. A restore from a dump makes the
-- table anew, another cluster has another identifier, and a recovery to a point in time or a promotion begins another
-- timeline.
CREATE FUNCTION place_now() RETURNS text LANGUAGE sql STABLE
AS $$SELECT concat_ws('/', (SELECT system_identifier FROM pg_catalog.pg_control_system()),
    left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8),
    (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()),
    'keyturn.epoch'::regclass::oid)$$;

INSERT INTO epoch (place, generation) VALUES (place_now(), 1);

-- How much is in each queue, so that nobody has to count. A row that every transaction changes would have them wait
-- for each other, so a queue has many, and a connection changes the one of its own number. Only their sums mean
-- anything.
CREATE TABLE queue_counters (
    queue smallint NOT NULL,
    slot  integer  NOT NULL,
    total bigint   NOT NULL,
    dead  bigint   NOT NULL,
    PRIMARY KEY (queue, slot)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

INSERT INTO queue_counters (queue, slot, total, dead)
SELECT queue, slot, 0, 0 FROM generate_series(1, 4) AS queue, generate_series(0, 63) AS slot;

-- The messages of all queues: 1 requests, 2 findings, 3 outcomes, 4 alarms. `lease` is null while nobody has the message.
CREATE TABLE messages (
    queue       smallint NOT NULL,
    id          bigint   NOT NULL GENERATED ALWAYS AS IDENTITY,
    visible_at  bigint   NOT NULL,
    enqueued_at bigint   NOT NULL,
    deliveries  bigint   NOT NULL,
    lease       bytea,
    request     bytea    NOT NULL,
    device      bytea    NOT NULL,
    body        bytea    NOT NULL,
    attempts    jsonb    NOT NULL,
    PRIMARY KEY (queue, id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);

-- Signed and sealed texts do not get smaller; compressing them would only cost time.
ALTER TABLE messages ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE INDEX messages_by_visibility ON messages (queue, visible_at, id);

CREATE TABLE dead_letters (
    id          bigint   NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue       smallint NOT NULL,
    request     bytea    NOT NULL,
    device      bytea    NOT NULL,
    body        bytea    NOT NULL,
    reason      text     NOT NULL,
    attempts    jsonb    NOT NULL,
    deliveries  bigint   NOT NULL,
    enqueued_at bigint   NOT NULL,
    died_at     bigint   NOT NULL,
    -- The name of the message on the engine that it died on, if that is not this database.
    origin      text     UNIQUE
);

CREATE INDEX dead_letters_by_queue ON dead_letters (queue, id);

-- What is done to many dead letters.
CREATE TABLE letter_jobs (
    id         bigint NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         bigint NOT NULL,
    actor      text   NOT NULL,
    act        text   NOT NULL,
    reason     text   NOT NULL,
    selection  text   NOT NULL,
    per_minute bigint,
    letters    bigint NOT NULL,
    done       bigint NOT NULL,
    moved      bigint NOT NULL,
    last       bigint
);

-- The letters that a job is not done with.
CREATE TABLE letter_job_letters (
    job    bigint NOT NULL,
    letter bigint NOT NULL,
    PRIMARY KEY (job, letter)
);

-- Accepted messages in the order of their nonces, so that remembering one touches the newest page only.
CREATE TABLE accepted (
    nonce_ms bigint NOT NULL,
    request  bytea  NOT NULL,
    PRIMARY KEY (nonce_ms, request)
);

-- The ledger. `state` is the lane as JSON; the other columns repeat what is looked up by.
CREATE TABLE lanes (
    id          bigint NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane        bytea  NOT NULL UNIQUE,
    device      bytea  NOT NULL,
    revision    bigint NOT NULL,
    generation  bigint NOT NULL,
    -- The marks of its last messages, 16 bytes each, newest first.
    marks       bytea  NOT NULL,
    outstanding bytea,
    serial      text COLLATE "C",
    host        text COLLATE "C",
    key         text COLLATE "C" NOT NULL,
    state       text   NOT NULL
) WITH (fillfactor = 70);

CREATE INDEX lanes_by_device ON lanes (device, id);
CREATE INDEX lanes_by_serial ON lanes (serial) WHERE serial IS NOT NULL;
CREATE INDEX lanes_by_host ON lanes (host) WHERE host IS NOT NULL;
CREATE INDEX lanes_by_key ON lanes (key);

CREATE TABLE issued (
    version   bytea  NOT NULL PRIMARY KEY,
    lane      bytea  NOT NULL,
    vault_ref text   NOT NULL,
    minted_at bigint NOT NULL
);

-- Which messages took effect, in the order of their nonces. `mark` is the first half of SHA-256 over the key's hash
-- and the sender's mark.
CREATE TABLE effects (
    nonce_ms bigint NOT NULL,
    mark     bytea  NOT NULL,
    request  bytea  NOT NULL,
    PRIMARY KEY (nonce_ms, mark)
);

-- Numbered under a lock that is held until the commit, so that a reader who goes on from the last number it saw
-- misses none.
CREATE TABLE events (
    id      bigint NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event   bytea  NOT NULL,
    at      bigint NOT NULL,
    device  bytea  NOT NULL,
    request bytea  NOT NULL,
    what    text   NOT NULL
);

CREATE INDEX events_by_device ON events (device, id);

-- A result without a body is the one refusal that is the same for everybody.
CREATE TABLE results (
    request    bytea  NOT NULL PRIMARY KEY,
    body       bytea,
    expires_at bigint NOT NULL
);

ALTER TABLE results ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE INDEX results_by_expiry ON results (expires_at);

-- Device records as Microsoft Graph writes them.
CREATE TABLE directory (
    device bytea NOT NULL PRIMARY KEY,
    name   text COLLATE "C",
    record text  NOT NULL
);

CREATE INDEX directory_by_name ON directory (name) WHERE name IS NOT NULL;

CREATE TABLE audit (
    seq    bigint NOT NULL PRIMARY KEY,
    at     bigint NOT NULL,
    actor  text   NOT NULL,
    action text   NOT NULL,
    device bytea,
    reason text   NOT NULL,
    detail text   NOT NULL,
    hash   bytea  NOT NULL
);

CREATE FUNCTION audit_is_never_changed() RETURNS trigger LANGUAGE plpgsql
AS 'BEGIN RAISE EXCEPTION ''audit rows are never changed or deleted''; END';

CREATE TRIGGER audit_is_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_never_changed();

-- Kept for good. The row's number is what the ledger calls the vault's own words for a version. Numbered like events.
CREATE TABLE vault_versions (
    id         bigint NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version    bytea  NOT NULL,
    request    bytea  NOT NULL,
    lane       bytea  NOT NULL,
    device     bytea  NOT NULL,
    sealed     bytea  NOT NULL,
    tags       text   NOT NULL,
    created_at bigint NOT NULL
);

CREATE INDEX vault_versions_by_request ON vault_versions (request, id);
CREATE INDEX vault_versions_by_device ON vault_versions (device, id);

-- Rotations asked for of many devices.
CREATE TABLE rotation_jobs (
    id         bigint NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         bigint NOT NULL,
    actor      text   NOT NULL,
    reason     text   NOT NULL,
    selection  text   NOT NULL,
    per_minute bigint,
    devices    bigint NOT NULL,
    asked      bigint NOT NULL,
    last       bigint
);

CREATE TABLE rotation_job_devices (
    job      bigint NOT NULL,
    place    bigint NOT NULL,
    device   bytea  NOT NULL,
    asked_at bigint,
    PRIMARY KEY (job, place)
);
