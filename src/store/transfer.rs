//! Moving a whole store from one place to another: SQLite to PostgreSQL, back, or between two of a kind.
//!
//! Rows are copied table by table in the order of their keys, in batches, so that a move that was interrupted goes on
//! where it stopped. Nobody can write at the source meanwhile, and no server takes the target until the copy has been
//! compared: all counts, and every tenant's log from its first event to its last.

use super::log::{Entry, chain};
use super::{Place, migrate};
use crate::database::{Backend, Db, Lite, Pipe, Row, Value, prepare, vals};
use crate::error::{Error, Kind, Result};

/// Rows copied in one transaction.
const BATCH: i64 = 1_000;
/// The mark of an unfinished copy, in `workers`.
const MARK: &str = "move";

/// How far a move is, for people.
pub type Tell<'a> = &'a mut dyn FnMut(&str);

/// A database outside of any server.
enum End {
    Sqlite(Lite),
    Postgres(Box<Pipe>),
}

impl End {
    fn open(place: &Place, is_new: bool) -> Result<Self> {
        match place {
            Place::Folder(folder) => {
                let path = folder.join("baton.db");
                if !is_new && !path.exists() {
                    return Err(Error::not_found(
                        "store_missing",
                        format!("{} holds no data", folder.display()),
                    ));
                }
                prepare(folder)?;
                let lite = Lite::writer(&path)?;
                migrate::sqlite(&lite)?;
                Ok(Self::Sqlite(lite))
            }
            Place::Postgres(to) => {
                let mut pipe = Pipe::connect(to)?;
                migrate::postgres(&mut pipe)?;
                Ok(Self::Postgres(Box::new(pipe)))
            }
        }
    }

    fn run(&mut self, sqlite: &str, postgres: &'static str) -> Result<()> {
        match self {
            Self::Sqlite(lite) => lite.run(sqlite),
            Self::Postgres(pipe) => pipe.run_all(postgres),
        }
    }

    /// Begins a transaction over all tenants.
    fn begin(&mut self) -> Result<()> {
        self.run("BEGIN IMMEDIATE", "BEGIN; SET LOCAL baton.tenant = '*'")
    }

    /// Begins a transaction that sees one state of everything, and lets nobody change it.
    fn freeze(&mut self, tables: &[Table]) -> Result<()> {
        self.run(
            "BEGIN IMMEDIATE",
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL baton.tenant = '*';
             SET LOCAL idle_in_transaction_session_timeout = 0",
        )?;
        if let Self::Postgres(pipe) = self {
            let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
            pipe.run_all(&format!("LOCK TABLE {} IN SHARE MODE", names.join(", ")))?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.run("COMMIT", "COMMIT")
    }

    fn db(&mut self) -> Db<'_> {
        match self {
            Self::Sqlite(lite) => Db::new(Backend::Sqlite(lite)),
            Self::Postgres(pipe) => Db::new(Backend::Postgres(pipe)),
        }
    }
}

/// A table, as the migrations made it.
struct Table {
    name: String,
    columns: Vec<String>,
    key: Vec<String>,
}

/// Every table with data that goes along, from a database that has only been migrated.
fn tables() -> Result<Vec<Table>> {
    let lite = Lite::in_memory()?;
    migrate::sqlite(&lite)?;
    let rows = lite.query(
        "SELECT t.name, c.name, c.pk FROM sqlite_master t JOIN pragma_table_info(t.name) c
         WHERE t.type = 'table' AND t.name NOT IN ('migrations', 'workers', 'seals') ORDER BY t.name, c.cid",
        &[],
    )?;
    let mut tables: Vec<(Table, Vec<(i64, String)>)> = Vec::new();
    for mut row in rows {
        let (name, column, key): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if tables.last().is_none_or(|(table, _)| table.name != name) {
            let table = Table {
                name,
                columns: Vec::new(),
                key: Vec::new(),
            };
            tables.push((table, Vec::new()));
        }
        if let Some((table, keys)) = tables.last_mut() {
            if key > 0 {
                keys.push((key, column.clone()));
            }
            table.columns.push(column);
        }
    }
    let sorted = |(mut table, mut keys): (Table, Vec<(i64, String)>)| {
        keys.sort();
        table.key = keys.into_iter().map(|(_, column)| column).collect();
        table
    };
    Ok(tables.into_iter().map(sorted).collect())
}

