//! What a call says to its client while it runs, in the protocol's words: progress, log messages, and questions. Clients
//! of the era with sessions are asked at once; later ones get the questions as the result, with the answers so far
//! sealed, and make the call again. Which calls there are is `mcp`'s.

use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    ClientCapabilities, InputRequest, InputRequests, InputRequiredResult, InputResponses,
    ProgressNotificationParam, ProgressToken, RequestStateCodec, RequestStateError, SealOptions,
    ServerNotification, ServerRequest,
};
use rmcp::service::{PeerRequestOptions, RequestContext};
use rmcp::{ErrorData, Peer, RoleServer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::caller::{Ability, Answers, Ask, Caller, Level, Notes, Question, Reach, Said};
use crate::clock::Time;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::presence::Stay;
use crate::sessions;

/// What waits to be sent; more progress is skipped, since the next step says more.
const WAITING: usize = 16;
/// How long people may take to answer.
const PATIENCE: Duration = Duration::from_mins(10);
/// Where a request says from which level on it wants log messages.
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// A request that may take several rounds.
pub(crate) struct Request<'a> {
    /// Its method.
    pub(crate) method: &'static str,
    /// What is called or asked for.
    pub(crate) name: &'a str,
    /// With what.
    pub(crate) arguments: &'a Map<String, Value>,
    /// The answers that it brings.
    pub(crate) responses: Option<InputResponses>,
    /// What it was given to bring along.
    pub(crate) state: Option<String>,
    /// From which level on its session wants log messages.
    pub(crate) log_from: Option<Level>,
}

impl Request<'_> {
    /// For what alone the sealed state is good: this request, of this caller.
    fn seal(&self, ctx: &Ctx) -> Vec<u8> {
        let arguments = Value::Object(self.arguments.clone()).to_string();
        let parts = [
            self.method,
            ctx.tenant().as_str(),
            ctx.actor(),
            self.name,
            &arguments,
        ];
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.finalize().to_vec()
    }
}

/// What a client carries from round to round, sealed.
#[derive(Serialize, Deserialize)]
struct Carried {
    /// What the rounds of this call are called.
    rounds: String,
    /// When it was sealed: microseconds, of the clock that all processes share.
    sealed_at: i64,
    /// The answers so far.
    answers: Answers,
}

/// How a round ends.
pub(crate) enum Turn<T> {
    /// It was the last.
    Over(Result<T>),
    /// With questions.
    Asks(InputRequiredResult),
}

/// Whether the request is of the era before 2026-07-28.
pub(crate) fn is_legacy(cx: &RequestContext<RoleServer>) -> bool {
    cx.protocol_version()
        .is_none_or(|version| version.has_initialize())
}

/// Does the work of a request, whose client may be talked to meanwhile.
///
/// # Errors
/// -32602 for a level that is none and for state that is not what this request was given; -32021 when the client would
/// have to be able to do more.
pub(crate) async fn take<T>(
    ctx: Ctx,
    cx: &RequestContext<RoleServer>,
    request: Request<'_>,
    work: impl AsyncFnOnce(Ctx) -> Result<T>,
) -> std::result::Result<Turn<T>, ErrorData> {
    let is_legacy = is_legacy(cx);
    let log_from = match cx.meta.get(LOG_LEVEL) {
        Some(level) if !is_legacy => Some(read_level(level)?),
        _ => request.log_from,
    };
    let (reach, rounds) = if is_legacy {
        (Reach::Live, None)
    } else {
        let (answers, rounds) = known(&ctx, &request).await?;
        (Reach::Rounds(answers), rounds)
    };
    let guard = rounds.clone().map(|id| sessions::once(&ctx, id));
    let notes = Arc::new(Notes::default());
    let token = cx.meta.get_progress_token();
    let (sender, said) = mpsc::channel(WAITING);
    let caller = Caller {
        said: sender,
        wants_progress: token.is_some(),
        log_from,
        abilities: abilities(cx.client_capabilities().as_ref()),
        reach,
        notes: notes.clone(),
    };
    // The work owns the sender, so the other ends when the work has and everything is sent.
    let work = work(ctx.clone().with_caller(caller).guarded(guard));
    let (outcome, ()) = tokio::join!(work, pass_on(&ctx, &cx.peer, token, said));
    if outcome.is_ok() {
        return Ok(Turn::Over(outcome));
    }
    if let Some(lacking) = notes.lacks().filter(|_| !is_legacy) {
        return Err(missing(lacking));
    }
    let asked = notes.asked();
    if asked.is_empty() {
        return Ok(Turn::Over(outcome));
    }
    let carried = Carried {
        rounds: rounds.unwrap_or_else(|| sessions::begin_rounds(&ctx)),
        sealed_at: ctx.clock().steady().as_micros(),
        answers: notes.used(),
    };
    ask_again(&ctx, &request, (asked, carried))
        .await
        .map(Turn::Asks)
}

