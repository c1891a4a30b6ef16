//! Connects to a PostgreSQL server: the hosts of a URL in turn, TLS, and who one is. `tokio_postgres` speaks until that is done
//! and no longer needs to: the stream is only lent to it.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use rand::seq::SliceRandom;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, Connection, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Bytes to a server and back, whatever carries them.
pub(super) type Stream = Box<dyn TlsStream + Send + Unpin>;

/// A connection on which nothing has been said but who one is. The second part must be polled for the first one to work.
pub(crate) struct Dialled {
    pub(crate) client: Client,
    pub(crate) connection: Connection<Lent, Lent>,
    lent: Lent,
}

impl Dialled {
    /// Takes the stream back, when every request was answered.
    pub(super) fn into_stream(self) -> Option<Stream> {
        self.lent.take()
    }
}

/// Why nobody was reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// No connection, or none of the kind that was asked for.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// The server did not let us in.
    #[error("{0}")]
    Login(#[from] tokio_postgres::Error),
}

/// Connects to the first host of `config` that takes us.
pub(super) async fn dial(
    config: &Config,
    tls: &MakeRustlsConnect,
) -> std::result::Result<Dialled, DialError> {
    let (hosts, addresses, ports) = (
        config.get_hosts(),
        config.get_hostaddrs(),
        config.get_ports(),
    );
    let count = hosts.len().max(addresses.len());
    let fits = |number: usize| number < 2 || number == count;
    if count == 0 || !fits(ports.len()) || !hosts.is_empty() && !fits(addresses.len()) {
        let message = "it names no host, or not as many hosts as addresses or ports";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message).into());
    }
    let is_shuffled = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
    let mut order: Vec<usize> = (0..count).collect();
    if is_shuffled {
        order.shuffle(&mut rand::rng());
    }
    let mut refused = DialError::Socket(io::ErrorKind::NotFound.into());
    for index in order {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        let (name, address) = match (hosts.get(index), addresses.get(index)) {
            #[cfg(unix)]
            (Some(Host::Unix(folder)), _) => {
                match login(config, tls, None, unix(folder, port)).await {
                    Ok(dialled) => return Ok(dialled),
                    Err(error) => refused = error,
                }
                continue;
            }
            (Some(Host::Tcp(name)), address) => (name.clone(), address),
            (None, Some(address)) => (address.to_string(), Some(address)),
            (None, None) => continue,
        };
        let found = match address {
            Some(address) => Ok(vec![SocketAddr::new(*address, port)]),
            None => tokio::net::lookup_host((&*name, port))
                .await
                .map(Iterator::collect),
        };
        let mut found = match found {
            Ok(found) => found,
            Err(error) => {
                refused = error.into();
                continue;
            }
        };
        if is_shuffled {
            found.shuffle(&mut rand::rng());
        }
        for address in found {
            match login(config, tls, Some(&name), tcp(config, address)).await {
                Ok(dialled) => return Ok(dialled),
                Err(error) => refused = error,
            }
        }
    }
    Err(refused)
}

/// A connection over TCP, which ends when its peer is silent.
async fn tcp(config: &Config, to: SocketAddr) -> io::Result<Stream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(config.get_tcp_user_timeout().copied())?;
    if config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(Box::new(Plain(stream)))
}

#[cfg(unix)]
async fn unix(folder: &std::path::Path, port: u16) -> io::Result<Stream> {
    let path = folder.join(format!(".s.PGSQL.{port}"));
    let stream = tokio::net::UnixStream::connect(path).await?;
    Ok(Box::new(Plain(stream)))
}

/// Connects to one host, unless that takes longer than `connect_timeout`.
async fn login(
    config: &Config,
    tls: &MakeRustlsConnect,
    name: Option<&str>,
    stream: impl Future<Output = io::Result<Stream>>,
) -> std::result::Result<Dialled, DialError> {
    let known = introduced(config, tls, name, stream);
    let Some(limit) = config.get_connect_timeout() else {
        return known.await;
    };
    tokio::time::timeout(*limit, known)
        .await
        .map_err(io::Error::from)?
}

