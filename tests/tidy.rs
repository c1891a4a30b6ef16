//! The rules of the source tree that no lint knows: headers, sizes, the direction of dependency, crates kept to their
//! rooms, SQL kept to its files and to its tenant. It reads text, not types: what it can't see, review must.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up: a module may use the layers below its own. Within a layer, and against the order, only [`ARROWS`].
const LAYERS: [&str; 17] = [
    "error codes clock random id page places secret language splice principal trace quota reach config",
    "apis caller database folders outbound template tls vault",
    "queries store",
    "allowance buckets meter presence throttle",
    "ctx",
    "events op",
    "limits secrets",
    "script upstream",
    "tenants",
    "access end_task executor memory orchestrator resources sessions tasks tools",
    "catalog",
    "handles",
    "app feed questions rounds",
    "http mcp work",
    "transport",
    "cli",
    "lib main",
];

/// What else may depend on what. When this list grows past a screen, events are not doing their job.
const ARROWS: [(&str, &[&str]); 13] = [
    ("codes", &["error"]),
    (
        "config",
        &["error", "id", "places", "quota", "reach", "secret", "trace"],
    ),
    ("principal", &["clock", "error", "id"]),
    ("clock", &["error"]),
    ("id", &["clock", "error", "random"]),
    ("page", &["error", "id"]),
    ("reach", &["error"]),
    ("op", &["events"]),
    ("end_task", &["tasks"]),
    ("executor", &["access", "tasks"]),
    ("orchestrator", &["tasks"]),
    ("tasks", &["access"]),
    ("tools", &["orchestrator"]),
];

/// Crates and modules that only these files and folders may name.
const ROOMS: [(&str, &[&str]); 10] = [
    (
        "rmcp",
        &[
            "src/mcp/",
            "src/questions.rs",
            "src/rounds.rs",
            "src/transport/",
            "src/upstream/",
            "src/app.rs",
        ],
    ),
    ("axum", &["src/http/", "src/transport/", "src/app.rs"]),
    (
        "clap",
        &["src/cli.rs", "src/cli/", "src/config/", "src/main.rs"],
    ),
    ("rusqlite", &["src/database/", "src/queries/lite.rs"]),
    ("rquickjs", &["src/script/engine.rs"]),
    ("postgres", &["src/database/", "src/store/"]),
    (
        "tokio_postgres",
        &["src/database/", "src/queries/", "src/store/listen.rs"],
    ),
    ("reqwest", &["src/outbound/"]),
    ("object_store", &["src/buckets/"]),
    ("std::env", &["src/config/", "src/places.rs"]),
];

/// Where the executable lies is not a setting: `baton install` writes it into a client's file.
const NOT_A_SETTING: &str = "std::env::current_exe";

const MAX_LINES: usize = 500;
const MAX_FILES_IN_A_FOLDER: usize = 10;

#[test]
fn every_file_says_what_it_owns() {
    let files = ["src", "tests", "benches", "fuzz"]
        .into_iter()
        .flat_map(sources);
    refuse(
        files
            .filter(|file| !file.text.starts_with("//!"))
            .map(|file| {
                format!(
                    "{}: open with `//!`: what this file owns and what it does not know",
                    file.path
                )
            }),
    );
}

#[test]
fn files_and_folders_stay_small() {
    let files = ["src", "tests", "benches", "fuzz"]
        .into_iter()
        .flat_map(sources);
    let mut complaints: Vec<String> = files
        .filter(|file| file.body().lines().count() > MAX_LINES)
        .map(|file| {
            format!(
                "{}: more than {MAX_LINES} lines before its tests; split it by noun",
                file.path
            )
        })
        .collect();
    let mut folders: Vec<String> = Vec::new();
    for file in sources("src") {
        let depth = file.path.split('/').count();
        if depth > 3 {
            complaints.push(format!(
                "{}: nothing lies deeper than src/a/b.rs; grow sideways",
                file.path
            ));
        } else if depth == 3 {
            folders.push(file.module().to_owned());
        }
    }
    for folder in folders.iter().collect::<BTreeSet<_>>() {
        let files = folders.iter().filter(|other| *other == folder).count();
        if files > MAX_FILES_IN_A_FOLDER {
            complaints.push(format!(
                "src/{folder}: {files} files, at most {MAX_FILES_IN_A_FOLDER}; make the noun beside it a folder of its own"
            ));
        }
    }
    refuse(complaints);
}

