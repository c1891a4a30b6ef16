//! `baton serve` and `baton stdio`: open, start, say where, stop in order.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;

use super::open;
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::tls::Tls;
use crate::{http, transport};

/// What running requests get to finish, and then the store to close.
const GRACE: (Duration, Duration) = (Duration::from_secs(7), Duration::from_secs(2));

pub(super) async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let mut stop = StopSignals::listen()?;
    let pair = config.tls.clone();
    let tls = pair
        .map(|pair| Tls::open(pair, Clock::system()))
        .transpose()?;
    let tls = tls.map(Arc::new);
    let listener = bind(&config).await?;
    raise_file_limit();
    let app = open(config)?;
    app.start_workers();
    let address = listener.local_addr()?;
    greet(&app, &format!("{}://{address}", app.config.scheme()));
    let front = |others| transport::front(&app, others);
    let mut serving = std::pin::pin!(http::serve(app.clone(), listener, tls.clone(), front));
    let served = tokio::select! {
        served = &mut serving => served,
        signal = stop.last(tls) => {
            tracing::info!("{signal} received, stopping");
            app.stopping().cancel();
            // Whoever does not finish in time sees its connection end.
            tokio::select! {
                served = tokio::time::timeout(GRACE.0, &mut serving) => served.unwrap_or(Ok(())),
                _ = stop.next() => Ok(()),
            }
        }
    };
    let _ = tokio::time::timeout(GRACE.1, app.stop()).await;
    served?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn stdio(config: Config) -> anyhow::Result<ExitCode> {
    let mut stop = StopSignals::listen()?;
    let app = open(config)?;
    app.start_workers();
    let served = tokio::select! {
        served = transport::serve_stdio(app.clone()) => served,
        _ = stop.next() => Ok(()),
    };
    app.stopping().cancel();
    // A client that closed the pipe waits for this process to be gone.
    let _ = tokio::time::timeout(Duration::from_millis(500), app.stop()).await;
    served?;
    Ok(ExitCode::SUCCESS)
}

/// Every connection is a file, and shells allow 1,024 unless asked for more.
#[cfg(unix)]
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(not(unix))]
fn raise_file_limit() {}

async fn bind(config: &Config) -> anyhow::Result<TcpListener> {
    let address = config.listen;
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
            "port {} is taken, perhaps by another Baton (`baton status --url {}://{address}` tells); stop that one, or \
             choose another port with --listen {}:{} (0 takes a free one)",
            address.port(),
            config.scheme(),
            address.ip(),
            address.port().wrapping_add(1)
        ),
        Err(error) => Err(error).with_context(|| format!("can't listen on {address}")),
    }
}

/// For people, and for scripts that look for the address: on standard error, whatever the log level.
fn greet(app: &App, url: &str) {
    let tenant = match &app.config.tenant {
        Some(tenant) => format!("  tenant   {tenant}, and no other\n"),
        None => String::new(),
    };
    let key = if app.access.is_open() {
        ""
    } else {
        " --header \"Authorization: Bearer KEY\""
    };
    let public_url = app.config.public_url.as_deref();
    let there = public_url.map_or(url, |url| url.trim_end_matches('/'));
    let text = format!(
        "Baton {} listens on {url}\n\
        \x20 data     {}\n\
        {tenant}\
        \x20 MCP      {there}/mcp (older clients: {there}/sse)\n\
        \x20 REST     {there}/docs\n\
        \x20 connect  claude mcp add --transport http baton {there}/mcp{key}\n",
        env!("CARGO_PKG_VERSION"),
        app.system.store().place(),
    );
    // A server without standard error still serves.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The signals that ask this process to stop. From when this is made on, none of them just ends it.
pub(super) struct StopSignals {
    #[cfg(unix)]
    signals: [(&'static str, tokio::signal::unix::Signal); 3],
}

impl StopSignals {
    #[cfg(unix)]
    pub(super) fn listen() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        // A file that may not grow any more is an error of the write, not the end of the process.
        drop(signal(SignalKind::from_raw(
            rustix::process::Signal::XFSZ.as_raw(),
        ))?);
        Ok(Self {
            signals: [
                ("SIGTERM", signal(SignalKind::terminate())?),
                ("SIGINT", signal(SignalKind::interrupt())?),
                ("SIGHUP", signal(SignalKind::hangup())?),
            ],
        })
    }

    /// Returns the name of the next one.
    #[cfg(unix)]
    pub(super) async fn next(&mut self) -> &'static str {
        let [terminate, interrupt, hangup] = &mut self.signals;
        tokio::select! {
            _ = terminate.1.recv() => terminate.0,
            _ = interrupt.1.recv() => interrupt.0,
            _ = hangup.1.recv() => hangup.0,
        }
    }

    /// Returns the name of the next one that stops a server. Where there is a certificate, SIGHUP asks to read it again.
    async fn last(&mut self, tls: Option<Arc<Tls>>) -> &'static str {
        loop {
            match (self.next().await, &tls) {
                ("SIGHUP", Some(tls)) => {
                    let tls = tls.clone();
                    let _ = tokio::task::spawn_blocking(move || tls.reload()).await;
                }
                (signal, _) => return signal,
            }
        }
    }

    #[cfg(not(unix))]
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    pub(super) async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(_) => std::future::pending().await,
        }
    }
}
