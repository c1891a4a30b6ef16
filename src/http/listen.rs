//! Accepts connections, and stops in two phases: first no new ones while calls in flight finish, then an end.

use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::error::Problem;
use super::guard::Serves;
use super::http2::Watch;
use super::patient::Patient;
use crate::ctx::System;
use crate::quota::Limit;
use crate::throttle::{Key, Place};
use crate::tls::Tls;

/// How long calls in flight may go on once the server stops. Container runtimes kill ten seconds after they asked, and
/// the store closes after this.
pub(super) const GRACE: Duration = Duration::from_secs(7);
/// How long a connection may take to send a request's head, or rest between requests.
pub(super) const HEAD: Duration = Duration::from_secs(75);
/// How long a client may leave what was sent to it unread.
pub(super) const UNREAD: Duration = Duration::from_mins(1);
/// Connections beyond the bound that are told so at a time; still more are closed without a word.
const TURNED_AWAY: usize = 64;
/// What they are told, and how long they have to read it.
const NO_ROOM: &str = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\n\
    content-type: text/plain\r\ncontent-length: 32\r\n\r\ntoo many connections, come back\n";
const NO_SHARE: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 5\r\nconnection: close\r\n\
    content-type: text/plain\r\ncontent-length: 77\r\n\r\n\
    too many connections from your address (max_connections_per_address is full)\n";
pub(super) const FAREWELL: Duration = Duration::from_secs(2);
/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What TLS begins with: a record of the handshake.
const TLS_BEGINS: u8 = 22;
/// Requests that one connection of HTTP/2 may have open, and bytes of a head. Without a word hyper allows twice as many.
const STREAMS: u32 = 100;
const HEAD_BYTES: u32 = 16 << 10;
/// How long a client of HTTP/2 may owe the answer to a ping, which it is sent when nothing else shows that it lives.
pub(super) const PING: Duration = Duration::from_secs(20);

/// Room for connections: for all, and for one address.
pub(super) struct Room {
    slots: Arc<Semaphore>,
    /// Who counts those of an address, and whose connections are many others'.
    shares: Option<(System, Vec<IpAddr>)>,
}

/// What a connection takes of it.
type Slot = (OwnedSemaphorePermit, Option<Place>);

impl Room {
    /// Room for so many connections.
    pub(super) fn new(most: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(most)),
            shares: None,
        }
    }

    /// Counts those of each address but `proxies`.
    pub(super) fn shared(mut self, system: &System, proxies: &[IpAddr]) -> Self {
        self.shares = Some((system.clone(), proxies.to_vec()));
        self
    }

    /// A place for a connection of `peer`, or what it is told.
    fn slot(&self, peer: IpAddr) -> Result<Slot, &'static str> {
        let slot = self.slots.clone().try_acquire_owned();
        let slot = slot.map_err(|_| NO_ROOM)?;
        let peer = peer.to_canonical();
        let share = match &self.shares {
            Some((system, proxies)) if !proxies.contains(&peer) => {
                let limit = Limit::MaxConnectionsPerAddress;
                let place = system.throttle().place(limit, &Key::of_address(peer));
                Some(place.map_err(|_| NO_SHARE)?)
            }
            _ => None,
        };
        Ok((slot, share))
    }
}