#[test]
fn dependencies_point_down() {
    let layer = |module: &str| {
        LAYERS
            .iter()
            .position(|layer| layer.split(' ').any(|name| name == module))
    };
    let mut complaints = Vec::new();
    for file in sources("src") {
        let from = file.module();
        let Some(own) = layer(from) else {
            complaints.push(format!(
                "{}: give the module `{from}` its place in LAYERS",
                file.path
            ));
            continue;
        };
        let arrows = ARROWS
            .iter()
            .find(|(module, _)| *module == from)
            .map_or(&[][..], |(_, to)| to);
        for to in file.uses() {
            let down = layer(&to).is_some_and(|other| other < own);
            if !(to == from || down || arrows.contains(&to.as_str())) {
                complaints.push(format!(
                    "{}: `{from}` must not use `{to}`; append an event, pass a value in, or add a line to ARROWS",
                    file.path
                ));
            }
        }
    }
    refuse(complaints);
}

#[test]
fn crates_stay_in_their_rooms() {
    let mut complaints = Vec::new();
    for file in sources("src") {
        let code = file.code().replace(NOT_A_SETTING, "");
        for (name, rooms) in ROOMS {
            if !rooms.iter().any(|room| file.path.starts_with(room)) && names_crate(&code, name) {
                complaints.push(format!(
                    "{}: only {} may name `{name}`",
                    file.path,
                    rooms.join(", ")
                ));
            }
        }
    }
    refuse(complaints);
}

#[test]
fn sql_stays_in_store_files_and_names_its_tenant() {
    let tables = tenant_tables();
    let mut complaints = Vec::new();
    for file in sources("src") {
        let home = ["src/store/", "src/database/", "src/queries/"]
            .iter()
            .any(|folder| file.path.starts_with(folder))
            || file.path.ends_with("/store.rs");
        for (at, literal) in literals(file.body()) {
            if !is_statement(&literal) {
                continue;
            }
            let place = format!("{}:{}", file.path, file.text[..at].lines().count());
            if !home {
                complaints.push(format!("{place}: SQL belongs into a store.rs"));
            }
            let across = signature(&file.text[..at]).is_some_and(|text| text.contains("SystemTx"));
            if let Some(table) = tables.iter().find(|table| touches(&literal, table))
                && !across
                && !literal.contains("tenant_id")
            {
                complaints.push(format!(
                    "{place}: the statement reaches all tenants' `{table}`; bind tenant_id, or take a SystemTx"
                ));
            }
        }
    }
    refuse(complaints);
}

struct Source {
    /// With forward slashes, from the root of the repository.
    path: String,
    text: String,
}

impl Source {
    /// Everything before the tests at the end.
    fn body(&self) -> &str {
        let tests = self.text.find("\n#[cfg(test)]\nmod ");
        &self.text[..tests.map_or(self.text.len(), |at| at + 1)]
    }

    /// The body without comments.
    fn code(&self) -> String {
        let kept = |line: &str| {
            let comment = line
                .match_indices("//")
                .find(|(at, _)| !line[..*at].ends_with(':'));
            line[..comment.map_or(line.len(), |(at, _)| at)].to_owned()
        };
        self.body().lines().map(kept).collect::<Vec<_>>().join("\n")
    }

    /// `tasks` for src/tasks/store.rs, `clock` for src/clock.rs.
    fn module(&self) -> &str {
        let name = self.path.split('/').nth(1).unwrap_or_default();
        name.strip_suffix(".rs").unwrap_or(name)
    }

    /// The top-level modules that this file names, as `crate::a` and as `crate::{a, b}`.
    fn uses(&self) -> BTreeSet<String> {
        let code = self.code();
        let mut found = BTreeSet::new();
        for (at, start) in code.match_indices("crate::") {
            if code[..at].ends_with('$') || code[..at].ends_with(word) {
                continue;
            }
            let rest = &code[at + start.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(first_names(group)),
                None => found.extend(first_name(rest)),
            }
        }
        // `crate::Name` is a macro or a re-export of lib.rs, which has no layer.
        found.retain(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
        found
    }
}

fn word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text.trim_start().chars().take_while(|c| word(*c)).collect();
    (!name.is_empty()).then_some(name)
}

/// The names at the first level of a `use` group whose `{` has been taken off.
fn first_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                names.extend(first_name(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names
}

/// Whether `code` names the crate or path itself, not a module of ours of that name or a longer word.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        let imported = before.ends_with("use ") || before.ends_with("extern crate ");
        !before.ends_with(word)
            && !after.starts_with(word)
            && (imported || (after.starts_with("::") && !before.ends_with("::")))
    })
}

