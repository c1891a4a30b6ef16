//! Plain tool calls: complete in themselves, soon done and answered by one message. They are read and answered here
//! without rmcp's service loop, which costs several times what the operation does. Whatever is unusual about a message,
//! every mistake included, makes it no plain call: rmcp then decides, and answers a plain call with the same bytes.

use std::sync::Arc;

use rmcp::model::{
    ClientCapabilities, Implementation, ProtocolVersion, RequestId, ServerJsonRpcMessage,
    ServerResult,
};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use tracing::Instrument;

use super::server::{Named, actor, caught};
use super::session::{Begun, Shared, Signature};
use super::tools;
use crate::caller::Level;
use crate::ctx::{Ctx, choose_tenant};
use crate::op::{Output, Structured};
use crate::principal::Principal;
use crate::rounds::shows_forms;
use crate::trace::{NAMES, Trace};

/// A whole message. One with further members is for rmcp.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    jsonrpc: &'a str,
    id: RequestId,
    method: &'a str,
    #[serde(borrow)]
    params: Params<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params<'a> {
    name: &'a str,
    #[serde(default)]
    arguments: Map<String, Value>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Meta<'a>,
}

#[derive(Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a str>,
    #[serde(default, rename = "io.modelcontextprotocol/clientInfo")]
    client: Option<Implementation>,
    #[serde(default, rename = "io.modelcontextprotocol/clientCapabilities")]
    capabilities: Option<ClientCapabilities>,
    #[serde(
        borrow,
        default,
        rename = "dev.baton/tenant",
        deserialize_with = "present"
    )]
    tenant: Option<&'a str>,
    #[serde(default, rename = "progressToken")]
    progress: Option<IgnoredAny>,
    /// What is no level makes the message one for rmcp; short calls log nothing.
    #[serde(
        default,
        rename = "io.modelcontextprotocol/logLevel",
        deserialize_with = "present"
    )]
    _level: Option<Level>,
    #[serde(borrow, default)]
    traceparent: Option<&'a str>,
    #[serde(borrow, default)]
    tracestate: Option<&'a str>,
    #[serde(borrow, default)]
    baggage: Option<&'a str>,
}

impl Meta<'_> {
    fn trace(&self) -> Option<Trace> {
        self.traceparent?;
        let values = [self.traceparent, self.tracestate, self.baggage];
        Trace::read(|name| {
            let mut parts = NAMES.into_iter().zip(values);
            let (_, value) = parts.find(|(known, _)| *known == name)?;
            value.map(Into::into)
        })
    }
}

/// A null names a tenant too, though not one that there is.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A plain call, not yet made.
pub(crate) struct Plain {
    shared: Arc<Shared>,
    id: RequestId,
    tool: &'static str,
    input: Map<String, Value>,
    ctx: Ctx,
    is_legacy: bool,
}

impl Plain {
    /// Reads a message of `named`. `None` when it is anything but a plain call of a tool that does not wait.
    pub(crate) fn read(shared: &Arc<Shared>, named: &Named, text: &[u8]) -> Option<Self> {
        Self::read_within(shared, named, None, text)
    }

    /// As [`Plain::read`], in the session that `begun` tells of, if there is one.
    pub(super) fn read_within(
        shared: &Arc<Shared>,
        named: &Named,
        begun: Option<&Begun>,
        text: &[u8],
    ) -> Option<Self> {
        // serde_json does not look into the strings of bytes that it skips.
        let text = std::str::from_utf8(text).ok()?;
        let Message {
            jsonrpc,
            id,
            method,
            params,
        } = serde_json::from_str(text).ok()?;
        let meta = params.meta;
        let begun = match meta.version {
            None => Some(begun.filter(|begun| begun.is_legacy)?),
            Some(version) => {
                let is_modern = version == ProtocolVersion::V_2026_07_28.as_str();
                (is_modern && meta.capabilities.is_some()).then_some(())?;
                None
            }
        };
        let is_plain = jsonrpc == "2.0" && method == "tools/call" && meta.progress.is_none();
        let op = shared.app.catalog.op(params.name)?;
        if !is_plain || op.waits(&params.arguments) {
            return None;
        }
        let shows_forms = match begun {
            Some(begun) => begun.shows_forms,
            None => meta.capabilities.as_ref().is_some_and(shows_forms),
        };
        if shows_forms && op.may_ask(&params.arguments) {
            return None;
        }
        let bound = named.tenant.as_ref().or(begun
            .filter(|begun| begun.is_bound)
            .map(|begun| &begun.tenant));
        let principal = named.principal.as_ref();
        let chosen = [("_meta", meta.tenant)];
        let tenant = choose_tenant(principal.map(Arc::as_ref), bound, &chosen).ok()?;
        let client = meta.client.as_ref().or(begun.map(|begun| &begun.client));
        let actor = actor(client);
        let trace = meta.trace().or_else(|| named.trace.clone());
        let ctx = shared.app.system.ctx(tenant, &actor).of(principal);
        Some(Self {
            ctx: ctx.traced(trace),
            shared: shared.clone(),
            id,
            tool: op.name,
            input: params.arguments,
            is_legacy: begun.is_some(),
        })
    }

