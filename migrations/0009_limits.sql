-- What administrators have set of the limits that hold for a tenant, and of those that hold for all. A value of 0 is no
-- limit; what is not there is as it was when a process started.
CREATE TABLE limits (
    tenant_id TEXT   NOT NULL,
    name      TEXT   NOT NULL,
    value     BIGINT NOT NULL,
    set_at    BIGINT NOT NULL,
    set_by    TEXT   NOT NULL,
    PRIMARY KEY (tenant_id, name)
);
CREATE TABLE server_limits (
    name   TEXT   NOT NULL,
    value  BIGINT NOT NULL,
    set_at BIGINT NOT NULL,
    set_by TEXT   NOT NULL,
    PRIMARY KEY (name)
);

-- How often any of them was set: processes look at this, and at the others when it has changed.
CREATE TABLE limit_changes (
    id    BIGINT NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (id)
);

-- For counting the handles of a tenant that have not ended.
CREATE INDEX handles_live ON handles (tenant_id, expires_at) WHERE outcome IS NULL;
