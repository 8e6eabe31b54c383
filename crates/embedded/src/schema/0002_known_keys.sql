-- The device key of a lane, as its state writes it, so that the ingress can tell keys it knows from strangers'.
-- A lane's key never changes, so replacing a lane leaves this index alone.
ALTER TABLE lanes ADD COLUMN key TEXT;

UPDATE lanes SET key = json_extract(state, '$.key.key');

CREATE INDEX lanes_by_key ON lanes (key) WHERE key IS NOT NULL;
