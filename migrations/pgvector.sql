-- What a database with pgvector 0.8 or later has besides: where memories point, kept by the server itself, and what looks
-- the nearest up. Not one of the numbered migrations: a database may get or lose the extension at any time, and whoever
-- drops it takes the column along.
SET LOCAL statement_timeout = 0;

-- Four bytes of scale, which a direction needs not, then a signed one for each dimension (embedding/SPEC.md).
CREATE OR REPLACE FUNCTION memory_direction(vector bytea) RETURNS halfvec LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN length(vector) = 260 THEN (
        SELECT array_agg(((get_byte(vector, i) + 128) % 256 - 128)::real ORDER BY i)::halfvec FROM generate_series(4, 259) AS i
    ) END
$$;

ALTER TABLE memories ADD COLUMN direction halfvec(256) GENERATED ALWAYS AS (memory_direction(vector)) STORED;
CREATE INDEX memories_by_direction ON memories USING hnsw (direction halfvec_cosine_ops) WHERE superseded_by IS NULL;

-- The nearest entries of a tenant that can be found, and their cosines. With `among` (ids) these alone are compared, exactly;
-- else the index is asked until enough answer. Settings are the function's: what else is planned in the transaction needs sorts.
CREATE OR REPLACE FUNCTION memories_near(
    tenant text, wanted bytea, at bigint, kind_wanted text, tags_wanted text, agents text, at_work text, among text, most bigint
) RETURNS TABLE (id text, cosine double precision) LANGUAGE plpgsql STABLE
SET enable_sort = off SET hnsw.iterative_scan = strict_order SET hnsw.ef_search = 200 SET hnsw.max_scan_tuples = 100000 AS $$
DECLARE
    towards CONSTANT halfvec := memory_direction(wanted);
    tagged CONSTANT jsonb := tags_wanted::jsonb;
    names CONSTANT text[] := (SELECT array_agg(name) FROM jsonb_array_elements_text(agents::jsonb) AS name);
BEGIN
    IF among IS NOT NULL THEN
        RETURN QUERY SELECT m.memory_id::text, 1 - (m.direction <=> towards) AS near
            FROM jsonb_array_elements_text(among::jsonb) AS one
            JOIN memories m ON m.tenant_id = tenant AND m.memory_id = one
            WHERE m.direction IS NOT NULL ORDER BY near DESC LIMIT most;
        RETURN;
    END IF;
    RETURN QUERY SELECT m.memory_id::text, 1 - (m.direction <=> towards)
        FROM memories m
        WHERE m.tenant_id = tenant AND m.superseded_by IS NULL AND (m.expires_at IS NULL OR m.expires_at > at)
            AND (kind_wanted IS NULL OR m.kind = kind_wanted) AND (tagged = '[]' OR m.tags::jsonb @> tagged)
            AND (names IS NULL OR m.scope = 'shared' OR m.agent_id = ANY (names)
                OR (m.scope = 'task' AND m.task_id = at_work))
        ORDER BY m.direction <=> towards LIMIT most;
END $$;
