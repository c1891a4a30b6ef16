//! The embedded database: one writer that commits in groups, and a few readers.
//!
//! Any number of processes may share the file: SQLite's own locks arbitrate the writers, and `data_version`, looked at
//! by the writer when it has nothing to do, tells of commits elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::hub::Hub;
use super::job::{Job, Queue, Taken};
use super::log::{self, Head, Log};
use super::{migrate, transfer};
use crate::database::{Backend, Db, Lite, prepare, vals};
use crate::error::{Error, Kind, Result};
use crate::id::TenantId;

/// Operations in one transaction at most: bounds what a failed commit has to repeat.
const GROUP: usize = 1_024;
/// How often the writer looks for commits of other processes while somebody waits for one.
const LOOK: Duration = Duration::from_millis(20);

/// How many groups a busy writer commits before it looks for commits of other processes.
const BUSY: u32 = 8;

/// A database file with its writer and its readers.
pub(super) struct Sqlite {
    pub(super) queue: Arc<Queue>,
    path: PathBuf,
    idle: Mutex<Vec<Lite>>,
}

impl Sqlite {
    /// Opens (or creates) the database in the folder `data`, migrates it and starts the writer.
    pub(super) fn open(data: &Path, hub: &Hub) -> Result<(Self, JoinHandle<()>)> {
        prepare(data)?;
        let path = data.join("baton.db");
        let lite = Lite::writer(&path)?;
        migrate::sqlite(&lite)?;
        transfer::check(&mut Db::new(Backend::Sqlite(&lite)))?;
        let queue = Queue::new();
        let (jobs, wakes) = (queue.clone(), hub.clone());
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run_writer(&lite, &jobs, &wakes))
            .map_err(Error::internal)?;
        let idle = Mutex::default();
        Ok((Self { queue, path, idle }, writer))
    }

    /// Runs `operation` in a read transaction: all of its queries see the same state.
    pub(super) fn read<T>(&self, operation: impl FnOnce(Db<'_>) -> Result<T>) -> Result<T> {
        let lite = match self.idle().pop() {
            Some(lite) => lite,
            None => Lite::reader(&self.path)?,
        };
        lite.run("BEGIN")?;
        let answer = operation(Db::new(Backend::Sqlite(&lite)));
        // A reader has nothing to lose: whatever ended the transaction early, the connection is usable or dropped.
        if lite.run("COMMIT").is_ok() {
            self.idle().push(lite);
        }
        answer
    }

    /// Bytes that the data takes; the log of writes not yet in the main file counts too.
    pub(super) fn size(&self) -> u64 {
        let file = |ending: &str| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(ending);
            std::fs::metadata(name).map_or(0, |file| file.len())
        };
        file("") + file("-wal")
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Lite>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs groups until the queue is closed and empty.
fn run_writer(lite: &Lite, queue: &Queue, hub: &Hub) {
    let (mut version, mut groups) = (lite.data_version(), 0_u32);
    loop {
        let patience = if hub.is_waited_for() { LOOK } else { LOOK * 2 };
        match queue.take(GROUP, patience) {
            Taken::Jobs(jobs) => {
                commit_group(lite, jobs, hub);
                groups += 1;
                // A busy writer looks now and then.
                if !groups.is_multiple_of(BUSY) {
                    continue;
                }
            }
            Taken::Nothing => {}
            Taken::Closed => break,
        }
        // Changes only when another connection has committed, never by this one.
        let current = lite.data_version();
        if current != version {
            version = current;
            hub.committed_elsewhere();
        }
    }
}

/// Runs a group and answers every job of it exactly once, whatever happens.
fn commit_group(lite: &Lite, mut jobs: Vec<Box<dyn Job>>, hub: &Hub) {
    // A caller that left before its turn costs nothing.
    jobs.retain(|job| !job.is_abandoned());
    if jobs.is_empty() {
        return;
    }
    let outcome = attempt(lite, &mut jobs);
    if !lite.is_autocommit() && lite.run("ROLLBACK").is_err() {
        tracing::error!("a transaction could not be rolled back");
    }
    match outcome {
        Ok(told) => {
            hub.committed(&told);
            for job in jobs {
                job.finish(Ok(()));
            }
        }
        // One job's fault (a deferred constraint, say) must not be the others': each gets a transaction of its own. A
        // database that can't write now is nobody's fault.
        Err(error) if jobs.len() > 1 && error.kind() != Kind::Unavailable => {
            tracing::debug!(%error, jobs = jobs.len(), "a group failed; running its operations one by one");
            for job in jobs {
                commit_group(lite, vec![job], hub);
            }
        }
        Err(error) => {
            tracing::warn!(error = ?error, "a commit failed");
            for job in jobs {
                job.finish(Err(error.again()));
            }
        }
    }
}

/// The tenants whose logs grew. On an error, nothing of the group is in the database.
fn attempt(lite: &Lite, jobs: &mut [Box<dyn Job>]) -> Result<Vec<TenantId>> {
    if let Some(tenants) = run_group(lite, jobs, false)? {
        return Ok(tenants);
    }
    lite.run("ROLLBACK")?;
    let tenants = run_group(lite, jobs, true)?;
    tenants.ok_or_else(|| Error::internal("an operation behind its savepoint spoiled its group"))
}

/// Runs the operations and commits. Few operations fail after they changed something, and a savepoint for each costs a copy
/// of every page that it touches: without them, such an operation spoils the group (`None`), which is run again with them.
fn run_group(
    lite: &Lite,
    jobs: &mut [Box<dyn Job>],
    with_savepoints: bool,
) -> Result<Option<Vec<TenantId>>> {
    lite.run("BEGIN IMMEDIATE")?;
    let mut log = Log::default();
    for job in jobs.iter_mut() {
        if with_savepoints {
            lite.run("SAVEPOINT operation")?;
        }
        let (mark, changes) = (log.len(), lite.changes());
        let succeeded = job.run(Db::new(Backend::Sqlite(lite)), Some(&mut log));
        if lite.is_autocommit() {
            // A full disk or an I/O error rolls the whole transaction back by itself.
            return Err(Error::unavailable(
                "disk_full",
                "the database gave the transaction up; is the disk full?",
                Duration::from_secs(30),
            ));
        }
        if !succeeded {
            log.truncate(mark);
            if with_savepoints {
                lite.run("ROLLBACK TO operation")?;
            } else if lite.changes() != changes {
                return Ok(None);
            }
        }
        if with_savepoints {
            lite.run("RELEASE operation")?;
        }
    }
    let tenants = log.tenants();
    write_log(lite, &mut log, &tenants)?;
    lite.run("COMMIT")?;
    Ok(Some(tenants))
}

fn write_log(lite: &Lite, log: &mut Log, tenants: &[TenantId]) -> Result<()> {
    let mut heads = BTreeMap::new();
    for tenant in tenants {
        let rows = lite.query(
            "SELECT sequence, hash FROM tenants WHERE tenant_id = $1",
            &vals![tenant],
        )?;
        let mut head = Head::default();
        for mut row in rows {
            (head.sequence, head.hash) = (row.get(0)?, row.get(1)?);
        }
        heads.insert(tenant.clone(), head);
    }
    for event in log.number(&mut heads) {
        lite.execute(
            "INSERT INTO events (tenant_id, sequence, event_id, kind, subject, actor, time, data, hash)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &log::row(event),
        )?;
    }
    for (tenant, head) in heads {
        lite.execute(
            "INSERT INTO tenants (tenant_id, created_at, sequence, hash) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant_id) DO UPDATE SET sequence = excluded.sequence, hash = excluded.hash",
            &vals![&tenant, head.created_at.unwrap_or_default(), head.sequence, head.hash],
        )?;
    }
    Ok(())
}
