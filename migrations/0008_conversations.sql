-- From which level on a legacy client wants log messages, as it said.
ALTER TABLE sessions ADD COLUMN log_level TEXT;

-- What seals the state that modern clients carry between the rounds of a call. Every process opens what another sealed.
CREATE TABLE request_keys (
    tenant_id  TEXT   NOT NULL,
    key        BYTEA  NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id)
);
