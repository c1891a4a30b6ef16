//! What a tool says of itself: the same in files, in the API and in the database. Here a manifest becomes a tool that can be
//! called: its schemas compiled, its implementation read, everything that would fail later refused now.

use std::sync::LazyLock;

use jsonschema::Validator;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::http::Http;
use super::task::Work;
use crate::error::{Error, Result};
use crate::op::{self, Block, Output, Structured, below, given};
use crate::script::Script;
use crate::upstream::{Definition, Upstream};

/// Bytes of a manifest.
const BYTES: usize = 64 << 10;

/// Bytes of an answer that are the protocol's.
const FRAME: usize = 1_000;

/// What a manifest may look like.
static FORM: LazyLock<Validator> = LazyLock::new(|| {
    let form = Value::Object(op::of_input::<Manifest>());
    op::compile(&form).expect("the schema of a manifest is a JSON Schema")
});

/// What a tool is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Manifest {
    /// As it is called
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]{1,40}$"))]
    pub(crate) name: String,
    /// For people
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub(crate) title: Option<String>,
    /// When to use it, in a sentence or two: models choose by it; of a tool of another server, what that says
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 2000))]
    pub(crate) description: String,
    /// JSON Schema of its arguments
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(crate) parameters: Map<String, Value>,
    /// JSON Schema of what it answers
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output_schema: Option<Map<String, Value>>,
    /// What a call does to the world
    #[serde(default)]
    pub(crate) annotations: Annotations,
    /// Calls that show how it is used
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub(crate) examples: Vec<Example>,
    /// Whatever else is to be known of it
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(crate) metadata: Map<String, Value>,
    /// Bounds of a call
    #[serde(default)]
    pub(crate) limits: Limits,
    /// How it is done: `{type, …}`, or the URL that arguments are sent to by POST
    pub(crate) implementation: Given,
}

/// An implementation as it was given.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Given(pub(crate) Value);

impl JsonSchema for Given {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Implementation".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let url = json_schema!({"type": "string", "maxLength": 2000});
        let whole = json_schema!({
            "type": "object", "required": ["type"],
            "properties": {"type": {"type": "string", "enum": KINDS}}, "additionalProperties": true,
        });
        json_schema!({"anyOf": [whole, url]})
    }

    fn inline_schema() -> bool {
        true
    }
}

/// What MCP clients are told that a call does.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Annotations {
    /// It changes nothing
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) read_only_hint: Option<bool>,
    /// It may change or end what is there
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) destructive_hint: Option<bool>,
    /// Repeating a call changes nothing more
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idempotent_hint: Option<bool>,
    /// It reaches what is outside of this server
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) open_world_hint: Option<bool>,
}

/// A call that shows how a tool is used.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Example {
    /// What for
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub(crate) description: Option<String>,
    /// With what
    pub(crate) arguments: Map<String, Value>,
}

/// Bounds of a call.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Limits {
    /// How long a call may take
    #[schemars(range(min = 1, max = 50))]
    pub(crate) timeout_seconds: u32,
    /// How long an answer may be
    #[schemars(range(min = 1, max = 1_048_576))]
    pub(crate) max_bytes: u32,
    /// How many calls of the tenant may begin in a minute; any number if not said
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) calls_per_minute: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout_seconds: 30,
            max_bytes: 256 << 10,
            calls_per_minute: None,
        }
    }
}

/// The types of implementations.
pub(super) const KINDS: [&str; 4] = ["http", "script", "task", "upstream"];

/// How a tool is done.
pub(crate) enum Implementation {
    /// By an HTTP call.
    Http(Box<Http>),
    /// By a script.
    Script(Box<Script>),
    /// By an executor.
    Task(Box<Work>),
    /// By another server.
    Upstream(Box<Upstream>),
}

impl Implementation {
    /// Reads what a manifest gives.
    fn read(given: &Value, manifest: &Manifest) -> Result<Self> {
        let kind = given["type"].as_str().unwrap_or_default();
        let read = match kind {
            "http" => op::parse(given)
                .and_then(|http| Http::ready(http, manifest))
                .map(|http| Self::Http(Box::new(http))),
            "script" => op::parse(given)
                .and_then(Script::ready)
                .map(|script| Self::Script(Box::new(script))),
            "task" => op::parse(given)
                .and_then(|work| Work::ready(work, manifest))
                .map(|work| Self::Task(Box::new(work))),
            "upstream" => op::parse(given)
                .and_then(|upstream| Upstream::ready(upstream, &manifest.name))
                .map(|upstream| Self::Upstream(Box::new(upstream))),
            other => Err(Error::invalid_at(
                "/type",
                format!("there is no {other:?}; one of {}", KINDS.join(", ")),
            )),
        };
        read.map_err(|error| below(error, "/implementation"))
    }

