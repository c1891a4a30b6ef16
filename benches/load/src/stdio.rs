//! One child process with many calls in flight on its standard input and output, over pipes or, as Node clients hand
//! them out, over socket pairs.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::calls::Call;
use crate::meter::{Fail, Kind, Meter};
use crate::rpc::{self, Answer};

pub struct Child {
    process: tokio::process::Child,
    stdin: Option<Box<dyn AsyncWrite + Unpin>>,
    stdout: Box<dyn AsyncRead + Unpin>,
    call: Call,
    in_flight: usize,
    timeout: Duration,
}

impl Child {
    pub fn spawn(
        command: &[String],
        sockets: bool,
        call: Call,
        in_flight: usize,
        timeout: Duration,
    ) -> io::Result<Self> {
        let mut child = tokio::process::Command::new(&command[0]);
        child
            .args(&command[1..])
            .stderr(Stdio::inherit())
            .process_group(0)
            .kill_on_drop(true);
        let (process, stdin, stdout): (_, Box<dyn AsyncWrite + Unpin>, Box<dyn AsyncRead + Unpin>) =
            if sockets {
                let (stdin, far_stdin) = pair()?;
                let (stdout, far_stdout) = pair()?;
                let process = child.stdin(far_stdin).stdout(far_stdout).spawn()?;
                // The command keeps the far ends open; without them the child's end is seen.
                drop(child);
                (process, Box::new(stdin), Box::new(stdout))
            } else {
                let mut process = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
                let gone = || io::Error::other("the child has no standard streams");
                let stdin = process.stdin.take().ok_or_else(gone)?;
                let stdout = process.stdout.take().ok_or_else(gone)?;
                (process, Box::new(stdin), Box::new(stdout))
            };
        Ok(Self {
            process,
            stdin: Some(stdin),
            stdout,
            call,
            in_flight,
            timeout,
        })
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Keeps the calls in flight until the phase is over and everything is answered.
    pub async fn phase(&mut self, meter: &Meter) {
        if let Err(fail) = self.exchange(meter).await {
            meter.failed(fail);
        }
    }

    async fn exchange(&mut self, meter: &Meter) -> Result<(), Fail> {
        let Self {
            stdin: Some(stdin),
            stdout,
            call,
            in_flight,
            timeout,
            ..
        } = self
        else {
            return Err(Fail::new(Kind::Transport, "the child was stopped"));
        };
        let mut pending: HashMap<u64, (u64, Instant)> = HashMap::new();
        let (mut out, mut written, mut input, mut arguments) =
            (Vec::new(), 0, Vec::with_capacity(64 * 1024), Vec::new());
        loop {
            while pending.len() < *in_flight
                && let Some(number) = meter.take()
            {
                arguments.clear();
                call.arguments.render(number, 0, &mut arguments);
                call.tool.request(number + 1, &arguments, &mut out);
                out.push(b'\n');
                pending.insert(number + 1, (number, Instant::now()));
            }
            if pending.is_empty() {
                return Ok(());
            }
            let moved = async {
                // Writing and reading take turns: a server may stop reading until its answers are taken.
                tokio::select! {
                    biased;
                    sent = stdin.write(&out[written..]), if written < out.len() => sent.map(|n| { written += n; 1 }),
                    got = stdout.read_buf(&mut input) => got,
                }
            };
            let moved = tokio::time::timeout(*timeout, moved).await;
            if moved.map_err(|_| Fail::new(Kind::Transport, "no answer in time"))?? == 0 {
                return Err(Fail::new(Kind::Transport, "the server closed its output"));
            }
            if written == out.len() {
                out.clear();
                written = 0;
            }
            let mut read = 0;
            while let Some(length) = memchr::memchr(b'\n', &input[read..]) {
                settle(call, meter, &mut pending, &input[read..read + length]);
                read += length + 1;
            }
            input.drain(..read);
            if meter.given_up() {
                return Ok(());
            }
        }
    }

    /// Closes the input and reports whether the server ended by itself.
    pub async fn stop(mut self) -> bool {
        drop(self.stdin.take());
        let pid = self
            .process
            .id()
            .and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        if tokio::time::timeout(Duration::from_secs(3), self.process.wait())
            .await
            .is_ok()
        {
            return true;
        }
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _ = self.process.wait().await;
        false
    }
}

fn settle(call: &Call, meter: &Meter, pending: &mut HashMap<u64, (u64, Instant)>, line: &[u8]) {
    let Answer { id, verdict } = match rpc::judge(line) {
        Ok(Some(answer)) => answer,
        Ok(None) => return,
        Err(fail) => return meter.failed(fail),
    };
    let Some((number, started)) = pending.remove(&id) else {
        return meter.failed(Fail::new(
            Kind::Protocol,
            format!("answers the id {id}, which is not in flight"),
        ));
    };
    match verdict.and_then(|()| call.check(line, number, 0)) {
        Ok(()) => meter.good(started),
        Err(fail) => meter.failed(fail),
    }
}

fn pair() -> io::Result<(tokio::net::UnixStream, OwnedFd)> {
    let (near, far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    Ok((tokio::net::UnixStream::from_std(near)?, far.into()))
}
