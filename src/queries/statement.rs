//! Which statements may be made: one at a time, of those that read or change rows and tables. It looks at words and calls;
//! what they mean is the database's to say, which runs them in a transaction that only reads, unless they may write.

use super::Fault;

/// Whose SQL it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// How statements begin that read.
const READS: [&str; 7] = [
    "select", "with", "values", "table", "explain", "show", "pragma",
];
/// How statements begin that change rows.
const CHANGES: [&str; 6] = ["insert", "update", "delete", "replace", "merge", "truncate"];
/// How statements begin that change what rows are in, and of what.
const SHAPES: [&str; 3] = ["create", "alter", "drop"];
const SHAPED: [&str; 7] = [
    "table",
    "index",
    "view",
    "materialized",
    "schema",
    "sequence",
    "trigger",
];
/// What may stand between the two.
const BETWEEN: [&str; 4] = ["or", "replace", "unique", "virtual"];

/// Functions of PostgreSQL that reach out of a transaction, by how their names begin: they act at once, outlive it, read or
/// write the server's files, or run statements that are texts.
const ESCAPES: [&str; 49] = [
    "binary_upgrade_",
    "brin_desummarize",
    "brin_summarize",
    "connectby",
    "crosstab",
    "cursor_to_xml",
    "database_to_xml",
    "dblink",
    "gin_clean_pending_list",
    "lo_",
    "loread",
    "lowrite",
    "pg_advisory_",
    "pg_backup_",
    "pg_cancel_backend",
    "pg_copy_",
    "pg_create_",
    "pg_drop_",
    "pg_export_snapshot",
    "pg_file_",
    "pg_import_system",
    "pg_log_",
    "pg_logical_",
    "pg_ls_",
    "pg_notify",
    "pg_promote",
    "pg_read_",
    "pg_reload_conf",
    "pg_replication_",
    "pg_rotate_logfile",
    "pg_start_backup",
    "pg_stat_clear",
    "pg_stat_file",
    "pg_stat_force",
    "pg_stat_reset",
    "pg_stat_statements_reset",
    "pg_stop_backup",
    "pg_switch_",
    "pg_sync_replication",
    "pg_terminate_backend",
    "pg_try_advisory_",
    "pg_wal_replay",
    "query_to_xml",
    "schema_to_xml",
    "set_config",
    "table_to_xml",
    "ts_rewrite",
    "ts_stat",
    "xpath_table",
];
/// Of SQLite.
const LOADS: [&str; 2] = ["fts3_tokenizer", "load_extension"];

/// Refuses what may not be said.
pub(super) fn check(dialect: Dialect, sql: &str, writes: bool) -> Result<(), Fault> {
    let refuse = |why: &str| Err(Fault::Refused(why.to_owned()));
    let tokens = tokens(dialect, sql).map_err(|why| Fault::Refused(why.to_owned()))?;
    let end = tokens.iter().position(|token| *token == Token::Mark(';'));
    let end = end.unwrap_or(tokens.len());
    if tokens[end..].iter().any(|token| *token != Token::Mark(';')) {
        return refuse("one statement at a time");
    }
    let tokens = &tokens[..end];
    let begin = tokens.iter().position(|token| *token != Token::Mark('('));
    let words = &tokens[begin.unwrap_or(end)..];
    let Some(Token::Word(first)) = words.first() else {
        return refuse("there is none");
    };
    let first = first.as_str();
    let may_read = READS.contains(&first) && (first != "pragma" || dialect == Dialect::Sqlite);
    if !may_read {
        let is_change =
            CHANGES.contains(&first) || (SHAPES.contains(&first) && is_shape(&words[1..], dialect));
        match (is_change, writes) {
            (true, true) => {}
            (true, false) => return Err(Fault::changes()),
            (false, _) => {
                return refuse(
                    "it must read (SELECT, WITH, VALUES, EXPLAIN …) or, with write: true, change rows (INSERT, UPDATE, DELETE …) \
                 or tables (CREATE, ALTER, DROP TABLE, INDEX, VIEW)",
                );
            }
        }
    }
    for pair in tokens.windows(2) {
        let (Token::Word(name) | Token::Name(name), Token::Mark('(')) = (&pair[0], &pair[1]) else {
            continue;
        };
        let name = name.to_lowercase();
        let escapes = match dialect {
            Dialect::Postgres => ESCAPES.iter().any(|begin| name.starts_with(begin)),
            Dialect::Sqlite => LOADS.contains(&name.as_str()),
        };
        if escapes {
            return refuse(&format!("{name}() reaches out of it"));
        }
    }
    Ok(())
}

