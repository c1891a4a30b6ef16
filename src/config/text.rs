//! The settings as a file and as a table, made from their declarations.

use clap::{Arg, Args as _};

use super::Settings;

const HEAD: &str = "\
# Settings of Baton: every one, with its default. Use it with `baton serve --config FILE` or BATON_CONFIG=FILE.
# A flag goes before a variable, a variable before this file. Print this with `baton settings`.
";

/// The text of `baton.example.toml`.
pub fn example() -> String {
    settings().iter().fold(HEAD.to_owned(), |text, setting| {
        text + &format!(
            "\n# {}.\n# Flag --{}, variable {}.\n# {} = {}\n",
            wrapped(&setting.help),
            setting.flag,
            setting.variable,
            setting.key,
            setting.value,
        )
    })
}

/// The settings as a Markdown table.
pub fn table() -> String {
    let head = "| flag | variable | in the file | |\n| --- | --- | --- | --- |\n".to_owned();
    settings().iter().fold(head, |text, setting| {
        text + &format!(
            "| `--{}` | `{}` | `{}` | {} |\n",
            setting.flag, setting.variable, setting.key, setting.help
        )
    })
}

struct Setting {
    key: String,
    flag: String,
    variable: String,
    help: String,
    value: String,
}

fn settings() -> Vec<Setting> {
    let command = Settings::augment_args(clap::Command::new("baton"));
    command
        .get_arguments()
        .map(|arg| Setting {
            key: arg.get_id().to_string(),
            flag: arg.get_long().unwrap_or_default().to_owned(),
            variable: arg
                .get_env()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            value: value(arg),
        })
        .collect()
}

/// The default that the help text names, or an example, as TOML.
fn value(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let default = help
        .rsplit_once("[default: ")
        .and_then(|(_, rest)| rest.strip_suffix(']'))
        // A default that is described ends with an example of it.
        .and_then(|default| default.rsplit(' ').next())
        .map(|default| default.trim_matches('`'));
    let sample = || {
        let name = arg.get_value_names().and_then(|names| names.first());
        match name.map(clap::builder::Str::as_str) {
            Some("N") => "100".to_owned(),
            Some("ADDRESS") => "127.0.0.1".to_owned(),
            name => name.unwrap_or_default().to_lowercase(),
        }
    };
    let value = default.map_or_else(sample, str::to_owned);
    if arg.get_value_delimiter().is_some() {
        format!("[\"{value}\"]")
    } else if value.parse::<i64>().is_ok() {
        value
    } else {
        format!("\"{value}\"")
    }
}

/// The text over lines of at most about 100 characters, each a comment.
fn wrapped(text: &str) -> String {
    let (mut lines, mut length) = (String::new(), 0);
    for word in text.split(' ') {
        if length > 0 && length + word.len() > 100 {
            lines.push_str("\n# ");
            length = 0;
        } else if length > 0 {
            lines.push(' ');
        }
        lines.push_str(word);
        length += word.len() + 1;
    }
    lines
}
