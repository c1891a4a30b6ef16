//! HTTP+SSE, as servers of 2024 have it: one stream on which they say everything, and an address that they name there, to
//! which everything is said.

use std::borrow::Cow;

use futures::stream::{BoxStream, StreamExt as _};
use rmcp::RoleClient;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_client::SseError;
use sse_stream::Sse;

use super::Wrong;
use super::http::Line;
use crate::error::{Error, Kind};
use crate::outbound::beside;

/// A session over HTTP+SSE.
pub(super) struct Stream {
    /// Leads to where messages go.
    line: Line,
    events: BoxStream<'static, Result<Sse, SseError>>,
}

impl Stream {
    /// Opens the stream and hears where messages go: the same origin, since credentials go there too.
    pub(super) async fn open(mut line: Line) -> Result<Self, Wrong> {
        let mut events = line.listen().await?;
        let named = loop {
            match events.next().await {
                Some(Ok(sse)) if sse.event.as_deref() == Some("endpoint") => break sse.data,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break None,
            }
        };
        let endpoint = named.and_then(|named| beside(&line.url, named.trim()));
        let Some(endpoint) = endpoint else {
            let message = "the other server names no address of its own for messages; does it speak HTTP+SSE there?";
            line.why
                .set(Error::new(Kind::Unavailable, "remote_error", message));
            return Err(Wrong);
        };
        line.url = endpoint;
        Ok(Self { line, events })
    }
}

impl Transport<RoleClient> for Stream {
    type Error = Wrong;

    fn name() -> Cow<'static, str> {
        "HTTP+SSE".into()
    }

    fn send(
        &mut self,
        item: ClientJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Wrong>> + Send + 'static {
        let line = self.line.clone();
        async move { line.say(&item).await }
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        loop {
            let sse = self.events.next().await?.ok()?;
            let is_message = sse.event.as_deref().is_none_or(|event| event == "message");
            let data = sse.data.filter(|_| is_message);
            // What is no message is no answer either: whoever waits for one is not helped by an end.
            if let Some(message) = data.and_then(|data| serde_json::from_str(&data).ok()) {
                return Some(message);
            }
        }
    }

    async fn close(&mut self) -> Result<(), Wrong> {
        self.events = futures::stream::empty().boxed();
        Ok(())
    }
}