/// Whether what follows CREATE, ALTER or DROP is something that holds rows, or helps to.
fn is_shape(words: &[Token], dialect: Dialect) -> bool {
    let mut words = words.iter().map(|token| match token {
        Token::Word(word) => word.as_str(),
        _ => "",
    });
    let what = words
        .find(|word| !BETWEEN.contains(word))
        .unwrap_or_default();
    // A trigger of PostgreSQL calls a function, whatever that does.
    SHAPED.contains(&what) && (what != "trigger" || dialect == Dialect::Sqlite)
}

/// A part of a statement that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A word, in small letters.
    Word(String),
    /// A name in quotes.
    Name(String),
    /// A value.
    Value,
    /// Anything else.
    Mark(char),
}

fn tokens(dialect: Dialect, sql: &str) -> Result<Vec<Token>, &'static str> {
    const OPEN: &str = "a text, a name or a comment has no end";
    let is_postgres = dialect == Dialect::Postgres;
    let (mut found, mut rest) = (Vec::new(), sql);
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\0' => return Err("it has a NUL character"),
            c if c.is_ascii_whitespace() || c == '\x0b' => 1,
            '-' if rest.starts_with("--") => {
                let end = rest.find(|c| c == '\n' || (is_postgres && c == '\r'));
                end.unwrap_or(rest.len())
            }
            '/' if rest.starts_with("/*") => comment(rest, is_postgres).ok_or(OPEN)?,
            '\'' => {
                found.push(Token::Value);
                quoted(rest, '\'').ok_or(OPEN)?
            }
            '"' | '`' if c == '"' || !is_postgres => {
                let length = quoted(rest, c).ok_or(OPEN)?;
                found.push(Token::Name(rest[1..length - 1].to_owned()));
                length
            }
            '[' if !is_postgres => {
                let end = rest.find(']').ok_or(OPEN)?;
                found.push(Token::Name(rest[1..end].to_owned()));
                end + 1
            }
            '$' if is_postgres && !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                found.push(Token::Value);
                dollars(rest).ok_or(OPEN)?
            }
            c if c.is_ascii_digit() => {
                found.push(Token::Value);
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            }
            c if is_word(c) => {
                let end = rest.find(|c| !is_word(c) && c != '$');
                let end = end.unwrap_or(rest.len());
                let (word, after) = (rest[..end].to_lowercase(), &rest[end..]);
                // Where a text goes on, or a name has other letters than it shows, would take all of its lexer to tell.
                if is_postgres && word == "e" && after.starts_with('\'') {
                    return Err("a text with backslashes is given as a parameter");
                }
                if is_postgres && word == "u" && after.starts_with("&\"") {
                    return Err("a name is written as it is, without U&");
                }
                found.push(Token::Word(word));
                end
            }
            c => {
                found.push(Token::Mark(c));
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    Ok(found)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || !c.is_ascii()
}

/// Bytes of the comment that `text` begins with. PostgreSQL has comments in comments.
fn comment(text: &str, nests: bool) -> Option<usize> {
    let (mut depth, mut at) = (1_usize, 2);
    while depth > 0 {
        let next = at + text.get(at..)?.find(['/', '*'])?;
        let rest = &text[next..];
        (depth, at) = if rest.starts_with("*/") {
            (depth - 1, next + 2)
        } else if nests && rest.starts_with("/*") {
            (depth + 1, next + 2)
        } else {
            (depth, next + 1)
        };
    }
    Some(at)
}

