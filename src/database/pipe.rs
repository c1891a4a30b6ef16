//! A PostgreSQL connection that a thread of its own drives, with pipelining: statements whose answer nobody needs yet
//! travel together with the next one, in one flight.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::runtime::Runtime;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::value::{Row, Value};
use super::wire::{Answer, Prepared, Wire, Wrong, encode_text};
use super::{Postgres, fault, not_one};
use crate::error::{Error, Result};

/// After how long an unanswered flight is given up, and the connection with it.
const FLIGHT: Duration = Duration::from_secs(70);

/// After how many uses of a statement the server plans anew for the first time, and then whenever they are twice as many as
/// when it last did: what it planned while a table was empty reads all of it later, until statistics are gathered.
const REPLAN: u64 = 16;

/// A parameter that is an array.
#[derive(Debug)]
pub(crate) struct Many<'a>(pub(crate) &'a [Value]);

impl ToSql for Many<'_> {
    fn to_sql(
        &self,
        to: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.0.to_sql(to, out)
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

/// A statement of the next flight.
struct Deferred {
    /// The number of the operation that it belongs to.
    operation: usize,
    /// Where its bytes begin.
    begin: usize,
    /// What its rows are; nothing of one without rows.
    statement: Option<Arc<Prepared>>,
    /// How many rows it must change.
    expected: Option<u64>,
    /// Whether it changes anything.
    writes: bool,
    /// Whether its rows go to [`Pipe::take_kept`].
    kept: bool,
}

/// A statement that the server knows.
struct Known {
    statement: Arc<Prepared>,
    uses: u64,
    /// How many of these there were when all plans were thrown away.
    planned: u64,
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
    wire: Wire,
    /// By where their texts lie, and how long they are.
    statements: HashMap<(usize, usize), Known>,
    /// The next flight, and the statements in it.
    out: BytesMut,
    deferred: Vec<Deferred>,
    /// Whether a statement is used so much more often than when it was planned.
    is_outgrown: bool,
    operation: usize,
    /// Where the statements of this operation begin in `deferred`.
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
        let stream = runtime.block_on(to.connect())?.into_stream();
        let stream = stream.ok_or_else(|| Error::internal("a stream that nobody has"))?;
        Ok(Self {
            runtime,
            wire: Wire::new(stream),
            statements: HashMap::new(),
            out: BytesMut::new(),
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
        self.reset(text);
        if std::mem::take(&mut self.is_outgrown) {
            self.defer_text("DISCARD PLANS");
            for known in self.statements.values_mut() {
                known.planned = known.uses;
            }
        }
    }

    /// Gives a transaction up: forgets what was not sent, and the fault. `text` (ROLLBACK) goes with the next flight.
    pub(crate) fn reset(&mut self, text: &'static str) {
        self.deferred.clear();
        self.out.clear();
        self.fault = None;
        self.writes = false;
        self.kept = None;
        self.foreseen.clear();
        self.operation = usize::MAX;
        self.defer_text(text);
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
            if let Some(first) = self.deferred.get(self.mark) {
                self.out.truncate(first.begin);
            }
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
            self.defer(sql, values, None)?;
        }
        let mut answers = self.flush()?;
        for ((operation, question), place) in questions.into_iter().zip(places) {
            if let Some(answer) = answers.get_mut(place).map(std::mem::take) {
                self.foreseen.insert(operation, (question, answer.rows));
            }
        }
        Ok(())
    }

    /// Whether anything since [`Pipe::reset`] changes the database.
    pub(crate) fn writes(&self) -> bool {
        self.writes
    }

    /// Sends a query with the next flight; [`Pipe::take_kept`] has its rows then.
    pub(crate) fn defer_kept(&mut self, sql: &'static str, values: &[impl ToSql]) -> Result<()> {
        self.defer(sql, values, None)?;
        if let Some(last) = self.deferred.last_mut() {
            last.kept = true;
        }
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
        self.wire.is_lost() || matches!(self.fault, Some((Fault::Lost, _)))
    }

    /// Sends `text`, a statement without values or rows, with the next flight.
    pub(crate) fn defer_text(&mut self, text: &'static str) {
        let begin = self.out.len();
        match encode_text(text, &mut self.out) {
            Ok(()) => self.push(begin, None, None, false),
            Err(error) => drop(self.fail(Wrong::Value(error.into()), self.operation)),
        }
    }

    /// Sends a statement with the next flight, which fails unless it changes as many rows as `expected`.
    pub(crate) fn defer(
        &mut self,
        sql: &'static str,
        values: &[impl ToSql],
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
        let statement = self.statement(sql)?;
        if statement.parameters() != values.len() {
            self.fault = Some((Fault::Refused, self.operation));
            return Err(Error::internal(format!(
                "{} values for {} parameters: {sql}",
                values.len(),
                statement.parameters()
            )));
        }
        let begin = self.out.len();
        if let Err(wrong) = statement.encode(values, &mut self.out) {
            self.out.truncate(begin);
            return Err(self.fail(wrong, self.operation));
        }
        self.push(begin, Some(statement), expected, changes(sql));
        Ok(())
    }

    fn push(
        &mut self,
        begin: usize,
        statement: Option<Arc<Prepared>>,
        expected: Option<u64>,
        writes: bool,
    ) {
        self.deferred.push(Deferred {
            operation: self.operation,
            begin,
            statement,
            expected,
            writes,
            kept: false,
        });
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
        self.defer(sql, values, None)?;
        let answer = self.flush()?.pop().unwrap_or_default();
        Ok((answer.rows, answer.changed))
    }

    /// Sends everything that waits, in order, and awaits all answers.
    pub(crate) fn flush(&mut self) -> Result<Vec<Answer>> {
        if self.rehearsal.is_some() {
            return Err(Error::internal("an answer in a rehearsal"));
        }
        let sent = std::mem::take(&mut self.deferred);
        self.has_flown |= sent
            .get(self.mark..)
            .is_some_and(|own| own.iter().any(|statement| statement.writes));
        self.mark = 0;
        let statements: Vec<_> = sent.iter().map(|sent| sent.statement.as_deref()).collect();
        let flight = self.wire.fly(&mut self.out, &statements);
        let (mut answers, outcome) = in_time(&self.runtime, flight)
            .unwrap_or_else(|late| (Vec::new(), Err(Wrong::Lost(late))));
        self.out.clear();
        for (sent, answer) in sent.iter().zip(&mut answers) {
            if let Some(expected) = sent.expected
                && answer.changed != expected
            {
                self.fault = Some((Fault::Refused, sent.operation));
                return Err(not_one(answer.changed));
            }
            if sent.kept {
                self.kept = Some(std::mem::take(&mut answer.rows));
            }
        }
        // Nothing behind a statement that failed was begun.
        let culprit = sent
            .get(answers.len())
            .map_or(usize::MAX, |sent| sent.operation);
        outcome.map_err(|wrong| self.fail(wrong, culprit))?;
        Ok(answers)
    }

    fn fail(&mut self, wrong: Wrong, operation: usize) -> Error {
        type S = SqlState;
        let fault = match &wrong {
            Wrong::Lost(_) => Fault::Lost,
            Wrong::Told(told) if fault::ends_connection(&told.code) => Fault::Lost,
            Wrong::Told(told)
                if [S::T_R_SERIALIZATION_FAILURE, S::T_R_DEADLOCK_DETECTED]
                    .contains(&told.code) =>
            {
                Fault::Again
            }
            Wrong::Told(_) | Wrong::Value(_) => Fault::Refused,
        };
        self.fault = Some((fault, operation));
        fault::of_wire(wrong)
    }

    /// The statement of a text, which the server parses when it is used first.
    fn statement(&mut self, sql: &'static str) -> Result<Arc<Prepared>> {
        let place = (sql.as_ptr().addr(), sql.len());
        if let Some(known) = self.statements.get_mut(&place) {
            known.uses += 1;
            self.is_outgrown |= known.uses >= REPLAN.max(known.planned * 2);
            return Ok(known.statement.clone());
        }
        let prepared = in_time(&self.runtime, self.wire.prepare(sql))
            .unwrap_or_else(|late| Err(Wrong::Lost(late)));
        let statement = Arc::new(prepared.map_err(|wrong| self.fail(wrong, self.operation))?);
        let known = Known {
            statement: statement.clone(),
            uses: 1,
            planned: 0,
        };
        self.statements.insert(place, known);
        Ok(statement)
    }

    /// Runs several statements that nobody prepares: migrations.
    pub(crate) fn run_all(&mut self, sql: &str) -> Result<()> {
        let run = self.runtime.block_on(self.wire.run(sql));
        run.map_err(|wrong| self.fail(wrong, self.operation))
    }
}

/// What a request comes to, unless that takes too long.
fn in_time<T>(runtime: &Runtime, request: impl Future<Output = T>) -> io::Result<T> {
    let limited = async { tokio::time::timeout(FLIGHT, request).await };
    runtime.block_on(limited).map_err(io::Error::from)
}

/// Whether a statement changes anything, by how our own begin.
fn changes(sql: &str) -> bool {
    !sql.starts_with("SELECT") && !sql.starts_with("WITH RECURSIVE")
}