fn is_statement(literal: &str) -> bool {
    let start = literal.trim_start();
    [
        "SELECT ", "INSERT ", "UPDATE ", "DELETE ", "REPLACE ", "WITH ",
    ]
    .iter()
    .any(|verb| start.starts_with(verb))
}

/// Whether the statement reads or writes the table, as far as its words tell.
fn touches(statement: &str, table: &str) -> bool {
    let words: Vec<&str> = statement
        .split(|c| !word(c))
        .filter(|part| !part.is_empty())
        .collect();
    words
        .windows(2)
        .any(|pair| ["FROM", "JOIN", "INTO", "UPDATE"].contains(&pair[0]) && pair[1] == table)
}

/// The tables whose migration gives them a `tenant_id`.
fn tenant_tables() -> Vec<String> {
    let mut tables = Vec::new();
    for path in files("migrations", "sql") {
        let text = read(&path);
        for statement in text.split("CREATE TABLE ").skip(1) {
            let columns = statement.split(';').next().unwrap_or_default();
            if columns.contains("tenant_id") {
                tables.extend(first_name(columns.trim_start_matches("IF NOT EXISTS ")));
            }
        }
    }
    assert!(
        !tables.is_empty(),
        "no migration makes a table of tenant data"
    );
    tables
}

/// The header of the function that `text` ends in.
fn signature(text: &str) -> Option<&str> {
    let start = text.rfind("fn ")?;
    text[start..].split(['{', ';']).next()
}

/// The string literals of `text` with their byte offsets. Comments and character literals are stepped over.
fn literals(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        at += if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = character(rest) {
            length
        } else if rest.starts_with("r\"") || rest.starts_with("r#") {
            let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
            let open = 1 + hashes + 1;
            if rest[1 + hashes..].starts_with('"') && !text[..at].ends_with(word) {
                let end = rest[open..]
                    .find(&format!("\"{}", "#".repeat(hashes)))
                    .unwrap_or(rest.len() - open);
                found.push((at, rest[open..open + end].to_owned()));
                (open + end + 1 + hashes).min(rest.len())
            } else {
                1
            }
        } else if c == '"' {
            let end = closing_quote(&rest[1..]);
            found.push((at, rest[1..=end].to_owned()));
            (end + 2).min(rest.len())
        } else {
            c.len_utf8()
        };
    }
    found
}

/// The length of a character literal, so that `'"'` opens no string; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let first = inner.chars().next()?;
    let length = if first == '\\' {
        inner[2..].find('\'')? + 2
    } else {
        first.len_utf8()
    };
    inner[length..].starts_with('\'').then_some(length + 2)
}

fn closing_quote(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at,
            _ => {}
        }
    }
    text.len()
}

fn sources(folder: &str) -> Vec<Source> {
    let source = |path: PathBuf| Source {
        text: read(&path),
        path: path.to_string_lossy().replace('\\', "/"),
    };
    files(folder, "rs").into_iter().map(source).collect()
}

/// All files below `folder` with that extension; an integration test runs in the root of the package.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails with all complaints at once, so that one run is enough to mend them.
fn refuse(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn the_reader_of_source_is_not_fooled() {
    let file = Source {
        path: "src/tasks/store.rs".to_owned(),
        text: "use crate::{clock, events::{self, Event}, store::Tx};\n// crate::http\nuse crate::id::TaskId;\n".to_owned(),
    };
    assert_eq!(file.module(), "tasks");
    assert_eq!(
        file.uses().into_iter().collect::<Vec<_>>(),
        ["clock", "events", "id", "store"]
    );
    assert!(
        names_crate("use axum::Router;", "axum")
            && names_crate("let x = std::env::var(\"A\");", "std::env")
    );
    assert!(!names_crate(
        "crate::axum::x my_axum::y axum_extra::z",
        "axum"
    ));
    let text = "f('\"', \"a\\\"b\"); // \"no\"\nlet s: &'static str = r#\"SELECT \"x\"\"#;";
    let strings: Vec<String> = literals(text)
        .into_iter()
        .map(|(_, literal)| literal)
        .collect();
    assert_eq!(strings, ["a\\\"b", "SELECT \"x\""]);
    assert!(
        touches("SELECT 1 FROM tasks t", "tasks")
            && !touches("SELECT tasks FROM task_notes", "tasks")
    );
    assert!(
        signature("fn due(tx: &mut SystemTx) -> Result<()> { tx.query(")
            .unwrap()
            .contains("SystemTx")
    );
}