/// Bytes of the text in quotes that `text` begins with; a quote that is written twice is one of it.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return Some(at + 1);
        }
    }
    None
}

/// Bytes of the text between `$tag$` that `text` begins with.
fn dollars(text: &str) -> Option<usize> {
    let end = text[1..].find(|c| !is_word(c))? + 1;
    if !text[end..].starts_with('$') {
        return Some(1);
    }
    let tag = &text[..=end];
    let close = text[tag.len()..].find(tag)?;
    Some(close + 2 * tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(dialect: Dialect, sql: &str, writes: bool) -> String {
        match check(dialect, sql, writes) {
            Ok(()) => String::new(),
            Err(fault) => format!("{fault:?}"),
        }
    }

    #[test]
    fn what_reads_may_be_said() {
        use Dialect::{Postgres, Sqlite};
        for (dialect, sql) in [
            (Postgres, "SELECT 1"),
            (
                Postgres,
                "  -- first\n(select ';' || $$;$$ || $a$ $b$ ; $a$) ; -- last",
            ),
            (Postgres, "WITH a AS (SELECT $1::int) TABLE a;"),
            (Postgres, "/* a /* b */ ; */ VALUES (1), (2)"),
            (Postgres, "EXPLAIN SELECT 'it''s; fine', \"a;\"\"b\""),
            (Postgres, "SELECT * FROM pg_stat_activity, lo_prices"),
            (Postgres, "SHOW search_path"),
            (Sqlite, "PRAGMA table_info(a)"),
            (Sqlite, "SELECT [a;b], `c;d` FROM t WHERE a = $1"),
            (Sqlite, "/* /* */ SELECT 1"),
        ] {
            assert_eq!(why(dialect, sql, false), "", "{sql}");
        }
    }

    #[test]
    fn what_is_hidden_is_found() {
        for sql in [
            "SELECT 1; SELECT 2",
            "SELECT pg_terminate_backend(1)",
            "SELECT \"pg_terminate_backend\" (1)",
            "SELECT pg_catalog.Lo_Export /* x */ (1, 'a')",
            "SELECT a$x$, pg_read_file('a'), b$x$ FROM t",
            "/*/*/ ' */ */ SELECT pg_read_file('/etc/passwd') --'",
            "SELECT E'\\', pg_read_file('a') --'",
            "SELECT U&\"pg\\005fread_file\"('a')",
            "SELECT $a$ $a$, pg_read_file('a'), $a$ $a$",
            "SELECT '\\', pg_read_file('a'), '\\'",
            "SELECT 'open",
            "SELECT $a$ open",
            "SELECT /* open",
            "",
            ";",
            "1",
            "SELECT \0",
        ] {
            assert_ne!(why(Dialect::Postgres, sql, true), "", "{sql}");
        }
    }

    #[test]
    fn only_rows_and_what_has_them_is_changed_and_only_by_who_says_so() {
        for sql in [
            "INSERT INTO a VALUES (1)",
            "update a set b = 1",
            "CREATE UNIQUE INDEX i ON a (b)",
            "DROP TABLE a",
            "CREATE OR REPLACE VIEW v AS SELECT 1",
        ] {
            assert!(
                why(Dialect::Postgres, sql, false).contains("write: true"),
                "{sql}"
            );
            assert_eq!(why(Dialect::Postgres, sql, true), "", "{sql}");
        }
        for sql in [
            "CREATE EXTENSION dblink",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE OR REPLACE PROCEDURE p() LANGUAGE sql AS ''",
            "CREATE TRIGGER t AFTER INSERT ON a EXECUTE FUNCTION f()",
            "CREATE TEMP TABLE a (b int)",
            "ALTER ROLE a SUPERUSER",
            "ALTER SYSTEM SET fsync = off",
            "DROP DATABASE a",
        ] {
            assert_ne!(why(Dialect::Postgres, sql, true), "", "{sql}");
        }
    }
}
