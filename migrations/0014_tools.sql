-- Tools that a tenant made at run time. live is the version that is called, 0 while none is; a version never changes, and its
-- hash is over its manifest. words and vector are what tool_search finds the newest version by.
CREATE TABLE tools (
    tenant_id  TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    tool_id    TEXT   NOT NULL,
    live       BIGINT NOT NULL,
    newest     BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    words      TEXT   NOT NULL,
    vector     BYTEA,
    PRIMARY KEY (tenant_id, name)
);
CREATE UNIQUE INDEX tools_by_id ON tools (tenant_id, tool_id);

CREATE TABLE tool_versions (
    tenant_id  TEXT   NOT NULL,
    tool_id    TEXT   NOT NULL,
    version    BIGINT NOT NULL,
    manifest   TEXT   NOT NULL,
    hash       TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    made_at    BIGINT NOT NULL,
    made_by    TEXT   NOT NULL,
    decided_at BIGINT,
    decided_by TEXT,
    note       TEXT,
    PRIMARY KEY (tenant_id, tool_id, version)
);

-- What calls of a tool came to, and how many began in the minute that counts now; of tools of all tenants too.
CREATE TABLE tool_uses (
    tenant_id TEXT   NOT NULL,
    name      TEXT   NOT NULL,
    calls     BIGINT NOT NULL,
    failures  BIGINT NOT NULL,
    micros    BIGINT NOT NULL,
    called_at BIGINT NOT NULL,
    minute    BIGINT NOT NULL,
    in_minute BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, name)
);
