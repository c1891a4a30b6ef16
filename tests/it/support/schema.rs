//! The official schemas of MCP, one a revision, and whether a message of the server is what they say. Knows no transport.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::mcp::MODERN;

/// The revisions, and what each says.
static SCHEMAS: LazyLock<HashMap<&str, Value>> = LazyLock::new(|| {
    let parsed = |text| serde_json::from_str::<Value>(text).expect("a schema is JSON");
    let mut modern = parsed(include_str!("../../mcp-schema/2026-07-28.json"));
    let tasks = parsed(include_str!("../../mcp-schema/tasks.json"));
    let notification = json!({"$ref": "#/$defs/TaskNotification"});
    let known = modern["$defs"]["ServerNotification"]["anyOf"].as_array_mut();
    known.expect("a list").push(notification);
    for (name, definition) in tasks["$defs"].as_object().expect("definitions") {
        modern["$defs"][name] = definition.clone();
    }
    HashMap::from([
        (
            "2024-11-05",
            parsed(include_str!("../../mcp-schema/2024-11-05.json")),
        ),
        (
            "2025-03-26",
            parsed(include_str!("../../mcp-schema/2025-03-26.json")),
        ),
        (
            "2025-06-18",
            parsed(include_str!("../../mcp-schema/2025-06-18.json")),
        ),
        (
            "2025-11-25",
            parsed(include_str!("../../mcp-schema/2025-11-25.json")),
        ),
        (MODERN, modern),
    ])
});

/// What each method is answered with, if nothing else has to be settled first.
static RESULTS: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../mcp-schema/results.json")).expect("a table")
});

type Compiled = HashMap<(&'static str, String), Option<Arc<Validator>>>;
static COMPILED: LazyLock<Mutex<Compiled>> = LazyLock::new(Mutex::default);

/// A revision of the protocol that has a schema.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Revision(&'static str);

impl Revision {
    /// The revision of this name, if there is a schema of it.
    pub(crate) fn named(name: &str) -> Option<Self> {
        SCHEMAS.get_key_value(name).map(|(name, _)| Self(name))
    }

    /// The newest, which is what a client that has negotiated nothing speaks.
    pub(crate) fn modern() -> Self {
        Self(MODERN)
    }

    /// Whether answers to a batch come in an array.
    fn has_batches(self) -> bool {
        self.0 == "2025-03-26"
    }

    fn definitions(self) -> (&'static str, &'static Value) {
        let schema = &SCHEMAS[self.0];
        ["$defs", "definitions"]
            .into_iter()
            .find_map(|place| Some((place, schema.get(place)?)))
            .expect("a schema has definitions")
    }

    /// The check of a type, if the revision has it.
    fn validator(self, name: &str) -> Option<Arc<Validator>> {
        let mut compiled = COMPILED.lock().unwrap();
        let key = (self.0, name.to_owned());
        let make = || {
            let (place, definitions) = self.definitions();
            definitions.get(name)?;
            let mut schema = json!({"$ref": format!("#/{place}/{name}")});
            schema["$schema"] = SCHEMAS[self.0]["$schema"].clone();
            schema[place] = definitions.clone();
            let validator = jsonschema::validator_for(&schema);
            Some(Arc::new(validator.expect("a schema that compiles")))
        };
        compiled.entry(key).or_insert_with(make).clone()
    }

    /// Whether `value` is a `name`; the reason if not.
    fn is(self, name: &str, value: &Value) -> Result<(), String> {
        let Some(validator) = self.validator(name) else {
            return Err(format!("{} has no {name}", self.0));
        };
        let wrong: Vec<_> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error:.300}", error.instance_path()))
            .collect();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("no {name} of {}: {}", self.0, wrong.join("; ")))
        }
    }

    /// The type of what the server sends unasked under this method: a `ServerNotification` or a `ServerRequest`.
    fn unasked(self, kinds: &str, method: &str) -> Result<&'static str, String> {
        let (_, definitions) = self.definitions();
        let references = definitions[kinds]["anyOf"].as_array();
        let mut names = references.into_iter().flatten().filter_map(|one| {
            let name = one["$ref"].as_str()?.rsplit('/').next()?;
            (definitions[name]["properties"]["method"]["const"] == method).then_some(name)
        });
        let none = || format!("{} has no {kinds} {method}", self.0);
        names.next().ok_or_else(none)
    }

    /// Checks a message of the server. `asked` is the method of the request that it answers, if it is an answer to one.
    pub(crate) fn check(self, message: &Value, asked: Option<&str>) -> Result<(), String> {
        if let Some(method) = message["method"].as_str() {
            let (kinds, envelope) = if message.get("id").is_some() {
                ("ServerRequest", "JSONRPCRequest")
            } else {
                ("ServerNotification", "JSONRPCNotification")
            };
            self.is(envelope, message)?;
            return self.is(self.unasked(kinds, method)?, message);
        }
        if message.get("error").is_some() {
            return self.check_error(message);
        }
        let response = ["JSONRPCResultResponse", "JSONRPCResponse"];
        let known = response
            .into_iter()
            .find(|name| self.validator(name).is_some());
        self.is(known.expect("a revision has responses"), message)?;
        let asked = asked.ok_or("an answer to nothing that was asked")?;
        let usual = RESULTS.get(asked);
        let usual = usual.ok_or_else(|| format!("a result of {asked}, which has none"))?;
        let result = &message["result"];
        let interim = matches!(asked, "tools/call" | "prompts/get" | "resources/read");
        let name = match result["resultType"].as_str() {
            Some("input_required") if interim => "InputRequiredResult",
            Some("task") if asked == "tools/call" => "CreateTaskResult",
            Some("complete") | None => usual,
            Some(other) => return Err(format!("a result of {asked} that is {other}")),
        };
        self.is(name, result)
    }

    /// JSON-RPC wants a null for the id of what could not be read, and MCP adopts JSON-RPC; its schemas have no word for
    /// that (until 2025-06-18) or leave the id out. So such an error is checked without it.
    fn check_error(self, message: &Value) -> Result<(), String> {
        let unreadable = message["id"].is_null();
        let mut read = message.clone();
        if unreadable {
            let code = message["error"]["code"].as_i64();
            if !matches!(code, Some(-32700 | -32600 | -32602 | -32603)) {
                return Err("an error that answers nothing".into());
            }
            read["id"] = json!(0);
        }
        let types = ["JSONRPCErrorResponse", "JSONRPCError"];
        let known = types
            .into_iter()
            .find(|name| self.validator(name).is_some());
        self.is(known.expect("a revision has errors"), &read)
    }
}

