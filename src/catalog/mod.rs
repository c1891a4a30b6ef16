//! The one table of operations, resources and prompts. MCP, REST, OpenAPI, the command line, the docs and the tests that
//! loop over everything are projections of it.

mod complete;
mod own;
mod published;

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::ctx::Ctx;
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::op::{
    Class, Content, Item, List, Op, Output, Params, Permission, Prompt, Reader, Resource,
};
use crate::page::Position;
use crate::presence::Stay;
use crate::tools::{self, Tools};
use crate::{
    access, allowance, end_task, executor, limits, memory, orchestrator, resources, secrets,
    tenants,
};

pub use complete::Suggestions;
pub use published::{Published, schemas};

/// Whose cursors those of resources are.
const LIST: &str = "resources/list";

/// A page of what can be read, with the kind of each, and the cursor that leads to the next page.
pub type Page<'a> = (Vec<(&'a Resource, Item)>, Option<String>);

/// What a catalogue is made of.
pub struct Parts {
    /// What can be called.
    pub ops: Vec<Op>,
    /// What can be read.
    pub resources: Vec<Resource>,
    /// What can be asked for by name.
    pub prompts: Vec<Prompt>,
    /// The lists that change while the server runs.
    pub lists: &'static [List],
    /// The list that an event changed.
    pub list_changed_by: fn(&Event) -> Option<List>,
}

/// Everything that can be called, read or asked for.
pub struct Catalog {
    parts: Parts,
    /// What tenants made at run time.
    tools: Tools,
    by_name: HashMap<&'static str, usize>,
    payloads: HashMap<&'static str, jsonschema::Validator>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self::new()
    }
}

impl Catalog {
    /// Gathers what the features declare.
    pub fn new() -> Self {
        Self::with(Tools::default())
    }

    /// As [`Catalog::new`], with these tools beside those that tenants make.
    pub fn with(tools: Tools) -> Self {
        let (resource_ops, resource_kinds) = resources::parts();
        let ops: Vec<Op> = [
            orchestrator::operations(),
            executor::operations(),
            end_task::operations(),
            memory::operations(),
            tools::operations(&tools),
            resource_ops,
            access::keys::operations(),
            limits::operations(),
            tenants::operations(),
            secrets::operations(),
        ]
        .into_iter()
        .flatten()
        .collect();
        let resources = [
            published::resources(),
            orchestrator::resources(),
            memory::resources(),
            resource_kinds,
        ]
        .into_iter()
        .flatten()
        .collect();
        tools.reserve(ops.iter().map(|op| op.name));
        let catalog = Self::of(Parts {
            ops,
            resources,
            prompts: published::prompts(),
            lists: &[List::Tools, List::Resources],
            list_changed_by: |event| {
                const CHANGES: [&str; 2] = [resources::REGISTERED, resources::DELETED];
                let is_ours = CHANGES.contains(&event.kind.as_str());
                tools::list_changed_by(event).or(is_ours.then_some(List::Resources))
            },
        });
        Self { tools, ..catalog }
    }

    /// A catalogue of these parts.
    pub fn of(parts: Parts) -> Self {
        let names = parts.ops.iter().enumerate();
        Self {
            by_name: names.map(|(index, op)| (op.name, index)).collect(),
            tools: Tools::default(),
            payloads: published::validators(),
            parts,
        }
    }

    /// All operations, in the order in which lists show them.
    pub fn ops(&self) -> &[Op] {
        &self.parts.ops
    }

    /// The operation `name`.
    pub fn op(&self, name: &str) -> Option<&Op> {
        self.by_name.get(name).map(|index| &self.parts.ops[*index])
    }

    /// The operation `name`.
    ///
    /// # Errors
    /// `unknown_operation`.
    pub fn require(&self, name: &str) -> Result<&Op> {
        self.op(name).ok_or_else(|| {
            Error::not_found(
                "unknown_operation",
                format!("there is no operation {name:?}"),
            )
        })
    }

    /// Calls the operation `name`. A refusal of somebody known is written down.
    ///
    /// # Errors
    /// `unknown_operation`; `invalid_input`; what the operation answers.
    pub async fn call(&self, ctx: Ctx, name: &str, input: Map<String, Value>) -> Result<Value> {
        let answer = self.answer(ctx, name, input).await?;
        answer.into_structured()?.value()
    }

