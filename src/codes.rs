//! The codes that callers meet in errors, what each means and what to do about it. Documentation shows this list, and
//! the outbound client turns a remote code back into the same constant. A test keeps it equal to what the source says.

use crate::error::Kind;

/// A stable code of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// As in the `code` member of an error.
    pub name: &'static str,
    /// The kind of the error, which decides its HTTP status.
    pub kind: Kind,
    /// What it means and what to do.
    pub meaning: &'static str,
}

const fn code(name: &'static str, kind: Kind, meaning: &'static str) -> Code {
    Code {
        name,
        kind,
        meaning,
    }
}

/// All codes, by name.
pub const ALL: &[Code] = &[
    code(
        "address_refused",
        Kind::Invalid,
        "The URL or host may not be called: it is none of http or https, is unknown, or leads to where the operator has not opened (`--outbound-allow`).",
    ),
    code(
        "already_exists",
        Kind::Conflict,
        "There is one with this id already.",
    ),
    code(
        "answers_used",
        Kind::Conflict,
        "The answers that the call brings were acted on before. See what became of that, or make the call again without `requestState`.",
    ),
    code(
        "caller_cant_answer",
        Kind::Conflict,
        "The call has a question that its caller can't be asked, or did not answer.",
    ),
    code(
        "cancelled",
        Kind::Cancelled,
        "The caller withdrew the call.",
    ),
    code(
        "confirmation_needed",
        Kind::Conflict,
        "The call does more than it seems, as the message says; repeat it with `confirm` true.",
    ),
    code(
        "credential_required",
        Kind::Unauthenticated,
        "The server asks who you are: show a key, as `Authorization: Bearer bt_…`.",
    ),
    code(
        "database_unusable",
        Kind::Unavailable,
        "A database that a tenant registered can't be asked: it is not reached, does not let Baton in, is damaged or may not be written. The message says which.",
    ),
    code(
        "dependency_failed",
        Kind::Conflict,
        "A task that this one depends on did not complete; retry that one first.",
    ),
    code(
        "disk_full",
        Kind::Unavailable,
        "The disk of the server is full; nothing was written.",
    ),
    code(
        "forbidden",
        Kind::Forbidden,
        "The credential is good and does not allow this; the message says what it would take.",
    ),
    code(
        "initialize_too_long",
        Kind::Invalid,
        "What a legacy client says of itself in `initialize` is longer than is kept.",
    ),
    code(
        "insufficient_scope",
        Kind::Forbidden,
        "The credential lacks the scope that the message names.",
    ),
    code(
        "internal",
        Kind::Internal,
        "A fault of the server; its log says more.",
    ),
    code(
        "invalid_credential",
        Kind::Unauthenticated,
        "The key is unknown, wrong, expired or revoked; which of these is not said.",
    ),
    code(
        "invalid_cursor",
        Kind::Invalid,
        "The cursor is not one that this list gave; start again without one.",
    ),
    code(
        "invalid_database",
        Kind::Invalid,
        "The URL of the database can't be used; the message says what is wrong with it.",
    ),
    code(
        "invalid_input",
        Kind::Invalid,
        "The input does not fit; `details` names each place and what would be right there.",
    ),
    code(
        "invalid_result",
        Kind::Invalid,
        "The result does not fit the `result_schema` of the task; mend it and end the task again.",
    ),
    code(
        "invalid_tenant",
        Kind::Invalid,
        "A tenant is 1-63 of [a-z0-9_-], beginning with a letter or a digit.",
    ),
    code(
        "issuer_unreachable",
        Kind::Unavailable,
        "The authorization server's keys can't be had, so its tokens can't be checked; come back later.",
    ),
    code(
        "lease_lost",
        Kind::Conflict,
        "The lease is over and the task may be another executor's; drop the work on it.",
    ),
    code(
        "log_broken",
        Kind::Conflict,
        "The event log does not fit its hash chain: it was changed from outside.",
    ),
    code(
        "master_key_fixed",
        Kind::Conflict,
        "The master key lies where Baton can't change it; put another one there, as the message says.",
    ),
    code(
        "master_key_invalid",
        Kind::Unavailable,
        "The file or variable of the master key can't be used; the message says why.",
    ),
    code(
        "master_key_missing",
        Kind::Unavailable,
        "Secrets need a master key, and the server has none; its operator names one with `--master-key-file`.",
    ),
    code(
        "master_key_unknown",
        Kind::Unavailable,
        "Secrets are sealed by a master key that the server does not have; its operator names the file that has it.",
    ),
    code(
        "memory_superseded",
        Kind::Conflict,
        "Another entry stands in the place of this one; name that one, as the message says.",
    ),
    code(
        "move_failed",
        Kind::Conflict,
        "The copy is not what the source is; nothing at the source was changed. Empty the target and move again.",
    ),
    code(
        "not_confirmed",
        Kind::Conflict,
        "The caller was asked whether to go on and said no; nothing was done.",
    ),
    code(
        "notification_id_taken",
        Kind::Conflict,
        "There is another notification with this id; use another one.",
    ),
    code(
        "outcome_unknown",
        Kind::Unavailable,
        "The connection to the database broke while committing, or the disk did not confirm what was written; look, or repeat the call if it names its own id.",
    ),
    code(
        "path_conflict",
        Kind::Conflict,
        "What is at the path does not fit: a folder where a file is meant or the reverse, a folder that is not empty, or one where the server may not write.",
    ),
    code(
        "queries_busy",
        Kind::Unavailable,
        "As many queries run as may, or somebody else writes to the database; come back after `retry_after_seconds`.",
    ),
    code(
        "query_failed",
        Kind::Invalid,
        "The database did not take the statement or a parameter; the message is what it said.",
    ),
    code(
        "query_refused",
        Kind::Invalid,
        "The statement may not be made: it is more than one, changes something without `write`, or reaches out of the database. The message says which.",
    ),
    code(
        "query_timeout",
        Kind::Limited,
        "The statement ran longer than it may; ask for less, or give it more `timeout_seconds`.",
    ),
    code(
        "query_too_large",
        Kind::Limited,
        "A row of the answer, or what the statement takes of memory, is larger than it may be; ask for less.",
    ),
    code(
        "quota_exceeded",
        Kind::Limited,
        "The tenant has all that it may of something; the message names the quota, its value and the use. Make room, or ask the operator for more.",
    ),
    code(
        "rate_limited",
        Kind::Limited,
        "More calls a second than this address, credential or tenant may make; come back after `retry_after_seconds`.",
    ),
    code(
        "remote_error",
        Kind::Unavailable,
        "A server that this one called answered with an error of its own.",
    ),
    code(
        "remote_unreachable",
        Kind::Unavailable,
        "A server that this one called did not answer; is it running, and is the URL right?",
    ),
    code(
        "rotation_running",
        Kind::Conflict,
        "Another process changes the master key; let it end.",
    ),
    code(
        "scripts_busy",
        Kind::Unavailable,
        "As many scripts run as may, of the tenant or of all; come back after `retry_after_seconds`.",
    ),
    code(
        "secret_broken",
        Kind::Conflict,
        "What is sealed was changed from outside, or belongs elsewhere; set it anew.",
    ),
    code(
        "session_busy",
        Kind::Unavailable,
        "The HTTP+SSE session does not take the message now; send it again after `retry_after_seconds`.",
    ),
    code(
        "shutting_down",
        Kind::Unavailable,
        "The server stops and can't wait any longer; the same call may be repeated once it is back.",
    ),
    code(
        "store_busy",
        Kind::Unavailable,
        "The database has more to do than it can take; come back after `retry_after_seconds`.",
    ),
    code(
        "store_closed",
        Kind::Unavailable,
        "The server is shutting down; try again once it is back.",
    ),
    code(
        "store_corrupt",
        Kind::Internal,
        "The file in the data folder is damaged or no database; restore a backup.",
    ),
    code(
        "store_failing",
        Kind::Unavailable,
        "The disk of the server failed, or a quota or a limit of file sizes is reached; nothing was written.",
    ),
    code(
        "store_forbidden",
        Kind::Unavailable,
        "The database refuses this role; the message says what.",
    ),
    code(
        "store_missing",
        Kind::NotFound,
        "The folder to move from holds no data.",
    ),
    code(
        "store_moving",
        Kind::Unavailable,
        "A move to this database was not finished; run `baton move` again.",
    ),
    code(
        "store_newer",
        Kind::Unavailable,
        "The data was written by a newer version; update this one.",
    ),
    code(
        "store_not_empty",
        Kind::Conflict,
        "The target of a move has data already; name an empty one.",
    ),
    code(
        "store_on_network",
        Kind::Unavailable,
        "The data folder is on a network file system, where locks can fail; use a local one.",
    ),
    code(
        "store_outdated",
        Kind::Unavailable,
        "The database lacks the newest tables; run `baton migrate` with a role that may make them.",
    ),
    code(
        "store_read_only",
        Kind::Unavailable,
        "The database can't be written to.",
    ),
    code(
        "store_unavailable",
        Kind::Unavailable,
        "The database can't be reached; try again.",
    ),
    code(
        "store_unreadable",
        Kind::Unavailable,
        "The data folder can't be used.",
    ),
    code(
        "store_unsupported",
        Kind::Unavailable,
        "The database server is older than PostgreSQL 15.",
    ),
    code(
        "task_already_ended",
        Kind::Conflict,
        "The task has ended, once and for all.",
    ),
    code(
        "task_id_taken",
        Kind::Conflict,
        "There is a task with this id and another payload; use another id, or none.",
    ),
    code(
        "task_not_in_state",
        Kind::Conflict,
        "The call does not fit the state that the task is in; the message names it.",
    ),
    code(
        "tenant_conflict",
        Kind::Invalid,
        "Two places of the call name different tenants; name one, once.",
    ),
    code(
        "tenant_deleting",
        Kind::Conflict,
        "The tenant is being deleted, and everything of it; nothing more is taken for it.",
    ),
    code(
        "tenant_required",
        Kind::Invalid,
        "The credential is for several tenants, and the call names none.",
    ),
    code(
        "too_many_calls",
        Kind::Limited,
        "As much of yours goes on as the limit that the message names allows; come back when something has ended.",
    ),
    code(
        "too_many_listeners",
        Kind::Unavailable,
        "This server has as many open listeners as it may; come back after `retry_after_seconds`.",
    ),
    code(
        "too_many_secrets",
        Kind::Conflict,
        "The tenant keeps as many secrets as it may; delete some.",
    ),
    code(
        "too_many_sessions",
        Kind::Unavailable,
        "This server has as many sessions of older clients as it may; come back after `retry_after_seconds`.",
    ),
    code(
        "too_many_subscriptions",
        Kind::Invalid,
        "A session subscribes to as many resources as it may; end some subscriptions.",
    ),
    code(
        "too_many_unanswered",
        Kind::Limited,
        "Requests of this HTTP+SSE session wait for their answers, or for being read; go on when some have come.",
    ),
    code(
        "too_many_waiting",
        Kind::Unavailable,
        "As many calls wait as may; come back after `retry_after_seconds`, or ask without waiting.",
    ),
    code(
        "tool_changed",
        Kind::Conflict,
        "The tool is not the one that you have looked at. Look again and decide anew.",
    ),
    code(
        "tool_failed",
        Kind::Conflict,
        "The tool ran and failed; the message is what it said.",
    ),
    code(
        "unknown_file",
        Kind::NotFound,
        "There is no such file, folder or table in the resource.",
    ),
    code(
        "unknown_handle",
        Kind::NotFound,
        "There is no such task handle of the MCP Tasks extension, or none of this caller, or it has expired.",
    ),
    code(
        "unknown_key",
        Kind::NotFound,
        "There is no such key in this tenant.",
    ),
    code(
        "unknown_memory",
        Kind::NotFound,
        "Nothing is remembered under this id, by this agent, in this tenant.",
    ),
    code(
        "unknown_operation",
        Kind::NotFound,
        "There is no operation of this name.",
    ),
    code(
        "unknown_prompt",
        Kind::NotFound,
        "There is no such prompt, or it has no such argument.",
    ),
    code(
        "unknown_resource",
        Kind::NotFound,
        "There is no such resource in this tenant.",
    ),
    code(
        "unknown_secret",
        Kind::NotFound,
        "There is no secret of this name in this tenant.",
    ),
    code(
        "unknown_task",
        Kind::NotFound,
        "There is no such task in this tenant.",
    ),
    code(
        "unknown_tenant",
        Kind::NotFound,
        "There is no such tenant to delete: nothing was ever written for it.",
    ),
    code(
        "unknown_tool",
        Kind::NotFound,
        "This tenant has no tool with this id or name.",
    ),
    code(
        "unknown_upstream",
        Kind::NotFound,
        "The operator has listed no such server for this tenant, or the server has no such tool.",
    ),
    code(
        "unknown_version",
        Kind::NotFound,
        "The tool has no such version, or no longer: `tool_history` shows which it has.",
    ),
    code(
        "upstreams_busy",
        Kind::Unavailable,
        "As many sessions with other MCP servers are in use as may be; come back in a moment.",
    ),
    code(
        "version_live",
        Kind::Conflict,
        "The version is the one that is called. Roll back to another one first.",
    ),
    code(
        "version_not_approved",
        Kind::Conflict,
        "No admin has approved this version of the tool: `tool_approve` does.",
    ),
];

