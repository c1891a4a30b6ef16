//! A user's way in through the official Rust SDK, and one life of a task: URL CALLBACK [DOCUMENT]; `../oauth.py` is the user and
//! his browser.

use std::error::Error;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use rmcp::model::{CallToolRequestParams, ProtocolVersion, ReadResourceRequestParams};
use rmcp::service::{RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::auth::{
    AuthClient, AuthorizationCallback, AuthorizationManager, AuthorizationRequest, OAuthState,
};
use rmcp::transport::streamable_http_client::{
    InsufficientScopeError, StreamableHttpClient, StreamableHttpClientTransportConfig,
};
use rmcp::{ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde_json::{Value, json};
use tokio::sync::Mutex;

type Session = RunningService<RoleClient, ()>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().context("URL")?;
    let callback = arguments.next().context("CALLBACK")?;
    let manager = sign_in(&url, &callback, arguments.next()).await?;
    let http = AuthClient::new(reqwest::Client::default(), manager);
    let manager = http.auth_manager.clone();
    let session = connect(http, &url).await?;
    let before = tools(&session).await?;
    let wanted = json!({"agent_id": "nobody", "capabilities": ["none"]});
    let claimed = match call(&session, "task_claim", wanted.clone()).await {
        Err(error) => {
            allow(&manager, &error).await?;
            call(&session, "task_claim", wanted).await?
        }
        Ok(_) => return Err(anyhow!("a tool was had that the user had not allowed")),
    };
    ensure!(claimed["tasks"] == json!([]), "{claimed}");
    ask(&json!({"rest": true}))?;
    live(&session).await?;
    let after = tools(&session).await?;
    session.cancel().await?;
    println!("{}", json!({"before": before, "after": after}));
    Ok(())
}

/// Says something to the script that started this, and returns its answer.
fn ask(what: &Value) -> Result<String> {
    println!("{what}");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// From the server's first no to a user who has signed in.
async fn sign_in(
    url: &str,
    callback: &str,
    document: Option<String>,
) -> Result<AuthorizationManager> {
    let refused = connect(reqwest::Client::default(), url).await;
    let refused = refused.err().context("a stranger came in")?;
    let refused: rmcp::service::ClientInitializeError = refused.downcast()?;
    let challenge = refused.auth_challenge().context("no challenge")?;
    let mut request = AuthorizationRequest::new(callback)
        .with_client_name("rmcp")
        .with_challenge(challenge);
    if let Some(document) = document {
        request = request.with_client_metadata_url(document);
    }
    let mut state = OAuthState::new(url, None).await?;
    state.start_authorization(request).await?;
    let page = state.get_authorization_url().await?;
    let back = ask(&json!({"open": page}))?;
    state.handle_callback_url(&back).await?;
    let manager = state.into_authorization_manager();
    manager.context("nobody has signed in")
}

/// Has the user allow what a call was refused for.
async fn allow(manager: &Arc<Mutex<AuthorizationManager>>, error: &anyhow::Error) -> Result<()> {
    let refused = error.chain().find_map(|cause| insufficient(cause));
    let refused = refused.with_context(|| format!("refused for something else: {error:?}"))?;
    let scope = refused.get_required_scope().context("which scope?")?;
    let manager = manager.lock().await;
    let page = manager.request_scope_upgrade(scope).await?;
    let back = ask(&json!({"open": page}))?;
    let back = AuthorizationCallback::from_redirect_url(&back)?;
    manager
        .exchange_code_for_token_with_issuer(&back.code, &back.csrf_token, back.issuer.as_deref())
        .await?;
    Ok(())
}

fn insufficient<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a InsufficientScopeError> {
    if let Some(ServiceError::TransportSend(error)) = cause.downcast_ref() {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&*error.error);
        while let Some(current) = cause {
            if let Some(found) = current.downcast_ref() {
                return Some(found);
            }
            cause = current.source();
        }
    }
    cause.downcast_ref()
}

async fn connect<C>(http: C, url: &str) -> Result<Session>
where
    C: StreamableHttpClient + Send + Sync + 'static,
{
    let config = StreamableHttpClientTransportConfig::with_uri(url);
    let transport = StreamableHttpClientTransport::with_client(http, config);
    let lifecycle = ClientLifecycleMode::Discover {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
    };
    Ok(().serve_with_lifecycle(transport, lifecycle).await?)
}

async fn tools(session: &Session) -> Result<Vec<String>> {
    let tools = session.list_all_tools().await?;
    Ok(tools.iter().map(|tool| tool.name.to_string()).collect())
}

async fn call(session: &Session, name: &str, arguments: Value) -> Result<Value> {
    let Value::Object(arguments) = arguments else {
        return Err(anyhow!("arguments are an object"));
    };
    let request = CallToolRequestParams::new(name.to_owned()).with_arguments(arguments);
    let result = session.call_tool(request).await?;
    ensure!(result.is_error != Some(true), "{name}: {result:?}");
    result.structured_content.context("nothing structured")
}

/// `fields` and what is in `more`.
fn with(fields: &Value, more: &Value) -> Value {
    let mut all = fields.clone();
    for (name, value) in more.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    all
}

async fn live(session: &Session) -> Result<()> {
    let story: Value = serde_json::from_str(include_str!("../story.json"))?;
    let listed = tools(session).await?;
    for tool in story["tools"].as_array().into_iter().flatten() {
        ensure!(
            listed.iter().any(|name| *tool == **name),
            "{tool} is missing"
        );
    }
    let capability = json!({"required_capabilities": ["rmcp"]});
    let sent = call(
        session,
        "task_dispatch",
        with(&story["dispatch"], &capability),
    )
    .await?;
    ensure!(sent["state"] == "pending", "{sent}");
    let agent = json!({"agent_id": "rmcp", "capabilities": ["rmcp"]});
    let claimed = call(session, "task_claim", agent).await?;
    let task = &claimed["tasks"][0];
    ensure!(task["task_id"] == sent["task_id"], "{claimed}");
    let mine = json!({
        "task_id": task["task_id"], "agent_id": "rmcp", "lease_token": task["lease"]["token"],
    });
    for (kind, data) in [
        ("started", json!({})),
        ("progress", story["progress"].clone()),
    ] {
        let told = json!({"notification_type": kind, "data": data});
        call(session, "task_notify", with(&mine, &told)).await?;
    }
    let ended = call(session, "task_end", with(&mine, &story["end"])).await?;
    ensure!(ended["state"] == "completed", "{ended}");
    let id = json!({"task_id": task["task_id"]});
    let done = call(session, "task_get", id).await?;
    ensure!(done["result"] == story["end"]["result"], "{done}");
    let uri = format!(
        "baton://tasks/{}/report",
        task["task_id"].as_str().unwrap_or_default()
    );
    let report = session
        .read_resource(ReadResourceRequestParams::new(uri))
        .await?;
    let report = serde_json::to_string(&report)?;
    ensure!(report.contains("counted with wc"), "{report}");
    Ok(())
}