    /// Calls the operation `name`, for callers who know blocks.
    ///
    /// # Errors
    /// As [`Catalog::call`].
    pub async fn answer(&self, ctx: Ctx, name: &str, input: Map<String, Value>) -> Result<Output> {
        let op = self.require(name)?;
        let ctx = aim(ctx, op, &input).await?;
        let class = op.class(&input);
        let _pass = if op.aims_at_tenants() {
            ctx.admit_always(class)?
        } else {
            ctx.admit(class)?
        };
        let known = ctx.principal().map(|_| ctx.without_caller());
        let waits = op.waits(&input);
        let measure = ctx.system().meter().begin(ctx.tenant(), waits);
        let stay = waits.then(|| ctx.stay());
        let outcome = match stay {
            None => op.call(ctx, input).await,
            Some(stay) => Box::pin(by_leave(stay, op.call(ctx, input))).await,
        };
        measure.end(&outcome);
        if let (Some(ctx), Err(error)) = (known, &outcome)
            && error.kind() == Kind::Forbidden
        {
            Box::pin(access::note_refusal(&ctx, name, error)).await;
        }
        outcome
    }

    /// Checks `payload` against the published schema `name`, for callers that promised to send exactly that.
    ///
    /// # Errors
    /// `invalid_input` with all findings and their paths.
    pub fn check_payload(&self, name: &str, payload: &Value) -> Result<()> {
        match self.payloads.get(name) {
            Some(validator) => crate::op::check(validator, payload),
            None => Err(Error::internal(format!("no published schema {name}"))),
        }
    }

    /// All kinds of resources.
    pub fn resources(&self) -> &[Resource] {
        &self.parts.resources
    }

    /// All prompts.
    pub fn prompts(&self) -> &[Prompt] {
        &self.parts.prompts
    }

    /// The prompt `name`.
    pub fn prompt(&self, name: &str) -> Option<&Prompt> {
        self.parts.prompts.iter().find(|prompt| prompt.name == name)
    }

    /// Reads the resource at `uri`.
    ///
    /// # Errors
    /// `unknown_resource` for what is not there or is another tenant's.
    pub async fn read(&self, ctx: &Ctx, uri: &str) -> Result<Content> {
        let found = self
            .parts
            .resources
            .iter()
            .find_map(|kind| Some((kind, kind.matches(uri)?)));
        let (kind, params) = found.ok_or_else(|| unknown_resource(uri))?;
        let _pass = ctx.admit(Class::Read)?;
        if let Err(error) = admit(ctx, kind, &params) {
            access::note_refusal(ctx, uri, &error).await;
            return Err(error);
        }
        let read = match &kind.read {
            Reader::Live(read) => Box::pin(read(ctx.clone(), params)).await,
            Reader::Stored(read) => {
                let read = *read;
                ctx.read(move |scope, tx| read(scope, tx, &params)).await
            }
        };
        read.map_err(|error| {
            if error.kind() == Kind::NotFound {
                unknown_resource(uri)
            } else {
                error
            }
        })
    }

