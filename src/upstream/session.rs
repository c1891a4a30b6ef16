//! One session with another server, as rmcp speaks it: begun in whichever era the other end knows, called, and let go of by
//! dropping it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use rmcp::handler::client::ClientHandler;
use rmcp::handler::client::progress::ProgressDispatcher;
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig,
    ClientRequest, Implementation, PaginatedRequestParams, ProgressNotificationParam,
    ProtocolVersion, ServerResult, Tool,
};
use rmcp::service::{
    ClientInitializeError, ClientLifecycleMode, ClientServiceExt as _, NotificationContext,
    PeerRequestOptions, RequestHandle, RunningService, ServiceError,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{RoleClient, transport::IntoTransport};
use serde_json::{Map, Value};
use tokio::runtime::Handle;

use super::answer::hash_of;
use super::http::Line;
use super::pool::{Failed, Tasks};
use super::process::{self, About};
use super::sse::Stream;
use super::target::{Target, Way};
use super::{MESSAGE, Transport, Why};
use crate::caller::Progress;
use crate::clock::Time;
use crate::ctx::Ctx;
use crate::error::{Error, Kind, Result};

/// Pages of a list of tools that are read, and tools of it that are known.
const PAGES: usize = 20;
const TOOLS: usize = 1_000;
/// Characters of a refusal that are shown.
const SHOWN: usize = 1_000;

/// What hears a server between answers.
#[derive(Default)]
struct Ear(ProgressDispatcher);

impl ClientHandler for Ear {
    fn get_info(&self) -> ClientConfig {
        let own = Implementation::new("baton", env!("CARGO_PKG_VERSION"));
        // Nobody stands behind this client who could be asked anything.
        ClientConfig::new(ClientCapabilities::default(), own)
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
    }

    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        self.0.handle_notification(params).await;
    }
}

/// A session that can be used.
pub(super) struct Session {
    running: RunningService<RoleClient, Ear>,
    why: Why,
    /// Since when, by the steady clock.
    pub(super) begun: Time,
    /// The revision that both ends speak.
    pub(super) protocol: String,
    /// The hashes of its tools, by name.
    pub(super) tools: BTreeMap<String, String>,
    is_process: bool,
}

/// Begins a session. Processes are watched by `tasks`.
pub(super) async fn begin(
    target: &Target,
    program: &Path,
    tasks: &Tasks,
    begun: Time,
) -> Result<Session> {
    let (why, auto) = (
        Why::default(),
        ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::LATEST],
            legacy_version: None,
        },
    );
    let mut running = reach(target, (program, tasks), &why, auto).await;
    // Some servers of older revisions leave when they are asked for what they don't know.
    let is_process = matches!(target.way, Way::Command(_));
    let is_there =
        |error: &Error| !matches!(error.code(), "address_refused" | "remote_unreachable");
    if running
        .as_ref()
        .is_err_and(|error| is_process || is_there(error))
    {
        why.take();
        running = reach(
            target,
            (program, tasks),
            &why,
            ClientLifecycleMode::Initialize,
        )
        .await;
    }
    let running = running?;
    let mut session = Session {
        protocol: running
            .peer_info()
            .map(|info| info.protocol_version.to_string())
            .unwrap_or_default(),
        running,
        why,
        begun,
        tools: BTreeMap::new(),
        is_process,
    };
    // Also tells rmcp which arguments the server wants to see in headers.
    let tools = session
        .list()
        .await
        .map_err(|failed| failed.into_error(target))?;
    session.tools = tools
        .iter()
        .map(|tool| (tool.name.to_string(), hash_of(tool)))
        .collect();
    Ok(session)
}

async fn reach(
    target: &Target,
    (program, tasks): (&Path, &Tasks),
    why: &Why,
    lifecycle: ClientLifecycleMode,
) -> Result<RunningService<RoleClient, Ear>> {
    match &target.way {
        Way::Command(command) => {
            let about = About {
                tenant: target.key.0.to_string(),
                server: target.label.clone(),
            };
            let started = process::start(program, command, about, why);
            let (pipes, watching) = started.map_err(|error| not_started(target, error))?;
            tasks.spawn(watching);
            serve((pipes.output, pipes.input), lifecycle, (why, true)).await
        }
        Way::Url {
            url,
            transport,
            headers,
            outside,
        } => {
            let line = Line {
                outside: outside.clone(),
                url: url.clone(),
                headers: headers.clone(),
                why: why.clone(),
            };
            match transport {
                Transport::Http => {
                    let mut config = StreamableHttpClientTransportConfig::with_uri("upstream");
                    config.max_sse_event_size = MESSAGE;
                    let over = StreamableHttpClientTransport::with_client(line, config);
                    serve(over, lifecycle, (why, false)).await
                }
                Transport::Sse => {
                    let lost = || why.take().unwrap_or_else(|| broken("hung up"));
                    let stream = Stream::open(line).await.map_err(|_| lost())?;
                    serve(stream, ClientLifecycleMode::Initialize, (why, false)).await
                }
            }
        }
    }
}

