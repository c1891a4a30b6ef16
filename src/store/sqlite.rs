//! The embedded database: one writer that commits in groups, one flusher that forces them to the disk and answers, and a few
//! readers.
//!
//! Any number of processes may share the file: SQLite's own locks arbitrate the writers, and `data_version`, looked at
//! by the writer when it has nothing to do, tells of commits elsewhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SendError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::hub::Hub;
use super::job::{Desk, Job, Queue, Taken};
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
    flush: Arc<FlushState>,
}

impl Sqlite {
    /// Opens (or creates) the database in the folder `data`, migrates it and starts the writer.
    pub(super) fn open(
        data: &Path,
        hub: &Hub,
        clock: &Clock,
    ) -> Result<(Self, Vec<JoinHandle<()>>)> {
        prepare(data)?;
        let path = data.join("baton.db");
        let lite = Lite::writer(&path)?;
        migrate::sqlite(&lite)?;
        transfer::check(&mut Db::new(Backend::Sqlite(&lite)))?;
        lite.leave_flushing()?;
        Self::start(path, lite, log_of_writes(data)?, hub, clock)
    }

    /// Starts the writer on `lite`, and whoever flushes `wal` for it.
    fn start(
        path: PathBuf,
        lite: Lite,
        wal: File,
        hub: &Hub,
        clock: &Clock,
    ) -> Result<(Self, Vec<JoinHandle<()>>)> {
        let queue = Queue::new();
        let (flush, flusher) = Flusher::start(wal, hub, clock)?;
        let state = flush.state.clone();
        let writer = Writer {
            lite,
            queue: queue.clone(),
            hub: hub.clone(),
            clock: clock.clone(),
            commit: Duration::from_secs(1),
            flush,
        };
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(Error::internal)?;
        let sqlite = Self {
            queue,
            path,
            idle: Mutex::default(),
            flush: state,
        };
        Ok((sqlite, vec![writer, flusher]))
    }

