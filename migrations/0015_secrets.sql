-- What tenants keep secret: sealed by a data key of the tenant's own, which is sealed by the master key that master_id
-- names. That one lies in no database.
CREATE TABLE secret_keys (
    tenant_id  TEXT   NOT NULL,
    master_id  TEXT   NOT NULL,
    sealed     BYTEA  NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id)
);

CREATE TABLE secrets (
    tenant_id   TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    description TEXT   NOT NULL,
    sealed      BYTEA  NOT NULL,
    version     BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    updated_by  TEXT   NOT NULL,
    PRIMARY KEY (tenant_id, name)
);