    /// Its type.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Script(_) => "script",
            Self::Task(_) => "task",
            Self::Upstream(_) => "upstream",
        }
    }

    /// Whether it only reads, where the manifest does not say.
    fn only_reads(&self) -> bool {
        match self {
            Self::Http(http) => http.only_reads(),
            Self::Script(_) | Self::Task(_) | Self::Upstream(_) => false,
        }
    }
}

/// A manifest that can be called.
pub(crate) struct Compiled {
    pub(crate) manifest: Manifest,
    pub(crate) implementation: Implementation,
    /// Of the manifest, as it is kept.
    pub(crate) bytes: usize,
    input: Validator,
    output: Option<Validator>,
}

/// What a call came to before it is held to the tool's promises.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Data, and perhaps words about it.
    Data(Value, Option<String>),
    /// Words alone.
    Text(String),
    /// What another server answered.
    Output(Output),
    /// It failed, and this is what whoever calls should know.
    Failure(String),
}

impl Manifest {
    /// Reads what a caller or a file gives.
    ///
    /// # Errors
    /// `invalid_input` with all findings.
    pub(crate) fn read(given: &Value) -> Result<Self> {
        op::check(&FORM, given)?;
        op::parse(given)
    }

    /// The tool of another server, if that is to say what it takes.
    pub(super) fn asks_elsewhere(&self) -> Result<Option<Upstream>> {
        let given = &self.implementation.0;
        if kind_of(given) != "upstream" || !self.parameters.is_empty() {
            return Ok(None);
        }
        let read = op::parse(given).and_then(|upstream| Upstream::ready(upstream, &self.name));
        read.map(Some)
            .map_err(|error| below(error, "/implementation"))
    }

    /// Takes over what another server says of its tool, as far as this does not say it. From here on it stays.
    pub(super) fn take(&mut self, said: Definition) {
        let cut = |text: String, most: usize| text.chars().take(most).collect::<String>();
        self.title = self.title.take().or(said.title.filter(|it| !it.is_empty()));
        self.title = self.title.take().map(|title| cut(title, 100));
        if self.description.is_empty() {
            self.description = cut(said.description, 2_000);
        }
        if self.description.is_empty() {
            self.description = self.title();
        }
        self.parameters = said.parameters;
        self.output_schema = self.output_schema.take().or(said.output_schema);
        let theirs: Annotations = serde_json::from_value(said.annotations).unwrap_or_default();
        let own = &mut self.annotations;
        own.read_only_hint = own.read_only_hint.or(theirs.read_only_hint);
        own.destructive_hint = own.destructive_hint.or(theirs.destructive_hint);
        own.idempotent_hint = own.idempotent_hint.or(theirs.idempotent_hint);
        own.open_world_hint = own.open_world_hint.or(theirs.open_world_hint);
        self.implementation.0["pin"] = said.hash.into();
    }

    /// The names of its parameters.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &str> {
        let named = self.parameters.get("properties").and_then(Value::as_object);
        named.into_iter().flatten().map(|(name, _)| name.as_str())
    }

    /// Whether every call has the parameter `name`.
    pub(crate) fn always_has(&self, name: &str) -> bool {
        let required = self.parameters.get("required").and_then(Value::as_array);
        let property = self.parameters.get("properties").map(|all| &all[name]);
        required.is_some_and(|all| all.iter().any(|one| one == name))
            || property.is_some_and(|property| property.get("default").is_some())
    }

    /// What it is called for people.
    pub(crate) fn title(&self) -> String {
        self.title.clone().unwrap_or_else(|| {
            let mut words = self.name.replace(['_', '-'], " ");
            if let Some(first) = words.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            words
        })
    }
}

impl Compiled {
    /// Makes a manifest ready to be called, and portable.
    ///
    /// # Errors
    /// `invalid_input` says what is wrong where.
    pub(crate) fn of(mut manifest: Manifest) -> Result<Self> {
        if let Value::String(url) = &manifest.implementation.0 {
            manifest.implementation.0 = serde_json::json!({"type": "http", "url": url});
        }
        if manifest.description.is_empty() {
            return Err(Error::invalid_at("/description", "missing, and required"));
        }
        let input = given(&mut manifest.parameters, "/parameters", true)?;
        let output = manifest.output_schema.as_mut();
        let output = output.map(|schema| given(schema, "/output_schema", false));
        let implementation = Implementation::read(&manifest.implementation.0, &manifest)?;
        let mut tool = Self {
            implementation,
            bytes: 0,
            input,
            output: output.transpose()?,
            manifest,
        };
        for (index, example) in tool.manifest.examples.iter().enumerate() {
            let shown = tool.input(example.arguments.clone());
            shown.map_err(|error| below(error, &format!("/examples/{index}/arguments")))?;
        }
        tool.bytes = tool.text()?.len();
        if tool.bytes > BYTES {
            let message = format!("a manifest has at most {BYTES} bytes");
            return Err(Error::invalid_at("", message));
        }
        Ok(tool)
    }

