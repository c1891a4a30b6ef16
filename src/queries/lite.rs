//! The process in which one statement is made to one SQLite file. Tenants bring such files, so what reads them has nothing else
//! to lose: it opens that file and what SQLite keeps beside it, and is gone when it has answered. What the statement may do is
//! settled before it is compiled; what it takes, while it runs.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, Value as Bound, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement};
use rustix::process::{Resource, Rlimit, nice, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::values::{bytes_of, of_bytes, of_float, of_integer};
use super::{Answer, Ask, Column, Fault, Rows};
use crate::clock::Clock;

/// Bytes of memory that a statement may take, and of addresses where the system does not tell how many there are already.
const MEMORY: u64 = 160 << 20;
const ADDRESSES: u64 = 4 << 30;
/// Bytes of what SQLite keeps beside a file, besides what that may be.
const BESIDE: u64 = 64 << 20;
/// How long it waits for somebody else who writes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Steps of the engine between two looks at the clock.
const STEPS: i32 = 1_000;
/// What SQLite ends a journal with that names another file, which whoever rolls it back would remove.
const JOURNAL: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

const LIMITS: [(Limit, i32); 10] = [
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_LENGTH, 16 << 20),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 128 << 10),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
    (Limit::SQLITE_LIMIT_VDBE_OP, 250_000),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 1_000),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 20),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];
/// What may be asked about a file, and what besides about a table.
const ABOUT: [&str; 11] = [
    "application_id",
    "collation_list",
    "compile_options",
    "data_version",
    "encoding",
    "freelist_count",
    "page_count",
    "page_size",
    "schema_version",
    "table_list",
    "user_version",
];
const ABOUT_TABLES: [&str; 7] = [
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "table_info",
    "table_list",
    "table_xinfo",
];
/// What tables may be that are no tables.
const MODULES: [&str; 5] = ["fts4", "fts5", "fts5vocab", "rtree", "rtree_i32"];

/// What the process is told, whole and at once.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The file, by its real path.
    pub(super) path: PathBuf,
    /// Bytes that it may have.
    pub(super) most: u64,
    pub(super) ask: Ask,
}

/// Answers what standard input says.
pub fn serve() -> ExitCode {
    let mut text = String::new();
    let order = io::stdin().read_to_string(&mut text).ok();
    let order = order.and_then(|_| serde_json::from_str::<Order>(&text).ok());
    let Some(order) = order else {
        return ExitCode::FAILURE;
    };
    confine(&order);
    let outcome = perform(&order);
    let said = serde_json::to_vec(&outcome).map(|said| io::stdout().write_all(&said));
    match said {
        Ok(Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Gives up what it has no use for, for good.
fn confine(order: &Order) {
    let writes = if order.ask.writes { 2 * order.most } else { 0 };
    let limits = [
        (Resource::Nofile, 32),
        (Resource::Nproc, 0),
        (Resource::Core, 0),
        (Resource::Fsize, writes.saturating_add(BESIDE)),
        (
            Resource::As,
            addresses().map_or(ADDRESSES, |used| used + MEMORY),
        ),
        (Resource::Cpu, order.ask.bounds.millis / 1_000 + 2),
    ];
    for (resource, most) in limits {
        let (current, maximum) = (Some(most), Some(most));
        // What can't be had is missed: SQLite is told its other bounds besides.
        let _ = setrlimit(resource, Rlimit { current, maximum });
    }
    let _ = nice(5);
}

/// Bytes of addresses that this process has.
fn addresses() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').next()?.parse().ok()?;
    Some(pages * u64::try_from(rustix::param::page_size()).ok()?)
}

fn perform(order: &Order) -> Result<Answer, Fault> {
    let ask = &order.ask;
    let mut connection = open(order)?;
    let clock = Clock::system();
    let until = clock.steady() + ask.bounds.time();
    let denied = Arc::new(Mutex::new(None));
    let (watch, writes) = (denied.clone(), ask.writes);
    connection
        .progress_handler(STEPS, Some(move || clock.steady() > until))
        .and_then(|()| {
            connection.authorizer(Some(move |asked: AuthContext<'_>| {
                match refusal(&asked, writes) {
                    None => Authorization::Allow,
                    Some(fault) => {
                        *watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
                        Authorization::Deny
                    }
                }
            }))
        })
        .map_err(|error| fault(error, ask))?;
    run(&connection, ask).map_err(|wrong| {
        let denied = denied.lock().unwrap_or_else(PoisonError::into_inner).take();
        match wrong {
            Wrong::Ours(fault) => fault,
            Wrong::Theirs(error) => denied.unwrap_or_else(|| fault(error, ask)),
        }
    })
}

/// Opens the file, which lies where it is said to lie and nowhere that a link leads to.
#[expect(
    clippy::disallowed_methods,
    reason = "this is where files of tenants are opened"
)]
fn open(order: &Order) -> Result<Connection, Fault> {
    let (path, ask) = (&order.path, &order.ask);
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(Fault::Missing),
        Err(_) if !ask.writes => return Err(Fault::Missing),
        _ => {}
    }
    if ask.writes && !is_harmless(&beside(path, "-journal")).unwrap_or(false) {
        let why = "what lies beside it is no journal of its own";
        return Err(Fault::Unusable(why.into()));
    }
    let how = if ask.writes {
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
    } else {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    };
    let flags = how | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| fault(error, ask))?;
    if !is_open(path) {
        return Err(Fault::Missing);
    }
    settle(&connection, order).map_err(|error| fault(error, ask))?;
    Ok(connection)
}

