//! The process of a tenant's session with a server that the operator has listed: started through this binary's hidden verb
//! `run-upstream`, which ends it with everything that it started. Its environment is what the operator wrote, `PATH` and
//! `HOME`. What it says on standard error goes to our log, so much of it in a minute.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};

use super::servers::Command;
use super::{MESSAGE, Why};
use crate::error::{Error, Kind};
use crate::places;

/// Lines of standard error that are logged in a minute, and bytes of each.
const LINES: u32 = 60;
const LINE: usize = 1_000;
const MINUTE: Duration = Duration::from_mins(1);

/// The pipes of a started process.
pub(super) struct Pipes {
    pub(super) input: ChildStdin,
    pub(super) output: Bounded,
}

/// Whose process it is, for the log.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) tenant: String,
    pub(super) server: String,
}

/// Starts a process. It goes on until its pipes are dropped; what comes with them sees to it, and must be run.
pub(super) fn start(
    program: &Path,
    command: &Command,
    about: About,
    why: &Why,
) -> io::Result<(Pipes, impl Future<Output = ()> + Send + 'static)> {
    let mut process = tokio::process::Command::new(program)
        .args(["run-upstream", "--", &command.program])
        .args(&command.arguments)
        .env_clear()
        .envs(places::minimum())
        .envs(&command.environment)
        .current_dir(&command.folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let missing = || io::Error::other("a started process has its pipes");
    let input = process.stdin.take().ok_or_else(missing)?;
    let output = process.stdout.take().ok_or_else(missing)?;
    let errors = process.stderr.take().ok_or_else(missing)?;
    let output = Bounded {
        pipe: output,
        line: 0,
        why: why.clone(),
    };
    let watching = watch(process, errors, about, why.clone());
    Ok((Pipes { input, output }, watching))
}

/// Logs what a process complains of until it has ended.
async fn watch(mut process: Child, errors: ChildStderr, about: About, why: Why) {
    let group = process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let About { tenant, server } = &about;
    tracing::info!(%tenant, %server, "the process of an upstream has started");
    let status = tokio::select! {
        status = process.wait() => status,
        () = log(errors, &about) => process.wait().await,
    };
    // The supervisor ends what it started; where it was killed itself, nobody else does.
    if let Some(group) = group {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let message = format!("the process of the server {server} has ended ({status})");
    why.set(Error::unavailable(
        "remote_unreachable",
        message,
        Duration::from_secs(1),
    ));
    tracing::info!(%tenant, %server, %status, "the process of an upstream has ended");
}

/// Logs lines until there are no more.
async fn log(errors: ChildStderr, About { tenant, server }: &About) {
    let mut errors = BufReader::new(errors);
    let mut line = Vec::new();
    let mut minute = Box::pin(tokio::time::sleep(MINUTE));
    let (mut logged, mut left_out) = (0, 0_u64);
    loop {
        tokio::select! {
            () = &mut minute => {
                if left_out > 0 {
                    tracing::warn!(%tenant, %server, left_out, "an upstream complained more than is logged");
                }
                (logged, left_out) = (0, 0);
                minute = Box::pin(tokio::time::sleep(MINUTE));
            }
            read = errors.fill_buf() => {
                let Ok(read) = read else { return };
                let end = read.iter().position(|byte| *byte == b'\n');
                let (count, taken) = end.map_or((read.len(), read.len()), |end| (end, end + 1));
                let room = LINE.saturating_sub(line.len());
                line.extend_from_slice(&read[..count.min(room)]);
                errors.consume(taken);
                if taken > 0 && end.is_none() {
                    continue;
                }
                if logged < LINES && !line.is_empty() {
                    logged += 1;
                    let said = String::from_utf8_lossy(&line);
                    tracing::info!(%tenant, %server, "an upstream says: {}", said.trim_end());
                } else {
                    left_out += u64::from(!line.is_empty());
                }
                line.clear();
                if taken == 0 {
                    return;
                }
            }
        }
    }
}

/// What a process says, up to a line that is too long.
pub(super) struct Bounded {
    pipe: ChildStdout,
    line: usize,
    why: Why,
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(context, buffer))?;
        let read = &buffer.filled()[before..];
        self.line = match read.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => read.len() - end - 1,
            None => self.line + read.len(),
        };
        if self.line > MESSAGE {
            let message = format!("the other server said a line of more than {MESSAGE} bytes");
            self.why
                .set(Error::new(Kind::Unavailable, "remote_error", message));
            // The end, for whoever reads.
            buffer.set_filled(before);
        }
        Poll::Ready(Ok(()))
    }
}
