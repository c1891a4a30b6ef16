//! A PostgreSQL connection that a thread of its own drives, with pipelining: statements whose answer nobody needs yet
//! travel together with the next one, in one flight.

use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use futures::future::{BoxFuture, FutureExt, MaybeDone, maybe_done};
use futures::{TryStreamExt, poll};
use tokio::runtime::Runtime;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Statement};

use super::value::{Row, Value};
use super::{Postgres, fault, not_one};
use crate::error::{Error, Result};

/// After how long an unanswered flight is given up, and the connection with it.
const FLIGHT: Duration = Duration::from_secs(70);

/// After how many uses of a statement the server plans it anew for the first time, and then whenever they are twice as
/// many: what it planned while a table was empty reads all of it later, until statistics are gathered.
const REPLAN: u64 = 16;

/// A parameter: a value, or an array of them.
#[derive(Debug, Clone)]
pub(crate) enum Param {
    One(Value),
    Many(Vec<Value>),
}

impl ToSql for Param {
    fn to_sql(
        &self,
        to: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::One(value) => value.to_sql(to, out),
            Self::Many(values) => values.to_sql(to, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// What became of a transaction that a statement failed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The statement was refused. The transaction can only be rolled back.
    Refused,
    /// The database asks for another try.
    Again,
    /// The connection is gone, and the transaction with it.
    Lost,
}

/// Something to send.
enum Message {
    Text(&'static str),
    Statement {
        statement: Statement,
        values: Vec<Param>,
        /// How many rows it must change.
        expected: Option<u64>,
        /// Whether it changes anything.
        writes: bool,
        /// Whether its rows go to [`Pipe::take_kept`].
        kept: bool,
    },
}

type Answer = std::result::Result<(Vec<tokio_postgres::Row>, u64), tokio_postgres::Error>;

impl Message {
    async fn send(&self, client: &Client) -> Answer {
        match self {
            Self::Text(text) => client.batch_execute(text).await.map(|()| (Vec::new(), 0)),
            Self::Statement {
                statement, values, ..
            } => {
                let mut rows = std::pin::pin!(client.query_raw(statement, values).await?);
                let mut found = Vec::new();
                while let Some(row) = rows.try_next().await? {
                    found.push(row);
                }
                Ok((found, rows.rows_affected().unwrap_or(0)))
            }
        }
    }
}

/// A query with its values.
pub(crate) type Question = (&'static str, Vec<Value>);

/// What an operation has done while it was rehearsed.
#[derive(Default)]
struct Rehearsal {
    has_changed: bool,
    first: Option<Question>,
}

/// A connection and what waits to be sent on it.
pub(crate) struct Pipe {
    runtime: Runtime,
    client: Client,
    /// By where their texts lie, and how long they are; each with its uses.
    statements: HashMap<(usize, usize), (Statement, u64)>,
    /// Messages for the next flight, each with the number of the operation that it belongs to.
    deferred: Vec<(usize, Message)>,
    /// Whether a statement is used so much more often than when it was planned.
    is_outgrown: bool,
    operation: usize,
    /// Where the messages of this operation begin in `deferred`.
    mark: usize,
    /// Whether a change of this operation has been sent.
    has_flown: bool,
    /// Whether anything since [`Pipe::reset`] changes the database.
    writes: bool,
    /// Rows that somebody asked for, but not yet.
    kept: Option<Vec<Row>>,
    rehearsal: Option<Rehearsal>,
    /// What operations ask before they change anything, by their numbers, and the answers.
    foreseen: HashMap<usize, (Question, Vec<Row>)>,
    fault: Option<(Fault, usize)>,
}

impl Pipe {
    /// Connects. The pipe must be used, and dropped, on a thread that is not a runtime's.
    ///
    /// # Errors
    /// `store_unavailable` when the server can't be reached, `store_forbidden` when it refuses, `store_unsupported`.
    pub(crate) fn connect(to: &Postgres) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::internal)?;
        let client = runtime.block_on(async {
            let (client, connection) = to.connect().await?;
            runtime.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a database connection ended");
                }
            });
            Postgres::begin_session(&client).await?;
            Ok::<_, Error>(client)
        })?;
        Ok(Self {
            runtime,
            client,
            statements: HashMap::new(),
            deferred: Vec::new(),
            is_outgrown: false,
            operation: 0,
            mark: 0,
            has_flown: false,
            writes: false,
            kept: None,
            rehearsal: None,
            foreseen: HashMap::new(),
            fault: None,
        })
    }

    /// Begins a transaction by `text`, which goes with the next flight, and forgets the one before.
    pub(crate) fn begin(&mut self, text: &'static str) {
        if std::mem::take(&mut self.is_outgrown) {
            self.reset("DISCARD PLANS");
            self.defer_text(text);
        } else {
            self.reset(text);
        }
    }

    /// Gives a transaction up: forgets what was not sent, and the fault. `text` (ROLLBACK) goes with the next flight.
    pub(crate) fn reset(&mut self, text: &'static str) {
        self.deferred.clear();
        self.fault = None;
        self.writes = false;
        self.kept = None;
        self.foreseen.clear();
        self.operation = usize::MAX;
        self.deferred.push((self.operation, Message::Text(text)));
    }

    /// Says that what follows belongs to operation `number` of a group.
    pub(crate) fn enter(&mut self, number: usize) {
        self.operation = number;
        self.mark = self.deferred.len();
        self.has_flown = false;
    }

    /// Takes back what the current operation changed, if nothing of it has been sent.
    pub(crate) fn take_back(&mut self) -> bool {
        if !self.has_flown && self.fault.is_none() {
            self.deferred.truncate(self.mark);
        }
        !self.has_flown && self.fault.is_none()
    }

    /// What `run` asks first, if it changes nothing before. Nothing is sent: the question fails.
    pub(crate) fn rehearse(&mut self, run: impl FnOnce(&mut Self)) -> Option<Question> {
        self.rehearsal = Some(Rehearsal::default());
        run(self);
        self.rehearsal.take()?.first
    }

    /// Sends what waits, these questions of operations among it, and keeps their answers: an operation that asks this before
    /// it changes anything is answered without a flight. `prepare` goes before each.
    pub(crate) fn foresee(
        &mut self,
        questions: Vec<(usize, Question)>,
        mut prepare: impl FnMut(&mut Self, usize) -> Result<()>,
    ) -> Result<()> {
        let mut places = Vec::with_capacity(questions.len());
        for (operation, (sql, values)) in &questions {
            prepare(self, *operation)?;
            self.enter(*operation);
            places.push(self.deferred.len());
            let values = values.iter().cloned().map(Param::One).collect();
            self.defer(sql, values, None)?;
        }
        let mut answers = self.flush_rows()?;
        for ((operation, question), place) in questions.into_iter().zip(places) {
            if let Some(rows) = answers.get_mut(place).map(std::mem::take) {
                self.foreseen.insert(operation, (question, rows));
            }
        }
        Ok(())
    }

    /// Whether anything since [`Pipe::reset`] changes the database.
    pub(crate) fn writes(&self) -> bool {
        self.writes
    }

    /// Sends a query with the next flight; [`Pipe::take_kept`] has its rows then.
    pub(crate) fn defer_kept(&mut self, sql: &'static str, values: Vec<Param>) -> Result<()> {
        let mut message = self.message(sql, values, None)?;
        if let Message::Statement { kept, .. } = &mut message {
            *kept = true;
        }
        self.deferred.push((self.operation, message));
        Ok(())
    }

    /// The rows of the query that was kept, making the flight if there was none since.
    pub(crate) fn take_kept(&mut self) -> Result<Vec<Row>> {
        if self.kept.is_none() {
            self.flush()?;
        }
        Ok(self.kept.take().unwrap_or_default())
    }

    /// What went wrong since [`Pipe::reset`], and with which operation.
    pub(crate) fn fault(&self) -> Option<(Fault, usize)> {
        self.fault
    }

    /// Whether the connection is of no more use.
    pub(crate) fn is_lost(&self) -> bool {
        self.client.is_closed() || matches!(self.fault, Some((Fault::Lost, _)))
    }

    /// Sends `text` with the next flight.
    pub(crate) fn defer_text(&mut self, text: &'static str) {
        self.deferred.push((self.operation, Message::Text(text)));
    }

    /// Sends a statement with the next flight, which fails unless it changes as many rows as `expected`.
    pub(crate) fn defer(
        &mut self,
        sql: &'static str,
        values: Vec<Param>,
        expected: Option<u64>,
    ) -> Result<()> {
        if let Some(rehearsal) = &mut self.rehearsal {
            rehearsal.has_changed |= changes(sql);
            return Ok(());
        }
        if changes(sql) {
            self.writes = true;
            self.foreseen.remove(&self.operation);
        }
        let message = self.message(sql, values, expected)?;
        self.deferred.push((self.operation, message));
        Ok(())
    }

    /// Sends everything that waits, and this statement; returns its rows and how many it changed.
    pub(crate) fn fly(&mut self, sql: &'static str, values: &[Value]) -> Result<(Vec<Row>, u64)> {
        if let Some(Rehearsal {
            has_changed: false,
            first,
        }) = &mut self.rehearsal
        {
            *first = (!changes(sql)).then(|| (sql, values.to_vec()));
        } else if let Some(((asked, with), rows)) = self.foreseen.remove(&self.operation)
            && std::ptr::eq(asked, sql)
            && with == values
        {
            return Ok((rows, 0));
        }
        self.fly_with(sql, values.iter().cloned().map(Param::One).collect())
    }

    /// As [`Pipe::fly`], with arrays.
    pub(crate) fn fly_with(
        &mut self,
        sql: &'static str,
        values: Vec<Param>,
    ) -> Result<(Vec<Row>, u64)> {
        self.defer(sql, values, None)?;
        let (rows, changed) = self.flush()?.pop().unwrap_or_default();
        let rows: Result<Vec<Row>> = rows.iter().map(row).collect();
        Ok((rows?, changed))
    }

    /// Sends everything that waits; returns the rows of each.
    pub(crate) fn flush_rows(&mut self) -> Result<Vec<Vec<Row>>> {
        let answers = self.flush()?;
        let rows = |(rows, _): &(Vec<tokio_postgres::Row>, u64)| rows.iter().map(row).collect();
        answers.iter().map(rows).collect()
    }

    /// Sends everything that waits, in order, and awaits all answers.
    pub(crate) fn flush(&mut self) -> Result<Vec<(Vec<tokio_postgres::Row>, u64)>> {
        if self.rehearsal.is_some() {
            return Err(Error::internal("an answer in a rehearsal"));
        }
        let sent = std::mem::take(&mut self.deferred);
        self.has_flown |= sent[self.mark.min(sent.len())..]
            .iter()
            .any(|(_, message)| matches!(message, Message::Statement { writes: true, .. }));
        self.mark = 0;
        let client = &self.client;
        let flight = async {
            let mut running: Vec<MaybeDone<BoxFuture<'_, Answer>>> = sent
                .iter()
                .map(|(_, message)| maybe_done(message.send(client).boxed()))
                .collect();
            // A message is written when its future is polled first: in this order.
            for message in &mut running {
                let _ = poll!(&mut *message);
            }
            let mut answers = Vec::with_capacity(running.len());
            for message in &mut running {
                (&mut *message).await;
                answers.extend(std::pin::Pin::new(message).take_output());
            }
            answers
        };
        let answers = self
            .runtime
            .block_on(async { tokio::time::timeout(FLIGHT, flight).await });
        let Ok(answers) = answers else {
            self.fault = Some((Fault::Lost, usize::MAX));
            return Err(fault::unreachable("the database did not answer in time"));
        };
        let mut all = Vec::with_capacity(answers.len());
        for ((operation, message), answer) in sent.iter().zip(answers) {
            match (answer, message) {
                (
                    Ok((_, rows)),
                    Message::Statement {
                        expected: Some(expected),
                        ..
                    },
                ) if rows != *expected => {
                    self.fault = Some((Fault::Refused, *operation));
                    return Err(not_one(rows));
                }
                (Ok((rows, changed)), Message::Statement { kept: true, .. }) => {
                    self.kept = Some(rows.iter().map(row).collect::<Result<_>>()?);
                    all.push((Vec::new(), changed));
                }
                (Ok(answer), _) => all.push(answer),
                // The first failure is the cause of those behind it.
                (Err(error), _) => return Err(self.fail(error, *operation)),
            }
        }
        Ok(all)
    }

    fn fail(&mut self, error: tokio_postgres::Error, operation: usize) -> Error {
        use tokio_postgres::error::SqlState as S;
        let fault = match error.code() {
            _ if fault::is_lost(&error) => Fault::Lost,
            Some(&S::T_R_SERIALIZATION_FAILURE | &S::T_R_DEADLOCK_DETECTED) => Fault::Again,
            _ => Fault::Refused,
        };
        self.fault = Some((fault, operation));
        fault::of_postgres(error)
    }

    fn message(
        &mut self,
        sql: &'static str,
        values: Vec<Param>,
        expected: Option<u64>,
    ) -> Result<Message> {
        let place = (sql.as_ptr().addr(), sql.len());
        let statement = if let Some((statement, uses)) = self.statements.get_mut(&place) {
            *uses += 1;
            self.is_outgrown |= *uses >= REPLAN && uses.is_power_of_two();
            statement.clone()
        } else {
            let prepared = self.runtime.block_on(self.client.prepare(sql));
            let statement = prepared.map_err(|error| self.fail(error, self.operation))?;
            self.statements.insert(place, (statement.clone(), 1));
            statement
        };
        if statement.params().len() != values.len() {
            self.fault = Some((Fault::Refused, self.operation));
            return Err(Error::internal(format!(
                "{} values for {} parameters: {sql}",
                values.len(),
                statement.params().len()
            )));
        }
        Ok(Message::Statement {
            statement,
            values,
            expected,
            writes: changes(sql),
            kept: false,
        })
    }

    /// Runs several statements that nobody prepares: migrations.
    pub(crate) fn run_all(&mut self, sql: &str) -> Result<()> {
        let run = self.runtime.block_on(self.client.batch_execute(sql));
        run.map_err(|error| self.fail(error, self.operation))
    }
}

/// Whether a statement changes anything, by how our own begin.
fn changes(sql: &str) -> bool {
    !sql.starts_with("SELECT") && !sql.starts_with("WITH RECURSIVE")
}

fn row(row: &tokio_postgres::Row) -> Result<Row> {
    let values: std::result::Result<Vec<Value>, _> =
        (0..row.len()).map(|index| row.try_get(index)).collect();
    values.map(Row).map_err(Error::internal)
}
