//! The process in which scripts run, one after another and each in an engine of its own. It opens nothing: what a script
//! wants of the world, it asks the server for. A script that no check of the engine stops is ended with this process.

use std::cell::Cell;
use std::io::{BufRead, Write as _};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use rquickjs::context::intrinsic;
use rquickjs::function::Func;
use rquickjs::promise::PromiseState;
use rquickjs::{
    CatchResultExt as _, CaughtError, Context, Ctx, Function, Object, Promise, Runtime, Value,
};
use rustix::process::{Resource, Rlimit, nice, setrlimit};

use super::wire::{Order, Run};
use crate::clock::Clock;

/// What a script finds besides the language.
const PRELUDE: &str = include_str!("prelude.js");
/// Bytes of the engine's stack; the thread's is larger.
const STACK: usize = 512 << 10;
/// Bytes of addresses, in case the engine counts wrongly.
const ADDRESSES: u64 = 4 << 30;
/// Seconds of processor time after which the process ends, in case nobody is left to end it. Servers let go of it before.
const PROCESSOR: u64 = 600;
/// Characters of a failure that are told.
const TOLD: usize = 2_000;

/// The language without what waits, measures or reaches out.
type Language = (
    intrinsic::Date,
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::Proxy,
    intrinsic::MapSet,
    intrinsic::TypedArrays,
    intrinsic::Promise,
);

/// Runs what standard input says until it ends.
pub fn serve() -> ExitCode {
    confine();
    let mut orders = std::io::stdin().lock();
    while let Some(Order::Run(run)) = next(&mut orders) {
        let said = match perform(&run, &mut orders) {
            Ok(answer) if answer.len() > run.most => {
                let message = format!("the answer has more than {} bytes", run.most);
                failed(&message)
            }
            Ok(answer) => format!("{{\"done\":{answer}}}"),
            Err(message) => failed(&message),
        };
        say(&said);
    }
    ExitCode::SUCCESS
}

/// Gives up what scripts have no use for, for good: files and sockets beyond the pipes that are open, processes, a core.
fn confine() {
    let limits = [
        (Resource::Nofile, 3),
        (Resource::Nproc, 0),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::As, ADDRESSES),
        (Resource::Cpu, PROCESSOR),
    ];
    for (resource, most) in limits {
        let most = Some(most);
        // A second lock where it can't be had: the engine gives none of this to scripts in any case.
        let _ = setrlimit(
            resource,
            Rlimit {
                current: most,
                maximum: most,
            },
        );
    }
    let _ = nice(5);
}

fn next(orders: &mut impl BufRead) -> Option<Order> {
    let mut line = String::new();
    orders
        .read_line(&mut line)
        .ok()
        .filter(|count| *count > 0)?;
    serde_json::from_str(&line).ok()
}

/// Whoever does not read any more has let go: the end of standard input tells so.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

fn failed(message: &str) -> String {
    let message: String = message.chars().take(TOLD).collect();
    serde_json::json!({ "failed": message }).to_string()
}

/// What a script and this process share.
#[derive(Default)]
struct Shared {
    /// What was asked for and has not come.
    open: Cell<u64>,
    /// The answer, once there is one.
    answer: Cell<Option<String>>,
    is_late: Cell<bool>,
}

/// Why a script has ended without an answer.
enum Stop<'js> {
    /// It threw.
    Threw(CaughtError<'js>),
    /// Nothing that it waits for will come.
    Waits,
}

impl<'js> From<CaughtError<'js>> for Stop<'js> {
    fn from(error: CaughtError<'js>) -> Self {
        Self::Threw(error)
    }
}

