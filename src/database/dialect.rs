//! What the two databases say differently. Everything else is one text.

/// A migration's text as PostgreSQL reads it: keys sort by their bytes there as they do in SQLite, and
/// random bytes come from elsewhere.
pub(crate) fn migration_for_postgres(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len() * 2);
    for line in sql.lines() {
        // A column's declaration: `name TEXT …`. Nothing else in a migration says TEXT.
        let line = line.replacen(" TEXT", " TEXT COLLATE \"C\"", 1);
        text.push_str(&line.replace("randomblob(32)", RANDOM));
        text.push('\n');
    }
    text
}

/// Bytes that nobody can guess: SQLite's `randomblob(32)`. An UUID has 122 random bits.
const RANDOM: &str = "uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())";

/// Gives every table with a `tenant_id` the second wall: row-level security. A statement sees the rows of the tenant
/// that its transaction is for; the store's own statements over all tenants say `*`, which is no tenant's name.
/// `FORCE` holds the table's owner to it too; only superusers and roles with BYPASSRLS are not bound.
pub(crate) const WALL: &str = r"
DO $$
DECLARE name text;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace AND NOT c.relforcerowsecurity
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant ON %I USING (
            tenant_id = current_setting(''baton.tenant'', true) OR current_setting(''baton.tenant'', true) = ''*'')', name);
    END LOOP;
    -- Room on each page for a task to change without a new entry in every index.
    ALTER TABLE tasks SET (fillfactor = 80);
END $$";

/// Says whose rows the statements that follow see.
pub(crate) const ENTER: &str = "SELECT set_config('baton.tenant', $1, true)";

/// Locks tenants until the end of the transaction, always in the same order: what is written for a tenant is written
/// by one transaction at a time, as with SQLite's one writer. The number keeps these locks apart from others' locks.
pub(crate) const LOCK: &str = "SELECT count(pg_advisory_xact_lock(key)) FROM
    (SELECT DISTINCT hashtextextended(tenant, 6271) AS key FROM unnest($1::text[]) AS tenant ORDER BY key) AS keys";

/// Held while migrating.
pub(crate) const LOCK_SCHEMA: &str = "SELECT pg_advisory_xact_lock(4817203, 1)::text";

/// How a transaction goes on that migrates: it changes the rows of all tenants, and takes as long as it takes.
pub(crate) const MIGRATING: &str = "SET LOCAL baton.tenant = '*'; SET LOCAL statement_timeout = 0";

/// Whether there is pgvector 0.8 or later, which looks on until enough rows answer.
pub(crate) const KNOWS_PGVECTOR: &str = r"SELECT EXISTS (SELECT 1 FROM pg_extension
    WHERE extname = 'vector' AND (regexp_match(extversion, '^(\d+)\.(\d+)'))::int[] >= ARRAY[0, 8])";

/// Whether `migrations/pgvector.sql` was run here, and the extension not dropped since, which takes the column along.
pub(crate) const HAS_PGVECTOR: &str = "SELECT EXISTS (SELECT 1 FROM pg_attribute
    WHERE attrelid = to_regclass('memories') AND attname = 'direction' AND NOT attisdropped)";

/// The heads of tenants' logs. A join is planned once, where a comparison with an array is planned for every array.
pub(crate) const HEADS: &str =
    "SELECT tenant_id, sequence, hash FROM unnest($1::text[]) AS asked (tenant)
    JOIN tenants ON tenants.tenant_id = asked.tenant";

/// A group's events and the heads that they move, in one statement.
pub(crate) const EVENTS: &str = "WITH written AS (
        INSERT INTO events (tenant_id, sequence, event_id, kind, subject, actor, time, data, trace, hash)
        SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
            $8::text[], $9::text[], $10::bytea[]))
    UPDATE tenants SET sequence = moved.sequence, hash = moved.hash
    FROM unnest($11::text[], $12::bigint[], $13::bytea[]) AS moved (tenant, sequence, hash)
    WHERE tenants.tenant_id = moved.tenant";

/// The head of a log that begins, before it is moved.
pub(crate) const HEAD: &str =
    "INSERT INTO tenants (tenant_id, created_at, sequence, hash) VALUES ($1, $2, 0, '')";

/// The database's clock, in microseconds since the epoch.
pub(crate) const TIME: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Whether row-level security does not bind the role.
pub(crate) const IS_ABOVE: &str =
    "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user";

/// Whether an event with this number and this hash is in a tenant's log.
pub(crate) const WITNESS: &str =
    "SELECT 1 FROM events WHERE tenant_id = $1 AND sequence = $2 AND hash = $3";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_type_of_a_column_changes() {
        let sql = "CREATE TABLE t (\n    a TEXT NOT NULL,\n    b BIGINT\n);";
        assert_eq!(
            migration_for_postgres(sql),
            "CREATE TABLE t (\n    a TEXT COLLATE \"C\" NOT NULL,\n    b BIGINT\n);\n"
        );
    }
}
