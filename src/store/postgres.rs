//! PostgreSQL: as many writers as cores, each with its connection and the tenants that fall to it, and as many readers.
//!
//! A writer commits in groups, as SQLite's does: it locks the group's tenants, runs the operations one after another,
//! numbers their events and commits once. So whatever is written for a tenant is written by one transaction at a time,
//! on any number of replicas, and operations need no locks of their own. An operation that fails after it changed
//! something rolls its group back; the others are run again without it. The first one of each tenant is rehearsed up to
//! its first question, so that the questions of all tenants are answered in one flight.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::hub::Hub;
use super::job::{Desk, Job, Queue, Taken};
use super::listen::Teller;
use super::log::{self, Head, Log};
use crate::database::{Backend, Db, Fault, Many, Pipe, Postgres, Value, dialect, vals};
use crate::error::{Error, Kind, Result};
use crate::id::TenantId;

/// Operations in one transaction at most: its tenants are locked while it runs.
const GROUP: usize = 64;
/// Reads on one snapshot at most.
const READS: usize = 16;
/// How often a group is tried when the connection is lost or the database asks for it.
const TRIES: u32 = 6;
/// What the first pause between tries takes; each further one takes twice as long.
const PAUSE: Duration = Duration::from_millis(25);
/// How often is asked what became of a commit whose answer was lost.
const QUESTIONS: u32 = 40;

type Jobs = Vec<Box<dyn Job>>;

/// The queues of a PostgreSQL database.
pub(super) struct Cluster {
    writers: Vec<Arc<Queue>>,
    readers: Arc<Queue>,
}

impl Cluster {
    /// Starts writers and readers for the database at `to`, which has been migrated.
    pub(super) fn open(
        to: &Postgres,
        hub: &Hub,
        teller: &Teller,
    ) -> Result<(Self, Vec<JoinHandle<()>>)> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let count = cores.clamp(2, 8);
        let cluster = Self {
            writers: (0..count).map(|_| Queue::new()).collect(),
            readers: Queue::new(),
        };
        let mut threads = Vec::with_capacity(count * 2);
        for queue in &cluster.writers {
            let mut writer = Writer {
                line: Line::new(to),
                hub: hub.clone(),
                desk: Desk::here(),
                teller: teller.clone(),
            };
            let queue = queue.clone();
            threads.push(thread("store-writer", move || {
                for jobs in groups(&queue, GROUP) {
                    writer.commit(jobs);
                }
            })?);
        }
        for _ in 0..count {
            let (mut line, queue) = (Line::new(to), cluster.readers.clone());
            threads.push(thread("store-reader", move || {
                for jobs in groups(&queue, READS) {
                    read(&mut line, jobs);
                }
            })?);
        }
        Ok((cluster, threads))
    }

    /// Queues a job that writes. A tenant's jobs all go to the same writer.
    pub(super) fn write(&self, job: Box<dyn Job>) {
        let mut hasher = DefaultHasher::new();
        job.tenant().hash(&mut hasher);
        let index = hasher.finish() % self.writers.len() as u64;
        if let Some(queue) = usize::try_from(index)
            .ok()
            .and_then(|index| self.writers.get(index))
        {
            queue.push(job);
        }
    }

    /// Queues a job that reads.
    pub(super) fn read(&self, job: Box<dyn Job>) {
        self.readers.push(job);
    }

    /// Takes no more jobs; those that wait are still run.
    pub(super) fn close(&self) {
        for queue in self.writers.iter().chain([&self.readers]) {
            queue.close();
        }
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(Error::internal)
}

/// Whatever waits, up to `most` at a time, until the queue is closed and empty.
fn groups(queue: &Queue, most: usize) -> impl Iterator<Item = Jobs> {
    std::iter::from_fn(move || {
        loop {
            match queue.take(most, Duration::from_mins(1)) {
                Taken::Jobs(jobs) => return Some(jobs),
                Taken::Nothing => {}
                Taken::Closed => return None,
            }
        }
    })
}

/// A connection that is made when it is needed, and again when it was lost.
struct Line {
    to: Postgres,
    pipe: Option<Pipe>,
}

impl Line {
    fn new(to: &Postgres) -> Self {
        Self {
            to: to.clone(),
            pipe: None,
        }
    }

