-- Calls in rounds whose answers were acted on: they are acted on once. An id begins with the time of its first round, of
-- the steady clock; ended_by is the one call that did.
CREATE TABLE request_rounds (
    tenant_id TEXT NOT NULL,
    rounds_id TEXT NOT NULL,
    ended_by  TEXT NOT NULL,
    PRIMARY KEY (tenant_id, rounds_id)
);

-- Questions to legacy clients by calls that run. The answer stands here when it came to another process than the call's.
CREATE TABLE session_questions (
    tenant_id  TEXT   NOT NULL,
    session_id TEXT   NOT NULL,
    call_id    TEXT   NOT NULL,
    question   BIGINT NOT NULL,
    answer     TEXT,
    PRIMARY KEY (tenant_id, session_id, call_id, question)
);
