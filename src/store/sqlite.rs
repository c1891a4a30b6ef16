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
use crate::clock::Clock;
use crate::database::{Backend, Db, Lite, prepare, vals};
use crate::error::{Error, Kind, Result};
use crate::id::TenantId;

/// Operations in one transaction at most: bounds what a failed commit has to repeat.
const GROUP: usize = 1_024;
/// How many times as long as a commit a group may take to run, while others wait: callers of one group can then work on
/// their answers while the next group is run, and the commits stay a small part.
const WORK: u32 = 4;
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
    pub(super) fn open(data: &Path, hub: &Hub, clock: &Clock) -> Result<(Self, JoinHandle<()>)> {
        prepare(data)?;
        let path = data.join("baton.db");
        let lite = Lite::writer(&path)?;
        migrate::sqlite(&lite)?;
        transfer::check(&mut Db::new(Backend::Sqlite(&lite)))?;
        let queue = Queue::new();
        let writer = Writer {
            lite,
            queue: queue.clone(),
            hub: hub.clone(),
            clock: clock.clone(),
            commit: Duration::from_secs(1),
        };
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
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

/// The thread that writes.
struct Writer {
    lite: Lite,
    queue: Arc<Queue>,
    hub: Hub,
    clock: Clock,
    /// What a commit takes, when nothing comes in between.
    commit: Duration,
}

impl Writer {
    /// Runs groups until the queue is closed and empty.
    fn run(mut self) {
        let (mut version, mut groups) = (self.lite.data_version(), 0_u32);
        loop {
            let is_waited_for = self.hub.is_waited_for();
            let patience = if is_waited_for { LOOK } else { LOOK * 2 };
            match self.queue.take(GROUP, patience) {
                Taken::Jobs(jobs) => {
                    self.commit(jobs);
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
            let current = self.lite.data_version();
            if current != version {
                version = current;
                self.hub.committed_elsewhere();
            }
        }
    }

    /// Runs a group and answers every job of it exactly once, whatever happens. What is not its turn yet waits again.
    fn commit(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        // A caller that left before its turn costs nothing.
        jobs.retain(|job| !job.is_abandoned());
        if jobs.is_empty() {
            return;
        }
        let outcome = self.attempt(&mut jobs);
        if !self.lite.is_autocommit() && self.lite.run("ROLLBACK").is_err() {
            tracing::error!("a transaction could not be rolled back");
        }
        match outcome {
            Ok((told, count)) => {
                self.queue.put_back(jobs.split_off(count));
                self.hub.committed(&told);
                for job in jobs {
                    job.finish(Ok(()));
                }
            }
            // One job's fault (a deferred constraint, say) must not be the others': each gets a transaction of its own.
            // A database that can't write now is nobody's fault.
            Err(error) if jobs.len() > 1 && error.kind() != Kind::Unavailable => {
                tracing::debug!(%error, jobs = jobs.len(), "a group failed; running its operations one by one");
                for job in jobs {
                    self.commit(vec![job]);
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

    /// The tenants whose logs grew, and how many of the jobs were run. On an error, nothing is in the database.
    fn attempt(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(Vec<TenantId>, usize)> {
        if let Some(done) = self.run_group(jobs, false)? {
            return Ok(done);
        }
        self.lite.run("ROLLBACK")?;
        let done = self.run_group(jobs, true)?;
        done.ok_or_else(|| Error::internal("an operation behind its savepoint spoiled its group"))
    }

    /// Runs operations and commits. Few operations fail after they changed something, and a savepoint for each costs a
    /// copy of every page that it touches: without them, such an operation spoils the group (`None`), which is run again
    /// with them.
    fn run_group(
        &mut self,
        jobs: &mut [Box<dyn Job>],
        with_savepoints: bool,
    ) -> Result<Option<(Vec<TenantId>, usize)>> {
        let lite = &self.lite;
        lite.run("BEGIN IMMEDIATE")?;
        let (mut log, mut count) = (Log::default(), 0);
        let enough = self.clock.steady() + self.commit * WORK;
        for job in jobs.iter_mut() {
            // While the next group is run, the callers of this one come with their next calls.
            if count > 0 && self.clock.steady() > enough {
                break;
            }
            count += 1;
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
        let begun = self.clock.steady();
        lite.run("COMMIT")?;
        self.learn(self.clock.steady().since(begun));
        Ok(Some((tenants, count)))
    }

    /// Now and then a commit takes much longer, since it also moves pages to the file: that counts little.
    fn learn(&mut self, took: Duration) {
        self.commit = took.min(self.commit + took / 16);
    }
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
