//! The handler: every MCP method, for every transport. It finds out for whom a request is and hands it on.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, ClientNotification, ClientRequest,
    CompleteRequestParams, CompleteResult, CustomRequest, CustomResult, GetPromptRequestParams,
    GetPromptResponse, GetTaskParams, GetTaskResult, Implementation, InitializeRequestParams,
    InitializeResult, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult,
    ListToolsResult, PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams,
    ReadResourceResponse, RequestMetaObject, ServerConfig, ServerResult, SetLevelRequestMethod,
    SubscribeRequestParams, Tool, UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{NotificationContext, RequestContext};
use rmcp::{ErrorData, RoleServer, ServerHandler, Service};
use tracing::Instrument;

use super::listen::Requested;
use super::plain::Plain;
use super::session::{Beginning, Begun, Session, Shared, Signed};
use super::{content, handles, listen, params, protocol_error, tools};
use crate::ctx::{Ctx, choose_tenant};
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::principal::Principal;
use crate::rounds::{is_legacy, read_level, shows_forms};
use crate::trace::Trace;

/// Where a request's `_meta` names its tenant.
pub(super) const TENANT_META: &str = "dev.baton/tenant";

/// Who sends the HTTP request at hand, or the messages of a pipe, and for which tenant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Named {
    /// The tenant that path, header or process name.
    pub(crate) tenant: Option<TenantId>,
    /// Who was let in; `None` where nobody is asked who he is.
    pub(crate) principal: Option<Arc<Principal>>,
    /// The trace that the headers name.
    pub(crate) trace: Option<Trace>,
}

impl Named {
    /// Whether both are of one caller and one tenant.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        let name = |named: &Self| named.principal.as_ref().map(|who| who.name.clone());
        self.tenant() == other.tenant() && name(self) == name(other)
    }

    /// The tenant, where `_meta` does not choose. Who names none is of the default one, if it is his.
    pub(crate) fn tenant(&self) -> TenantId {
        let own = self.principal.as_ref().and_then(|who| who.first_tenant());
        let tenant = self.tenant.as_ref().or(own);
        tenant.cloned().unwrap_or_else(TenantId::default_tenant)
    }

    /// The trace of a request that says `meta`, which goes before headers.
    pub(crate) fn trace(&self, meta: &RequestMetaObject) -> Option<Trace> {
        let named = Trace::read(|name| Some(meta.get(name)?.as_str()?.into()));
        named.or_else(|| self.trace.clone())
    }

    /// The tenant of a request that says `meta`, and is for `session` where it says nothing.
    fn choose(&self, session: Option<&TenantId>, meta: &RequestMetaObject) -> Result<TenantId> {
        let bound = self.tenant.as_ref().or(session);
        let named = [("_meta[\"dev.baton/tenant\"]", meta_tenant(meta))];
        choose_tenant(self.principal.as_deref(), bound, &named)
    }
}

/// The one handler type.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(super) shared: Arc<Shared>,
    named: Named,
    session: Arc<Session>,
}

impl Edge {
    /// A handler for one client.
    pub(crate) fn new(shared: &Arc<Shared>, named: Named) -> Self {
        Self::of(shared, named, Session::live())
    }

    /// A handler for one request without a session, which says itself who sends it.
    pub(crate) fn for_one(shared: &Arc<Shared>) -> Self {
        Self::of(shared, Named::default(), Session::none())
    }

    pub(super) fn of(shared: &Arc<Shared>, named: Named, session: Arc<Session>) -> Self {
        Self {
            shared: shared.clone(),
            named,
            session,
        }
    }

    /// The plain call that a message in this handler's session makes, if it is one.
    pub(crate) fn plain(&self, text: &[u8]) -> Option<Plain> {
        Plain::read_within(&self.shared, &self.named, self.session.begun.get(), text)
    }

    /// The context of a request: its tenant is what path, header or process say, else what the `_meta` of its own or of
    /// its session's `initialize` says.
    pub(super) fn ctx(&self, cx: &RequestContext<RoleServer>) -> Result<Ctx> {
        let named = self.named(cx);
        let session = self.session.begun.get();
        let session = session.filter(|begun| begun.is_bound && is_legacy(cx));
        let tenant = named.choose(session.map(|begun| &begun.tenant), &cx.meta)?;
        let actor = actor(cx.client_info().as_ref());
        let ctx = self.shared.app.system.ctx(tenant, &actor);
        let ctx = ctx.traced(named.trace(&cx.meta));
        Ok(ctx.of(named.principal.as_ref()))
    }

    /// Who sends a request.
    fn named<'a>(&'a self, cx: &'a RequestContext<RoleServer>) -> &'a Named {
        let parts = cx.extensions.get::<http::request::Parts>();
        let named = parts.and_then(|parts| parts.extensions.get::<Named>());
        named.unwrap_or(&self.named)
    }

