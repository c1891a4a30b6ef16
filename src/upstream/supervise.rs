//! The life of the process that ends an upstream's (hidden verb `run-upstream`). Both have the server's pipes, so nothing is
//! copied; this one waits for the end of standard input, which comes when the server lets go or dies, by whatever signal,
//! and then ends the command with all that it started, also what left its process group. Should this process be killed, the
//! kernel ends the command (hidden verb `bound`).

use std::io;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::places::program;

/// How long a command has to end after it is told: by the end of its input, then by a signal.
const MANNERS: Duration = Duration::from_secs(2);

/// Runs `command` until it ends, or standard input does.
///
/// # Errors
/// The command can't be started.
pub async fn supervise(command: &[String]) -> io::Result<ExitCode> {
    use tokio::signal::unix::{SignalKind, signal};
    // Whoever asks the group to end means the command; this one stays to see to it.
    let _deaf = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    );
    adopt()?;
    let mut process = start(command)?;
    let status = tokio::select! {
        status = process.wait() => status?,
        () = let_go() => end(&mut process).await?,
    };
    clear_away().await;
    Ok(code(status))
}

#[cfg(target_os = "linux")]
fn start(command: &[String]) -> io::Result<Child> {
    let own = std::process::id().to_string();
    let mut process = Command::new(program()?);
    process.args(["bound", &own, "--"]).args(command).spawn()
}

/// Other kernels know no parent-death signal.
#[cfg(not(target_os = "linux"))]
fn start(command: &[String]) -> io::Result<Child> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program).args(arguments).spawn()
}

/// Returns when nobody writes to standard input any more. It is not read: that is the command's.
async fn let_go() {
    let (tell, told) = oneshot::channel::<()>();
    // A thread of its own, which nothing waits for: it waits for as long as there is somebody.
    std::thread::spawn(move || {
        let stdin = io::stdin();
        loop {
            let mut all = [PollFd::new(&stdin, PollFlags::empty())];
            match poll(&mut all, None) {
                Err(rustix::io::Errno::INTR) => {}
                _ => break,
            }
        }
        drop(tell);
    });
    let _ = told.await;
}

/// Ends the command: its input has ended, and then it is asked, and then it is killed.
async fn end(process: &mut Child) -> io::Result<ExitStatus> {
    if let Ok(status) = tokio::time::timeout(MANNERS, process.wait()).await {
        return status;
    }
    let group = rustix::process::getpgrp();
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    if let Ok(status) = tokio::time::timeout(MANNERS, process.wait()).await {
        return status;
    }
    process.start_kill()?;
    process.wait().await
}

/// An exit status as this process passes it on.
fn code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let by_signal = || status.signal().map(|signal| 128 + signal);
    let code = status.code().or_else(by_signal).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// From here on, what loses its parent below this process becomes its child.
#[cfg(target_os = "linux")]
fn adopt() -> io::Result<()> {
    let own = rustix::process::getpid();
    Ok(rustix::process::set_child_subreaper(Some(own))?)
}

#[cfg(not(target_os = "linux"))]
fn adopt() -> io::Result<()> {
    Ok(())
}

/// Kills whatever the command left running, and waits until it is gone: children of what is killed become children of this.
#[cfg(target_os = "linux")]
async fn clear_away() {
    use rustix::process::{Pid, WaitOptions, kill_process, waitpid};
    loop {
        let children = children();
        if children.is_empty() {
            return;
        }
        for child in children.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(child, Signal::KILL);
            let _ = waitpid(Some(child), WaitOptions::NOHANG);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(target_os = "linux")]
fn children() -> Vec<i32> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let lists = threads
        .flatten()
        .map(|thread| thread.path().join("children"));
    let lists = lists.filter_map(|list| std::fs::read_to_string(list).ok());
    let children = lists.flat_map(|list| {
        let numbers: Vec<i32> = list
            .split(' ')
            .filter_map(|number| number.parse().ok())
            .collect();
        numbers
    });
    children.collect()
}

#[cfg(not(target_os = "linux"))]
async fn clear_away() {
    let group = rustix::process::getpgrp();
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
}