/// What removes rows of a tenant from one table, some at a time.
pub struct Erasure {
    /// The table.
    pub table: String,
    /// Takes the tenant's name and how many rows at most.
    pub sql: &'static str,
    /// Whether the rows are other tenants' and speak of this one.
    pub is_across: bool,
}

/// What removes all that there is of a tenant, as the schema says what that is: every row that bears its name. The heads of
/// logs are left, which [`super::Tx::end_log`] removes, and the log comes last.
pub(super) fn erasures() -> Result<Vec<Erasure>> {
    let mut erasures = Vec::new();
    for table in tables()? {
        let bears = |column: &&String| *column == "tenant_id" || column.ends_with("_tenant");
        let columns = table.columns.iter().filter(bears);
        for column in columns.filter(|_| table.name != "tenants") {
            erasures.push(Erasure {
                sql: table.erase(column),
                is_across: column != "tenant_id",
                table: table.name.clone(),
            });
        }
    }
    erasures.sort_by_key(|erasure| erasure.table == "events");
    Ok(erasures)
}

/// Statements are kept by their text, and a move makes a handful: they live as long as the process.
fn lasting(sql: String) -> &'static str {
    Box::leak(sql.into_boxed_str())
}

fn numbered(from: usize, count: usize) -> String {
    let marks: Vec<String> = (from..from + count)
        .map(|number| format!("${number}"))
        .collect();
    marks.join(", ")
}

impl Table {
    fn first(&self) -> &'static str {
        let (columns, key) = (self.columns.join(", "), self.key.join(", "));
        lasting(format!(
            "SELECT {columns} FROM {} ORDER BY {key} LIMIT $1",
            self.name
        ))
    }

    fn next(&self) -> &'static str {
        let (columns, key) = (self.columns.join(", "), self.key.join(", "));
        let marks = numbered(2, self.key.len());
        lasting(format!(
            "SELECT {columns} FROM {} WHERE ({key}) > ({marks}) ORDER BY {key} LIMIT $1",
            self.name
        ))
    }

    fn last_key(&self) -> &'static str {
        let key = self.key.join(", ");
        let backwards = self.key.join(" DESC, ");
        lasting(format!(
            "SELECT {key} FROM {} ORDER BY {backwards} DESC LIMIT 1",
            self.name
        ))
    }

    fn insert(&self) -> &'static str {
        let (columns, marks) = (self.columns.join(", "), numbered(1, self.columns.len()));
        lasting(format!(
            "INSERT INTO {} ({columns}) VALUES ({marks})",
            self.name
        ))
    }

    fn erase(&self, column: &str) -> &'static str {
        let (name, key) = (&self.name, self.key.join(", "));
        lasting(format!(
            "DELETE FROM {name} WHERE {column} = $1 AND ({key}) IN (SELECT {key} FROM {name} WHERE {column} = $1 LIMIT $2)"
        ))
    }

    fn count(&self) -> &'static str {
        lasting(format!("SELECT count(*) FROM {}", self.name))
    }

    /// The key of a row that has all columns.
    fn key_of(&self, row: &Row) -> Vec<Value> {
        let index = |name: &String| self.columns.iter().position(|column| column == name);
        self.key
            .iter()
            .filter_map(|name| row.value(index(name)?).cloned())
            .collect()
    }
}

/// Copies everything from one place to another and compares the two. Returns the number of rows there.
///
/// # Errors
/// `store_not_empty` when the target has data that no unfinished move of this source left there; `move_failed` when the
/// copy is not what the source is; failures of the databases.
pub fn transfer(from: &Place, to: &Place, tell: Tell<'_>) -> Result<u64> {
    let tables = tables()?;
    let mut source = End::open(from, false)?;
    let mut target = End::open(to, true)?;
    mark(&mut target, &tables, &from.to_string())?;
    source.freeze(&tables)?;
    let mut all = 0;
    for table in &tables {
        let rows = copy(table, &mut source, &mut target)?;
        tell(&format!("{}: {rows} rows", table.name));
        all += rows;
    }
    target.begin()?;
    let events = verify(&mut target.db())?;
    tell(&format!("{events} events, numbered and chained"));
    target
        .db()
        .execute("DELETE FROM workers WHERE worker = $1", &vals![MARK])?;
    target.commit()?;
    source.commit()?;
    Ok(all)
}

