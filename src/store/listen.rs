//! Wake-ups between replicas: one connection that tells of commits here and hears of commits elsewhere
//! (`LISTEN`/`NOTIFY`).
//!
//! A notification is sent after its commit and not in it, since PostgreSQL lets only one transaction that notifies
//! commit at a time. One that is lost is made up for by looking at the heads of the logs that somebody waits for.

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, Statement};

use super::hub::Hub;
use crate::clock::{Clock, Time};
use crate::database::{Dialled, Postgres, dialect};
use crate::error::{Error, Result};
use crate::id::TenantId;

/// How often the heads of the logs are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the clock is compared with the database's, in looks.
const COMPARE: u32 = 30;
/// After how long an unanswered look means that the connection is gone.
const SILENCE: Duration = Duration::from_secs(10);
/// How long to wait before connecting again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long commits are gathered behind a notification before the next one: each is a transaction for everybody who listens.
const GATHER: Duration = Duration::from_millis(5);
/// Bytes that PostgreSQL takes in a notification, with room to spare.
const PAYLOAD: usize = 7_500;

/// Tells other replicas of commits. Dropping the last one ends the connection.
#[derive(Clone)]
pub(super) struct Teller(UnboundedSender<Vec<TenantId>>);

impl Teller {
    /// Says that something of `tenants` was committed here.
    pub(super) fn tell(&self, tenants: &[TenantId]) {
        if !tenants.is_empty() {
            // Nobody hears it when the store is closing.
            let _ = self.0.send(tenants.to_vec());
        }
    }
}

/// Starts the connection on a thread of its own. `name` tells this process from others.
pub(super) fn start(
    to: &Postgres,
    hub: &Hub,
    clock: &Clock,
    name: String,
) -> Result<(Teller, JoinHandle<()>)> {
    let (sender, mut commits) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::internal)?;
    let mut ear = Ear {
        to: to.clone(),
        hub: hub.clone(),
        clock: clock.clone(),
        name,
        seen: HashMap::new(),
    };
    let thread = std::thread::Builder::new()
        .name("store-listen".into())
        .spawn(move || {
            runtime.block_on(async {
                while let Err(error) = ear.listen(&mut commits).await {
                    if commits.is_closed() {
                        return;
                    }
                    tracing::warn!(%error, "no wake-ups from other replicas for the moment");
                    sleep(PAUSE).await;
                }
            });
        })
        .map_err(Error::internal)?;
    Ok((Teller(sender), thread))
}

struct Ear {
    to: Postgres,
    hub: Hub,
    clock: Clock,
    name: String,
    /// The heads that were seen last.
    seen: HashMap<TenantId, i64>,
}

impl Ear {
    /// Tells and hears until the connection is lost (an error) or nobody can tell any more.
    async fn listen(&mut self, commits: &mut UnboundedReceiver<Vec<TenantId>>) -> Result<()> {
        let Dialled {
            client,
            mut connection,
            ..
        } = self.to.connect().await?;
        let (heard, mut notifications) = mpsc::unbounded_channel();
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message
                    && heard.send(notification.payload().to_owned()).is_err()
                {
                    break;
                }
            }
        });
        answered(client.batch_execute("SET baton.tenant = '*'; LISTEN baton")).await?;
        let line = Line::prepare(client).await?;
        // What was committed while nobody listened.
        self.hub.committed_elsewhere();
        let (mut look, mut looks) = (interval(LOOK), 0);
        let mut gathering = Box::pin(sleep(Duration::ZERO));
        loop {
            tokio::select! {
                payload = notifications.recv() => match payload {
                    Some(payload) => self.hear(&payload),
                    None => return Err(Error::internal("the connection ended")),
                },
                told = async {
                    gathering.as_mut().await;
                    commits.recv().await
                } => {
                    let Some(told) = told else { return Ok(()) };
                    let mut tenants: BTreeSet<TenantId> = told.into_iter().collect();
                    while let Ok(more) = commits.try_recv() {
                        tenants.extend(more);
                    }
                    self.notify(&line, tenants).await?;
                    gathering.set(sleep(GATHER));
                }
                _ = look.tick() => {
                    if looks % COMPARE == 0 {
                        self.clock.follow(line.time().await?);
                    }
                    looks += 1;
                    self.look(&line).await?;
                }
            }
        }
    }

    fn hear(&self, payload: &str) {
        let mut words = payload.split(' ');
        if words.next() != Some(&self.name) {
            let tenants: Vec<TenantId> = words.filter_map(|word| word.parse().ok()).collect();
            self.hub.committed(&tenants);
        }
    }

    async fn notify(&self, line: &Line, tenants: BTreeSet<TenantId>) -> Result<()> {
        let mut payload = self.name.clone();
        let mut send = Vec::new();
        for tenant in &tenants {
            if payload.len() + tenant.as_str().len() > PAYLOAD {
                send.push(std::mem::replace(&mut payload, self.name.clone()));
            }
            payload.push(' ');
            payload.push_str(tenant.as_str());
        }
        send.push(payload);
        for payload in send {
            answered(line.client.execute(&line.notify, &[&payload])).await?;
        }
        Ok(())
    }

    /// Wakes those who wait for a log that has grown.
    async fn look(&mut self, line: &Line) -> Result<()> {
        let waited: Vec<String> = self.hub.tenants().iter().map(ToString::to_string).collect();
        let rows = answered(line.client.query(&line.heads, &[&waited])).await?;
        let mut seen = HashMap::with_capacity(rows.len());
        for row in rows {
            let (tenant, head): (String, i64) = (row.get(0), row.get(1));
            if let Ok(tenant) = tenant.parse::<TenantId>() {
                if self.seen.get(&tenant) != Some(&head) {
                    self.hub.committed(std::slice::from_ref(&tenant));
                }
                seen.insert(tenant, head);
            }
        }
        self.seen = seen;
        Ok(())
    }
}

/// The connection, and what is said on it over and over.
struct Line {
    client: Client,
    notify: Statement,
    heads: Statement,
}

impl Line {
    async fn prepare(client: Client) -> Result<Self> {
        let heads = "SELECT tenant_id, sequence FROM tenants WHERE tenant_id = ANY($1::text[])";
        Ok(Self {
            notify: answered(client.prepare("SELECT pg_notify('baton', $1)")).await?,
            heads: answered(client.prepare(heads)).await?,
            client,
        })
    }

    /// The database's clock: leases go by it, so that all replicas agree on them.
    async fn time(&self) -> Result<Time> {
        let row = answered(self.client.query_one(dialect::TIME, &[])).await?;
        Ok(Time::from_micros(row.get(0)))
    }
}

async fn answered<T>(
    request: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    match timeout(SILENCE, request).await {
        Ok(answer) => answer.map_err(Error::internal),
        Err(silence) => Err(Error::internal(silence)),
    }
}
