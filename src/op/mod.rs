//! What an operation is: one declaration from which MCP tools, REST routes, OpenAPI, the command line and the tests
//! that loop over everything are projected.
//!
//! Features declare their operations with these types, `catalog` gathers them, the edges only translate.

mod aim;
mod body;
mod confirm;
mod follow;
mod given;
mod output;
mod resource;
mod schema;
mod structured;

use std::future::Future;
use std::pin::Pin;

use jsonschema::Validator;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use confirm::{ANSWERS_USED, UNCONFIRMED};
pub use follow::{Ask, Beginning, Begun, Cancel, Follow, Reply, Stage, Standing};
pub use given::given;
pub use output::{Block, Body, Document, Message, Output, Speaker};
pub use resource::{
    Argument, Completer, Completing, Content, Item, Items, List, Messages, Params, Prompt, Reader,
    Reading, Resource, Typed, Values, Wording,
};
pub(crate) use schema::{below, of_input, parse};
pub use schema::{check, compile, pointer};
pub use structured::Structured;

use crate::caller::Ability;
use crate::ctx::{Ctx, Scope};
use crate::error::{Error, Result};
pub use crate::principal::Permission;
pub use crate::quota::Class;
use crate::store::Tx;

/// What a call does to the world (MCP tool annotations).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Changes nothing.
    ReadOnly,
    /// Adds to what is there.
    Additive,
    /// Changes or ends what is there.
    Destructive,
}

/// A method and path of the REST interface. `{name}` segments fill the input field of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// `GET`, `POST` or `PATCH`.
    pub method: &'static str,
    /// Canonical paths begin with `/api/v1/`; the others are kept for clients that know them.
    pub path: &'static str,
    /// The published schema that the body must satisfy besides the operation's own, by name.
    pub payload: Option<&'static str>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Output>> + Send>>;

/// Makes the input of a call whole.
pub type Prepare = fn(Ctx, Value) -> Pin<Box<dyn Future<Output = Result<Value>> + Send>>;

/// Whether calls wait for anything but their own transactions.
#[derive(Clone, Copy)]
enum Waits {
    Never,
    If(fn(&Map<String, Value>) -> bool),
    Always,
}

/// One operation.
pub struct Op {
    /// `noun_verb`, at most 40 of `[a-z0-9_]`.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// When to use it, in a sentence or two.
    pub description: &'static str,
    /// What a caller must be allowed to do.
    pub permission: Permission,
    /// What a call does.
    pub effect: Effect,
    /// Whether repeating a call changes nothing more.
    pub idempotent: bool,
    /// Where REST has it.
    pub routes: Vec<Route>,
    /// JSON Schema 2020-12 of the input, flat and inlined.
    pub input_schema: Map<String, Value>,
    /// JSON Schema 2020-12 of the output; empty when it is not structured.
    pub output_schema: Map<String, Value>,
    /// An input that works on an empty tenant as far as its form goes; tests start from it.
    pub sample: fn() -> Value,
    aliases: &'static [(&'static str, &'static str)],
    /// The field that names what is called, where one operation calls many things.
    naming: Option<&'static str>,
    validator: Validator,
    /// Fields that no refusal repeats.
    hidden: Vec<String>,
    /// A further schema that the input must satisfy.
    rules: Option<(Value, Validator)>,
    waits: Waits,
    follow: Option<Follow>,
    /// Whether there is no other way to call it than to follow it.
    is_long: bool,
    prepare: Option<Prepare>,
    confirms: bool,
    /// The field by which the input may name the tenant that a call is about.
    aims_by: Option<&'static str>,
    /// Fields with fields of their own, where null means absent too.
    nested: Vec<String>,
    handler: Box<dyn Fn(Ctx, Value) -> Answer + Send + Sync>,
}