/// Makes sure that the target is empty, or was left by a move of this source; and that nobody serves it.
fn mark(target: &mut End, tables: &[Table], from: &str) -> Result<()> {
    target.begin()?;
    let mut db = target.db();
    let mut marks = db.query("SELECT holder FROM workers WHERE worker = $1", &vals![MARK])?;
    let left_by: Option<String> = marks.first_mut().map(|row| row.get(0)).transpose()?;
    if left_by.as_deref() != Some(from) {
        let mut is_empty = left_by.is_none();
        for table in tables {
            is_empty &= count(&mut db, table)? == 0;
        }
        if !is_empty {
            return Err(Error::conflict(
                "store_not_empty",
                "the target has data already; name an empty database or folder",
            ));
        }
        db.execute(
            "INSERT INTO workers (worker, holder, until) VALUES ($1, $2, $3)",
            &vals![MARK, from, i64::MAX],
        )?;
    }
    target.commit()
}

/// Refuses a database that a move has not finished.
pub(super) fn check(db: &mut Db<'_>) -> Result<()> {
    let mut marks = db.query("SELECT holder FROM workers WHERE worker = $1", &vals![MARK])?;
    match marks.first_mut() {
        None => Ok(()),
        Some(row) => Err(Error::new(
            Kind::Unavailable,
            "store_moving",
            format!(
                "a move from {} to here was not finished; run `baton move` again",
                row.get::<String>(0)?
            ),
        )),
    }
}

fn count(db: &mut Db<'_>, table: &Table) -> Result<i64> {
    let mut rows = db.query(table.count(), &[])?;
    rows.first_mut().map_or(Ok(0), |row| row.get(0))
}

/// Copies what the target lacks of a table, and compares the counts.
fn copy(table: &Table, source: &mut End, target: &mut End) -> Result<u64> {
    let (first, next, insert) = (table.first(), table.next(), table.insert());
    target.begin()?;
    let mut position: Option<Vec<Value>> = target
        .db()
        .query(table.last_key(), &[])?
        .pop()
        .map(Row::into_values);
    target.commit()?;
    loop {
        let rows = match &position {
            None => source.db().query(first, &vals![BATCH])?,
            Some(key) => {
                let mut values = vals![BATCH].to_vec();
                values.extend(key.iter().cloned());
                source.db().query(next, &values)?
            }
        };
        let Some(last) = rows.last() else { break };
        position = Some(table.key_of(last));
        target.begin()?;
        let mut db = target.db();
        for row in rows {
            db.put(insert, row.into_values())?;
        }
        match target {
            End::Sqlite(lite) => lite.settle()?,
            End::Postgres(pipe) => drop(pipe.flush()?),
        }
        target.commit()?;
    }
    target.begin()?;
    let (there, here) = (
        count(&mut source.db(), table)?,
        count(&mut target.db(), table)?,
    );
    target.commit()?;
    if there != here {
        return Err(Error::conflict(
            "move_failed",
            format!(
                "{}: {there} rows at the source, {here} at the target",
                table.name
            ),
        ));
    }
    Ok(u64::try_from(here).unwrap_or(0))
}

/// Checks that every tenant's log is numbered without gaps, chained, and ends where its head says. Returns how many events
/// there are.
fn verify(db: &mut Db<'_>) -> Result<i64> {
    let mut all = 0;
    for mut tenant in db.query(
        "SELECT tenant_id, sequence, hash FROM tenants ORDER BY tenant_id",
        &[],
    )? {
        let (name, head, sealed): (String, i64, Vec<u8>) =
            (tenant.get(0)?, tenant.get(1)?, tenant.get(2)?);
        let (mut number, mut hash) = (0, Vec::new());
        while number < head {
            let rows = db.query(
                "SELECT sequence, event_id, kind, subject, actor, time, data, trace FROM events
                 WHERE tenant_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
                &vals![name.as_str(), number, BATCH],
            )?;
            if rows.is_empty() {
                break;
            }
            for mut row in rows {
                let entry = Entry {
                    id: row.get(1)?,
                    kind: row.get::<String>(2)?.into(),
                    subject: row.get(3)?,
                    actor: row.get(4)?,
                    time: row.get(5)?,
                    data: row.get(6)?,
                    trace: row.get(7)?,
                };
                number += 1;
                if row.get::<i64>(0)? != number {
                    return Err(broken(number));
                }
                hash = chain(&hash, number, &entry);
            }
        }
        if number != head || hash != sealed {
            return Err(broken(number));
        }
        all += head;
    }
    Ok(all)
}

fn broken(number: i64) -> Error {
    Error::conflict(
        "log_broken",
        format!("event {number} is missing or was changed"),
    )
}