/// The constant that equals `name`, if it is one of ours.
pub fn find(name: &str) -> Option<&'static str> {
    ALL.iter()
        .map(|code| code.name)
        .find(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;

    /// What makes an error: the first literal behind it is the code.
    const MAKERS: [&str; 6] = [
        "Error::new(",
        "Error::invalid(",
        "Error::not_found(",
        "Error::conflict(",
        "Error::unavailable(",
        "Self::new(",
    ];

    fn sources(folder: &Path, texts: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, texts);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("codes.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
                texts.push(shipped.to_owned());
            }
        }
    }

    /// The kind and code in `Error::new(Kind::Invalid, "the_code", …`: only names and commas may stand before the code.
    fn kind_and_code<'a>(maker: &str, call: &'a str) -> Option<(String, &'a str)> {
        let (before, rest) = call.split_once('"')?;
        let plain =
            |c: char| c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || "_:,".contains(c);
        before.chars().all(plain).then_some(())?;
        let kind = match maker.trim_end_matches('(').rsplit("::").next()? {
            "invalid" => "Invalid",
            "not_found" => "NotFound",
            "conflict" => "Conflict",
            "unavailable" => "Unavailable",
            _ => before.trim().trim_end_matches(',').rsplit("::").next()?,
        };
        Some((kind.to_owned(), rest.split('"').next()?))
    }

    #[test]
    fn every_code_in_the_source_is_listed_once_and_every_listed_one_is_in_the_source() {
        let mut texts = Vec::new();
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut texts,
        );
        let listed: Vec<&str> = ALL.iter().map(|code| code.name).collect();
        let sorted: BTreeSet<&str> = listed.iter().copied().collect();
        assert_eq!(
            listed,
            sorted.into_iter().collect::<Vec<_>>(),
            "sorted, each once"
        );
        let mut made: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for text in &texts {
            for maker in MAKERS {
                let calls = text.split(maker).skip(1);
                for (kind, name) in calls.filter_map(|call| kind_and_code(maker, call)) {
                    made.entry(name).or_default().insert(kind);
                }
            }
        }
        let missing: Vec<_> = made.keys().filter(|name| find(name).is_none()).collect();
        assert!(
            missing.is_empty(),
            "list these codes in codes.rs, with what they mean: {missing:?}"
        );
        for code in ALL {
            let kind = format!("{:?}", code.kind);
            // Where the kind is a variable, the source does not say which.
            if let Some(kinds) = made.get(code.name)
                && kinds.iter().all(|kind| !kind.is_empty())
            {
                assert!(kinds.contains(&kind), "{} is made as {kinds:?}", code.name);
            }
        }
        for name in listed {
            let literal = format!("\"{name}\"");
            assert!(
                texts.iter().any(|text| text.contains(&literal)),
                "no source makes {name}; drop it from codes.rs"
            );
        }
    }
}
