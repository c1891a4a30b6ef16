-- Tenants and the heads of their event logs.
CREATE TABLE tenants (
    tenant_id  TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    sequence   BIGINT NOT NULL,
    hash       BYTEA  NOT NULL,
    PRIMARY KEY (tenant_id)
);

-- The log: numbered without gaps and chained by hash, per tenant.
CREATE TABLE events (
    tenant_id TEXT   NOT NULL,
    sequence  BIGINT NOT NULL,
    event_id  TEXT   NOT NULL,
    kind      TEXT   NOT NULL,
    subject   TEXT   NOT NULL,
    actor     TEXT   NOT NULL,
    time      BIGINT NOT NULL,
    data      TEXT   NOT NULL,
    hash      BYTEA  NOT NULL,
    PRIMARY KEY (tenant_id, sequence)
);
CREATE UNIQUE INDEX events_by_id ON events (tenant_id, event_id);
CREATE INDEX events_by_subject ON events (tenant_id, subject, sequence);

-- spec: what was asked for. run: how it goes. Columns beside them are what queries look for.
CREATE TABLE tasks (
    tenant_id      TEXT   NOT NULL,
    task_id        TEXT   NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    state          TEXT   NOT NULL,
    task_type      TEXT   NOT NULL,
    priority       BIGINT NOT NULL,
    project_id     TEXT,
    parent_task_id TEXT,
    assigned_to    TEXT   NOT NULL,
    capabilities   TEXT   NOT NULL,
    claimable      BIGINT NOT NULL,
    agent_id       TEXT,
    leased         BIGINT NOT NULL,
    wake_at        BIGINT,
    fingerprint    TEXT   NOT NULL,
    spec           TEXT   NOT NULL,
    run            TEXT   NOT NULL,
    result         TEXT,
    report         TEXT,
    PRIMARY KEY (tenant_id, task_id)
);
CREATE INDEX tasks_by_age ON tasks (tenant_id, created_at, task_id);
CREATE INDEX tasks_by_parent ON tasks (tenant_id, parent_task_id, created_at) WHERE parent_task_id IS NOT NULL;
-- A lane is what tasks ask of an executor; the head of each lane is found without reading the rest of it.
CREATE INDEX tasks_claimable ON tasks (tenant_id, assigned_to, capabilities, priority, created_at, task_id)
    WHERE claimable = 1;
CREATE INDEX tasks_leased ON tasks (tenant_id, agent_id) WHERE leased = 1;
CREATE INDEX tasks_due ON tasks (wake_at) WHERE wake_at IS NOT NULL;

CREATE TABLE task_dependencies (
    tenant_id  TEXT NOT NULL,
    task_id    TEXT NOT NULL,
    depends_on TEXT NOT NULL,
    PRIMARY KEY (tenant_id, task_id, depends_on)
);
CREATE INDEX task_dependencies_by_dependency ON task_dependencies (tenant_id, depends_on);