    fn pipe(&mut self) -> Result<&mut Pipe> {
        if self.pipe.as_ref().is_some_and(Pipe::is_lost) {
            self.pipe = None;
        }
        match &mut self.pipe {
            Some(pipe) => Ok(pipe),
            none => Ok(none.insert(Pipe::connect(&self.to)?)),
        }
    }

    /// Ends the transaction without a trace.
    fn roll_back(&mut self) {
        if let Some(pipe) = &mut self.pipe {
            pipe.reset("ROLLBACK");
            if pipe.flush().is_err() {
                self.pipe = None;
            }
        }
    }
}

/// Why a group was not committed.
enum Failure {
    /// The operation with this number must be tried alone.
    Culprit(usize, Error),
    /// Nothing is in the database; another try may succeed.
    Again(Error),
    /// It can't be done; nothing is in the database.
    Never(Error),
    /// The answer to COMMIT was lost; what tells whether it was done.
    InDoubt(Option<Witness>),
}

/// Tenant, number and hash of a transaction's last event: nobody else's has the same. (A transaction's id is no witness:
/// a server that crashed gives the ids of transactions that left no trace to others.)
type Witness = Vec<Value>;

struct Writer {
    line: Line,
    hub: Hub,
    desk: Desk,
    teller: Teller,
}

impl Writer {
    /// Runs a group and answers every job of it exactly once, whatever happens.
    fn commit(&mut self, mut jobs: Jobs) {
        // A caller that left before its turn costs nothing.
        jobs.retain(|job| !job.is_abandoned());
        jobs.sort_by(|one, other| one.tenant().cmp(&other.tenant()));
        let (mut tries, mut alone) = (0, Vec::new());
        while !jobs.is_empty() {
            match self.attempt(&mut jobs) {
                Ok(told) => self.acknowledge(std::mem::take(&mut jobs), &told),
                Err(Failure::Culprit(number, _)) if jobs.len() > 1 && number < jobs.len() => {
                    alone.push(jobs.remove(number));
                }
                // Whose fault it is can't be told.
                Err(Failure::Culprit(_, error)) if jobs.len() > 1 => {
                    tracing::debug!(%error, jobs = jobs.len(), "a group failed; running its operations one by one");
                    alone.append(&mut jobs);
                }
                Err(Failure::Culprit(_, error) | Failure::Never(error)) => {
                    refuse(&mut jobs, &error);
                }
                Err(Failure::Again(error)) => {
                    tries += 1;
                    if tries == TRIES {
                        tracing::warn!(error = ?error, jobs = jobs.len(), "a group could not be written");
                        refuse(&mut jobs, &error);
                    } else {
                        std::thread::sleep(PAUSE * 2_u32.pow(tries));
                    }
                }
                Err(Failure::InDoubt(witness)) => match self.outcome(&jobs, witness) {
                    // Nobody was told here; readers look for themselves.
                    Some(true) => {
                        let tenants: Vec<TenantId> = tenants(&jobs);
                        self.acknowledge(std::mem::take(&mut jobs), &tenants);
                    }
                    Some(false) => {}
                    None => refuse(&mut jobs, &in_doubt()),
                },
            }
        }
        for job in alone {
            self.commit(vec![job]);
        }
    }

    fn acknowledge(&mut self, jobs: Jobs, told: &[TenantId]) {
        self.hub.committed(told);
        self.teller.tell(told);
        self.desk.finish(jobs);
    }

    /// The tenants whose logs grew.
    fn attempt(
        &mut self,
        jobs: &mut [Box<dyn Job>],
    ) -> std::result::Result<Vec<TenantId>, Failure> {
        let outcome = match self.line.pipe() {
            Ok(pipe) => write(pipe, jobs),
            Err(error) if error.kind() == Kind::Unavailable => Err(Failure::Again(error)),
            Err(error) => Err(Failure::Never(error)),
        };
        if outcome.is_err() {
            self.line.roll_back();
        }
        outcome
    }