/// What a client and the server say to each other: which requests there were, and in which revision.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    /// As `initialize` settled it.
    revision: Option<Revision>,
    asked: HashMap<String, (String, Option<Revision>)>,
    batches: bool,
}

impl Talk {
    /// Of a client that says in which revision it goes on.
    pub(crate) fn of(revision: Option<Revision>) -> Self {
        Self {
            revision,
            ..Self::default()
        }
    }

    /// Notes what the client sends, if it is anything.
    pub(crate) fn sent(&mut self, text: &[u8]) {
        match serde_json::from_slice(text) {
            Ok(Value::Array(messages)) => {
                self.batches = true;
                for message in &messages {
                    self.note(message);
                }
            }
            Ok(message) => self.note(&message),
            Err(_) => {}
        }
    }

    fn note(&mut self, message: &Value) {
        let Some(method) = message["method"].as_str() else {
            return;
        };
        let meta = &message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"];
        let revision = meta.as_str().and_then(Revision::named);
        let asked = (method.to_owned(), revision);
        self.asked.insert(message["id"].to_string(), asked);
    }

    /// Checks a message of the server; the reason if it is not what its revision says, and how many messages it was.
    pub(crate) fn heard(&mut self, text: &str) -> Result<usize, String> {
        let message: Value =
            serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
        let Value::Array(messages) = message else {
            return self.check(&message).map(|()| 1);
        };
        let has_batches = self.revision.is_some_and(Revision::has_batches);
        if !has_batches || !self.batches || messages.is_empty() {
            return Err("an array, which only a batch of 2025-03-26 is answered with".into());
        }
        messages.iter().try_for_each(|one| self.check(one))?;
        Ok(messages.len())
    }

    fn check(&mut self, message: &Value) -> Result<(), String> {
        let asked = self.asked.get(&message["id"].to_string());
        let method = asked.map(|(method, _)| method.as_str());
        if method == Some("initialize") {
            let agreed = message["result"]["protocolVersion"].as_str();
            self.revision = agreed.and_then(Revision::named).or(self.revision);
        }
        let mut revision = asked.and_then(|(_, revision)| *revision);
        let meta = &message["params"]["_meta"];
        if meta["io.modelcontextprotocol/subscriptionId"].is_string() {
            revision = Some(Revision::modern());
        }
        let revision = revision.or(self.revision).unwrap_or_else(Revision::modern);
        revision.check(message, method)
    }
}