    /// Runs a method. rmcp never answers a request whose handler panicked, so panics become answers here.
    async fn run<T: Signed>(
        &self,
        cx: &RequestContext<RoleServer>,
        method: impl AsyncFnOnce(Ctx) -> std::result::Result<T, ErrorData>,
    ) -> std::result::Result<T, ErrorData> {
        match self.ctx(cx) {
            Ok(ctx) => {
                let span = ctx.span();
                let mut result = caught(method(ctx)).instrument(span).await?;
                if let Some(meta) = result.meta().filter(|_| !is_legacy(cx)) {
                    self.shared.signature.sign(meta);
                }
                Ok(result)
            }
            Err(error) => {
                let named = self.named(cx);
                let stray = (named.principal.as_ref(), named.trace(&cx.meta));
                let access = &self.shared.app.access;
                access.note_stray(stray, "mcp", &error).await;
                Err(protocol_error(&error))
            }
        }
    }
}

/// What `method` answers, also when it panics.
pub(super) async fn caught<T>(
    method: impl Future<Output = std::result::Result<T, ErrorData>>,
) -> std::result::Result<T, ErrorData> {
    let outcome = AssertUnwindSafe(method).catch_unwind().await;
    outcome.unwrap_or_else(|_| {
        tracing::error!("a method panicked");
        Err(ErrorData::internal_error("internal error", None))
    })
}

impl Shared {
    /// Says in a message who answers, if it is a result.
    pub(crate) fn sign(&self, message: &mut serde_json::Value) {
        let result = message.get_mut("result");
        if let Some(result) = result.and_then(serde_json::Value::as_object_mut) {
            let mut meta = None;
            self.signature.sign(&mut meta);
            result.insert("_meta".into(), serde_json::json!(meta));
        }
    }

    /// A context for the sessions of the tenant that a request names.
    pub(crate) fn owner(&self, named: &Named) -> Ctx {
        let ctx = self.app.system.ctx(named.tenant(), "mcp");
        ctx.of(named.principal.as_ref())
    }

    /// The context of a modern request over HTTP that rmcp does not see.
    pub(crate) fn ctx(&self, named: &Named, meta: &RequestMetaObject) -> Result<Ctx> {
        let tenant = named.choose(None, meta)?;
        let actor = actor(meta.client_info().as_ref());
        let ctx = self.app.system.ctx(tenant, &actor);
        let ctx = ctx.traced(named.trace(meta));
        Ok(ctx.of(named.principal.as_ref()))
    }
}

/// The tenant that the request's `_meta` names; what is no text is no tenant's name either.
fn meta_tenant(meta: &RequestMetaObject) -> Option<&str> {
    let value = meta.get(TENANT_META)?;
    Some(value.as_str().unwrap_or(""))
}

/// Who calls, as the log shows it: what the client calls itself.
pub(super) fn actor(client: Option<&Implementation>) -> String {
    let name = client.map_or("", |client| &client.name);
    let mut actor = String::with_capacity(68);
    actor.push_str("mcp:");
    if name.len() <= 64 && !name.contains(char::is_control) {
        actor.push_str(name);
    } else {
        actor.extend(name.chars().filter(|char| !char.is_control()).take(64));
    }
    if actor == "mcp:" {
        actor.pop();
    }
    actor
}