/// Serves `served`, over TLS if there is a certificate, on as many connections as there is `room` for until `stopping`, then
/// lets calls in flight finish within `grace` and cuts what is left.
pub(super) async fn listen<S: Serves>(
    (listener, tls): (TcpListener, Option<Arc<Tls>>),
    served: S,
    room: Room,
    stopping: CancellationToken,
    grace: Duration,
) -> io::Result<()> {
    listener.local_addr()?;
    let (connections, cut) = (TaskTracker::new(), CancellationToken::new());
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let slot = match room.slot(peer) {
            Ok(slot) => slot,
            Err(told) => {
                if let Ok(turn) = turned_away.clone().try_acquire_owned() {
                    let (cut, tls) = (cut.clone(), tls.clone());
                    connections.spawn(async move {
                        let farewell = Box::pin(has_no_room(stream, tls, told));
                        let farewell = tokio::time::timeout(FAREWELL, farewell);
                        cut.run_until_cancelled(farewell).await;
                        drop(turn);
                    });
                }
                continue;
            }
        };
        let (served, ends) = (served.clone(), (stopping.clone(), cut.clone()));
        match tls.clone() {
            None => connections.spawn(converse((stream, peer), served, ends, slot)),
            Some(tls) => connections.spawn(converse_over(tls, (stream, peer), served, ends, slot)),
        };
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(grace, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = connections.len(),
            "cutting connections whose calls did not finish in time"
        );
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

/// Says that there is no room.
async fn has_no_room(stream: TcpStream, tls: Option<Arc<Tls>>, told: &str) -> io::Result<()> {
    match tls {
        None => turn_away(stream, told).await,
        Some(tls) => turn_away(agree(stream, &tls).await?, told).await,
    }
}

/// Answers whatever is asked. A socket that is closed with bytes unread is reset, and the answer would be lost with it.
async fn turn_away(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &str,
) -> io::Result<()> {
    let mut ignored = [0; 4_096];
    let _ = stream.read(&mut ignored).await?;
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// The next connection.
async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it Nagle holds the second small write of an answer back until the first is acknowledged.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY could not be set");
                }
                return (stream, peer.ip());
            }
            // Out of file descriptors, mostly: others must close theirs first. A peer that left is not worth a pause,
            // but can't be told apart on every platform.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Who is at the other end of a request's connection. Every request says so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// Serves one connection, in one future without copies: what waits here is multiplied by thousands of idle listeners.
async fn converse<S: Serves>(
    (stream, peer): (TcpStream, IpAddr),
    served: S,
    ends: (CancellationToken, CancellationToken),
    _slot: Slot,
) {
    let speaks_http2 = tokio::select! {
        spoken = tokio::time::timeout(HEAD, speaks_http2(&stream)) => spoken,
        () = ends.0.cancelled() => return,
    };
    let stream = Patient::new(stream, HEAD, UNREAD);
    match speaks_http2 {
        Ok(Ok(false)) => serve_http1((stream, peer), served, ends).await,
        // It is much larger than the other one, and much rarer.
        Ok(Ok(true)) => Box::pin(serve_http2((stream, peer), served, ends)).await,
        _ => {}
    }
}

/// As [`converse`], over TLS.
async fn converse_over<S: Serves>(
    tls: Arc<Tls>,
    (stream, peer): (TcpStream, IpAddr),
    served: S,
    ends: (CancellationToken, CancellationToken),
    _slot: Slot,
) {
    let agreed = tokio::select! {
        agreed = tokio::time::timeout(HANDSHAKE, agree(stream, &tls)) => agreed,
        () = ends.0.cancelled() => return,
    };
    let stream = match agreed {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS came about"),
        Err(_) => return tracing::debug!("a client took too long to agree on keys"),
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        Box::pin(serve_http2((stream, peer), served, ends)).await;
    } else {
        serve_http1((stream, peer), served, ends).await;
    }
}