    /// Whether the transaction was committed, if that can be found out.
    fn outcome(&mut self, jobs: &[Box<dyn Job>], witness: Option<Witness>) -> Option<bool> {
        let witness = witness?;
        let tenants: Vec<Value> = tenants(jobs).iter().map(Value::from).collect();
        for question in 0..QUESTIONS {
            let asked = self.line.pipe().and_then(|pipe| {
                pipe.begin("BEGIN");
                enter(pipe, None)?;
                // The transaction has these locks for as long as it lives: behind them it has ended.
                pipe.defer(dialect::LOCK, &[Many(&tenants)], None)?;
                let (rows, _) = pipe.fly(dialect::WITNESS, &witness)?;
                Ok(!rows.is_empty())
            });
            self.line.roll_back();
            match asked {
                Ok(seen) => return Some(seen),
                Err(_) => std::thread::sleep(PAUSE * question.min(10)),
            }
        }
        None
    }
}

fn tenants(jobs: &[Box<dyn Job>]) -> Vec<TenantId> {
    let mut tenants: Vec<TenantId> = jobs
        .iter()
        .filter_map(|job| job.tenant().cloned())
        .collect();
    tenants.dedup();
    tenants
}

fn refuse(jobs: &mut Jobs, error: &Error) {
    for job in jobs.drain(..) {
        job.finish(Err(error.again()));
    }
}

fn in_doubt() -> Error {
    Error::unavailable(
        "outcome_unknown",
        "the connection to the database broke while committing, and what became of the call can't be told; look, or repeat it if it names its own id",
        Duration::from_secs(1),
    )
}

/// Turns an error on `pipe` into what to do about it.
fn failure(pipe: &Pipe, error: Error) -> Failure {
    match pipe.fault() {
        Some((Fault::Lost | Fault::Again, _)) => Failure::Again(error),
        Some((Fault::Refused, number)) => Failure::Culprit(number, error),
        None => Failure::Culprit(usize::MAX, error),
    }
}

/// Runs the operations and commits. On a failure that is not in doubt, nothing is in the database.
fn write(
    pipe: &mut Pipe,
    jobs: &mut [Box<dyn Job>],
) -> std::result::Result<Vec<TenantId>, Failure> {
    let mut log = Log::default();
    begin(pipe, jobs).map_err(|error| failure(pipe, error))?;
    let all = tenants(jobs);
    // The rows of one tenant are all that a group of one tenant needs, to its last statement.
    let is_of_one = all.len() == 1;
    let mut entered = all.into_iter().next().filter(|_| is_of_one);
    if !is_of_one {
        foresee(pipe, jobs).map_err(|error| failure(pipe, error))?;
    }
    for (number, job) in jobs.iter_mut().enumerate() {
        if entered.as_ref() != job.tenant() {
            entered = job.tenant().cloned();
            enter(pipe, entered.as_ref()).map_err(|error| failure(pipe, error))?;
        }
        pipe.enter(number);
        let mark = log.len();
        let succeeded = job.run(Db::new(Backend::Postgres(pipe)), Some(&mut log));
        if pipe.fault().is_some() {
            return Err(failure(pipe, Error::internal("a statement failed")));
        }
        if !succeeded {
            log.truncate(mark);
            if !pipe.take_back() {
                return Err(Failure::Culprit(number, Error::internal("after a change")));
            }
        }
    }
    pipe.enter(usize::MAX);
    let told = log.told();
    if !pipe.writes() && told.is_empty() {
        pipe.defer_text("ROLLBACK");
        return match pipe.flush() {
            Ok(_) => Ok(told),
            Err(error) => Err(failure(pipe, error)),
        };
    }
    if !is_of_one {
        enter(pipe, None).map_err(|error| failure(pipe, error))?;
    }
    let witness = write_log(pipe, &mut log).map_err(|error| failure(pipe, error))?;
    pipe.defer_text("COMMIT");
    match pipe.flush() {
        Ok(_) => Ok(told),
        Err(_) if matches!(pipe.fault(), Some((Fault::Lost, _))) => Err(Failure::InDoubt(witness)),
        Err(error) => Err(failure(pipe, error)),
    }
}

