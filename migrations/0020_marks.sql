-- Marks tell apart what has other numbers or negations, which never is a duplicate. Those of before say nothing any more: what was
-- written then is compared by memory_audit.
DROP TABLE memory_marks;
CREATE TABLE memory_marks (
    tenant_id TEXT   NOT NULL,
    mark      BIGINT NOT NULL,
    memory_id TEXT   NOT NULL,
    PRIMARY KEY (tenant_id, mark, memory_id)
);
