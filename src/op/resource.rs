//! What can be read and what can be asked for by name: declarations of MCP resources and prompts.

use std::collections::BTreeMap;
use std::pin::Pin;

use super::output::{Block, Body, Message, Speaker};
use crate::ctx::{Ctx, Scope};
use crate::error::Result;
use crate::events::Event;
use crate::page::Position;
use crate::principal::Permission;
use crate::store::Tx;

/// The values of a template's variables, from a URI.
pub type Params = BTreeMap<&'static str, String>;

/// What a resource says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Media type.
    pub mime_type: &'static str,
    /// What it says.
    pub body: Body,
}

/// What a list holds of which clients are told that it has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum List {
    /// The tools that can be called.
    Tools,
    /// The prompts that can be asked for.
    Prompts,
    /// The resources that can be read.
    Resources,
}

/// One readable thing, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where to read it.
    pub uri: String,
    /// For people.
    pub title: String,
}

/// A page of items, and where the next one begins.
pub type Items = (Vec<Item>, Option<Position>);

/// Lists at most so many resources of a kind, behind a position.
pub(super) type Lister = fn(&Scope, &mut Tx<'_>, Option<&Position>, u32) -> Result<Items>;

/// How one is read live.
pub type Reading = Pin<Box<dyn Future<Output = Result<Content>> + Send>>;

/// How one is read. `NotFound` for what is not there or is another tenant's.
pub enum Reader {
    /// From the database alone.
    Stored(fn(&Scope, &mut Tx<'_>, &Params) -> Result<Content>),
    /// From wherever it is.
    Live(Box<dyn Fn(Ctx, Params) -> Reading + Send + Sync>),
}

/// What somebody types for a variable of a template.
#[derive(Debug)]
pub struct Typed {
    /// The variable.
    pub variable: String,
    /// How its value begins.
    pub begin: String,
    /// The values of other variables that are settled.
    pub settled: BTreeMap<String, String>,
    /// How many values to find at most.
    pub most: u32,
}

/// How values are found live.
pub type Completing = Pin<Box<dyn Future<Output = Result<Vec<String>>> + Send>>;

/// How values are found for a variable that begin with a text, best first.
pub enum Completer {
    /// In the database alone: of a variable, with a text, at most so many.
    Stored(fn(&Scope, &mut Tx<'_>, &str, &str, u32) -> Result<Vec<String>>),
    /// Wherever they are.
    Live(Box<dyn Fn(Ctx, Typed) -> Completing + Send + Sync>),
}

/// A kind of resource. Its URIs are `template` (RFC 6570) with its variables filled in: `{name}` is
/// one segment, `{+name}` all that is left.
pub struct Resource {
    /// For example `baton://tasks/{task_id}`.
    pub template: &'static str,
    /// Programmatic name.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What it says.
    pub description: &'static str,
    /// Media type.
    pub mime_type: &'static str,
    /// Reads one.
    pub read: Reader,
    /// At most the given number of those that exist, behind a position. `None` when they aren't listed.
    pub list: Option<Lister>,
    /// Finds values for its variables.
    pub complete: Completer,
    /// The URIs of this kind that an event changed.
    pub changed_by: fn(&Event) -> Vec<String>,
    /// What a caller must be allowed to do; `None` for what everybody may read.
    pub permission: Option<Permission>,
}

impl Resource {
    /// The variables of `uri`, when it is of this kind.
    pub fn matches(&self, uri: &str) -> Option<Params> {
        let mut params = Params::new();
        let (mut rest, mut template) = (uri, self.template);
        while let Some((literal, tail)) = template.split_once('{') {
            rest = rest.strip_prefix(literal)?;
            let (variable, after) = tail.split_once('}')?;
            let (variable, end) = match variable.strip_prefix('+') {
                Some(variable) => (variable, rest.len()),
                None => (variable, rest.find('/').unwrap_or(rest.len())),
            };
            if end == 0 {
                return None;
            }
            params.insert(variable, rest[..end].to_owned());
            (rest, template) = (&rest[end..], after);
        }
        (rest == template).then_some(params)
    }
}

/// A value that a prompt takes.
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// Whether the prompt needs it.
    pub required: bool,
    /// At most the given number of values that begin with a text, best first.
    pub complete: fn(&Scope, &mut Tx<'_>, &str, u32) -> Result<Vec<String>>,
}

/// What the arguments of a prompt are given as.
pub type Values = BTreeMap<String, String>;

/// The messages of a prompt, once they are made.
pub type Messages = Pin<Box<dyn Future<Output = Result<Vec<Message>>> + Send>>;

/// What a prompt says.
pub enum Wording {
    /// One message, with `{{name}}` where the arguments go; one that is missing leaves nothing behind.
    Template(&'static str),
    /// Whatever is made of the arguments.
    Made(fn(Ctx, Values) -> Messages),
}

/// Something to work from.
pub struct Prompt {
    /// Its name.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// When to use it.
    pub description: &'static str,
    /// What it takes.
    pub arguments: &'static [Argument],
    /// What it says.
    pub wording: Wording,
}

impl Prompt {
    /// Its messages, with these arguments.
    ///
    /// # Errors
    /// What the prompt refuses.
    pub async fn messages(&self, ctx: Ctx, values: Values) -> Result<Vec<Message>> {
        match self.wording {
            Wording::Made(make) => make(ctx, values).await,
            Wording::Template(template) => Ok(vec![Message {
                from: Speaker::User,
                block: Block::text(filled(template, &values)),
            }]),
        }
    }
}

/// The template with the values in the places of their names. Names in values are text like any other.
fn filled(template: &str, values: &Values) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((literal, (name, after))) = rest
        .split_once("{{")
        .and_then(|(literal, tail)| Some((literal, tail.split_once("}}")?)))
    {
        text.push_str(literal);
        text.push_str(values.get(name).map_or("", String::as_str));
        rest = after;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::{Values, filled};

    #[test]
    fn values_are_put_in_once() {
        let values = Values::from([
            ("goal".to_owned(), "ship {{team}}".to_owned()),
            ("team".to_owned(), "us".to_owned()),
        ]);
        assert_eq!(
            filled("{{team}}: {{goal}}{{none}}, {{", &values),
            "us: ship {{team}}, {{"
        );
    }
}