fn settle(connection: &Connection, order: &Order) -> rusqlite::Result<()> {
    for (limit, most) in LIMITS {
        connection.set_limit(limit, most)?;
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.busy_timeout(PATIENCE.min(order.ask.bounds.time()))?;
    for (pragma, value) in [
        ("temp_store", 2),
        ("cache_size", -16_384),
        ("mmap_size", 0),
        ("cell_size_check", 1),
    ] {
        connection.pragma_update(None, pragma, value)?;
    }
    if order.ask.writes {
        let page: u64 = connection
            .pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0))?
            .into();
        let most = (order.most / page.max(512)).clamp(1, u64::from(u32::MAX - 1));
        connection.pragma_update(
            None,
            "max_page_count",
            i64::try_from(most).unwrap_or(i64::MAX),
        )?;
    }
    Ok(())
}

/// What SQLite keeps beside a file.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Whether a journal, if there is one, is this file's alone.
fn is_harmless(journal: &Path) -> io::Result<bool> {
    let found = match fs::symlink_metadata(journal) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        found => found?,
    };
    if !found.is_file() || found.len() < 8 {
        return Ok(found.is_file());
    }
    let mut file = File::open(journal)?;
    file.seek(SeekFrom::End(-8))?;
    let mut end = [0; 8];
    file.read_exact(&mut end)?;
    Ok(end != JOURNAL)
}

/// Whether what this process has open is the file of that path, and not what somebody put in its way meanwhile. Where the system
/// does not tell, what was looked at before must do.
fn is_open(path: &Path) -> bool {
    let Ok(mut open) = fs::read_dir("/proc/self/fd") else {
        return true;
    };
    open.any(|one| {
        let leads = one.and_then(|one| fs::read_link(one.path()));
        leads.is_ok_and(|leads| leads == path)
    })
}

/// Why something that a statement asks of SQLite is refused; none for what it may.
fn refusal(asked: &AuthContext<'_>, writes: bool) -> Option<Fault> {
    use AuthAction as A;
    let refused = |why: &str| Some(Fault::Refused(why.to_owned()));
    match asked.action {
        A::Select | A::Read { .. } | A::Recursive => None,
        A::Function { function_name } => match function_name.to_ascii_lowercase().as_str() {
            name @ ("load_extension" | "fts3_tokenizer") => {
                refused(&format!("{name}() reaches out of it"))
            }
            _ => None,
        },
        A::Pragma {
            pragma_name,
            pragma_value,
        } => {
            let name = pragma_name.to_ascii_lowercase();
            let known = if pragma_value.is_some() {
                &ABOUT_TABLES[..]
            } else {
                &ABOUT[..]
            };
            (!known.contains(&name.as_str())).then(|| {
                Fault::Refused(format!(
                    "PRAGMA {name} may not be used, or not with a value"
                ))
            })
        }
        A::Attach { .. } | A::Detach { .. } => refused("no other file is opened"),
        A::Transaction { .. } | A::Savepoint { .. } => refused("its transaction is not its own"),
        A::CreateTempIndex { .. }
        | A::CreateTempTable { .. }
        | A::CreateTempTrigger { .. }
        | A::CreateTempView { .. } => refused("nothing is kept between statements"),
        A::CreateVtable { module_name, .. }
            if !MODULES.contains(&module_name.to_ascii_lowercase().as_str()) =>
        {
            refused("a virtual table is one of fts4, fts5 and rtree")
        }
        A::Insert { .. }
        | A::Update { .. }
        | A::Delete { .. }
        | A::CreateTable { .. }
        | A::CreateIndex { .. }
        | A::CreateView { .. }
        | A::CreateTrigger { .. }
        | A::CreateVtable { .. }
        | A::DropTable { .. }
        | A::DropIndex { .. }
        | A::DropView { .. }
        | A::DropTrigger { .. }
        | A::DropVtable { .. }
        | A::AlterTable { .. }
        | A::Reindex { .. } => (!writes).then(Fault::changes),
        _ => refused("it is none of what may be done here"),
    }
}

/// What went wrong.
enum Wrong {
    Ours(Fault),
    Theirs(rusqlite::Error),
}

