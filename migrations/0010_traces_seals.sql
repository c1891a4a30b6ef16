-- The trace of the call that caused an event: `traceparent`, or `traceparent tracestate`; empty when it had none. The
-- event's hash is over it where there is one.
ALTER TABLE events ADD COLUMN trace TEXT NOT NULL DEFAULT '';

-- What seals the cursors of lists, so that each leads on in its own list and tenant alone. It stays with its database.
CREATE TABLE seals (
    name TEXT  NOT NULL,
    key  BYTEA NOT NULL,
    PRIMARY KEY (name)
);
INSERT INTO seals (name, key) VALUES ('cursor', randomblob(32));