impl ServerHandler for Edge {
    fn get_info(&self) -> ServerConfig {
        self.shared.info.clone()
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(ProtocolVersion::KNOWN_VERSIONS)
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<InitializeResult, ErrorData> {
        self.run(&cx, async |ctx| {
            cx.peer.set_peer_info(request.clone());
            let mut result = self.negotiate_initialize(&request)?;
            // The extensions that there are belong to the modern era.
            result.capabilities.extensions = None;
            let begun = Begun {
                tenant: ctx.tenant().clone(),
                is_bound: meta_tenant(&cx.meta).is_some(),
                is_legacy: result.protocol_version == request.protocol_version
                    && result.protocol_version.has_initialize(),
                client: request.client_info.clone(),
                shows_forms: shows_forms(&request.capabilities),
            };
            Beginning::note(&cx, request, (&begun, &result.protocol_version));
            if self.session.begun.set(begun).is_ok() && self.session.is_live() {
                listen::pump(&self.shared, &ctx, &self.session, cx.peer.clone()).await;
            }
            Ok(result)
        })
        .await
    }

    async fn on_initialized(&self, _: NotificationContext<RoleServer>) {}

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<ListToolsResult, ErrorData> {
        self.run(&cx, async |ctx| {
            tools::list(&self.shared, &ctx, request).await
        })
        .await
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.shared
            .tools
            .iter()
            .find(|tool| tool.name == name)
            .cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<CallToolResponse, ErrorData> {
        self.run(&cx, async |ctx| {
            let log_from = self.session.log_from();
            tools::call(&self.shared.app, ctx, request, (&cx, log_from)).await
        })
        .await
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<ListResourcesResult, ErrorData> {
        self.run(&cx, async |ctx| {
            content::list_resources(&self.shared.app.catalog, &ctx, request).await
        })
        .await
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<ListResourceTemplatesResult, ErrorData> {
        self.run(&cx, async |ctx| {
            content::list_templates(&self.shared.app.catalog, &ctx, request).await
        })
        .await
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<ReadResourceResponse, ErrorData> {
        let legacy = is_legacy(&cx);
        self.run(&cx, async |ctx| {
            content::read(&self.shared.app.catalog, &ctx, &request.uri, legacy).await
        })
        .await
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<ListPromptsResult, ErrorData> {
        self.run(&cx, async |ctx| {
            content::list_prompts(&self.shared.app.catalog, &ctx, request).await
        })
        .await
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<GetPromptResponse, ErrorData> {
        self.run(&cx, async |ctx| {
            content::get_prompt(&self.shared.app.catalog, ctx, request, &cx).await
        })
        .await
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<CompleteResult, ErrorData> {
        self.run(&cx, async |ctx| {
            content::complete(&self.shared.app.catalog, &ctx, &request).await
        })
        .await
    }

    #[expect(deprecated, reason = "clients of the era with sessions set it")]
    async fn set_level(
        &self,
        request: rmcp::model::SetLevelRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<(), ErrorData> {
        self.run(&cx, async |_| {
            if !is_legacy(&cx) {
                return Err(ErrorData::method_not_found::<SetLevelRequestMethod>());
            }
            let level = read_level(&serde_json::json!(request.level))?;
            let set = self.session.set_level(level).await;
            set.map_err(|error| protocol_error(&error))
        })
        .await
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<(), ErrorData> {
        self.run(&cx, async |ctx| {
            content::check_uri(&self.shared.app.catalog, &ctx, &request.uri)?;
            // What a session hears is one tenant's: the URIs of two could not be told apart.
            let begun = self.session.begun.get();
            if begun.is_none_or(|begun| begun.tenant != *ctx.tenant()) {
                let message =
                    "a session subscribes for the tenant of its initialize; begin another session";
                return Err(protocol_error(&Error::invalid("tenant_conflict", message)));
            }
            let subscribed = self.session.subscribe(&ctx, &request.uri).await;
            subscribed.map_err(|error| protocol_error(&error))
        })
        .await
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<(), ErrorData> {
        self.run(&cx, async |ctx| {
            let ended = self.session.unsubscribe(&ctx, &request.uri).await;
            ended.map_err(|error| protocol_error(&error))
        })
        .await
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<GetTaskResult, ErrorData> {
        self.run(&cx, async |ctx| {
            let task = handles::get(&self.shared.app, &ctx, &request.task_id).await?;
            Ok(GetTaskResult::new(task))
        })
        .await
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<(), ErrorData> {
        self.run(&cx, async |ctx| {
            let (id, responses) = (request.task_id, request.input_responses);
            handles::update(&self.shared.app, &ctx, &id, responses).await
        })
        .await
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<(), ErrorData> {
        self.run(&cx, async |ctx| {
            handles::cancel(&self.shared.app, &ctx, &request.task_id).await
        })
        .await
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<CustomResult, ErrorData> {
        let is_legacy = is_legacy(&cx);
        self.run(&cx, async |_| Err(params::refusal(request, is_legacy)))
            .await
    }
}

/// The handler as connections that rmcp drives see it: modern listeners are ours, and acknowledgements say whose they are.
/// Over HTTP the transport sees to both.
pub(crate) struct Front(pub(crate) Edge);

impl Service<RoleServer> for Front {
    async fn handle_request(
        &self,
        request: ClientRequest,
        cx: RequestContext<RoleServer>,
    ) -> std::result::Result<ServerResult, ErrorData> {
        match request {
            ClientRequest::SubscriptionsListenRequest(request)
                if listen::knows_listeners(&cx.meta) =>
            {
                let requested = Requested::of(request, &cx.extensions);
                let serve = async |ctx| listen::serve(&self.0.shared, &ctx, requested, &cx).await;
                self.0.run(&cx, serve).await
            }
            request => {
                let mut result = Service::handle_request(&self.0, request, cx).await?;
                if let ServerResult::TaskAckResult(ack) = &mut result {
                    self.0.shared.signature.sign(&mut ack.meta);
                }
                Ok(result)
            }
        }
    }

    async fn handle_notification(
        &self,
        notification: ClientNotification,
        cx: NotificationContext<RoleServer>,
    ) -> std::result::Result<(), ErrorData> {
        Service::handle_notification(&self.0, notification, cx).await
    }

    fn get_info(&self) -> ServerConfig {
        ServerHandler::get_info(&self.0)
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        ServerHandler::supported_protocol_versions(&self.0)
    }
}
