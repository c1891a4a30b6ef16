//! What is in a database: its tables, their columns and keys, as far as whoever asks may see them.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{Answer, Ask, Bounds, Queries};
use super::{File, Postgres};
use crate::error::Result;
use crate::id::TenantId;

/// What a description may take.
const BOUNDS: Bounds = Bounds {
    rows: 5_000,
    bytes: 512 << 10,
    millis: 10_000,
};

/// The columns of all tables of SQLite, and their keys.
const COLUMNS_OF_SQLITE: &str = r#"SELECT m.name, m.type, c.name, lower(c.type), c."notnull" = 0 AND c.pk = 0, c.dflt_value
    FROM sqlite_schema m JOIN pragma_table_xinfo(m.name) c
    WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite\_%' ESCAPE '\' AND c.hidden <> 1
    ORDER BY m.name, c.cid"#;
const KEYS_OF_SQLITE: &str = r#"SELECT m.name AS owner, 'PRIMARY KEY (' || group_concat(c.name, ', ' ORDER BY c.pk) || ')', 0
    FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND c.pk > 0 GROUP BY m.name
    UNION ALL
    SELECT m.name, 'UNIQUE (' || group_concat(x.name, ', ' ORDER BY x.seqno) || ')', 1
    FROM sqlite_schema m JOIN pragma_index_list(m.name) i JOIN pragma_index_info(i.name) x
    WHERE m.type = 'table' AND i."unique" AND i.origin <> 'pk' GROUP BY m.name, i.name
    UNION ALL
    SELECT m.name, 'FOREIGN KEY (' || group_concat(f."from", ', ' ORDER BY f.seq) || ') REFERENCES ' || f."table"
        || coalesce('(' || group_concat(f."to", ', ' ORDER BY f.seq) || ')', ''), 2
    FROM sqlite_schema m JOIN pragma_foreign_key_list(m.name) f WHERE m.type = 'table' GROUP BY m.name, f.id
    ORDER BY 1, 3, 2"#;

/// The same of PostgreSQL.
const COLUMNS_OF_POSTGRES: &str = r"SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname::text ELSE n.nspname || '.' || c.relname END,
        CASE WHEN c.relkind IN ('v', 'm') THEN 'view' ELSE 'table' END,
        a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND left(n.nspname, 3) <> 'pg_'
        AND has_any_column_privilege(c.oid, 'SELECT')
    ORDER BY 1, a.attnum";
const KEYS_OF_POSTGRES: &str = r"SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname::text ELSE n.nspname || '.' || c.relname END,
        pg_get_constraintdef(k.oid)
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE k.contype IN ('p', 'u', 'f') AND n.nspname <> 'information_schema' AND left(n.nspname, 3) <> 'pg_'
        AND has_any_column_privilege(c.oid, 'SELECT')
    ORDER BY 1, k.contype = 'f', k.contype = 'u', k.conname";

/// What is in a database.
#[derive(Debug, Default, Serialize)]
pub struct Description {
    /// Its tables and views, by name.
    pub tables: Vec<Table>,
    /// Whether there are more, or more columns of the last.
    pub has_more: bool,
}

/// A table or view.
#[derive(Debug, Serialize)]
pub struct Table {
    /// As a statement names it, if it needs no quotes.
    pub name: String,
    #[serde(rename = "type")]
    kind: String,
    columns: Vec<Described>,
    /// As a definition has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keys: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Described {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    nullable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<String>,
}

impl Queries {
    /// Describes a PostgreSQL database.
    ///
    /// # Errors
    /// As [`Queries::postgres`].
    pub async fn describe_postgres(
        &self,
        tenant: &TenantId,
        name: &str,
        to: &Postgres,
    ) -> Result<Description> {
        let columns = self
            .postgres(tenant, name, to, &asking(COLUMNS_OF_POSTGRES))
            .await?;
        let keys = self
            .postgres(tenant, name, to, &asking(KEYS_OF_POSTGRES))
            .await?;
        Ok(Description::of(columns, keys))
    }

    /// Describes a SQLite file.
    ///
    /// # Errors
    /// As [`Queries::sqlite`].
    pub async fn describe_sqlite(&self, tenant: &TenantId, file: &File) -> Result<Description> {
        let columns = self
            .sqlite(tenant, file, &asking(COLUMNS_OF_SQLITE))
            .await?;
        let keys = self.sqlite(tenant, file, &asking(KEYS_OF_SQLITE)).await?;
        Ok(Description::of(columns, keys))
    }
}

fn asking(sql: &str) -> Ask {
    Ask {
        sql: sql.to_owned(),
        parameters: Vec::new(),
        writes: false,
        bounds: BOUNDS,
    }
}

impl Description {
    fn of(columns: Answer, keys: Answer) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mut tables: Vec<Table> = Vec::new();
        for row in &columns.rows {
            let [name, kind, column, of, nullable, default] = &row[..] else {
                continue;
            };
            let name = text(name).unwrap_or_default();
            if tables.last().is_none_or(|table| table.name != name) {
                tables.push(Table {
                    name,
                    kind: text(kind).unwrap_or_default(),
                    columns: Vec::new(),
                    keys: Vec::new(),
                });
            }
            let Some(table) = tables.last_mut() else {
                continue;
            };
            table.columns.push(Described {
                name: text(column).unwrap_or_default(),
                kind: text(of).unwrap_or_default(),
                nullable: *nullable == Value::Bool(true) || *nullable == 1,
                default: text(default),
            });
        }
        for row in &keys.rows {
            let [owner, key, ..] = &row[..] else { continue };
            let owner = tables.iter_mut().find(|table| *owner == *table.name);
            if let (Some(table), Some(key)) = (owner, text(key)) {
                table.keys.push(key);
            }
        }
        Self {
            tables,
            has_more: columns.has_more || keys.has_more,
        }
    }
}
