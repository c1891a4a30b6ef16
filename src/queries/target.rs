//! Addresses of PostgreSQL databases as tenants write them: one host, one port, a user, a database, and nothing that leads
//! elsewhere. The password is kept apart from the rest, which may be shown.

use std::fmt;

use crate::error::{Error, Result};
use crate::secret::Secret;

/// How much TLS is asked for (libpq's `sslmode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// None.
    Never,
    /// If the server speaks it, as it is.
    Perhaps,
    /// As it is: against listeners, not against impostors.
    Always,
    /// With a certificate that is good for the host.
    Checked,
}

/// Where a database is, and who asks it. Two are the same if they are alike in everything.
#[derive(Clone, PartialEq, Eq)]
pub struct Postgres {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    pub(super) tls: Tls,
    /// Connections at most.
    pub(super) connections: usize,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Postgres")
    }
}

/// An address without its password, and that.
///
/// # Errors
/// `invalid_input` at `/uri`, which repeats nothing of it.
pub fn parted(uri: &str) -> Result<(String, Option<Secret>)> {
    let (scheme, rest) = uri.split_once("://").ok_or_else(wrong)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, place) = rest.split_at(end);
    let (who, host) = authority.rsplit_once('@').ok_or_else(wrong)?;
    // What has a second @ has it in a password that is not written as it must be: it would be shown.
    if who.contains('@') || place.contains('@') {
        return Err(wrong());
    }
    let (user, password) = match who.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (who, None),
    };
    let password = password.map(|text| decoded(text).ok_or_else(wrong));
    let shown = format!("{scheme}://{user}@{host}{place}");
    Ok((shown, password.transpose()?.map(Secret::from)))
}

impl Postgres {
    /// The database at `uri`, without its password, which is `password`.
    ///
    /// # Errors
    /// As [`parted`].
    pub fn at(uri: &str, password: Option<Secret>, connections: usize) -> Result<Self> {
        let rest = uri
            .strip_prefix("postgres://")
            .or(uri.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(wrong)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').ok_or_else(wrong)?;
        let (user, place) = authority.rsplit_once('@').ok_or_else(wrong)?;
        let (host, port) = match place
            .strip_prefix('[')
            .and_then(|place| place.split_once(']'))
        {
            Some((host, "")) => (host, "5432"),
            Some((host, port)) => (host, port.strip_prefix(':').ok_or_else(wrong)?),
            None => place.split_once(':').unwrap_or((place, "5432")),
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let port: u16 = port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(wrong)?;
        let (user, database) = (decoded(user), decoded(database));
        let named = |name: Option<String>| {
            name.filter(|name| !name.is_empty() && name.len() < 64)
                .ok_or_else(wrong)
        };
        if host.is_empty() || host.len() > 253 || !host.chars().all(is_host) {
            return Err(wrong());
        }
        let mut tls = Tls::Perhaps;
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            tls = match parameter {
                "sslmode=disable" => Tls::Never,
                "sslmode=prefer" => Tls::Perhaps,
                "sslmode=require" => Tls::Always,
                "sslmode=verify-ca" | "sslmode=verify-full" => Tls::Checked,
                _ => {
                    return Err(Error::invalid_at(
                        "/uri",
                        "of parameters, it may have sslmode alone: disable, prefer, require or verify-full",
                    ));
                }
            };
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
            database: named(database)?,
            user: named(user)?,
            password,
            tls,
            connections,
        })
    }

    /// The host, which must be within reach.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `text` without what nobody is to read in it, as whole words.
    pub(super) fn hide(&self, text: &str) -> String {
        let password = self.password.as_ref().map(Secret::reveal);
        let hidden = [password.unwrap_or_default(), &self.host, &self.user];
        let mut text = text.to_owned();
        for word in hidden.into_iter().filter(|word| !word.is_empty()) {
            let mut from = 0;
            while let Some(at) = text[from..].find(word).map(|at| at + from) {
                let end = at + word.len();
                let is_part = |c: char| c.is_alphanumeric() || c == '_';
                let is_whole = !text[..at].ends_with(is_part) && !text[end..].starts_with(is_part);
                if is_whole {
                    text.replace_range(at..end, "…");
                    from = at + '…'.len_utf8();
                } else {
                    from = end;
                }
            }
        }
        text
    }
}

fn wrong() -> Error {
    Error::invalid_at(
        "/uri",
        "must be postgres://USER:PASSWORD@HOST:PORT/DATABASE, perhaps with ?sslmode=…, or the file:// of a SQLite file; what is neither letter nor digit in USER and PASSWORD is written as %XX",
    )
}

/// What `%41` means; none where that is no text, or has a NUL.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part
            .get(..2)
            .filter(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()));
        bytes.push(u8::from_str_radix(digits?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(uri: &str) -> Result<Postgres> {
        let (shown, password) = parted(uri)?;
        Postgres::at(&shown, password, 1)
    }

    #[test]
    fn an_address_has_one_host_and_no_tricks() {
        let there =
            at("postgres://ad%61:s%40e:c@DB.example:5433/b%20x?sslmode=verify-full").unwrap();
        let password = there.password.as_ref().map(Secret::reveal);
        assert_eq!(
            (
                &*there.host,
                there.port,
                &*there.database,
                &*there.user,
                password
            ),
            ("db.example", 5433, "b x", "ada", Some("s@e:c"))
        );
        assert_eq!(there.tls, Tls::Checked);
        let (shown, _) = parted("postgres://ada:secret@h/d?sslmode=require").unwrap();
        assert_eq!(shown, "postgres://ada@h/d?sslmode=require");
        assert_eq!(at("postgresql://a@[::1]/d").unwrap().host, "::1");
        for bad in [
            "mysql://a:b@h/d",
            "postgres://h/d",
            "postgres://a:b@h",
            "postgres://a:b@h/",
            "postgres://a:b@/d",
            "postgres://a:b@/var/run/postgresql/d",
            "postgres://a:b@%2Fvar%2Frun/d",
            "postgres://a:b@h1,h2/d",
            "postgres://a:b@h:1,h:2/d",
            "postgres://a:b@h:0/d",
            "postgres://a:b@h:99999/d",
            "postgres://a:b@h/d?host=/tmp",
            "postgres://a:b@h/d?hostaddr=127.0.0.1",
            "postgres://a:b@h/d?port=1",
            "postgres://a:b@h/d?options=-c%20default_transaction_read_only=off",
            "postgres://a:b@h/d?sslrootcert=/etc/passwd",
            "postgres://a:b@h/d?sslmode=sideways",
            "postgres://a:b@h/d?password=x",
            "postgres://a:b@c@h/d",
            "postgres://a:b/c@h/d",
            "postgres://a:%zz@h/d",
            "postgres://a:b@h/d%00",
            "postgres://a:b@h x/d",
            "host=h user=a password=b",
        ] {
            let refused = at(bad).expect_err(bad);
            assert!(!refused.to_string().contains("a:b"), "{refused}");
        }
    }

    #[test]
    fn what_a_database_says_tells_nobody_where_it_is() {
        let there = at("postgres://app:hunter2@db.example/d").unwrap();
        let said = r#"role "app" of application at db.example has hunter2, not hunter22"#;
        assert_eq!(
            there.hide(said),
            r#"role "…" of application at … has …, not hunter22"#
        );
    }
}
