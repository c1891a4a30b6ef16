-- What tenants have registered to be read, written and queried. uri is what everybody may see; what of it is secret is in
-- sealed, with the tenant's key.
CREATE TABLE resources (
    tenant_id   TEXT   NOT NULL,
    resource_id TEXT   NOT NULL,
    kind        TEXT   NOT NULL,
    uri         TEXT   NOT NULL,
    sealed      BYTEA,
    access      TEXT   NOT NULL,
    metadata    TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    created_by  TEXT   NOT NULL,
    updated_at  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, resource_id)
);
