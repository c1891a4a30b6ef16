//! The REST projection of the catalogue: every route of every operation, alone and below `/t/{tenant}`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequestParts, Query, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
use futures::StreamExt;
use serde_json::{Map, Value};
use tracing::Instrument;

use super::error::Problem;
use super::input::{self, Texts};
use crate::app::App;
use crate::catalog;
use crate::ctx::{Ctx, choose_tenant};
use crate::error::Error;
use crate::id::TenantId;
use crate::op::{Op, Route, Structured};
use crate::principal::Principal;
use crate::trace::Trace;

/// Bytes of a body at most.
const BODY: usize = 1024 * 1024;
/// Bytes read and thrown away behind the limit, so that the client comes to read the answer.
const DISCARDED: usize = 16 * BODY;
/// Time that a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);
/// Who calls, as the log shows it, while nobody says who he is.
const ACTOR: &str = "rest";
/// The header that names the tenant; an answer says by it whose it is.
pub(super) const TENANT: HeaderName = HeaderName::from_static("x-tenant-id");
/// The variable of the prefix that names the tenant.
const TENANT_VARIABLE: &str = "tenant";

/// The routes of all operations.
///
/// # Panics
/// When two operations have the same route, which the first test that builds the router shows.
pub(super) fn router(app: &App) -> Router {
    let mut paths: BTreeMap<&str, MethodRouter> = BTreeMap::new();
    for (index, op) in app.catalog.ops().iter().enumerate() {
        for route in &op.routes {
            let endpoint = Arc::new(Endpoint {
                app: app.clone(),
                op: index,
                route: *route,
            });
            let methods = paths.remove(route.path).unwrap_or_default();
            let filter = filter(route.method);
            let methods = methods.on(filter, move |request: Request| answer(endpoint, request));
            paths.insert(route.path, methods);
        }
    }
    paths
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| {
            router
                .route(&format!("/t/{{{TENANT_VARIABLE}}}{path}"), methods.clone())
                .route(path, methods)
        })
}

fn filter(method: &str) -> MethodFilter {
    Method::from_bytes(method.as_bytes())
        .ok()
        .and_then(|method| MethodFilter::try_from(method).ok())
        .expect("a route has a method that HTTP knows")
}

/// One route of one operation.
struct Endpoint {
    app: App,
    op: usize,
    route: Route,
}

async fn answer(endpoint: Arc<Endpoint>, request: Request) -> Response {
    let trace = Trace::of_headers(request.headers());
    let call = endpoint
        .call(request)
        .instrument(Trace::span(trace.as_ref()));
    match call.await {
        Ok((tenant, output)) => (
            [
                (header::CONTENT_TYPE, "application/json"),
                (TENANT, tenant.as_str()),
            ],
            output.into_string(),
        )
            .into_response(),
        Err(problem) => problem.into_response(),
    }
}

impl Endpoint {
    fn op(&self) -> &Op {
        &self.app.catalog.ops()[self.op]
    }

    /// The answer, and for which tenant it is. Dropping this future withdraws the call, which is what happens when the client goes.
    async fn call(&self, request: Request) -> Result<(TenantId, Structured), Problem> {
        let (mut parts, body) = request.into_parts();
        let (tenant, path) = self.path(&mut parts).await?;
        let ctx = match self.ctx(tenant.as_deref(), &parts) {
            Ok(ctx) => ctx,
            Err(error) => {
                let principal = parts.extensions.get::<Arc<Principal>>();
                let access = &self.app.access;
                let stray = (principal, Trace::of_headers(&parts.headers));
                access.note_stray(stray, self.op().name, &error).await;
                return Err(error.into());
            }
        };
        let query = Query::<Texts>::try_from_uri(&parts.uri)
            .map_err(|rejection| Error::invalid_at("", rejection.body_text()))?;
        let mut input = match parts.method {
            Method::GET | Method::HEAD => Map::new(),
            _ => object(&parts.headers, body).await?,
        };
        if let Some(payload) = self.route.payload {
            let whole = Value::Object(input);
            self.app.catalog.check_payload(payload, &whole)?;
            input = match whole {
                Value::Object(fields) => fields,
                _ => Map::new(),
            };
        }
        let schema = &self.op().input_schema;
        input::add(&mut input, schema, "path", path)?;
        input::add(&mut input, schema, "query string", query.0)?;
        let ctx = catalog::aim(ctx, self.op(), &input).await?;
        let tenant = ctx.tenant().clone();
        tokio::select! {
            biased;
            output = self.app.catalog.answer(ctx, self.op().name, input) => Ok((tenant, output?.into_structured()?)),
            error = self.app.last_call() => Err(error.into()),
        }
    }

    /// The tenant that the path names, and the fields.
    async fn path(&self, parts: &mut Parts) -> Result<(Option<String>, Texts), Problem> {
        let params = RawPathParams::from_request_parts(parts, &())
            .await
            .map_err(|rejection| Error::invalid_at("", rejection.body_text()))?;
        let (mut tenant, mut fields) = (None, Texts::new());
        for (name, value) in &params {
            if name == TENANT_VARIABLE {
                tenant = Some(value.to_owned());
            } else {
                fields.push((name.to_owned(), value.to_owned()));
            }
        }
        Ok((tenant, fields))
    }

    fn ctx(&self, path: Option<&str>, parts: &Parts) -> Result<Ctx, Error> {
        let mut named = vec![("the path", path)];
        // What is not text can't be a tenant's name either; the empty text is answered as such.
        let headers = parts.headers.get_all(TENANT).iter();
        named.extend(headers.map(|name| ("X-Tenant-ID", Some(name.to_str().unwrap_or("")))));
        let principal = parts.extensions.get::<Arc<Principal>>();
        let bound = self.app.config.tenant.as_ref();
        let tenant = choose_tenant(principal.map(Arc::as_ref), bound, &named)?;
        let ctx = self.app.system.ctx(tenant, ACTOR).of(principal);
        Ok(ctx.traced(Trace::of_headers(&parts.headers)))
    }
}

/// The body as a JSON object; no body is an empty one.
async fn object(headers: &HeaderMap, body: Body) -> Result<Map<String, Value>, Problem> {
    let bytes = tokio::time::timeout(ARRIVAL, read(headers, body))
        .await
        .map_err(|_| {
            let detail = format!("the body did not arrive within {} s", ARRIVAL.as_secs());
            Problem::new("body_timeout", detail)
        })??;
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    if !is_json(headers) {
        return Err(Problem::new(
            "unsupported_media_type",
            "send the body as JSON, with Content-Type: application/json",
        ));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Error::invalid_at("", "the body must be a JSON object").into()),
        Err(error) => Err(Problem::new(
            "invalid_json",
            format!("the body is not JSON: {error}"),
        )),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let announced = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = announced
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Problem> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let too_large = || {
        let detail =
            format!("the body is larger than the {BODY} bytes (1 MiB) that this server takes");
        Problem::new("body_too_large", detail)
    };
    // Who asks first has not begun to send, so there is nothing to wait for.
    if announced > BODY && headers.contains_key(header::EXPECT) {
        return Err(too_large());
    }
    let (mut bytes, mut seen) = (Vec::with_capacity(announced.min(BODY)), 0);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            Problem::new("invalid_json", format!("the body broke off: {error}"))
        })?;
        seen += chunk.len();
        if seen <= BODY {
            bytes.extend_from_slice(&chunk);
        } else if seen > DISCARDED {
            break;
        }
    }
    if seen > BODY {
        return Err(too_large());
    }
    Ok(bytes)
}