/// Says who one is, over TLS where that is asked for; `name` is what the server's certificate has to bear.
async fn introduced(
    config: &Config,
    tls: &MakeRustlsConnect,
    name: Option<&str>,
    stream: impl Future<Output = io::Result<Stream>>,
) -> std::result::Result<Dialled, DialError> {
    let lent = Lent(Arc::new(Mutex::new(Some(stream.await?))));
    let mut config = config.clone();
    if name.is_none() && config.get_ssl_mode() == SslMode::Prefer {
        // No server speaks TLS over a Unix socket.
        config.ssl_mode(SslMode::Disable);
    }
    let secure = Secure(tls.clone(), name.unwrap_or_default().to_owned());
    let (client, mut connection) = config.connect_raw(lent.clone(), secure).await?;
    let wanted = match config.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite => Some("off"),
        TargetSessionAttrs::ReadOnly => Some("on"),
        _ => None,
    };
    if let Some(wanted) = wanted {
        let asked = client.simple_query("SHOW transaction_read_only");
        let rows = driven(&mut connection, asked).await??;
        let is_so = rows
            .iter()
            .any(|row| matches!(row, SimpleQueryMessage::Row(row) if row.get(0) == Some(wanted)));
        if !is_so {
            let message = "it is not what target_session_attrs asks for";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message).into());
        }
    }
    Ok(Dialled {
        client,
        connection,
        lent,
    })
}

/// Awaits a request of the client of `connection`, or that connection's end.
pub(super) async fn driven<T>(
    connection: &mut Connection<Lent, Lent>,
    request: impl Future<Output = T>,
) -> io::Result<T> {
    let mut request = std::pin::pin!(request);
    tokio::select! {
        answer = &mut request => Ok(answer),
        _ = connection => {
            // What the server said last may be its answer. Whoever waits for more waits for ever: nobody drops the connection.
            let last = poll_fn(|cx| Poll::Ready(request.as_mut().poll(cx))).await;
            let Poll::Ready(answer) = last else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            Ok(answer)
        }
    }
}

/// A stream in the hands of somebody else, until it is taken back.
#[derive(Clone)]
pub(crate) struct Lent(Arc<Mutex<Option<Stream>>>);

impl Lent {
    fn take(&self) -> Option<Stream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, stream: Stream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }

    /// What `act` makes of the stream, unless it was taken back.
    fn with<T>(&self, act: impl FnOnce(Pin<&mut Stream>) -> T) -> Option<T> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.as_mut().map(|stream| act(Pin::new(stream)))
    }
}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, buf))
            .unwrap_or_else(gone)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, buf))
            .unwrap_or_else(gone)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
            .unwrap_or_else(gone)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
            .unwrap_or_else(gone)
    }
}

impl TlsStream for Lent {
    fn channel_binding(&self) -> ChannelBinding {
        self.with(|stream| stream.channel_binding())
            .unwrap_or_else(ChannelBinding::none)
    }
}

/// TLS over a lent stream, which lends the secured one from then on; with the name of the server.
struct Secure(MakeRustlsConnect, String);

impl TlsConnect<Lent> for Secure {
    type Stream = Lent;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Lent>> + Send>>;

    fn connect(mut self, lent: Lent) -> Self::Future {
        Box::pin(async move {
            let made = MakeTlsConnect::<Stream>::make_tls_connect(&mut self.0, &self.1);
            let tls = made.map_err(io::Error::other)?;
            let bare = lent.take().ok_or(io::ErrorKind::NotConnected)?;
            lent.put(Box::new(tls.connect(bare).await?));
            Ok(lent)
        })
    }
}

/// A stream without TLS.
struct Plain<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Plain<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plain<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Plain<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}
