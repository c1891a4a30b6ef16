-- What tenants may have, as it was configured; what is not said there is as it is by default.
CREATE TABLE tenant_configurations (
    tenant_id     TEXT   NOT NULL,
    configuration TEXT   NOT NULL,
    set_at        BIGINT NOT NULL,
    set_by        TEXT   NOT NULL,
    change        BIGINT NOT NULL,
    PRIMARY KEY (tenant_id)
);
CREATE INDEX tenant_configurations_by_change ON tenant_configurations (change);

-- How many changes there were over all tenants: processes look at this, and read those that they do not know.
CREATE TABLE tenant_changes (
    id    BIGINT NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (id)
);

-- What a tenant keeps no longer than so long is found by when it was last written.
CREATE INDEX memories_by_change ON memories (tenant_id, updated_at);

-- Tenants that are deleted, or were: what their operator sees of them afterwards. due_at is when there is something to do.
CREATE TABLE tenant_deletions (
    name         TEXT   NOT NULL,
    requested_at BIGINT NOT NULL,
    requested_by TEXT   NOT NULL,
    change       BIGINT NOT NULL,
    row_count    BIGINT NOT NULL,
    ended_at     BIGINT,
    due_at       BIGINT,
    PRIMARY KEY (name)
);
CREATE INDEX tenant_deletions_by_change ON tenant_deletions (change);
CREATE INDEX tenant_deletions_due ON tenant_deletions (due_at) WHERE due_at IS NOT NULL;
