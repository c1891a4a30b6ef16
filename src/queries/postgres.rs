//! One connection to a PostgreSQL database that a tenant names, and a statement over it. It is connected to an address that was
//! looked at and to no other, and reads no more of an answer than it may.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::TryStreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::target::{Postgres, Tls};
use super::values::{Field, Parameter};
use super::{Answer, Ask, Column, Fault, Rows};
use crate::database::{ends_connection, tls_outside};
use crate::error::{Error, Kind, Result};
use crate::reach::Reach;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How much longer than the database the server waits.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes that are read for one answer at most, besides what the answer may be.
const READ: usize = 16 << 20;
/// What is left of a statement in its session.
const CLEAN: &str = "ROLLBACK; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *;
    SELECT pg_advisory_unlock_all(); DISCARD PLANS; DISCARD TEMP";

/// A connection that is open.
pub(super) struct Connection {
    client: Client,
    left: Left,
    #[expect(dead_code, reason = "held: the connection ends with it")]
    driver: JoinSet<()>,
}

/// What a connection is good for after a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// For the next one.
    Clean,
    /// For nothing: it ended, or what the statement left could not be taken back.
    Over,
    /// For nothing, and it was so before the statement came: nothing of that has been made.
    Unbegun,
}

/// How many bytes may still be read.
#[derive(Clone, Default)]
struct Left(Arc<AtomicUsize>);

impl Left {
    fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Connection {
    /// Connects to the first address of the host that answers. `authorities` are trusted besides the machine's.
    pub(super) async fn open(
        reach: &Reach,
        authorities: Option<&Path>,
        to: &Postgres,
    ) -> Result<Self> {
        let found = reach.addresses(&to.host).await;
        let found = found.map_err(|refused| refused.at("the host"))?;
        let connect = Self::connect(found, authorities, to);
        let connected = tokio::time::timeout(CONNECT, connect).await;
        connected.unwrap_or_else(|_| Err(unreachable("it does not answer in time")))
    }

    async fn connect(
        found: Vec<IpAddr>,
        authorities: Option<&Path>,
        to: &Postgres,
    ) -> Result<Self> {
        let found: Vec<SocketAddr> = found
            .into_iter()
            .map(|address| (address, to.port).into())
            .collect();
        let stream = TcpStream::connect(&found[..]).await;
        let stream = stream.map_err(|_| unreachable("nobody takes connections there"))?;
        let left = Left::default();
        left.set(READ);
        let stream = Bounded(stream, left.clone());
        let mut config = Config::new();
        config
            .user(&to.user)
            .dbname(&to.database)
            .application_name("baton");
        config.ssl_mode(match to.tls {
            Tls::Never => SslMode::Disable,
            Tls::Perhaps => SslMode::Prefer,
            Tls::Always | Tls::Checked => SslMode::Require,
        });
        if let Some(password) = &to.password {
            config.password(password.reveal());
        }
        let mut tls = MakeRustlsConnect::new(tls_outside(to.tls == Tls::Checked, authorities)?);
        let made = MakeTlsConnect::<Bounded>::make_tls_connect(&mut tls, &to.host);
        let tls =
            made.map_err(|_| unreachable("the host has no name that a certificate could bear"))?;
        let (client, connection) = config
            .connect_raw(stream, tls)
            .await
            .map_err(|error| refusal(&error))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // What went wrong is told to whoever waits for an answer.
            let _ = connection.await;
        });
        Ok(Self {
            client,
            left,
            driver,
        })
    }

    /// Whether it can be asked no more.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Makes a statement. Says besides what the connection is good for afterwards.
    pub(super) async fn ask(&mut self, to: &Postgres, ask: &Ask) -> (Result<Answer>, After) {
        self.left.set(READ + 2 * ask.bounds.bytes);
        let left = self.left.clone();
        let whole = tokio::time::timeout(ask.bounds.time() + GRACE, async {
            let answer = self.run(ask).await;
            let after = match &answer {
                Err(Wrong::AtBegin(error)) if is_lost(error) => After::Unbegun,
                _ if self.client.batch_execute(CLEAN).await.is_ok() => After::Clean,
                _ => After::Over,
            };
            (answer, after)
        });
        match whole.await {
            Ok((answer, after)) => (answer.map_err(|wrong| wrong.told(to, ask, &left)), after),
            Err(_) => (Err(Fault::Late(ask.bounds.millis).into()), After::Over),
        }
    }

    async fn run(&mut self, ask: &Ask) -> std::result::Result<Answer, Wrong> {
        let begin = self.client.build_transaction().read_only(!ask.writes);
        let transaction = begin.start().await.map_err(Wrong::AtBegin)?;
        // The statement at the end settles whether the transaction may write: from then on that can't be said otherwise.
        let millis = ask.bounds.millis;
        let settle = format!(
            "SET LOCAL statement_timeout = {millis}; SET LOCAL lock_timeout = {millis};
             SET LOCAL idle_in_transaction_session_timeout = 10000; SET LOCAL standard_conforming_strings = on;
             SET LOCAL client_min_messages = error; SELECT 1"
        );
        transaction.batch_execute(&settle).await?;
        let statement = transaction.prepare(&ask.sql).await?;
        let (wanted, given) = (statement.params().len(), ask.parameters.len());
        if wanted != given {
            return Err(Wrong::Ours(Fault::Miscounted(given, wanted).into()));
        }
        let columns = statement.columns().iter().map(|column| Column {
            name: column.name().to_owned(),
            kind: column.type_().name().to_owned(),
        });
        let mut rows = Rows::new(columns.collect(), ask.bounds);
        let parameters = ask.parameters.iter().map(Parameter);
        let portal = transaction.bind_raw(&statement, parameters).await?;
        // What changes rows changes all that it is to change, whatever of it is shown.
        let most = if ask.writes {
            0
        } else {
            i32::try_from(ask.bounds.rows + 1).unwrap_or(i32::MAX)
        };
        let stream = transaction.query_portal_raw(&portal, most).await?;
        let mut stream = std::pin::pin!(stream);
        while let Some(row) = stream.try_next().await? {
            let values = (0..row.len()).map(|at| row.try_get::<_, Field>(at).map(|field| field.0));
            rows.take(values.collect::<std::result::Result<_, _>>()?)
                .map_err(|fault| Wrong::Ours(fault.into()))?;
        }
        let mut answer = rows.answer;
        if ask.writes {
            answer.changed = stream.rows_affected();
            transaction.commit().await.map_err(Wrong::AtCommit)?;
        }
        Ok(answer)
    }
}

