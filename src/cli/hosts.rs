//! What is known of the clients that Baton can be put into: where their files lie, and how an entry looks there. Pure.

use std::path::PathBuf;

use anyhow::bail;
use serde_json::{Map, Value, json};

use crate::places::Places;

/// A client that starts or calls MCP servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Host {
    ClaudeDesktop,
    ClaudeCode,
    Cursor,
    Vscode,
}

/// Whose configuration it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Scope {
    /// Yours, in every folder
    User,
    /// That of the project in this folder, shared with whoever works on it
    Project,
    /// Yours, in this folder alone (claude-code)
    Local,
}

/// How the client reaches Baton.
pub(super) enum Link {
    /// It starts this program.
    Stdio { command: String, args: Vec<String> },
    /// It calls this address.
    Http { url: String },
}

/// A place in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file.
    pub(super) file: PathBuf,
    /// The keys that lead to the object of servers.
    pub(super) keys: Vec<String>,
}

impl Host {
    pub(super) const ALL: [Self; 4] = [
        Self::ClaudeDesktop,
        Self::ClaudeCode,
        Self::Cursor,
        Self::Vscode,
    ];

    /// The name that people know.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::ClaudeDesktop => "Claude Desktop",
            Self::ClaudeCode => "Claude Code",
            Self::Cursor => "Cursor",
            Self::Vscode => "VS Code",
        }
    }

    /// What to do there so that the entry is seen.
    pub(super) fn next_step(self) -> &'static str {
        match self {
            Self::ClaudeDesktop => "Quit Claude Desktop and start it again.",
            Self::ClaudeCode => "Start a new session; /mcp shows the server.",
            Self::Cursor => "Switch the server on in Cursor's settings, under MCP.",
            Self::Vscode => "Run the command \"MCP: List Servers\" and start it there.",
        }
    }

    /// Where the entry goes.
    ///
    /// # Errors
    /// The host has no such scope.
    pub(super) fn place(self, scope: Scope, places: &Places) -> anyhow::Result<Place> {
        let servers = vec![self.servers_key().to_owned()];
        let file = match (self, scope) {
            (Self::ClaudeDesktop, Scope::User) => {
                places.config.join("Claude/claude_desktop_config.json")
            }
            (Self::ClaudeCode, Scope::User) => places.home.join(".claude.json"),
            (Self::ClaudeCode, Scope::Project) => places.current.join(".mcp.json"),
            (Self::ClaudeCode, Scope::Local) => {
                let project = places.current.display().to_string();
                return Ok(Place {
                    file: places.home.join(".claude.json"),
                    keys: [vec!["projects".to_owned(), project], servers].concat(),
                });
            }
            (Self::Cursor, Scope::User) => places.home.join(".cursor/mcp.json"),
            (Self::Cursor, Scope::Project) => places.current.join(".cursor/mcp.json"),
            (Self::Vscode, Scope::User) => places.config.join("Code/User/mcp.json"),
            (Self::Vscode, Scope::Project) => places.current.join(".vscode/mcp.json"),
            (Self::ClaudeDesktop, Scope::Project | Scope::Local)
            | (Self::Cursor | Self::Vscode, Scope::Local) => {
                bail!("{} has no such scope; leave --scope out", self.title())
            }
        };
        Ok(Place {
            file,
            keys: servers,
        })
    }

    /// The entry for `link`.
    ///
    /// # Errors
    /// The host can't be told of an address in its file.
    pub(super) fn entry(self, link: &Link) -> anyhow::Result<Value> {
        let typed = matches!(self, Self::ClaudeCode | Self::Vscode);
        let mut entry = Map::new();
        match link {
            Link::Stdio { command, args } => {
                if typed {
                    entry.insert("type".into(), "stdio".into());
                }
                entry.insert("command".into(), command.as_str().into());
                entry.insert("args".into(), json!(args));
            }
            Link::Http { .. } if self == Self::ClaudeDesktop => bail!(
                "Claude Desktop takes addresses only in its window (Settings, Connectors), not in its file; leave --url out \
                 and it starts Baton itself, on the same data folder"
            ),
            Link::Http { url } => {
                if typed {
                    entry.insert("type".into(), "http".into());
                }
                entry.insert("url".into(), url.as_str().into());
            }
        }
        Ok(entry.into())
    }

    fn servers_key(self) -> &'static str {
        match self {
            Self::Vscode => "servers",
            Self::ClaudeDesktop | Self::ClaudeCode | Self::Cursor => "mcpServers",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_platform_has_its_paths() {
        let places = |home: &str, config: &str| Places {
            home: home.into(),
            config: config.into(),
            current: "/home/ada/site".into(),
        };
        let linux = places("/home/a", "/home/a/.config");
        let mac = places("/Users/a", "/Users/a/Library/Application Support");
        for (host, scope, places, file) in [
            (
                Host::ClaudeDesktop,
                Scope::User,
                &mac,
                "/Users/a/Library/Application Support/Claude/claude_desktop_config.json",
            ),
            (
                Host::ClaudeDesktop,
                Scope::User,
                &linux,
                "/home/a/.config/Claude/claude_desktop_config.json",
            ),
            (Host::ClaudeCode, Scope::User, &mac, "/Users/a/.claude.json"),
            (
                Host::ClaudeCode,
                Scope::Local,
                &linux,
                "/home/a/.claude.json",
            ),
            (
                Host::ClaudeCode,
                Scope::Project,
                &linux,
                "/home/ada/site/.mcp.json",
            ),
            (
                Host::Cursor,
                Scope::User,
                &linux,
                "/home/a/.cursor/mcp.json",
            ),
            (
                Host::Cursor,
                Scope::Project,
                &mac,
                "/home/ada/site/.cursor/mcp.json",
            ),
            (
                Host::Vscode,
                Scope::User,
                &mac,
                "/Users/a/Library/Application Support/Code/User/mcp.json",
            ),
            (
                Host::Vscode,
                Scope::User,
                &linux,
                "/home/a/.config/Code/User/mcp.json",
            ),
            (
                Host::Vscode,
                Scope::Project,
                &linux,
                "/home/ada/site/.vscode/mcp.json",
            ),
        ] {
            assert_eq!(host.place(scope, places).unwrap().file, PathBuf::from(file));
        }
        let local = Host::ClaudeCode.place(Scope::Local, &linux).unwrap();
        assert_eq!(local.keys, ["projects", "/home/ada/site", "mcpServers"]);
        assert!(Host::Cursor.place(Scope::Local, &linux).is_err());
        assert!(Host::ClaudeDesktop.place(Scope::Project, &mac).is_err());
    }
}
