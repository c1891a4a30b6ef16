//! What a connection over byte streams still owes its client: requests without an answer, batches half answered, lines
//! not yet written, and the limits on each. Knows nothing of how messages are read, or of what they mean.

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use rmcp::model::{JsonRpcMessage, ProtocolVersion, RequestId, ServerJsonRpcMessage, ServerResult};
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::wire::Refusal;

/// So many answers may be outstanding, and so many lines queued, before reading stops.
const MAX_OPEN: usize = 1024;
/// So many bytes may be queued before reading stops; a list of tools is large.
const MAX_QUEUED_BYTES: usize = 8 << 20;
/// A client whose calls all wait for something would never get a `cancelled` through if reading stopped for good.
const PATIENCE: Duration = Duration::from_secs(1);
/// What the writer keeps of its buffer between two writes.
const KEPT_BYTES: usize = 64 << 10;

/// What the two threads and the runtime share.
#[derive(Default)]
pub(super) struct Line {
    state: Mutex<State>,
    /// The handshake is over.
    begun: AtomicBool,
    /// It settled on the revision that has batches.
    batches: AtomicBool,
    /// The writer sleeps here until there is something to write.
    work: Condvar,
    /// The reader sleeps here until there is room.
    room: Condvar,
    /// The input has ended, or the output is broken.
    pub(super) ended: CancellationToken,
    /// The writer has written its last.
    pub(super) finished: CancellationToken,
    /// Told of every step towards silence, once somebody waits for it.
    quieter: Notify,
}

#[derive(Default)]
struct State {
    /// Whole lines, to be written in one go.
    queue: Vec<u8>,
    lines: usize,
    writing: bool,
    /// The writer sleeps, and nobody has woken it yet.
    idle: bool,
    stage: Stage,
    /// Requests that were handed on and have no answer yet.
    open: HashMap<RequestId, Open>,
    /// Open requests that end with an answer of their own accord, which a listener does not.
    pending: usize,
    batches: HashMap<u64, Batch>,
    next_batch: u64,
    /// rmcp, waiting for room.
    waker: Option<Waker>,
}

/// The life of the output; it only moves forward.
#[derive(Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Serving,
    /// Somebody waits for silence.
    Draining,
    /// No more lines: write what there is and end.
    Closed,
    /// The client has gone.
    Broken,
}

#[derive(Default)]
pub(super) struct Open {
    pub(super) batch: Option<u64>,
    pub(super) lasting: bool,
}

/// The answers to a batch, gathered until none is missing.
#[derive(Default)]
struct Batch {
    missing: usize,
    /// `[` and the answers so far, without the closing bracket.
    text: Vec<u8>,
}

impl State {
    fn full(&self) -> bool {
        self.stage < Stage::Closed
            && (self.lines >= MAX_OPEN || self.queue.len() >= MAX_QUEUED_BYTES)
    }

    fn quiet(&self) -> bool {
        self.stage == Stage::Broken || (self.pending == 0 && self.queue.is_empty() && !self.writing)
    }

    /// Puts one message where it belongs: on its own line, or into the answer of its batch.
    fn put(&mut self, message: &impl Serialize, batch: Option<u64>) {
        if self.stage >= Stage::Closed {
            return;
        }
        let Some(number) = batch else {
            let start = self.queue.len();
            if let Err(error) = serde_json::to_writer(&mut self.queue, message) {
                tracing::error!(%error, "a message could not be written as JSON");
                self.queue.truncate(start);
                return;
            }
            self.queue.push(b'\n');
            self.lines += 1;
            return;
        };
        if let Some(batch) = self.batches.get_mut(&number) {
            let start = batch.text.len();
            batch.text.push(if start == 0 { b'[' } else { b',' });
            if let Err(error) = serde_json::to_writer(&mut batch.text, message) {
                tracing::error!(%error, "a message could not be written as JSON");
                batch.text.truncate(start);
            }
        }
        self.settle(number);
    }

