//! PostgreSQL's extended query protocol, a flight at a time: what is sent together ends with one Sync, so that the server answers
//! it with one write and begins nothing behind a statement that failed.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING>

use std::io;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Message};
use postgres_protocol::message::frontend::{self, BindError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql, Type};

use super::dial::Stream;
use super::value::{Row, Value};

/// Numbers and bytes as they are, not as text.
const BINARY: i16 = 1;

/// A statement that the server has parsed.
pub(super) struct Prepared {
    name: String,
    parameters: Vec<Type>,
    columns: Vec<Type>,
}

/// What came of a statement.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(super) rows: Vec<Row>,
    /// How many rows it changed or returned.
    pub(super) changed: u64,
}

/// What the server says of a statement that failed.
#[derive(Debug, thiserror::Error)]
#[error("{message} ({})", code.code())]
pub(super) struct Told {
    pub(super) code: SqlState,
    pub(super) message: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Wrong {
    /// The server says why.
    #[error("{0}")]
    Told(#[from] Told),
    /// A value is not of the type that the statement has there.
    #[error("{0}")]
    Value(Box<dyn std::error::Error + Sync + Send>),
    /// The connection is gone.
    #[error("{0}")]
    Lost(#[from] io::Error),
}

type Result<T> = std::result::Result<T, Wrong>;

impl Prepared {
    /// How many values it takes.
    pub(super) fn parameters(&self) -> usize {
        self.parameters.len()
    }

    /// Adds one execution of it to a flight.
    pub(super) fn encode(&self, values: &[impl ToSql], out: &mut BytesMut) -> Result<()> {
        let typed = values.iter().zip(&self.parameters);
        let bound = frontend::bind(
            "",
            &self.name,
            [BINARY],
            typed,
            |(value, of), out| {
                let is_null = value.to_sql_checked(of, out)?;
                Ok(match is_null {
                    tokio_postgres::types::IsNull::Yes => postgres_protocol::IsNull::Yes,
                    tokio_postgres::types::IsNull::No => postgres_protocol::IsNull::No,
                })
            },
            [BINARY],
            out,
        );
        bound.map_err(|error| match error {
            BindError::Conversion(error) => Wrong::Value(error),
            BindError::Serialization(error) => Wrong::Value(error.into()),
        })?;
        Ok(frontend::execute("", 0, out)?)
    }

    fn row(&self, body: &DataRowBody) -> Result<Row> {
        let mut values = Vec::with_capacity(self.columns.len());
        let (mut ranges, mut columns) = (body.ranges(), self.columns.iter());
        while let (Some(range), Some(of)) = (ranges.next()?, columns.next()) {
            let raw = range.map(|range| &body.buffer()[range]);
            values.push(Value::from_sql_nullable(of, raw).map_err(Wrong::Value)?);
        }
        Ok(Row(values))
    }
}

/// Adds a statement without values or rows to a flight.
pub(super) fn encode_text(sql: &str, out: &mut BytesMut) -> io::Result<()> {
    frontend::parse("", sql, [], out)?;
    let bound = frontend::bind(
        "",
        "",
        [],
        [(); 0],
        |(), _| Ok(postgres_protocol::IsNull::Yes),
        [],
        out,
    );
    bound.map_err(|_| io::Error::other("a statement is too long"))?;
    frontend::execute("", 0, out)
}

/// A connection whose statements fly.
pub(super) struct Wire {
    stream: Stream,
    inbox: BytesMut,
    /// How many statements were prepared.
    prepared: usize,
    is_lost: bool,
}

impl Wire {
    /// Over a connection on which everything was answered.
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            inbox: BytesMut::new(),
            prepared: 0,
            is_lost: false,
        }
    }

    /// Whether the connection is of no more use.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Has the server parse a statement.
    pub(super) async fn prepare(&mut self, sql: &str) -> Result<Prepared> {
        self.prepared += 1;
        let mut prepared = Prepared {
            name: format!("baton{}", self.prepared),
            parameters: Vec::new(),
            columns: Vec::new(),
        };
        let mut out = BytesMut::new();
        frontend::parse(&prepared.name, sql, [], &mut out)?;
        frontend::describe(b'S', &prepared.name, &mut out)?;
        frontend::sync(&mut out);
        let (parameters, columns) = (&mut prepared.parameters, &mut prepared.columns);
        self.exchange(&out, |message| {
            match message {
                Message::ParameterDescription(body) => {
                    let types = body.parameters().map(|oid| Ok(known(oid)));
                    parameters.extend(types.collect::<Vec<_>>()?);
                }
                Message::RowDescription(body) => {
                    let types = body.fields().map(|field| Ok(known(field.type_oid())));
                    columns.extend(types.collect::<Vec<_>>()?);
                }
                _ => {}
            }
            Ok(())
        })
        .await?;
        Ok(prepared)
    }

    /// Sends a flight. `statements` are those in it, in order; `None` for one without rows. The answers of those before the first
    /// that failed, and why it did.
    pub(super) async fn fly(
        &mut self,
        out: &mut BytesMut,
        statements: &[Option<&Prepared>],
    ) -> (Vec<Answer>, Result<()>) {
        frontend::sync(out);
        let mut answers = Vec::with_capacity(statements.len());
        let mut rows = Vec::new();
        let outcome = self.exchange(out, |message| {
            match message {
                Message::DataRow(body) => {
                    if let Some(Some(statement)) = statements.get(answers.len()) {
                        rows.push(statement.row(&body)?);
                    }
                }
                Message::CommandComplete(body) => {
                    let tag = body.tag()?;
                    let count = tag.rsplit(' ').next().and_then(|count| count.parse().ok());
                    answers.push(Answer {
                        rows: std::mem::take(&mut rows),
                        changed: count.unwrap_or(0),
                    });
                }
                _ => {}
            }
            Ok(())
        });
        let outcome = outcome.await;
        (answers, outcome)
    }

    /// Runs statements that nobody prepares, one after another.
    pub(super) async fn run(&mut self, sql: &str) -> Result<()> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out)?;
        self.exchange(&out, |_| Ok(())).await
    }

    /// Sends what ends with a Sync, and takes the answers up to the server's being ready again: at the first that fails the
    /// others are only counted.
    async fn exchange(
        &mut self,
        out: &[u8],
        mut take: impl FnMut(Message) -> Result<()>,
    ) -> Result<()> {
        // Whoever leaves in the middle leaves answers behind.
        if std::mem::replace(&mut self.is_lost, true) {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        }
        let (mut read, mut write) = tokio::io::split(&mut self.stream);
        let inbox = &mut self.inbox;
        let send = async {
            write.write_all(out).await?;
            write.flush().await?;
            Ok(())
        };
        let receive = async {
            let mut wrong = None;
            loop {
                while let Some(message) = Message::parse(inbox)? {
                    let taken = match message {
                        Message::ReadyForQuery(_) => return Ok((wrong, true)),
                        Message::ErrorResponse(body) => Err(told(&body)?.into()),
                        Message::NoticeResponse(_)
                        | Message::ParameterStatus(_)
                        | Message::NotificationResponse(_) => Ok(()),
                        _ if wrong.is_some() => Ok(()),
                        message => take(message),
                    };
                    wrong = wrong.or(taken.err());
                }
                inbox.reserve(8 << 10);
                match read.read_buf(inbox).await {
                    Ok(0) if wrong.is_none() => {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                    }
                    Err(error) if wrong.is_none() => return Err(error),
                    // The server has said why it goes.
                    Ok(0) | Err(_) => return Ok((wrong, false)),
                    Ok(_) => {}
                }
            }
        };
        // Both at once: the server answers before it has read all.
        let ((), (wrong, is_ready)) = tokio::try_join!(send, receive)?;
        self.is_lost = !is_ready;
        wrong.map_or(Ok(()), Err)
    }
}

/// A type that the server has brought along; others have no values here.
fn known(oid: u32) -> Type {
    Type::from_oid(oid).unwrap_or(Type::UNKNOWN)
}

fn told(body: &ErrorResponseBody) -> io::Result<Told> {
    let (mut code, mut message) = (String::new(), String::new());
    let mut fields = body.fields();
    while let Some(field) = fields.next()? {
        let value = String::from_utf8_lossy(field.value_bytes());
        match field.type_() {
            b'C' => code = value.into_owned(),
            b'M' => message = value.into_owned(),
            _ => {}
        }
    }
    Ok(Told {
        code: SqlState::from_code(&code),
        message,
    })
}