/// Asks what the operations will ask first, all in one flight: of each tenant's the first, since its others may ask about what
/// that one changes. Operations over all tenants change anybody's rows.
fn foresee(pipe: &mut Pipe, jobs: &mut [Box<dyn Job>]) -> Result<()> {
    if jobs.iter().any(|job| job.tenant().is_none()) {
        return Ok(());
    }
    let (mut questions, mut before) = (Vec::new(), None);
    for (number, job) in jobs.iter_mut().enumerate() {
        if before.as_ref() == job.tenant() {
            continue;
        }
        before = job.tenant().cloned();
        let question = pipe.rehearse(|pipe| job.rehearse(Db::new(Backend::Postgres(pipe))));
        questions.extend(question.map(|question| (number, question)));
    }
    pipe.foresee(questions, |pipe, number| {
        enter(pipe, jobs.get(number).and_then(|job| job.tenant()))
    })
}

fn begin(pipe: &mut Pipe, jobs: &[Box<dyn Job>]) -> Result<()> {
    let tenants = tenants(jobs);
    pipe.begin("BEGIN");
    enter(pipe, tenants.first().filter(|_| tenants.len() == 1))?;
    let tenants: Vec<Value> = tenants.iter().map(Value::from).collect();
    pipe.defer(dialect::LOCK, &[Many(&tenants)], None)?;
    // Each statement sees what was committed before it began: behind the locks, these are the newest heads.
    pipe.defer_kept(dialect::HEADS, &[Many(&tenants)])
}

/// Shows the statements that follow the rows of `tenant`, or of all.
fn enter(pipe: &mut Pipe, tenant: Option<&TenantId>) -> Result<()> {
    let name = tenant.map_or("*", TenantId::as_str);
    pipe.defer(dialect::ENTER, &[name], None)
}

/// Writes the group's events and the heads of their tenants, and makes sure that everything before was taken. Returns
/// what tells later whether it was committed.
fn write_log(pipe: &mut Pipe, log: &mut Log) -> Result<Option<Witness>> {
    let mut witness = None;
    let mut heads = BTreeMap::new();
    for mut row in pipe.take_kept()? {
        let head = Head {
            sequence: row.get(1)?,
            hash: row.get(2)?,
            created_at: None,
        };
        heads.insert(row.get::<TenantId>(0)?, head);
    }
    let moved = log.tenants();
    let events = log.number(&mut heads);
    if !events.is_empty() {
        heads.retain(|tenant, _| moved.contains(tenant));
        let count = heads.len() as u64;
        let mut heads_moved: [Vec<Value>; 3] = Default::default();
        for (tenant, head) in heads {
            if let Some(created_at) = head.created_at {
                pipe.defer(dialect::HEAD, &vals![&tenant, created_at], Some(1))?;
            }
            let row = vals![&tenant, head.sequence, head.hash];
            heads_moved
                .iter_mut()
                .zip(row)
                .for_each(|(column, value)| column.push(value));
        }
        let mut columns: [Vec<Value>; 10] = Default::default();
        witness = events
            .last()
            .map(|(tenant, number, _, hash)| vals![tenant, *number, hash.clone()].to_vec());
        for event in events {
            columns
                .iter_mut()
                .zip(log::row(event))
                .for_each(|(column, value)| column.push(value));
        }
        let columns: Vec<Many<'_>> = columns
            .iter()
            .chain(&heads_moved)
            .map(|values| Many(values))
            .collect();
        pipe.defer(dialect::EVENTS, &columns, Some(count))?;
    }
    pipe.flush()?;
    Ok(witness)
}

/// Runs reads one after another on one snapshot, and answers each at once.
fn read(line: &mut Line, jobs: Jobs) {
    let mut is_begun = false;
    for mut job in jobs {
        let mut outcome = Ok(());
        for attempt in 0..TRIES {
            outcome = line.pipe().and_then(|pipe| {
                if !is_begun {
                    pipe.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
                }
                enter(pipe, job.tenant())
            });
            if let (Ok(()), Some(pipe)) = (&outcome, &mut line.pipe) {
                is_begun = true;
                job.run(Db::new(Backend::Postgres(pipe)), None);
                match pipe.fault() {
                    None => break,
                    // The job has the error; the transaction is of no more use to the others.
                    Some((Fault::Refused, _)) => {
                        line.roll_back();
                        is_begun = false;
                        break;
                    }
                    Some(_) => {}
                }
            }
            line.roll_back();
            is_begun = false;
            std::thread::sleep(PAUSE * 2_u32.pow(attempt));
        }
        job.finish(outcome);
    }
    line.roll_back();
}