/// A level in the protocol's words.
///
/// # Errors
/// -32602 for what is none.
pub(crate) fn read_level(level: &Value) -> std::result::Result<Level, ErrorData> {
    serde_json::from_value(level.clone()).map_err(|_| {
        let message = format!(
            "{level} is no log level; there are debug, info, notice, warning, error, critical, alert and emergency"
        );
        ErrorData::invalid_params(message, None)
    })
}

/// What a client says that it can do.
fn abilities(capabilities: Option<&ClientCapabilities>) -> Vec<Ability> {
    let Some(capabilities) = capabilities else {
        return Vec::new();
    };
    let forms = capabilities.elicitation.as_ref();
    // Who names no mode means forms.
    let forms = forms.is_some_and(|modes| modes.form.is_some() || modes.url.is_none());
    [
        (forms, Ability::Form),
        (capabilities.sampling.is_some(), Ability::Sampling),
        (capabilities.roots.is_some(), Ability::Roots),
    ]
    .into_iter()
    .filter_map(|(can, ability)| can.then_some(ability))
    .collect()
}

/// Whether a client with these capabilities can show a form.
pub(crate) fn shows_forms(capabilities: &ClientCapabilities) -> bool {
    abilities(Some(capabilities)).contains(&Ability::Form)
}

fn missing(ability: Ability) -> ErrorData {
    let name = match ability {
        Ability::Form => "elicitation",
        Ability::Sampling => "sampling",
        Ability::Roots => "roots",
    };
    let required = serde_json::from_value(json!({ name: {} }));
    ErrorData::missing_required_client_capability(required.unwrap_or_default())
}

/// The answers of this round and the ones before, and what the rounds are called if this is not the first.
async fn known(
    ctx: &Ctx,
    request: &Request<'_>,
) -> std::result::Result<(Answers, Option<String>), ErrorData> {
    let (mut known, mut rounds) = (Answers::new(), None);
    if let Some(state) = &request.state {
        let carried = open(&codec(ctx).await?, state, (ctx, request)).map_err(|error| {
            tracing::debug!(%error, "a request state was refused");
            let message = "requestState: not what this request was given, or too old; make the call again without it";
            ErrorData::invalid_params(message, None)
        })?;
        (known, rounds) = (carried.answers, Some(carried.rounds));
    }
    known.extend(request.responses.clone().unwrap_or_default());
    Ok((known, rounds))
}