/// Runs a script. What it answers as JSON, or why it does not.
fn perform(run: &Run, orders: &mut impl BufRead) -> Result<String, String> {
    let broken = |error: rquickjs::Error| error.to_string();
    let runtime = Runtime::new().map_err(broken)?;
    runtime.set_memory_limit(run.memory);
    runtime.set_max_stack_size(STACK);
    let shared = Rc::new(Shared::default());
    let clock = Clock::system();
    let until = clock.steady() + Duration::from_millis(run.millis);
    let (late, watch) = (shared.clone(), clock.clone());
    let is_late = move || {
        late.is_late
            .set(late.is_late.get() || watch.steady() > until);
        late.is_late.get()
    };
    let handler = is_late.clone();
    runtime.set_interrupt_handler(Some(Box::new(handler)));
    let context = Context::custom::<Language>(&runtime).map_err(broken)?;
    context.with(|ctx| {
        let outcome = drive(&ctx, run, orders, &shared, &is_late);
        let answer = shared.answer.take();
        match outcome {
            _ if is_late() => Err(format!("it ran longer than {} ms", run.millis)),
            Ok(()) => answer.ok_or_else(|| "it answered nothing".to_owned()),
            Err(Stop::Waits) => Err("it waits for something that never comes".into()),
            Err(Stop::Threw(error)) => Err(told(&error, run)),
        }
    })
}

fn drive<'js>(
    ctx: &Ctx<'js>,
    run: &Run,
    orders: &mut impl BufRead,
    shared: &Rc<Shared>,
    is_late: &impl Fn() -> bool,
) -> Result<(), Stop<'js>> {
    let prelude: Function = ctx.eval(PRELUDE).catch(ctx)?;
    let hearing = shared.clone();
    let say = Func::from(move |kind: String, text: String| match kind.as_str() {
        "done" => hearing.answer.set(Some(text)),
        kind => {
            hearing
                .open
                .set(hearing.open.get() + u64::from(kind == "ask"));
            say(&format!("{{\"{kind}\":{text}}}"));
        }
    });
    let inside: Object = prelude.call((say,)).catch(ctx)?;
    let start: Function = inside.get("start").catch(ctx)?;
    let settle: Function = inside.get("settle").catch(ctx)?;
    let _: Value = ctx.eval(run.source.as_str()).catch(ctx)?;
    // A constant is no property of the global object, but it is in its scope.
    let main: Function = ctx
        .eval("if (typeof main !== 'function') throw new TypeError('the script has no function main'); main")
        .catch(ctx)?;
    let Some(arguments) = &run.arguments else {
        shared.answer.set(Some("null".to_owned()));
        return Ok(());
    };
    let ended: Promise = start.call((main, arguments.to_string())).catch(ctx)?;
    loop {
        while !is_late() && ctx.execute_pending_job() {}
        if is_late() || ended.state() != PromiseState::Pending {
            return match ended.result::<Value>() {
                Some(outcome) => Ok(outcome.catch(ctx).map(drop)?),
                None => Ok(()),
            };
        }
        let reply = (shared.open.get() > 0).then(|| next(orders)).flatten();
        let Some(Order::Reply(reply)) = reply else {
            return Err(Stop::Waits);
        };
        shared.open.set(shared.open.get() - 1);
        let text = reply.value.to_string();
        settle
            .call::<_, ()>((reply.id, reply.is_good, text))
            .catch(ctx)?;
    }
}

/// What is told of a failure: what was thrown, and where.
fn told(error: &CaughtError<'_>, run: &Run) -> String {
    let text = match error {
        CaughtError::Exception(exception) => {
            let name: Option<String> = exception.get("name").ok();
            let message = exception.message().unwrap_or_default();
            let stack = exception.stack().unwrap_or_default();
            format!(
                "{}: {message}\n{stack}",
                name.unwrap_or_else(|| "Error".into())
            )
        }
        CaughtError::Value(value) => {
            let text = value.as_string().and_then(|text| text.to_string().ok());
            format!(
                "it threw {}",
                text.unwrap_or_else(|| "something that is no error".into())
            )
        }
        CaughtError::Error(error) => error.to_string(),
    };
    if text.contains("out of memory") {
        return format!("it took more than {} MiB of memory", run.memory >> 20);
    }
    text.trim_end().to_owned()
}
