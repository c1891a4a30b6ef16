//! The processes in which scripts run: started when they are needed, a tenant's own for as long as he goes on, and ended by
//! force when a script does not end in time or says what it should not. Nothing of a script outlives its process, and none
//! serves two tenants.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::wire::{Order, Word};
use crate::error::{Error, Result};
use crate::id::TenantId;

/// Processes that wait for their tenant's next script at most.
const KEPT: usize = 8;
/// How long one waits.
const IDLE: Duration = Duration::from_secs(30);
/// How long a process may have run scripts when it takes another one; less than the processor time that it gives itself.
const WORN: Duration = Duration::from_mins(4);
/// How long a script waits for a place.
const PATIENCE: Duration = Duration::from_secs(5);

/// Processes and places for them.
pub(super) struct Pool {
    /// For all scripts that run at a time.
    places: Arc<Semaphore>,
    /// For those of one tenant: half of all, so that others find a place.
    shares: DashMap<TenantId, Arc<Semaphore>>,
    share: usize,
    kept: Arc<Mutex<VecDeque<Kept>>>,
    /// What lets go of those that waited long enough.
    leaving: Mutex<JoinSet<()>>,
}

struct Kept {
    tenant: TenantId,
    number: u64,
    worker: Worker,
}

/// A place among the scripts that run.
pub(super) struct Place(#[expect(dead_code, reason = "held, not used")] [OwnedSemaphorePermit; 2]);

impl Default for Pool {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let places = (2 * cores).clamp(4, 64);
        Self {
            places: Arc::new(Semaphore::new(places)),
            shares: DashMap::new(),
            share: places / 2,
            kept: Arc::default(),
            leaving: Mutex::default(),
        }
    }
}

impl Pool {
    /// Waits for a place.
    pub(super) async fn place(&self, tenant: &TenantId) -> Result<Place> {
        let share = || Arc::new(Semaphore::new(self.share));
        let share = self
            .shares
            .entry(tenant.clone())
            .or_insert_with(share)
            .clone();
        let places = async {
            let own = share.acquire_owned().await;
            Some([own.ok()?, self.places.clone().acquire_owned().await.ok()?])
        };
        let found = tokio::time::timeout(PATIENCE, places).await;
        found.ok().flatten().map(Place).ok_or_else(|| {
            let message = "as many scripts run as may; come back in a moment";
            Error::unavailable("scripts_busy", message, Duration::from_secs(1))
        })
    }

    /// A process for a script of `tenant`: the one that ran its last, or a new one.
    pub(super) fn take(&self, tenant: &TenantId, program: &Path) -> Result<Worker> {
        let mut kept = lock(&self.kept);
        let own = kept.iter().rposition(|kept| kept.tenant == *tenant);
        if let Some(kept) = own.and_then(|at| kept.remove(at)) {
            return Ok(kept.worker);
        }
        drop(kept);
        Worker::start(program).map_err(Error::internal)
    }

    /// Keeps a process for the next script of `tenant`, for a while.
    pub(super) fn keep(&self, tenant: &TenantId, worker: Worker) {
        // Whoever runs no scripts any more needs no share.
        self.shares
            .retain(|_, share| share.available_permits() < self.share);
        if worker.busy > WORN {
            return;
        }
        let number = worker.number;
        let mut all = lock(&self.kept);
        all.push_back(Kept {
            tenant: tenant.clone(),
            number,
            worker,
        });
        let too_many = (all.len() > KEPT).then(|| all.pop_front()).flatten();
        drop((all, too_many));
        let kept = self.kept.clone();
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        while leaving.try_join_next().is_some() {}
        leaving.spawn(async move {
            tokio::time::sleep(IDLE).await;
            lock(&kept).retain(|kept| kept.number != number);
        });
    }
}

fn lock(kept: &Mutex<VecDeque<Kept>>) -> MutexGuard<'_, VecDeque<Kept>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that runs scripts. It is killed when this is dropped.
pub(super) struct Worker {
    /// Scripts that were begun here; tells one wait from the next.
    number: u64,
    /// For how long it has run scripts.
    pub(super) busy: Duration,
    pub(super) mouth: Mouth,
    pub(super) ear: Ear,
    #[expect(dead_code, reason = "held, so that the process is killed")]
    process: Child,
}

/// What the process is told. It is said bit by bit: whoever waits for it to listen must hear it meanwhile.
pub(super) struct Mouth {
    pipe: ChildStdin,
    unsaid: Vec<u8>,
}

/// What the process says.
pub(super) struct Ear {
    pipe: BufReader<ChildStdout>,
    line: Vec<u8>,
}

impl Worker {
    fn start(program: &Path) -> io::Result<Self> {
        let mut process = Command::new(program)
            .arg("run-scripts")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (input, output) =
            pipes.ok_or_else(|| io::Error::other("a started process has its pipes"))?;
        Ok(Self {
            number: u64::from(process.id().unwrap_or_default()) << 32,
            busy: Duration::ZERO,
            mouth: Mouth {
                pipe: input,
                unsaid: Vec::new(),
            },
            ear: Ear {
                pipe: BufReader::new(output),
                line: Vec::new(),
            },
            process,
        })
    }

    /// Notes that a script has ended after `time`.
    pub(super) fn ran(&mut self, time: Duration) {
        self.busy += time;
        self.number += 1;
    }
}

impl Mouth {
    pub(super) fn add(&mut self, order: &Order) -> Result<()> {
        serde_json::to_writer(&mut self.unsaid, order).map_err(Error::internal)?;
        self.unsaid.push(b'\n');
        Ok(())
    }

    pub(super) fn has_more(&self) -> bool {
        !self.unsaid.is_empty()
    }

    /// Says a bit. Nothing is lost, and nothing said twice, if it is dropped half-way.
    pub(super) async fn say(&mut self) -> io::Result<()> {
        let count = self.pipe.write(&self.unsaid).await?;
        self.unsaid.drain(..count);
        Ok(())
    }
}

impl Ear {
    /// The next word; none when it is longer than `most` bytes, makes no sense, or there will be no more. Nothing is lost if
    /// it is dropped half-way.
    pub(super) async fn hear(&mut self, most: usize) -> Option<Word> {
        loop {
            let heard = self.pipe.fill_buf().await.ok()?;
            let end = heard.iter().position(|byte| *byte == b'\n');
            let (count, taken) = end.map_or((heard.len(), heard.len()), |end| (end, end + 1));
            self.line.extend_from_slice(&heard[..count]);
            self.pipe.consume(taken);
            if taken == 0 || self.line.len() > most {
                return None;
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                return serde_json::from_slice(&line).ok();
            }
        }
    }
}
