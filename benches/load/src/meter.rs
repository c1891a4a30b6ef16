//! Hands out request numbers until time is up, and keeps what came of each request.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

/// Why a request does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Transport,
    Http,
    JsonRpc,
    Tool,
    Protocol,
    Expect,
}

#[derive(Clone, Debug)]
pub struct Fail {
    pub kind: Kind,
    pub text: String,
}

impl Fail {
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }
}

impl From<std::io::Error> for Fail {
    fn from(error: std::io::Error) -> Self {
        Self::new(Kind::Transport, error.to_string())
    }
}

#[derive(Default)]
pub struct Stats {
    /// Of the good answers, in nanoseconds.
    pub latencies: Vec<u64>,
    pub failed: u64,
    pub first_failure: Option<Fail>,
}

pub struct Meter {
    next: Cell<u64>,
    limit: Cell<u64>,
    deadline: Cell<Instant>,
    max_errors: u64,
    stats: RefCell<Stats>,
}

impl Meter {
    pub fn new(max_errors: u64) -> Self {
        Self {
            next: Cell::new(0),
            limit: Cell::new(0),
            deadline: Cell::new(Instant::now()),
            max_errors,
            stats: RefCell::default(),
        }
    }

    /// Opens a phase of at most `requests` and at most `time`; numbers go on from the phase before.
    pub fn arm(&self, requests: Option<u64>, time: Duration) {
        self.limit
            .set(requests.map_or(u64::MAX, |count| self.next.get() + count));
        self.deadline.set(Instant::now() + time);
    }

    /// Ends the phase and returns what it saw.
    pub fn finish(&self) -> Stats {
        self.stats.take()
    }

    pub fn take(&self) -> Option<u64> {
        let number = self.next.get();
        let over =
            number >= self.limit.get() || Instant::now() >= self.deadline.get() || self.given_up();
        (!over).then(|| {
            self.next.set(number + 1);
            number
        })
    }

    pub fn given_up(&self) -> bool {
        self.stats.borrow().failed >= self.max_errors
    }

    pub fn good(&self, started: Instant) {
        let nanoseconds = started.elapsed().as_nanos() as u64;
        self.stats.borrow_mut().latencies.push(nanoseconds);
    }

    pub fn failed(&self, fail: Fail) {
        let mut stats = self.stats.borrow_mut();
        stats.failed += 1;
        stats.first_failure.get_or_insert(fail);
    }
}
