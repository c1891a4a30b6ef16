-- Writes to resources that have begun and whose event is not in the log yet. Whoever finds one after its time settles it: the
-- process that began it is gone. place is the data folder whose process wrote; fresh the name of the file before it gets its own,
-- mark what this state of it is known by.
CREATE TABLE resource_writes (
    tenant_id   TEXT   NOT NULL,
    write_id    TEXT   NOT NULL,
    resource_id TEXT   NOT NULL,
    uri         TEXT   NOT NULL,
    path        TEXT   NOT NULL,
    bytes       BIGINT,
    fresh       TEXT,
    mark        TEXT,
    place       TEXT   NOT NULL,
    actor       TEXT   NOT NULL,
    due_at      BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, write_id)
);
CREATE INDEX resource_writes_due ON resource_writes (due_at);