/// Agrees with the client on keys. Patience lies beneath, where it sees what the client takes and not what is still to be sent.
async fn agree(stream: TcpStream, tls: &Tls) -> io::Result<TlsStream<Patient<TcpStream>>> {
    let mut begin = [TLS_BEGINS];
    stream.peek(&mut begin).await?;
    if begin != [TLS_BEGINS] {
        let detail = "this port speaks TLS; call https:// instead of http://";
        let answer = Problem::new("tls_needed", detail).into_text();
        let _ = tokio::time::timeout(FAREWELL, turn_away(stream, &answer)).await;
        let error = "the client does not speak TLS";
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    let stream = Patient::new(stream, HEAD, UNREAD);
    tls.acceptor().accept(stream).await
}

/// Serves one connection of HTTP/1.
async fn serve_http1<S: Serves>(
    (stream, peer): (impl AsyncRead + AsyncWrite + Unpin + Send + 'static, IpAddr),
    served: S,
    ends: (CancellationToken, CancellationToken),
) {
    let stream = TokioIo::new(stream);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        served.clone().call(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(stream, service);
    carry_on(connection, pending(), ends).await;
}

/// Serves one connection of HTTP/2.
pub(super) async fn serve_http2<S: Serves>(
    (stream, peer): (impl AsyncRead + AsyncWrite + Unpin + Send + 'static, IpAddr),
    served: S,
    ends: (CancellationToken, CancellationToken),
) {
    let watch = Watch::new();
    let served = watch.over(served);
    let idle = watch.until_idle(HEAD, UNREAD);
    let stream = TokioIo::new(stream);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        served.clone().call(request)
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES)
        .keep_alive_interval(UNREAD)
        .keep_alive_timeout(PING)
        .serve_connection(stream, service);
    carry_on(connection, idle, ends).await;
}

/// Drives a connection until it ends, is cut, or a while after it has become `idle`.
async fn carry_on<C>(
    connection: C,
    idle: impl Future<Output = ()>,
    (stopping, cut): (CancellationToken, CancellationToken),
) where
    C: GracefulConnection<Error = hyper::Error>,
{
    let mut connection = std::pin::pin!(connection);
    let mut idle = std::pin::pin!(idle);
    let mut is_stopping = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = stopping.cancelled(), if !is_stopping => {
                connection.as_mut().graceful_shutdown();
                is_stopping = true;
            }
            () = idle.as_mut() => {
                // It is told, so that a request that is on its way is asked again on another connection.
                connection.as_mut().graceful_shutdown();
                let farewell = tokio::time::timeout(FAREWELL, connection.as_mut());
                cut.run_until_cancelled(farewell).await;
                return tracing::debug!("an idle connection was closed");
            }
            () = cut.cancelled() => return,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Whether the connection begins as HTTP/2 does. The server's own detection takes the first bytes out of the stream,
/// for which each connection then holds a buffer of twice the size.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8; 3] = b"PRI";
    let mut pause = Duration::from_millis(10);
    loop {
        let mut begin = [0; PREFACE.len()];
        let count = stream.peek(&mut begin).await?;
        if count == 0 || begin[..count] != PREFACE[..count] {
            return Ok(false);
        }
        if count == PREFACE.len() {
            return Ok(true);
        }
        // What was seen stays there to be seen, so there is nothing to wait on.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn a_call_without_end_is_cut_when_the_grace_is_over() {
        let (begun, mut begins) = mpsc::channel::<()>(1);
        let endless = move || async move {
            begun.send(()).await.unwrap();
            std::future::pending::<()>().await;
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stopping = CancellationToken::new();
        let router = Router::new().route("/", get(endless));
        let grace = Duration::from_millis(50);
        let mut serving = JoinSet::new();
        serving.spawn(listen(
            (listener, None),
            router,
            Room::new(1),
            stopping.clone(),
            grace,
        ));
        let mut call = TcpStream::connect(address).await.unwrap();
        call.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        begins.recv().await.unwrap();
        stopping.cancel();
        serving.join_next().await.unwrap().unwrap().unwrap();
        let mut answer = Vec::new();
        call.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty());
    }

    #[tokio::test]
    async fn both_versions_are_told_apart_by_their_first_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stopping = CancellationToken::new();
        let router = Router::new().route("/", get(|| async { "here" }));
        let mut serving = JoinSet::new();
        serving.spawn(listen(
            (listener, None),
            router,
            Room::new(8),
            stopping.clone(),
            GRACE,
        ));
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let mut modern = TcpStream::connect(address).await.unwrap();
        modern.write_all(b"PR").await.unwrap();
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        plain.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.ends_with("here"), "{answer}");
        modern
            .write_all(b"I * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        modern.write_all(&settings).await.unwrap();
        let mut frame = [0; 9];
        modern.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame[3], 4, "the answer begins with settings: {frame:?}");
        stopping.cancel();
        serving.join_next().await.unwrap().unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_agree_on_keys_in_time_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = (listener, Some(Arc::new(Tls::unsigned())));
        let mut serving = JoinSet::new();
        serving.spawn(listen(
            port,
            Router::new(),
            Room::new(8),
            CancellationToken::new(),
            GRACE,
        ));
        for said in [&[][..], &[TLS_BEGINS], &[TLS_BEGINS, 3, 1, 1, 0, 1, 0]] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(said).await.unwrap();
            let mut heard = [0; 64];
            let early = tokio::time::timeout(HANDSHAKE / 10 * 9, client.read(&mut heard)).await;
            assert!(early.is_err(), "{said:?}: {early:?}");
            let end = tokio::time::timeout(HANDSHAKE / 5, client.read(&mut heard)).await;
            // What was not read may make it a reset.
            assert_eq!(end.expect("in time").unwrap_or_default(), 0, "{said:?}");
        }
    }
}
