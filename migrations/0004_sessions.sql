-- Sessions of legacy MCP clients, so that every process can go on with them. A session belongs to the tenant that its
-- address names; serves_tenant is the one that its initialize chose, where that is said elsewhere.
CREATE TABLE sessions (
    tenant_id     TEXT   NOT NULL,
    session_id    TEXT   NOT NULL,
    serves_tenant TEXT,
    seen_at       BIGINT NOT NULL,
    initialize    TEXT   NOT NULL,
    PRIMARY KEY (tenant_id, session_id)
);
CREATE INDEX sessions_by_age ON sessions (seen_at);

-- Stored by the tenant whose resources they are. Who is told of a change is asked by its URI.
CREATE TABLE session_subscriptions (
    tenant_id  TEXT NOT NULL,
    uri        TEXT NOT NULL,
    session_id TEXT NOT NULL,
    PRIMARY KEY (tenant_id, uri, session_id)
);
CREATE INDEX session_subscriptions_by_session ON session_subscriptions (tenant_id, session_id);
