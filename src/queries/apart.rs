//! The server's side of what opens SQLite files: a process for each statement, which is killed when it does not end in time or
//! when nobody waits for it any more.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::lite::Order;
use super::{Answer, Ask, Fault};
use crate::error::{Error, Result};

/// How much later than the process itself the server ends it.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes that it may say besides its answer.
const BESIDES: usize = 1 << 20;

/// A SQLite file.
#[derive(Debug, Clone)]
pub struct File {
    /// Where it is, by its real path: no part of it is a link.
    pub path: PathBuf,
    /// Bytes that it may have, if it is written.
    pub most: u64,
}

/// Makes a statement.
pub(super) async fn ask(program: &Path, file: &File, ask: &Ask) -> Result<Answer> {
    let order = Order {
        path: file.path.clone(),
        most: file.most,
        ask: ask.clone(),
    };
    let order = serde_json::to_vec(&order).map_err(Error::internal)?;
    let whole = tokio::time::timeout(
        ask.bounds.time() + GRACE,
        converse(program, &order, 4 * ask.bounds.bytes + BESIDES),
    );
    let outcome = match whole.await {
        Ok(said) => said?,
        Err(_) => Err(Fault::Late(ask.bounds.millis)),
    };
    outcome.map_err(Error::from)
}

/// Tells the process what to do, and hears what came of it.
async fn converse(
    program: &Path,
    order: &[u8],
    most: usize,
) -> Result<std::result::Result<Answer, Fault>> {
    let mut process = Command::new(program)
        .arg("run-query")
        .env_clear()
        // It is told how much memory it may have when it runs: nothing is put by before.
        .env("MIMALLOC_ARENA_RESERVE", "0")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::internal)?;
    let pipes = process.stdin.take().zip(process.stdout.take());
    let (mut input, output) =
        pipes.ok_or_else(|| Error::internal("a started process has its pipes"))?;
    // It reads all before it says anything.
    let told = input.write_all(order).await;
    drop(input);
    let mut said = Vec::new();
    let heard = output.take(most as u64).read_to_end(&mut said).await;
    let ended = process.wait().await;
    let outcome = told
        .and(heard)
        .and(ended)
        .ok()
        .and_then(|_| serde_json::from_slice(&said).ok());
    Ok(outcome.unwrap_or(Err(Fault::Memory)))
}
