-- Every page of a list costs the same, however deep it lies and however rare what it asks for.
CREATE INDEX tasks_by_state ON tasks (tenant_id, state, created_at, task_id);
CREATE INDEX tasks_by_type ON tasks (tenant_id, task_type, created_at, task_id);
CREATE INDEX tasks_by_priority ON tasks (tenant_id, priority, created_at, task_id);
CREATE INDEX tasks_by_project ON tasks (tenant_id, project_id, created_at, task_id) WHERE project_id IS NOT NULL;
CREATE INDEX tasks_by_agent ON tasks (tenant_id, agent_id, created_at, task_id) WHERE agent_id IS NOT NULL;
DROP INDEX tasks_by_parent;
CREATE INDEX tasks_by_parent ON tasks (tenant_id, parent_task_id, created_at, task_id)
    WHERE parent_task_id IS NOT NULL;

-- A planner without statistics takes the index that answers a query whole, and else easily one that fits its order only.
CREATE INDEX tasks_by_parent_and_state ON tasks (tenant_id, parent_task_id, state) WHERE parent_task_id IS NOT NULL;
DROP INDEX tasks_leased;
CREATE INDEX tasks_leased ON tasks (tenant_id, agent_id, leased) WHERE leased = 1;
DROP INDEX task_dependencies_by_dependency;
CREATE INDEX task_dependencies_by_dependency ON task_dependencies (tenant_id, depends_on, task_id);