/// What went wrong.
enum Wrong {
    /// Found here.
    Ours(Error),
    /// Told, or lost, before the statement was sent.
    AtBegin(tokio_postgres::Error),
    /// Told by the database, or lost on the way.
    Theirs(tokio_postgres::Error),
    /// As it was told to keep a change.
    AtCommit(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Wrong {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Theirs(error)
    }
}

impl Wrong {
    /// For whoever asked.
    fn told(self, to: &Postgres, ask: &Ask, left: &Left) -> Error {
        let error = match self {
            Self::Ours(error) => return error,
            Self::AtCommit(error) if is_lost(&error) => {
                let message =
                    "the connection to the database broke as it was told to keep the change";
                return Error::new(Kind::Unavailable, "outcome_unknown", message);
            }
            Self::AtBegin(error) | Self::Theirs(error) | Self::AtCommit(error) => error,
        };
        if left.is_over() {
            return Fault::TooLarge.into();
        }
        let Some(told) = error.as_db_error() else {
            return match std::error::Error::source(&error) {
                // A value that can't be sent or shown, not the connection.
                Some(cause) if !cause.is::<io::Error>() && !error.is_closed() => {
                    Fault::Failed(to.hide(&cause.to_string())).into()
                }
                _ => unreachable("the connection was lost"),
            };
        };
        match *told.code() {
            SqlState::QUERY_CANCELED | SqlState::LOCK_NOT_AVAILABLE => {
                Fault::Late(ask.bounds.millis).into()
            }
            SqlState::READ_ONLY_SQL_TRANSACTION => Fault::changes().into(),
            ref code if ends_connection(code) => {
                unreachable("it is stopping, or ended the connection")
            }
            ref code => {
                let hint = told
                    .hint()
                    .map_or_else(String::new, |hint| format!("; {hint}"));
                let said = format!("{}{hint} ({})", told.message(), code.code());
                Fault::Failed(to.hide(&said)).into()
            }
        }
    }
}

/// Whether the connection is gone, by the request that failed on it.
fn is_lost(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(ends_connection)
}

/// Why no connection was made. What the server says of it may name who asks.
fn refusal(error: &tokio_postgres::Error) -> Error {
    let why = match error.code() {
        Some(code) if code.code().starts_with("28") => "it does not take the user and the password",
        Some(&SqlState::INVALID_CATALOG_NAME) => "it has no such database",
        Some(&SqlState::TOO_MANY_CONNECTIONS) => "it has as many connections as it takes",
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => "the user may not connect to the database",
        Some(_) => "it refuses connections",
        None => {
            "it does not speak as PostgreSQL does, its TLS is not what sslmode asks for, or it wants a password"
        }
    };
    unreachable(why)
}

fn unreachable(why: &str) -> Error {
    let message = format!("the database can't be asked: {why}");
    Error::unavailable("database_unusable", message, Duration::from_secs(5))
}

/// A connection that reads no more than what is left.
struct Bounded(TcpStream, Left);

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.1.is_over() {
            return Poll::Ready(Err(io::Error::other("the answer is too long")));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.0).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        let left = self.1.0.load(Ordering::Relaxed);
        self.1.set(left.saturating_sub(count));
        read
    }
}

impl AsyncWrite for Bounded {
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