    /// A page of what can be read, with the kind of each; fixed things first. The cursor leads to the next page.
    ///
    /// # Errors
    /// `invalid_cursor`, or a failure of the database.
    pub async fn list(&self, ctx: &Ctx, cursor: Option<&str>, limit: u32) -> Result<Page<'_>> {
        let _pass = ctx.admit(Class::Read)?;
        // The position's id says which kind the page is in: "index/id".
        let (first, mut behind) = match cursor {
            None => (0, None),
            Some(cursor) => {
                let seal = ctx.read(|_, tx| tx.seal(LIST)).await?;
                let position = seal.open(cursor)?;
                let (index, id) = position
                    .id
                    .split_once('/')
                    .and_then(|(index, id)| Some((index.parse::<usize>().ok()?, id.to_owned())))
                    .ok_or_else(|| {
                        Error::invalid("invalid_cursor", "/cursor: not a cursor of this list")
                    })?;
                (
                    index,
                    Some(Position {
                        key: position.key,
                        id,
                    }),
                )
            }
        };
        let mut items = Vec::new();
        for (index, kind) in self.parts.resources.iter().enumerate().skip(first) {
            let Some(list) = kind.list.filter(|_| is_open(ctx, kind)) else {
                continue;
            };
            let room = limit.saturating_sub(u32::try_from(items.len()).unwrap_or(u32::MAX));
            let position = behind.take();
            let (found, next) = ctx
                .read(move |scope, tx| list(scope, tx, position.as_ref(), room))
                .await?;
            items.extend(found.into_iter().map(|item| (kind, item)));
            if let Some(next) = next {
                let cursor = Position {
                    key: next.key,
                    id: format!("{index}/{}", next.id),
                };
                let seal = ctx.read(|_, tx| tx.seal(LIST)).await?;
                return Ok((items, Some(seal.close(&cursor))));
            }
        }
        Ok((items, None))
    }

    /// The operations that the caller of `ctx` may call, as lists show them. What decides who may come in means nothing
    /// where nobody is asked who he is.
    pub fn ops_for<'a>(&'a self, ctx: &'a Ctx) -> impl Iterator<Item = (usize, &'a Op)> {
        let may = |op: &Op| match ctx.principal() {
            Some(principal) => principal.may(op.permission, op.name),
            None => !matches!(op.permission, Permission::Admin | Permission::Operate),
        };
        self.parts
            .ops
            .iter()
            .enumerate()
            .filter(move |(_, op)| may(op))
    }

    /// Whether the caller of `ctx` may read what is found at `uri`, whether or not there is anything.
    ///
    /// # Errors
    /// `unknown_resource` when nothing can be there; `forbidden`.
    pub fn check_uri(&self, ctx: &Ctx, uri: &str) -> Result<()> {
        let found = self.parts.resources.iter();
        let mut found = found.filter_map(|kind| Some((kind, kind.matches(uri)?)));
        let (kind, params) = found.next().ok_or_else(|| unknown_resource(uri))?;
        admit(ctx, kind, &params)
    }

    /// The lists that change while the server runs.
    pub fn lists(&self) -> &'static [List] {
        self.parts.lists
    }

    /// The list that `event` changed.
    pub fn list_changed_by(&self, event: &Event) -> Option<List> {
        (self.parts.list_changed_by)(event)
    }

    /// The resources that `event` changed.
    pub fn changed_by(&self, event: &Event) -> Vec<String> {
        self.parts
            .resources
            .iter()
            .flat_map(|kind| (kind.changed_by)(event))
            .collect()
    }
}

/// The call for the tenant that its input names. A refusal of somebody known is written down.
///
/// # Errors
/// As [`Op::aim`].
pub async fn aim(ctx: Ctx, op: &Op, input: &Map<String, Value>) -> Result<Ctx> {
    match op.aim(&ctx, input) {
        Ok(aimed) => Ok(aimed.unwrap_or(ctx)),
        Err(error) => {
            Box::pin(access::note_refusal(&ctx, op.name, &error)).await;
            Err(error)
        }
    }
}

/// What a call that may wait answers, as long as its caller's credential is good.
async fn by_leave<T>(stay: Stay, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        outcome = call => outcome,
        () = Stay::over(Some(&stay)) => Err(if stay.is_without_tenant() {
            allowance::closing()
        } else {
            access::no_longer()
        }),
    }
}

/// What is answered to whoever asks for a prompt that is not there.
pub fn unknown_prompt(name: &str) -> Error {
    Error::not_found("unknown_prompt", format!("there is no prompt {name:?}"))
}

/// Whether the caller of `ctx` may see that there are resources of a kind.
pub fn is_open(ctx: &Ctx, kind: &Resource) -> bool {
    kind.permission
        .is_none_or(|permission| shows(ctx, permission))
}

/// Whether the caller of `ctx` may see everything that a permission is for.
fn shows(ctx: &Ctx, permission: Permission) -> bool {
    ctx.principal()
        .is_none_or(|principal| principal.may_see(permission) && principal.grant.task.is_none())
}

/// Lets the caller of `ctx` read one resource of a kind.
fn admit(ctx: &Ctx, kind: &Resource, params: &Params) -> Result<()> {
    let (Some(principal), Some(permission)) = (ctx.principal(), kind.permission) else {
        return Ok(());
    };
    principal.admit(permission, "task_get")?;
    let named = params.iter();
    let named = named.map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str())));
    principal.admit_input(permission, &named.collect())
}

fn unknown_resource(uri: &str) -> Error {
    Error::not_found("unknown_resource", format!("there is no resource {uri:?}"))
}