fn open(
    codec: &RequestStateCodec,
    state: &str,
    (ctx, request): (&Ctx, &Request<'_>),
) -> std::result::Result<Carried, RequestStateError> {
    let carried: Carried = codec.open_json_with(state, &request.seal(ctx))?;
    let age = ctx
        .clock()
        .steady()
        .since(Time::from_micros(carried.sealed_at));
    if age > PATIENCE || sessions::are_over(ctx, &carried.rounds) {
        return Err(RequestStateError::Expired);
    }
    Ok(carried)
}

async fn codec(ctx: &Ctx) -> std::result::Result<RequestStateCodec, ErrorData> {
    let failed = |error: String| {
        tracing::error!(error, "request states can't be sealed");
        ErrorData::internal_error("internal error", None)
    };
    let key = sessions::key(ctx).await;
    let key = key.map_err(|error| failed(format!("{error:?}")))?;
    RequestStateCodec::try_new(key).map_err(|error| failed(error.to_string()))
}

/// The questions as a result.
async fn ask_again(
    ctx: &Ctx,
    request: &Request<'_>,
    (asked, carried): (Vec<Question>, Carried),
) -> std::result::Result<InputRequiredResult, ErrorData> {
    let failed = |error: Error| {
        tracing::error!(error = ?error, "a question can't be asked");
        ErrorData::internal_error("internal error", None)
    };
    let requests = asked
        .into_iter()
        .map(|question| Ok((question.key, input_request(question.ask)?)));
    let requests = requests
        .collect::<Result<InputRequests>>()
        .map_err(failed)?;
    let seal = request.seal(ctx);
    let options = SealOptions::new().associated_data(&seal);
    let state = codec(ctx).await?.seal_json_with(&carried, &options);
    let state = state.map_err(|error| failed(Error::internal(error)))?;
    Ok(InputRequiredResult::new(Some(requests), Some(state)))
}

fn input_request(ask: Ask) -> Result<InputRequest> {
    let request = match ask {
        Ask::Form { message, schema } => json!({
            "method": "elicitation/create",
            "params": {"mode": "form", "message": message, "requestedSchema": schema},
        }),
        Ask::Sampling(params) => json!({"method": "sampling/createMessage", "params": params}),
        Ask::Roots => json!({"method": "roots/list", "params": {}}),
    };
    serde_json::from_value(request).map_err(Error::internal)
}

/// Sends what a call says as it says it. Progress goes only farther, as the protocol asks.
async fn pass_on(
    ctx: &Ctx,
    peer: &Peer<RoleServer>,
    token: Option<ProgressToken>,
    mut said: mpsc::Receiver<Said>,
) {
    let mut last = f64::NEG_INFINITY;
    while let Some(said) = said.recv().await {
        let sent = match (said, &token) {
            (Said::Progress(step), Some(token)) if step.progress > last => {
                last = step.progress;
                let mut param = ProgressNotificationParam::new(token.clone(), step.progress);
                (param.total, param.message) = (step.total, step.message);
                peer.notify_progress(param).await
            }
            (Said::Progress(_), _) => continue,
            (Said::Log(level, data), _) => peer.send_notification(log_message(level, data)).await,
            (Said::Ask(question, answer), _) => {
                // Dropped, it tells that there is none.
                if let Some(found) = ask(ctx, peer, question.ask).await {
                    let _ = answer.send(found);
                }
                continue;
            }
        };
        if sent.is_err() {
            break;
        }
    }
}

#[expect(
    deprecated,
    reason = "clients of all revisions until it is removed have it"
)]
fn log_message(level: Level, data: Value) -> ServerNotification {
    let params = json!({"level": level, "logger": "baton", "data": data});
    let params = serde_json::from_value(params).expect("the words of a level are the protocol's");
    ServerNotification::LoggingMessageNotification(rmcp::model::LoggingMessageNotification::new(
        params,
    ))
}

/// Asks a client of the era with sessions, and waits for the answer.
async fn ask(ctx: &Ctx, peer: &Peer<RoleServer>, ask: Ask) -> Option<Value> {
    let _place = ctx.place_to_wait().ok()?;
    let request = match input_request(ask).ok()? {
        InputRequest::CreateMessage(request) => ServerRequest::CreateMessageRequest(request),
        InputRequest::Elicitation(request) => ServerRequest::ElicitRequest(request),
        InputRequest::ListRoots(request) => ServerRequest::ListRootsRequest(request),
        _ => return None,
    };
    let options = PeerRequestOptions::with_timeout(PATIENCE);
    let sent = peer.send_request_with_option(request, options).await.ok()?;
    let stay = ctx.stay();
    let answer = tokio::select! {
        answer = sent.await_response() => answer,
        () = Stay::over(Some(&stay)) => return None,
    };
    let answer = answer.inspect_err(|error| {
        tracing::debug!(%error, "a question was not answered");
    });
    serde_json::to_value(answer.ok()?).ok()
}
