-- What tenants have registered to be read and written. uri is what everybody may see: it holds no secret.
CREATE TABLE resources (
    tenant_id   TEXT   NOT NULL,
    resource_id TEXT   NOT NULL,
    kind        TEXT   NOT NULL,
    uri         TEXT   NOT NULL,
    access      TEXT   NOT NULL,
    metadata    TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    created_by  TEXT   NOT NULL,
    updated_at  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, resource_id)
);