async fn serve<T, E, A>(
    over: T,
    lifecycle: ClientLifecycleMode,
    (why, is_process): (&Why, bool),
) -> Result<RunningService<RoleClient, Ear>>
where
    T: IntoTransport<RoleClient, E, A>,
    E: std::error::Error + Send + Sync + 'static,
{
    let begun = Ear::default().serve_with_lifecycle(over, lifecycle).await;
    let error = match begun {
        Ok(running) => return Ok(running),
        Err(error) => error,
    };
    let is_over = matches!(error, ClientInitializeError::ConnectionClosed(_));
    let found = why.found(is_process && is_over).await;
    let found = found.unwrap_or_else(|| match &error {
        ClientInitializeError::JsonRpcError(said) => {
            broken(&format!("refused to begin: {}", cut(&said.message)))
        }
        ClientInitializeError::LegacyFallbackFailed { .. } => {
            broken("knows neither way to begin a session")
        }
        ClientInitializeError::ConnectionClosed(_) => broken("hung up before a session began"),
        ClientInitializeError::NoCompatibleProtocolVersion { .. } => {
            broken("speaks no revision of MCP that this one does")
        }
        _ => broken("does not begin a session as MCP has it"),
    });
    Err(found.with_source(error))
}

fn not_started(target: &Target, error: io::Error) -> Error {
    let message = format!(
        "the process of the server {} can't be started: {error}",
        target.label
    );
    Error::new(Kind::Unavailable, "remote_unreachable", message)
}

fn broken(how: &str) -> Error {
    Error::new(
        Kind::Unavailable,
        "remote_error",
        format!("the other server {how}"),
    )
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

impl Session {
    /// Whether the other end has gone.
    pub(super) fn is_over(&self) -> bool {
        self.running.is_closed() || self.running.is_transport_closed()
    }

    /// The tools of the server, so many of them.
    pub(super) async fn list(&self) -> std::result::Result<Vec<Tool>, Failed> {
        let (mut tools, mut cursor) = (Vec::new(), None);
        for _ in 0..PAGES {
            let page = PaginatedRequestParams::default().with_cursor(cursor);
            let page = self.running.list_tools(Some(page)).await;
            let page = match page {
                Ok(page) => page,
                Err(error) => return Err(self.failed(error).await),
            };
            tools.extend(page.tools);
            cursor = page.next_cursor;
            if cursor.is_none() || tools.len() >= TOOLS {
                break;
            }
        }
        tools.truncate(TOOLS);
        Ok(tools)
    }

    /// Calls a tool, and tells the caller of `ctx` how far it has come. When this is dropped, the other end is told so.
    pub(super) async fn call(
        &self,
        ctx: &Ctx,
        (tool, arguments): (&str, &Map<String, Value>),
    ) -> std::result::Result<CallToolResult, Failed> {
        let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments.clone());
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        let sent = self
            .running
            .send_cancellable_request(request, PeerRequestOptions::no_options());
        let Ok(handle) = sent.await else {
            return Err(Failed::Unsent(self.lost().await));
        };
        let token = handle.progress_token.clone();
        let mut steps = self.running.service().0.subscribe(token).await;
        let mut going = Going(Some(handle));
        loop {
            let Some(handle) = &mut going.0 else {
                return Err(Failed::Broken(self.lost().await));
            };
            tokio::select! {
                // What was told before the answer is passed on before it.
                biased;
                Some(step) = steps.next() => ctx.report_progress(Progress {
                    progress: step.progress,
                    total: step.total,
                    message: step.message.as_deref().map(cut),
                }),
                answer = &mut handle.rx => {
                    going.0 = None;
                    let answer = answer.unwrap_or(Err(ServiceError::TransportClosed));
                    return self.result(answer).await;
                }
            }
        }
    }

    async fn result(
        &self,
        answer: std::result::Result<ServerResult, ServiceError>,
    ) -> std::result::Result<CallToolResult, Failed> {
        let refused = |what: &str| Err(Failed::Refused(format!("the other server {what}")));
        match answer {
            Ok(ServerResult::CallToolResult(result)) => Ok(result),
            Ok(ServerResult::InputRequiredResult(_)) => {
                refused("asks its user something, and nobody here can answer")
            }
            Ok(ServerResult::CreateTaskResult(_)) => {
                refused("answers later, which nobody here agreed to")
            }
            Ok(_) => refused("answered what is no result of a tool"),
            Err(error) => Err(self.failed(error).await),
        }
    }

    async fn failed(&self, error: ServiceError) -> Failed {
        match error {
            ServiceError::McpError(said) => {
                Failed::Refused(format!("the other server refused: {}", cut(&said.message)))
            }
            // A line that was not written whole was not read.
            ServiceError::TransportSend(_) if self.is_process => Failed::Unsent(self.lost().await),
            ServiceError::UnexpectedResponse => {
                Failed::Refused("the other server answered what is no result of a tool".into())
            }
            _ => Failed::Broken(self.lost().await),
        }
    }

    async fn lost(&self) -> Error {
        let found = self.why.found(self.is_process).await;
        found.unwrap_or_else(|| broken("broke off; what it did before that is not known"))
    }
}

/// A call that goes on.
struct Going(Option<RequestHandle<RoleClient>>);

impl Drop for Going {
    fn drop(&mut self) {
        if let (Some(handle), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            let reason = "nobody waits for it any more".to_owned();
            runtime.spawn(async move { drop(handle.cancel(Some(reason)).await) });
        }
    }
}

/// Sessions are shared by the calls that use them.
pub(super) type Shared = Arc<Session>;
