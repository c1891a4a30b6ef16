-- What is written with every change has as few indexes as its queries need.

-- Only events that callers named are looked for, by their id or by their task: the reports of executors.
DROP INDEX events_by_id;
CREATE UNIQUE INDEX events_by_id ON events (tenant_id, event_id) WHERE event_id <> '';
DROP INDEX events_by_subject;
CREATE INDEX events_by_subject ON events (tenant_id, subject, sequence) WHERE event_id <> '';

-- A list by type or by priority sifts the entries of this index, which costs little beside reading rows.
DROP INDEX tasks_by_type;
DROP INDEX tasks_by_priority;
DROP INDEX tasks_by_age;
CREATE INDEX tasks_by_age ON tasks (tenant_id, created_at, task_id, task_type, priority);
