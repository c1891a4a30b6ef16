-- A task is dispatched to wait, and is in one index of lists then. One without a lead looks at both: at what waits by its
-- state, at the rest by its age.
DROP INDEX tasks_by_age;
CREATE INDEX tasks_by_age ON tasks (tenant_id, created_at, task_id, task_type, priority) WHERE state <> 'pending';
-- Every task has a state. The condition leads here who asks for it, and nobody else: while a table is small, a planner takes
-- any index that begins with the tenant for as good as the one of ids.
DROP INDEX tasks_by_state;
CREATE INDEX tasks_by_state ON tasks (tenant_id, state, created_at, task_id, task_type, priority) WHERE state <> '';
