-- The trace of the call that caused an event: `traceparent`, or `traceparent tracestate`; empty when it had none. The
-- event's hash is over it where there is one.
ALTER TABLE events ADD COLUMN trace TEXT NOT NULL DEFAULT '';