impl From<rusqlite::Error> for Wrong {
    fn from(error: rusqlite::Error) -> Self {
        Self::Theirs(error)
    }
}

impl From<Fault> for Wrong {
    fn from(fault: Fault) -> Self {
        Self::Ours(fault)
    }
}

fn run(connection: &Connection, ask: &Ask) -> Result<Answer, Wrong> {
    let mut statement = connection.prepare(&ask.sql)?;
    let changes = !statement.readonly();
    if changes && !ask.writes {
        return Err(Fault::changes().into());
    }
    bind(&mut statement, &ask.parameters)?;
    let columns: Vec<Column> = statement
        .columns()
        .map(|column| Column {
            name: column.name().to_owned(),
            kind: column.decl_type().unwrap_or_default().to_lowercase(),
        })
        .collect();
    let width = columns.len();
    let mut gathered = Rows::new(columns, ask.bounds);
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let values = (0..width).map(|at| row.get_ref(at).map(shown));
        gathered.take(values.collect::<rusqlite::Result<_>>()?)?;
        // What changes rows changes all that it is to change, whatever of it is shown.
        if gathered.answer.has_more && !changes {
            break;
        }
    }
    drop(rows);
    let mut answer = gathered.answer;
    answer.changed = changes.then(|| connection.changes());
    Ok(answer)
}

/// Gives `?`, `?1` and `$1` what they stand for.
fn bind(statement: &mut Statement<'_>, parameters: &[Value]) -> Result<(), Wrong> {
    let mut numbers = Vec::new();
    for index in 1..=statement.parameter_count() {
        let name = statement
            .parameter_name(index)
            .map(|name| name[1..].parse());
        let number: usize = name.unwrap_or(Ok(index)).map_err(|_| {
            Fault::Failed("parameters are written $1, $2 …, or ? in their order".to_owned())
        })?;
        numbers.push((index, number));
    }
    let wanted = numbers
        .iter()
        .map(|(_, number)| *number)
        .max()
        .unwrap_or_default();
    if wanted != parameters.len() {
        return Err(Fault::Miscounted(parameters.len(), wanted).into());
    }
    for (index, number) in numbers {
        let value = number.checked_sub(1).and_then(|at| parameters.get(at));
        let value = value.ok_or(Fault::Miscounted(parameters.len(), wanted))?;
        statement.raw_bind_parameter(index, bound(value)?)?;
    }
    Ok(())
}

fn bound(value: &Value) -> Result<ToSqlOutput<'static>, Fault> {
    let bound = match value {
        Value::Null => Bound::Null,
        Value::Bool(truth) => Bound::Integer(i64::from(*truth)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Bound::Integer(number),
            (None, Some(number)) => Bound::Real(number),
            _ => return Err(Fault::Failed(format!("{number} is no number of it"))),
        },
        Value::String(text) => Bound::Text(text.clone()),
        value => match bytes_of(value) {
            Some(bytes) => {
                Bound::Blob(bytes.map_err(|why| Fault::Failed(format!("a parameter {why}")))?)
            }
            None => Bound::Text(value.to_string()),
        },
    };
    Ok(ToSqlOutput::Owned(bound))
}

fn shown(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => of_integer(number),
        ValueRef::Real(number) => of_float(number),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Blob(bytes) => of_bytes(bytes),
    }
}

fn fault(error: rusqlite::Error, ask: &Ask) -> Fault {
    use ErrorCode as E;
    let unusable = |why: &str| Fault::Unusable(why.to_owned());
    match error.sqlite_error_code() {
        Some(E::OperationInterrupted) => return Fault::Late(ask.bounds.millis),
        Some(E::OutOfMemory) => return Fault::Memory,
        Some(E::DiskFull) => return Fault::Full,
        Some(E::TooBig) => return Fault::TooLarge,
        Some(E::DatabaseBusy | E::DatabaseLocked | E::FileLockingProtocolFailed) => {
            return Fault::Busy;
        }
        Some(E::NotADatabase | E::DatabaseCorrupt) => {
            return unusable("it is damaged, or no database of SQLite");
        }
        Some(E::CannotOpen | E::PermissionDenied | E::SystemIoFailure) => {
            return unusable("it can't be opened or read");
        }
        Some(E::ReadOnly) if ask.writes => return unusable("Baton may not write to it"),
        Some(E::ReadOnly) => {
            return unusable("a change of it was broken off; any query with write mends it");
        }
        _ => {}
    }
    Fault::Failed(match error {
        rusqlite::Error::SqlInputError { msg, offset, .. } if offset >= 0 => {
            format!("{msg}, at byte {offset}")
        }
        rusqlite::Error::SqlInputError { msg, .. }
        | rusqlite::Error::SqliteFailure(_, Some(msg)) => msg,
        error => error.to_string(),
    })
}
