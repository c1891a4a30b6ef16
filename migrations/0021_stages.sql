-- What indexes know of a task's state: `running` is `assigned` and `in_progress`. An executor that begins changes no index, so that
-- PostgreSQL can leave the task's entries alone (HOT). Each index costs every change something: each has one purpose, and answers
-- all questions about it.
ALTER TABLE tasks ADD COLUMN stage TEXT NOT NULL DEFAULT '';
DROP INDEX tasks_by_age;
DROP INDEX tasks_by_state;
DROP INDEX tasks_leased;
DROP INDEX tasks_by_agent;
DROP INDEX tasks_by_parent_and_state;
DROP INDEX tasks_by_parent;
UPDATE tasks SET stage = CASE WHEN state IN ('assigned', 'in_progress') THEN 'running' ELSE state END;
-- The condition leads here who asks for stages, and nobody else: while a table is small, a planner takes any index that begins with
-- the tenant for as good as the one of ids.
CREATE INDEX tasks_by_stage ON tasks (tenant_id, stage, created_at, task_id, task_type, priority, leased) WHERE stage <> '';
CREATE INDEX tasks_by_agent ON tasks (tenant_id, agent_id, leased, created_at, task_id) WHERE agent_id IS NOT NULL;
CREATE INDEX tasks_by_parent ON tasks (tenant_id, parent_task_id, created_at, task_id, stage) WHERE parent_task_id IS NOT NULL;