    /// Runs `operation` in a read transaction: all of its queries see the same state.
    pub(super) fn read<T>(&self, operation: impl FnOnce(Db<'_>) -> Result<T>) -> Result<T> {
        let lite = match self.idle().pop() {
            Some(lite) => lite,
            None => Lite::reader(&self.path)?,
        };
        lite.run("BEGIN")?;
        lite.begin_group();
        let answer = operation(Db::new(Backend::Sqlite(&lite)));
        let answer = answer.and_then(|answer| lite.settle().map(|()| answer));
        // A reader has nothing to lose: whatever ended the transaction early, the connection is usable or dropped.
        if lite.run("COMMIT").is_ok() {
            self.idle().push(lite);
        }
        answer
    }

    /// Whether it can still be written.
    pub(super) fn check(&self) -> Result<()> {
        self.flush.check()
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
    /// What a commit takes without its flush, when nothing comes in between.
    commit: Duration,
    flush: Flush,
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
        let trusted = self.flush.state.check();
        let outcome = trusted.and_then(|()| self.attempt(&mut jobs));
        if !self.lite.is_autocommit() && self.lite.run("ROLLBACK").is_err() {
            tracing::error!("a transaction could not be rolled back");
        }
        match outcome {
            Ok((told, count)) => {
                self.queue.put_back(jobs.split_off(count));
                self.flush.take(Group { jobs, told });
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
        lite.begin_group();
        let (mut log, mut count) = (Log::default(), 0);
        let enough = self.clock.steady() + (self.commit + self.flush.took()) * WORK;
        for job in jobs.iter_mut() {
            // While the next group is run, the callers of this one come with their next calls.
            if count > 0 && self.clock.steady() > enough {
                break;
            }
            count += 1;
            if with_savepoints {
                lite.run("SAVEPOINT operation")?;
            }
            let mark = log.len();
            lite.begin_operation();
            let succeeded = job.run(Db::new(Backend::Sqlite(lite)), Some(&mut log));
            if lite.is_autocommit() {
                // A full disk or an I/O error rolls the whole transaction back by itself.
                return Err(Error::unavailable(
                    "disk_full",
                    "the database gave the transaction up; is the disk full?",
                    Duration::from_secs(30),
                ));
            }
            if let Some(error) = lite.fault() {
                return Err(error);
            }
            if !succeeded {
                log.truncate(mark);
                let has_changed = lite.end_failed();
                if with_savepoints {
                    lite.run("ROLLBACK TO operation")?;
                } else if has_changed {
                    return Ok(None);
                }
            }
            if with_savepoints {
                lite.settle()?;
                lite.run("RELEASE operation")?;
            }
        }
        let told = log.told();
        lite.settle()?;
        write_log(lite, &mut log)?;
        let begun = self.clock.steady();
        lite.run("COMMIT")?;
        self.learn(self.clock.steady().since(begun));
        Ok(Some((told, count)))
    }

    /// Now and then a commit takes much longer, since it also moves pages to the file: that counts little.
    fn learn(&mut self, took: Duration) {
        self.commit = took.min(self.commit + took / 16);
    }
}

/// Operations that are committed and not yet known to be on the disk.
struct Group {
    jobs: Vec<Box<dyn Job>>,
    /// The tenants whose waiting callers are woken.
    told: Vec<TenantId>,
}

/// The writer's end of the flusher.
struct Flush {
    groups: SyncSender<Group>,
    state: Arc<FlushState>,
}

#[derive(Default)]
struct FlushState {
    /// Microseconds that the last flush took.
    took: AtomicU64,
    is_broken: AtomicBool,
}

impl Flush {
    /// Has `group` flushed and answered; waits until the group before it is.
    fn take(&self, group: Group) {
        if let Err(SendError(group)) = self.groups.send(group) {
            tracing::error!("the thread that flushes is gone");
            self.state.is_broken.store(true, Ordering::Relaxed);
            group.fail();
        }
    }

    fn took(&self) -> Duration {
        Duration::from_micros(self.state.took.load(Ordering::Relaxed))
    }
}

impl FlushState {
    /// `store_failing` once a flush has failed.
    fn check(&self) -> Result<()> {
        if !self.is_broken.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Error::unavailable(
            "store_failing",
            "the disk failed to take a write, and nothing more is written until the server is started again; see its log",
            Duration::from_secs(30),
        ))
    }
}

impl Group {
    fn fail(self) {
        for job in self.jobs {
            job.finish(Err(Error::unavailable(
                "outcome_unknown",
                "the disk did not confirm what was written, and what became of the call can't be told until the server was started again",
                Duration::from_secs(30),
            )));
        }
    }
}

/// The thread that has the log of writes flushed to the disk, and answers. Meanwhile the writer runs the next group: what
/// that one reads of this one is flushed no later than itself, since both are in one file.
struct Flusher {
    wal: File,
    groups: Receiver<Group>,
    hub: Hub,
    desk: Desk,
    clock: Clock,
    state: Arc<FlushState>,
}

impl Flusher {
    fn start(wal: File, hub: &Hub, clock: &Clock) -> Result<(Flush, JoinHandle<()>)> {
        let (sender, groups) = sync_channel(0);
        let state = Arc::<FlushState>::default();
        let flusher = Self {
            wal,
            groups,
            hub: hub.clone(),
            desk: Desk::here(),
            clock: clock.clone(),
            state: state.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("store-flusher".into())
            .spawn(move || flusher.run())
            .map_err(Error::internal)?;
        let groups = sender;
        Ok((Flush { groups, state }, thread))
    }

    /// Flushes groups until the writer has ended.
    fn run(self) {
        while let Ok(first) = self.groups.recv() {
            // A group that came while the one before was answered is flushed along.
            let groups: Vec<_> = std::iter::once(first)
                .chain(self.groups.try_iter())
                .collect();
            let begun = self.clock.steady();
            // A group that wrote nothing may tell of one that did, of this process or of another.
            if let Err(error) = self.wal.sync_data() {
                // The kernel forgets what it could not write, so a second try would prove nothing.
                tracing::error!(%error, "the disk failed; nothing more is written until a restart");
                self.state.is_broken.store(true, Ordering::Relaxed);
            }
            if self.state.check().is_err() {
                groups.into_iter().for_each(Group::fail);
                continue;
            }
            let took = self.clock.steady().since(begun).as_micros();
            let took = u64::try_from(took).unwrap_or(u64::MAX);
            self.state.took.store(took, Ordering::Relaxed);
            for group in groups {
                self.hub.committed(&group.told);
                self.desk.finish(group.jobs);
            }
        }
    }
}

/// The file that commits are appended to. SQLite keeps it for as long as a connection is open, and the writer's is. Where it
/// can't be written, nothing will be.
fn log_of_writes(data: &Path) -> Result<File> {
    let path = data.join("baton.db-wal");
    let Ok(wal) = File::options().write(true).open(&path) else {
        return File::open(path).map_err(Error::internal);
    };
    // The name of a new file is flushed with its folder. Windows has no such thing.
    #[cfg(unix)]
    File::open(data)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::internal)?;
    Ok(wal)
}

fn write_log(lite: &Lite, log: &mut Log) -> Result<()> {
    let mut heads = BTreeMap::new();
    for tenant in log.tenants() {
        let rows = lite.query(
            "SELECT sequence, hash FROM tenants WHERE tenant_id = $1",
            &vals![&tenant],
        )?;
        let mut head = Head::default();
        for mut row in rows {
            (head.sequence, head.hash) = (row.get(0)?, row.get(1)?);
        }
        heads.insert(tenant, head);
    }
    for event in log.number(&mut heads) {
        lite.defer(
            "INSERT INTO events (tenant_id, sequence, event_id, kind, subject, actor, time, data, trace, hash)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            log::row(event).into(),
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

// Only Linux has a file that takes everything and can't be flushed.
#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::store::job::JobOf;
    use crate::store::vals;

    /// What becomes of a write of `worker`.
    fn write(sqlite: &Sqlite, worker: &'static str) -> Result<u64> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let insert = move |_: Option<&TenantId>, mut db: Db<'_>, _: Option<&mut Log>| {
            let sql = "INSERT INTO workers (worker, holder, until) VALUES ($1, 'test', 0)";
            db.execute(sql, &vals![worker])
        };
        sqlite.queue.push(Box::new(JobOf::new(None, insert, reply)));
        answer.blocking_recv().expect("every job is answered").0
    }

    #[test]
    fn what_the_disk_did_not_confirm_is_not_acknowledged_and_nothing_more_is_written() {
        let data = tempfile::tempdir().expect("a folder");
        let path = data.path().join("baton.db");
        let lite = Lite::writer(&path).expect("a new database");
        migrate::sqlite(&lite).expect("migrations");
        let failing = File::open("/dev/full").expect("a device");
        let (sqlite, threads) =
            Sqlite::start(path, lite, failing, &Hub::default(), &Clock::system())
                .expect("a writer");
        let code = |outcome: Result<u64>| outcome.expect_err("a refusal").code().to_owned();
        assert_eq!(code(write(&sqlite, "first")), "outcome_unknown");
        assert_eq!(code(write(&sqlite, "second")), "store_failing");
        assert!(sqlite.check().is_err(), "it is no longer ready");
        let written = sqlite.read(|mut db| {
            let mut rows = db.query("SELECT count(*) FROM workers", &[])?;
            rows.remove(0).get::<i64>(0)
        });
        assert_eq!(written.expect("reads go on"), 1, "only what came first");
        sqlite.queue.close();
        for thread in threads {
            thread.join().expect("an end in order");
        }
    }
}