    /// As it is kept and hashed.
    pub(crate) fn text(&self) -> Result<String> {
        serde_json::to_string(&self.manifest).map_err(Error::internal)
    }

    /// What a call is made with: defaults stand for what is absent, and so does null where the schema knows none.
    ///
    /// # Errors
    /// `invalid_input` with all findings; their paths begin at the arguments.
    pub(crate) fn input(&self, mut given: Map<String, Value>) -> Result<Map<String, Value>> {
        given.retain(|_, value| !value.is_null());
        let properties = self.manifest.parameters.get("properties");
        for (name, property) in properties.and_then(Value::as_object).into_iter().flatten() {
            if let Some(default) = property.get("default") {
                given.entry(name).or_insert_with(|| default.clone());
            }
        }
        let given = Value::Object(given);
        op::check(&self.input, &given)?;
        match given {
            Value::Object(given) => Ok(given),
            _ => Ok(Map::new()),
        }
    }

    /// Whether it says what it answers.
    pub(super) fn promises(&self) -> bool {
        self.output.is_some()
    }

    /// What is answered: an answer that breaks the tool's promise is a failure.
    pub(super) fn output(&self, answer: Answer) -> Output {
        let output = plain(answer, self.promises());
        let data = output.structured.as_ref().filter(|_| !output.is_error);
        if let (Some(promised), Some(data)) = (&self.output, data)
            && let Err(error) = data.value().and_then(|data| op::check(promised, &data))
        {
            let findings = error.findings().iter();
            let findings = findings.map(|finding| format!("{}: {}", finding.path, finding.message));
            let findings: Vec<String> = findings.collect();
            let name = &self.manifest.name;
            let text = format!("what {name} answered is not what its output schema says: ");
            return Output::error(text + &findings.join("; "));
        }
        let size = serde_json::to_string(&output).map_or(0, |text| text.len());
        let most = self.manifest.limits.max_bytes as usize;
        if size > most.saturating_add(FRAME) {
            let text =
                format!("the answer is longer than the {most} bytes of the tool's max_bytes");
            return Output::error(text);
        }
        output
    }

    /// What clients are told that a call does.
    pub(crate) fn annotations(&self) -> Annotations {
        let said = &self.manifest.annotations;
        let only_reads = said
            .read_only_hint
            .unwrap_or(self.implementation.only_reads());
        Annotations {
            read_only_hint: Some(only_reads),
            destructive_hint: Some(said.destructive_hint.unwrap_or(!only_reads)),
            idempotent_hint: Some(said.idempotent_hint.unwrap_or(only_reads)),
            open_world_hint: Some(said.open_world_hint.unwrap_or(true)),
        }
    }
}

/// An answer in the form of all answers, of a tool that may promise what it answers. Data is an object.
pub(super) fn plain(answer: Answer, promises: bool) -> Output {
    let (data, text) = match answer {
        Answer::Failure(text) => return Output::error(text),
        Answer::Output(output) => return whole(output, promises),
        Answer::Text(text) if promises => (Some(Value::from(text)), None),
        Answer::Text(text) => (None, Some(text)),
        Answer::Data(data, text) => (Some(data), text),
    };
    Output {
        content: text.map(Block::text).into_iter().collect(),
        structured: data.map(|data| object(data.into())),
        is_error: false,
    }
}

/// The answer of another server, whose words are data where data is promised and there is none.
fn whole(mut output: Output, promises: bool) -> Output {
    if promises && output.structured.is_none() && !output.is_error {
        let texts = output.content.iter().filter_map(|block| match block {
            Block::Text { text } => Some(text.as_str()),
            _ => None,
        });
        let words = texts.collect::<Vec<_>>().join("\n");
        output.structured = Some(Value::from(words).into());
    }
    output.structured = output.structured.map(object);
    output
}

/// Data as an object.
fn object(data: Structured) -> Structured {
    if data.as_str().starts_with('{') {
        return data;
    }
    data.as_result()
}

/// The type of an implementation that a manifest gives.
pub(super) fn kind_of(given: &Value) -> String {
    let kind = given["type"].as_str();
    kind.unwrap_or("http").to_owned()
}
