-- What agents remember. words are those that an entry is indexed under, vector is what it means (embedding/SPEC.md): search
-- reads both into memory, once per process. worth orders entries by importance and recency, at any time the same; times are
-- of the wall clock. A superseded entry stays and is not found.
CREATE TABLE memories (
    tenant_id     TEXT             NOT NULL,
    memory_id     TEXT             NOT NULL,
    agent_id      TEXT             NOT NULL,
    kind          TEXT             NOT NULL,
    scope         TEXT             NOT NULL,
    task_id       TEXT,
    content       TEXT             NOT NULL,
    tags          TEXT             NOT NULL,
    importance    DOUBLE PRECISION NOT NULL,
    created_at    BIGINT           NOT NULL,
    created_by    TEXT             NOT NULL,
    updated_at    BIGINT           NOT NULL,
    expires_at    BIGINT,
    supersedes    TEXT             NOT NULL,
    superseded_by TEXT,
    seen_at       BIGINT,
    worth         BIGINT           NOT NULL,
    words         TEXT             NOT NULL,
    vector        BYTEA,
    PRIMARY KEY (tenant_id, memory_id)
);
CREATE INDEX memories_by_agent ON memories (tenant_id, agent_id, memory_id);
CREATE INDEX memories_by_worth ON memories (tenant_id, worth);
CREATE INDEX memories_by_expiry ON memories (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX memories_of_tasks ON memories (tenant_id, task_id) WHERE kind = 'short_term';

-- Words of an entry that every near duplicate of it shares one of, as hashes.
CREATE TABLE memory_marks (
    tenant_id TEXT   NOT NULL,
    mark      BIGINT NOT NULL,
    memory_id TEXT   NOT NULL,
    PRIMARY KEY (tenant_id, mark, memory_id)
);

-- How many entries a tenant has.
CREATE TABLE memory_totals (
    tenant_id TEXT   NOT NULL,
    entries   BIGINT NOT NULL,
    PRIMARY KEY (tenant_id)
);

-- What search must hear of; the index is small where tenants have tasks alone.
CREATE INDEX events_of_memory ON events (tenant_id, sequence) WHERE kind >= 'dev.baton.memory.' AND kind < 'dev.baton.memory/';