    /// The request's id.
    pub(crate) fn id(&self) -> &RequestId {
        &self.id
    }

    /// Whether `principal` may make it, as far as roles and scopes go.
    pub(crate) fn is_admitted(&self, principal: &Principal) -> bool {
        let op = self.shared.app.catalog.op(self.tool);
        op.is_some_and(|op| principal.may(op.permission, op.name))
    }

    /// The tool that is called.
    pub(crate) fn tool(&self) -> &'static str {
        self.tool
    }

    /// What it is called with.
    #[cfg(fuzzing)]
    pub(crate) fn input(&self) -> &Map<String, Value> {
        &self.input
    }

    /// Makes the call and returns the whole message to send back. Dropping the future cancels the call.
    pub(crate) fn answer(self) -> impl Future<Output = Vec<u8>> + Send + 'static {
        let span = self.ctx.span();
        self.call().instrument(span)
    }

    async fn call(self) -> Vec<u8> {
        let app = &self.shared.app;
        // On the heap once, rather than copied from one future into the next.
        let call = Box::pin(app.catalog.answer(self.ctx, self.tool, self.input));
        let outcome = caught(async {
            tokio::select! {
                biased;
                outcome = call => Ok(outcome),
                error = app.last_call() => Ok(Err(error)),
            }
        });
        let message = match outcome.await {
            Ok(outcome) => {
                let mut result = match outcome {
                    Ok(Output {
                        structured: Some(data),
                        content,
                        is_error: false,
                    }) if content.is_empty() => {
                        let signature = (!self.is_legacy).then_some(&self.shared.signature);
                        return write(&self.id, signature, &data);
                    }
                    Ok(output) => tools::result(output),
                    Err(error) => tools::refusal(&error),
                };
                if self.is_legacy {
                    result.result_type = None;
                } else {
                    self.shared.signature.sign(&mut result.meta);
                }
                ServerJsonRpcMessage::response(ServerResult::CallToolResult(result), self.id)
            }
            Err(error) => ServerJsonRpcMessage::error(error, Some(self.id)),
        };
        serde_json::to_vec(&message).expect("rmcp's messages are JSON")
    }
}

/// rmcp's message of a call that succeeded. The data is in it twice, once as text within text.
fn write(id: &RequestId, signature: Option<&Signature>, data: &Structured) -> Vec<u8> {
    let data = data.as_str();
    let mut message = Vec::with_capacity(384 + data.len() * 5 / 2);
    message.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    put(&mut message, id);
    message.extend_from_slice(match signature {
        Some(_) => br#","result":{"resultType":"complete","content":[{"type":"text","text":"#,
        None => br#","result":{"content":[{"type":"text","text":"#,
    });
    put(&mut message, data);
    message.extend_from_slice(br#"}],"structuredContent":"#);
    message.extend_from_slice(data.as_bytes());
    message.extend_from_slice(br#","isError":false"#);
    if let Some(signature) = signature {
        message.push(b',');
        message.extend_from_slice(signature.member.as_bytes());
    }
    message.extend_from_slice(b"}}");
    message
}

fn put(message: &mut Vec<u8>, part: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(message, part).expect("ids and texts are JSON");
}
