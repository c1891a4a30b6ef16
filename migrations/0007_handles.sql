-- Handles of calls that clients follow instead of waiting for them (MCP tasks). kept is what the operation needs to say
-- where the call stands; outcome is written once somebody has been told that it ended, and never changes afterwards.
-- expires_at is of the steady clock.
CREATE TABLE handles (
    tenant_id  TEXT   NOT NULL,
    handle_id  TEXT   NOT NULL,
    owner      TEXT   NOT NULL,
    operation  TEXT   NOT NULL,
    kept       TEXT   NOT NULL,
    may_ask    BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    outcome    TEXT,
    PRIMARY KEY (tenant_id, handle_id)
);
CREATE INDEX handles_by_expiry ON handles (expires_at);
