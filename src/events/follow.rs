//! Follows a tenant's log from a point on: waits for commits and reads what they brought.

use super::{Event, after, head};
use crate::ctx::Ctx;
use crate::error::Result;
use crate::id::TenantId;
use crate::store::Wake;

/// Events read at a time; the rest comes with the next call.
const PAGE: u32 = 200;

/// A reader of one tenant's log that remembers where it is.
pub struct Follow {
    ctx: Ctx,
    wake: Wake,
    sequence: i64,
}

impl Follow {
    /// Follows from the newest event on: what is committed after this call is seen.
    ///
    /// # Errors
    /// A failure of the database.
    pub async fn from_now(ctx: &Ctx) -> Result<Self> {
        let wake = ctx.wake();
        let sequence = ctx.read(|_, tx| head(tx)).await?;
        Ok(Self {
            ctx: ctx.clone(),
            wake,
            sequence,
        })
    }

    /// Whose log it is.
    pub fn tenant(&self) -> &TenantId {
        self.ctx.tenant()
    }

    /// The next events, at least one, in order. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A failure of the database.
    pub async fn next(&mut self) -> Result<Vec<Event>> {
        loop {
            let sequence = self.sequence;
            let events = self
                .ctx
                .read(move |_, tx| after(tx, sequence, PAGE))
                .await?;
            if let Some(last) = events.last() {
                self.sequence = last.sequence;
                return Ok(events);
            }
            self.wake.changed().await;
        }
    }
}