    /// One answer fewer is missing from the batch, whether it was written or given up.
    fn settle(&mut self, number: u64) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        batch.missing -= 1;
        if batch.missing > 0 {
            return;
        }
        let text = self.batches.remove(&number).unwrap_or_default().text;
        if !text.is_empty() {
            self.queue.extend_from_slice(&text);
            self.queue.extend_from_slice(b"]\n");
            self.lines += 1;
        }
    }

    fn remove(&mut self, id: &RequestId) -> Option<Open> {
        let open = self.open.remove(id)?;
        if !open.lasting {
            self.pending -= 1;
        }
        Some(open)
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the client has read enough for another line.
    fn room(&self) -> MutexGuard<'_, State> {
        self.room
            .wait_while(self.lock(), |state| state.full())
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whom the change concerns: call after every [`State::put`] or [`State::remove`].
    fn changed(&self, state: &mut State) {
        if !state.queue.is_empty() && std::mem::take(&mut state.idle) {
            self.work.notify_one();
        }
        if state.open.len() + 1 >= MAX_OPEN {
            self.room.notify_one();
        }
        if state.stage >= Stage::Draining {
            self.quieter.notify_one();
        }
    }

    /// From rmcp: an answer, a notification or a request of the server's own.
    pub(super) fn send(&self, message: &ServerJsonRpcMessage) {
        let id = match message {
            JsonRpcMessage::Response(response) => {
                if let ServerResult::InitializeResult(agreed) = &response.result {
                    let has_batches = agreed.protocol_version == ProtocolVersion::V_2025_03_26;
                    self.batches.store(has_batches, Ordering::Relaxed);
                }
                Some(&response.id)
            }
            JsonRpcMessage::Error(error) => error.id.as_ref(),
            _ => None,
        };
        let mut state = self.lock();
        let batch = id
            .and_then(|id| state.remove(id))
            .and_then(|open| open.batch);
        state.put(message, batch);
        self.changed(&mut state);
    }

    /// The handshake is over.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether the client may send batches, which only 2025-03-26 has answers to.
    pub(super) fn takes_batches(&self) -> bool {
        self.batches.load(Ordering::Relaxed)
    }

    /// From the short way: the answer to a request, whole. A request that was cancelled gets none.
    pub(super) fn answer(&self, id: &RequestId, text: &[u8]) {
        let mut state = self.lock();
        if state.remove(id).is_some() && state.stage < Stage::Closed {
            state.queue.extend_from_slice(text);
            state.queue.push(b'\n');
            state.lines += 1;
        }
        self.changed(&mut state);
    }

    /// From the reader: an error for something that never became a message.
    pub(super) fn refuse(&self, refusal: &Refusal, batch: Option<u64>) {
        let mut state = self.room();
        state.put(&refusal.to_json(), batch);
        self.changed(&mut state);
    }

    /// Waits for room, then notes that `id` will be answered.
    pub(super) fn admit(&self, id: &RequestId, open: Open) -> Result<(), Refusal> {
        let mut state = self.room();
        let mut patient = true;
        while state.open.len() >= MAX_OPEN && state.stage < Stage::Closed {
            if !patient {
                return Err(crowded(id));
            }
            let waited = self.room.wait_timeout_while(state, PATIENCE, |state| {
                state.open.len() >= MAX_OPEN && !state.full() && state.stage < Stage::Closed
            });
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            // Answers that the client leaves unread are no reason to refuse it anything.
            patient = self.lock().full();
            state = self.room();
        }
        if state.open.contains_key(id) {
            return Err(Refusal::invalid(
                Some(id.clone()),
                "`id` belongs to a request that is not answered yet",
            ));
        }
        if !open.lasting {
            state.pending += 1;
        }
        state.open.insert(id.clone(), open);
        Ok(())
    }

    /// Opens a batch with so many answers to come.
    pub(super) fn gather(&self, missing: usize) -> u64 {
        let mut state = self.lock();
        state.next_batch += 1;
        let number = state.next_batch;
        if missing > 0 {
            let text = Vec::new();
            state.batches.insert(number, Batch { missing, text });
        }
        number
    }

    /// Whether [`Line::admit`] may have to wait.
    pub(super) fn crowded(&self) -> bool {
        let state = self.lock();
        state.full() || state.open.len() >= MAX_OPEN
    }

    /// Whether rmcp may send; if not, it is woken when it may.
    pub(super) fn has_room(&self, context: &Context<'_>) -> bool {
        let mut state = self.lock();
        if state.full() {
            state.waker = Some(context.waker().clone());
            return false;
        }
        true
    }

    /// A cancelled request gets no answer from rmcp.
    pub(super) fn forget(&self, id: &RequestId) {
        let mut state = self.lock();
        if let Some(batch) = state.remove(id).and_then(|open| open.batch) {
            state.settle(batch);
        }
        self.changed(&mut state);
    }

    /// Returns when the session has nothing left to do: after its end, once no answer is due any more or
    /// `patience` have passed.
    pub(super) async fn over(&self, stop: &CancellationToken, patience: Duration) {
        tokio::select! {
            () = self.ended.cancelled() => {}
            () = stop.cancelled() => {}
        }
        let silence = async {
            {
                let mut state = self.lock();
                state.stage = state.stage.max(Stage::Draining);
            }
            while !self.lock().quiet() {
                self.quieter.notified().await;
            }
        };
        let _ = tokio::time::timeout(patience, silence).await;
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        // What a batch has gathered is still worth having when one of its calls is abandoned.
        for (_, mut batch) in std::mem::take(&mut state.batches) {
            if !batch.text.is_empty() {
                batch.text.extend_from_slice(b"]\n");
                state.queue.append(&mut batch.text);
            }
        }
        state.stage = state.stage.max(Stage::Closed);
        drop(state);
        self.work.notify_one();
        self.room.notify_one();
    }

    /// The writer thread: whatever has been queued since the last write goes out in the next one.
    pub(super) fn write_all(&self, mut output: impl Write) {
        let mut buffer = Vec::new();
        let mut state = self.lock();
        loop {
            if state.queue.is_empty() {
                if state.stage >= Stage::Closed {
                    break;
                }
                state.idle = true;
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            std::mem::swap(&mut state.queue, &mut buffer);
            state.lines = 0;
            state.writing = true;
            let waker = state.waker.take();
            drop(state);
            self.room.notify_one();
            if let Some(waker) = waker {
                waker.wake();
            }
            let written = output.write_all(&buffer).and_then(|()| output.flush());
            buffer.clear();
            // One large answer must not hold its memory for the life of the connection.
            buffer.shrink_to(KEPT_BYTES);
            state = self.lock();
            state.writing = false;
            if let Err(error) = written {
                tracing::debug!(%error, "the client has closed the output");
                state.stage = Stage::Broken;
                state.queue = Vec::new();
                self.ended.cancel();
                self.room.notify_one();
            }
            if state.stage >= Stage::Draining {
                self.quieter.notify_one();
            }
        }
        drop(state);
        self.finished.cancel();
    }
}

fn crowded(id: &RequestId) -> Refusal {
    Refusal::invalid(
        Some(id.clone()),
        format!(
            "{MAX_OPEN} requests are waiting for their answers, which is the limit of one connection: cancel some, or \
             wait"
        ),
    )
}
