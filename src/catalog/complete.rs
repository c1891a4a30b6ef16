//! What values there are for what is being typed: variables of templates and arguments of prompts.

use std::collections::BTreeMap;

use super::{Catalog, is_open, shows, unknown_prompt, unknown_resource};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::op::{Class, Completer, Permission, Typed};

/// Completions of one variable at most (MCP `completion/complete`).
const COMPLETIONS: u32 = 100;

/// What a value may be completed to.
#[derive(Debug)]
pub struct Suggestions {
    /// The best of them, at most a hundred.
    pub values: Vec<String>,
    /// Whether there are more.
    pub has_more: bool,
}

impl Suggestions {
    /// How many to ask for: one more than is shown tells whether there are more.
    const ASKED: u32 = COMPLETIONS + 1;

    fn of(mut values: Vec<String>) -> Self {
        let most = usize::try_from(COMPLETIONS).unwrap_or(usize::MAX);
        let has_more = values.len() > most;
        values.truncate(most);
        Self { values, has_more }
    }

    const fn none() -> Self {
        Self {
            values: Vec::new(),
            has_more: false,
        }
    }
}

impl Catalog {
    /// Values for `variable` of the resource kind `template` that begin with `prefix`.
    ///
    /// # Errors
    /// `unknown_resource` when there is no such kind, or a failure of the database.
    pub async fn complete(
        &self,
        ctx: &Ctx,
        template: &str,
        (variable, prefix): (&str, &str),
        settled: BTreeMap<String, String>,
    ) -> Result<Suggestions> {
        let kind = self
            .parts
            .resources
            .iter()
            .find(|kind| kind.template == template)
            .ok_or_else(|| unknown_resource(template))?;
        let names = [format!("{{{variable}}}"), format!("{{+{variable}}}")];
        if !names.iter().any(|name| template.contains(name)) {
            return Err(Error::not_found(
                "unknown_resource",
                format!("{template} has no variable {variable:?}"),
            ));
        }
        if !is_open(ctx, kind) {
            return Ok(Suggestions::none());
        }
        let _pass = ctx.admit(Class::Read)?;
        let (variable, begin, most) = (variable.to_owned(), prefix.to_owned(), Suggestions::ASKED);
        let found = match &kind.complete {
            Completer::Stored(complete) => {
                let complete = *complete;
                let find = ctx.read(move |scope, tx| complete(scope, tx, &variable, &begin, most));
                find.await
            }
            Completer::Live(complete) => {
                let typed = Typed {
                    variable,
                    begin,
                    settled,
                    most,
                };
                complete(ctx.clone(), typed).await
            }
        };
        found.map(Suggestions::of)
    }

    /// Values for `argument` of the prompt `name` that begin with `prefix`.
    ///
    /// # Errors
    /// `unknown_prompt` when there is no such prompt or argument, or a failure of the database.
    pub async fn complete_argument(
        &self,
        ctx: &Ctx,
        name: &str,
        argument: &str,
        prefix: &str,
    ) -> Result<Suggestions> {
        let prompt = self.prompt(name).ok_or_else(|| unknown_prompt(name))?;
        let mut arguments = prompt.arguments.iter();
        let Some(argument) = arguments.find(|known| known.name == argument) else {
            return Err(Error::not_found(
                "unknown_prompt",
                format!("the prompt {name:?} has no argument {argument:?}"),
            ));
        };
        // They are found in tasks.
        if !shows(ctx, Permission::Read) {
            return Ok(Suggestions::none());
        }
        let _pass = ctx.admit(Class::Read)?;
        let (complete, prefix) = (argument.complete, prefix.to_owned());
        let found = ctx.read(move |scope, tx| complete(scope, tx, &prefix, Suggestions::ASKED));
        found.await.map(Suggestions::of)
    }
}
