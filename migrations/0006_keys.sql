-- Who may come in. A key whose tenant is `*` is for all of them.
CREATE TABLE keys (
    tenant_id    TEXT   NOT NULL,
    key_id       TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    grant_json   TEXT   NOT NULL,
    hash         BYTEA  NOT NULL,
    old_hash     BYTEA,
    old_until    BIGINT,
    created_at   BIGINT NOT NULL,
    created_by   TEXT   NOT NULL,
    expires_at   BIGINT,
    last_used_at BIGINT,
    PRIMARY KEY (tenant_id, key_id)
);
CREATE UNIQUE INDEX keys_by_id ON keys (key_id);

-- Whose a session is.
ALTER TABLE sessions ADD COLUMN owner TEXT NOT NULL DEFAULT '';
