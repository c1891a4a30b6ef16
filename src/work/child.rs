//! One running command: started through a supervisor, fed, listened to, and ended with its whole process group.
//!
//! The supervisor is this same binary (hidden verb `supervise`). It leads the command's process group and reads its
//! standard input: first the task, one line, which goes to the command; then nothing until the end of that pipe, which
//! means that the executor let go or died, by whatever signal. Then it ends the group. The command itself is bound to
//! the supervisor by the kernel's parent-death signal (hidden verb `bound`), in case that one is killed too.

use std::os::fd::AsFd;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;

use crate::places::program;

use super::output::{Output, Said, tail};

/// Time that a command has between being asked to end and being killed.
const MANNERS: Duration = Duration::from_secs(2);
/// Bytes of standard error kept.
const STDERR: usize = 8 * 1024;

/// A started command.
pub(super) struct Child {
    process: tokio::process::Child,
    group: Option<Pid>,
    /// Open for as long as the command may run.
    lifeline: Option<ChildStdin>,
}

/// How a command ended.
pub(super) struct Ended {
    /// Its exit code; 128 and the signal's number when a signal ended it.
    pub(super) code: i32,
    /// What it said on standard output.
    pub(super) said: Said,
    /// The end of what it said on standard error.
    pub(super) stderr: String,
}

/// The pipes to read from a command.
pub(super) struct Pipes {
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl Child {
    /// Starts `command` with `environment` and hands it `task`, which is one line.
    pub(super) async fn start(
        command: &str,
        environment: &[(&'static str, String)],
        task: &str,
    ) -> std::io::Result<(Self, Pipes)> {
        let mut process = Command::new(program()?)
            .args(["supervise", "--", command])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pipes = process.stdout.take().zip(process.stderr.take());
        let (Some((stdout, stderr)), Some(mut lifeline)) = (pipes, process.stdin.take()) else {
            return Err(std::io::Error::other("a started process has its pipes"));
        };
        let group = process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        // A supervisor that is already gone shows by its exit code.
        let _ = lifeline.write_all(format!("{task}\n").as_bytes()).await;
        let child = Self {
            process,
            group,
            lifeline: Some(lifeline),
        };
        Ok((child, Pipes { stdout, stderr }))
    }

    /// Returns when the command has ended, with whatever it left running ended too.
    pub(super) async fn wait(&mut self) -> i32 {
        let status = self.process.wait().await;
        self.kill_group();
        status.map_or(-1, code)
    }

    /// Asks the command to end, and kills it when it does not.
    pub(super) async fn end(&mut self) -> i32 {
        self.lifeline = None;
        if let Ok(code) = tokio::time::timeout(MANNERS * 2, self.wait()).await {
            return code;
        }
        self.kill_group();
        self.wait().await
    }

    fn kill_group(&self) {
        if let Some(group) = self.group {
            // Nobody left in the group is what is wanted.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Without this, a job that is dropped half-way would leave the end to the supervisor alone.
        if matches!(self.process.try_wait(), Ok(None)) {
            self.kill_group();
        }
    }
}

impl Pipes {
    /// Reads both pipes to their end; the newest progress goes to `progress`.
    pub(super) async fn read(
        self,
        progress: &watch::Sender<Option<Map<String, Value>>>,
    ) -> (Said, String) {
        tokio::join!(listen(self.stdout, progress), keep_tail(self.stderr))
    }
}

async fn listen(
    mut stdout: ChildStdout,
    progress: &watch::Sender<Option<Map<String, Value>>>,
) -> Said {
    let mut output = Output::default();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = stdout.read(&mut buffer).await {
        if let Some(newest) = output.push(&buffer[..read]) {
            progress.send_replace(Some(newest));
        }
    }
    if let Some(newest) = output.end_line() {
        progress.send_replace(Some(newest));
    }
    output.finish()
}

async fn keep_tail(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 4 * 1024];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        if kept.len() > 4 * STDERR {
            kept.drain(..kept.len() - STDERR);
        }
    }
    tail(String::from_utf8_lossy(&kept).trim_end(), STDERR).to_owned()
}

/// An exit status as one number, the way shells show it.
fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let by_signal = || status.signal().map(|signal| 128 + signal);
    status.code().or_else(by_signal).unwrap_or(-1)
}

/// The supervisor's whole life: runs `command` until it ends, or until standard input ends.
///
/// # Errors
/// The command can't be started.
pub async fn supervise(command: &str) -> std::io::Result<ExitCode> {
    use tokio::signal::unix::{SignalKind, signal};
    // Whoever asks the group to end means the command; this one stays to see to it.
    let _deaf = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    );
    let mut process = Command::new(program()?);
    if cfg!(target_os = "linux") {
        let own = std::process::id().to_string();
        process.args(["bound", &own, "--", "sh", "-c", command]);
    } else {
        process = Command::new("sh");
        process.args(["-c", command]);
    }
    let mut process = process.stdin(Stdio::piped()).spawn()?;
    let command_input = process.stdin.take();
    let status = tokio::select! {
        status = process.wait() => status?,
        () = lifeline(command_input) => {
            let group = rustix::process::getpgrp();
            let _ = rustix::process::kill_process_group(group, Signal::TERM);
            let _ = tokio::time::timeout(MANNERS, process.wait()).await;
            // Ends this process too, last of all.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
            process.wait().await?
        }
    };
    Ok(ExitCode::from(u8::try_from(code(status)).unwrap_or(1)))
}

/// Passes the first line of standard input on to the command, then returns at the end of standard input.
async fn lifeline(command: Option<ChildStdin>) {
    let pipe = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .and_then(tokio::net::unix::pipe::Receiver::from_owned_fd);
    let Ok(pipe) = pipe else { return };
    let mut stdin = BufReader::new(pipe);
    let mut task = Vec::new();
    if stdin.read_until(b'\n', &mut task).await.is_err() {
        return;
    }
    let feed = async {
        if let Some(mut pipe) = command {
            // A command that does not read its input is fine.
            let _ = pipe.write_all(&task).await;
        }
        std::future::pending::<()>().await;
    };
    let mut nothing = tokio::io::sink();
    tokio::select! {
        () = feed => {}
        _ = tokio::io::copy(&mut stdin, &mut nothing) => {}
    }
}

/// Becomes `command`, bound to the life of the process `parent`. Returns only when that fails.
#[cfg(target_os = "linux")]
pub fn bind(parent: i32, command: &[String]) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // A parent that died before the line above sends no signal any more.
    if rustix::process::getppid().map(|id| id.as_raw_nonzero().get()) != Some(parent) {
        return std::io::Error::other("the supervisor has gone");
    }
    match command.split_first() {
        Some((program, arguments)) => std::process::Command::new(program).args(arguments).exec(),
        None => std::io::ErrorKind::InvalidInput.into(),
    }
}

/// Other kernels know no parent-death signal; the supervisor runs the shell itself there.
#[cfg(not(target_os = "linux"))]
pub fn bind(_: i32, _: &[String]) -> std::io::Error {
    std::io::ErrorKind::Unsupported.into()
}
