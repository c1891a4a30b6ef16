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