impl Op {
    /// An operation that only reads.
    pub fn read<I, O>(
        name: &'static str,
        permission: Permission,
        operation: fn(&Scope, &mut Tx<'_>, &I) -> Result<O>,
    ) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + Sync + 'static,
        O: Serialize + JsonSchema + Send + 'static,
    {
        let op = Self::waiting(name, permission, move |ctx: Ctx, input: I| async move {
            ctx.read(move |scope, tx| operation(scope, tx, &input))
                .await
        });
        Self {
            effect: Effect::ReadOnly,
            idempotent: true,
            waits: Waits::Never,
            ..op
        }
    }

    /// An operation that writes, in one transaction.
    pub fn write<I, O>(
        name: &'static str,
        permission: Permission,
        operation: fn(&Scope, &mut Tx<'_>, &I) -> Result<O>,
    ) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + Sync + 'static,
        O: Serialize + JsonSchema + Send + 'static,
    {
        Self::write_ordered(name, permission, |_, input: I| Ok(input), operation)
    }

    /// An operation that writes, whose input `order` makes ready before it waits for its turn. What needs no database is
    /// done there: writers are few.
    pub fn write_ordered<I, P, O>(
        name: &'static str,
        permission: Permission,
        order: fn(&Scope, I) -> Result<P>,
        operation: fn(&Scope, &mut Tx<'_>, &P) -> Result<O>,
    ) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + Sync + 'static,
        P: Send + 'static,
        O: Serialize + JsonSchema + Send + 'static,
    {
        let op = Self::waiting(name, permission, move |ctx: Ctx, input: I| async move {
            // On the heap once, rather than copied from one future into the next.
            let order = Box::new(order(&ctx.scope(), input)?);
            ctx.write(move |scope, tx| operation(scope, tx, &order))
                .await
        });
        Self {
            waits: Waits::Never,
            ..op
        }
    }

    /// An operation that waits for something between its transactions.
    ///
    /// # Panics
    /// When the input type has no usable JSON Schema, which the first test that builds the catalogue shows.
    pub fn waiting<I, O, F>(
        name: &'static str,
        permission: Permission,
        operation: impl Fn(Ctx, I) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + Sync + 'static,
        O: Serialize + JsonSchema + Send + 'static,
        F: Future<Output = Result<O>> + Send,
    {
        let handler = move |ctx, input| -> Answer {
            let operation = operation.clone();
            Box::pin(async move {
                let input: I = schema::parse(&input)?;
                Structured::of(&operation(ctx, input).await?).map(Output::from)
            })
        };
        let op = Self::of(name, permission, schema::of_input::<I>(), handler);
        Self {
            output_schema: schema::of_output::<O>(),
            ..op
        }
    }

    /// An operation with a schema of its own that answers in blocks, and may talk to its caller meanwhile.
    ///
    /// # Panics
    /// When `input_schema` is no usable JSON Schema.
    pub fn tool<F>(
        name: &'static str,
        permission: Permission,
        input_schema: Map<String, Value>,
        operation: impl Fn(Ctx, Value) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Output>> + Send + 'static,
    {
        let handler = move |ctx, input| -> Answer { Box::pin(operation(ctx, input)) };
        Self::of(name, permission, input_schema, handler)
    }

    fn of(
        name: &'static str,
        permission: Permission,
        input_schema: Map<String, Value>,
        handler: impl Fn(Ctx, Value) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let validator = schema::compile(&Value::Object(input_schema.clone()))
            .expect("the schema of an operation's input is a JSON Schema");
        let nested = schema::nested(&input_schema);
        Self {
            name,
            title: "",
            description: "",
            permission,
            effect: Effect::Additive,
            idempotent: false,
            routes: Vec::new(),
            hidden: schema::hidden(&input_schema),
            input_schema,
            output_schema: Map::new(),
            sample: || Value::Object(Map::new()),
            aliases: &[],
            naming: None,
            validator,
            rules: None,
            waits: Waits::Always,
            follow: None,
            is_long: false,
            prepare: None,
            confirms: false,
            aims_by: None,
            nested,
            handler: Box::new(handler),
        }
    }

    /// Says what it is called and when to use it.
    #[must_use]
    pub fn about(mut self, title: &'static str, description: &'static str) -> Self {
        (self.title, self.description) = (title, description);
        self
    }

    /// Says that a call changes or ends what is there.
    #[must_use]
    pub fn destructive(mut self) -> Self {
        self.effect = Effect::Destructive;
        self
    }

    /// Says that repeating a call changes nothing more.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Says that a call changes nothing, though it may wait.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        (self.effect, self.idempotent) = (Effect::ReadOnly, true);
        self
    }

    /// Says with which input a call waits, where not every call does.
    #[must_use]
    pub fn waits_if(mut self, waits: fn(&Map<String, Value>) -> bool) -> Self {
        self.waits = Waits::If(waits);
        self
    }

    /// Whether a call with this input may wait for anything but its own transaction.
    pub fn waits(&self, input: &Map<String, Value>) -> bool {
        match self.waits {
            Waits::Never => false,
            Waits::If(waits) => waits(input),
            Waits::Always => true,
        }
    }

    /// Says that no call waits, though it is more than a transaction.
    #[must_use]
    pub fn at_once(mut self) -> Self {
        self.waits = Waits::Never;
        self
    }

    /// Which limits of classes a call with this input counts against.
    pub fn class(&self, input: &Map<String, Value>) -> Class {
        self.class_of(self.waits(input))
    }

    /// The classes of its calls: two, where only some of them wait.
    pub fn classes(&self) -> Vec<Class> {
        let kinds: &[bool] = match self.waits {
            Waits::Never => &[false],
            Waits::If(_) => &[false, true],
            Waits::Always => &[true],
        };
        let mut classes: Vec<_> = kinds.iter().map(|waits| self.class_of(*waits)).collect();
        classes.dedup();
        classes
    }

    fn class_of(&self, waits: bool) -> Class {
        match (self.permission, self.effect) {
            (Permission::Admin | Permission::Operate, _) => Class::Admin,
            _ if waits => Class::Wait,
            (_, Effect::ReadOnly) => Class::Read,
            _ => Class::Write,
        }
    }

    /// Says how calls are followed by callers who do not wait.
    #[must_use]
    pub fn followed(mut self, follow: Follow) -> Self {
        self.follow = Some(follow);
        self
    }

    /// Says that calls can't be waited for: callers who do not follow them are refused.
    #[must_use]
    pub fn long(mut self) -> Self {
        self.is_long = true;
        self
    }

    /// Whether calls can't be waited for.
    pub fn is_long(&self) -> bool {
        self.is_long
    }

    /// Makes the input whole before a call begins: what it lacks, the caller may be asked.
    #[must_use]
    pub fn prepare(mut self, prepare: Prepare) -> Self {
        self.prepare = Some(prepare);
        self
    }

    /// How calls are followed by callers who do not wait, if they can be.
    pub fn follow(&self) -> Option<Follow> {
        self.follow
    }

    /// Says where REST has it.
    #[must_use]
    pub fn at(mut self, method: &'static str, path: &'static str) -> Self {
        self.routes.push(Route {
            method,
            path,
            payload: None,
        });
        self
    }

    /// Says under which historic path REST has it too, for bodies that satisfy the published schema `payload`.
    #[must_use]
    pub fn strictly_at(mut self, path: &'static str, payload: &'static str) -> Self {
        self.routes.push(Route {
            method: "POST",
            path,
            payload: Some(payload),
        });
        self
    }

    /// Accepts a field under another name.
    #[must_use]
    pub fn alias(mut self, aliases: &'static [(&'static str, &'static str)]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Holds the input also to the conditions of a published schema, but not to what that requires: over MCP, what can
    /// be defaulted may be absent.
    ///
    /// # Panics
    /// When `schema` is no JSON Schema, which the first test that builds the catalogue shows.
    #[must_use]
    pub fn rules(mut self, schema: &str) -> Self {
        let mut schema: Value = serde_json::from_str(schema).expect("a published schema is JSON");
        if let Value::Object(fields) = &mut schema {
            fields.remove("required");
            fields.remove("additionalProperties");
        }
        let validator = schema::compile(&schema).expect("a published schema is a JSON Schema");
        self.rules = Some((schema, validator));
        self
    }

    /// Gives an input to start tests from.
    #[must_use]
    pub fn sample(mut self, sample: fn() -> Value) -> Self {
        self.sample = sample;
        self
    }

    /// Validates `input` and runs the operation.
    ///
    /// # Errors
    /// `forbidden`, `insufficient_scope`; `invalid_input` with all findings and their paths; what the operation answers.
    pub async fn call(&self, ctx: Ctx, input: Map<String, Value>) -> Result<Output> {
        let may_ask = self.may_ask(&input);
        let input = self.ready(&ctx, input).await?;
        if may_ask && ctx.can_ask(Ability::Form) {
            // Apart, since futures are moved often: whoever is not asked does not carry it.
            return Box::pin(self.call_confirmed(ctx, input)).await;
        }
        (self.handler)(ctx, input).await
    }

    /// Validates `input` of a caller who may call this, and returns it as handlers see it.
    ///
    /// # Errors
    /// As [`Op::call`], as far as it comes before the operation.
    pub async fn ready(&self, ctx: &Ctx, input: Map<String, Value>) -> Result<Value> {
        let input = self.admit(ctx, input)?;
        match self.prepare {
            None => Ok(input),
            Some(prepare) => prepare(ctx.clone(), input).await,
        }
    }

    fn admit(&self, ctx: &Ctx, mut input: Map<String, Value>) -> Result<Value> {
        if let Some(principal) = ctx.principal() {
            principal.admit(self.permission, self.name_for(principal, &input))?;
        }
        self.normalise(&mut input)?;
        if let Some(principal) = ctx.principal() {
            principal.admit_input(self.permission, &input)?;
        }
        if let Some(aimed) = self.aim(ctx, &input)?
            && aimed.tenant() != ctx.tenant()
        {
            return Err(Error::internal("a call for another tenant than its input"));
        }
        let input = Value::Object(input);
        schema::check_hiding(&self.validator, &input, &self.hidden)?;
        if let Some((_, rules)) = &self.rules {
            schema::check(rules, &input)?;
        }
        Ok(input)
    }

    /// Null means absent, since models write it so; aliases become the names that the schema knows.
    fn normalise(&self, input: &mut Map<String, Value>) -> Result<()> {
        input.retain(|_, value| !value.is_null());
        for name in &self.nested {
            if let Some(Value::Object(fields)) = input.get_mut(name) {
                fields.retain(|_, value| !value.is_null());
            }
        }
        for (alias, name) in self.aliases {
            if let Some(value) = input.remove(*alias)
                && input.insert((*name).to_owned(), value).is_some()
            {
                return Err(Error::invalid_at(
                    format!("/{alias}"),
                    format!("the same field as {name}; give one of the two"),
                ));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Op")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
