//! Which hosts may be addressed, and which origins may call.

use std::net::IpAddr;

use axum::http::header::{self, HeaderMap};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Uri};

use super::error::Problem;
use super::guard::first_text;

/// Which hosts may be addressed and which origins may call, besides loopback.
pub(super) struct Names {
    pub(super) hosts: Vec<Authority>,
    pub(super) origins: Vec<String>,
    /// Whether this server speaks TLS.
    pub(super) is_secure: bool,
}

impl Names {
    pub(super) fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<Authority, Problem> {
        let mut named = headers
            .get_all(header::HOST)
            .iter()
            .map(|host| host.to_str().ok().and_then(|host| host.parse().ok()))
            .chain(uri.authority().cloned().map(Some));
        let first = named.next().flatten();
        let Some(host) = first.filter(|host| self.is_host_allowed(host)) else {
            let name = first_text(headers, &header::HOST);
            return Err(Problem::new(
                "host_not_allowed",
                format!(
                    "this server does not answer for the host {name:?}; start it with --allowed-host {} if it should",
                    if name.is_empty() { "NAME" } else { &name }
                ),
            ));
        };
        // A second name would let one check pass and another reader use the other.
        if named.all(|other| other.is_some_and(|other| self.is_host_allowed(&other))) {
            Ok(host)
        } else {
            Err(Problem::new(
                "host_not_allowed",
                "the request names two hosts",
            ))
        }
    }

    pub(super) fn is_host_allowed(&self, host: &Authority) -> bool {
        if host.as_str().contains('@') {
            return false;
        }
        is_loopback(host.host())
            || self.hosts.iter().any(|allowed| {
                allowed.host().eq_ignore_ascii_case(host.host())
                    && allowed
                        .port_u16()
                        .is_none_or(|port| host.port_u16() == Some(port))
            })
    }

    /// The origin, when there is one and it is neither refused nor the server's own.
    pub(super) fn check_origin(
        &self,
        host: &Authority,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, Problem> {
        let Some(value) = headers.get(header::ORIGIN) else {
            return Ok(None);
        };
        let origin = value.to_str().unwrap_or_default();
        let parsed: Option<Uri> = origin.parse().ok();
        if let Some(authority) = parsed.as_ref().and_then(Uri::authority) {
            let is_own = authority.as_str().eq_ignore_ascii_case(host.as_str());
            // Behind a proxy the browser's scheme is not ours. A page without TLS may be anybody's on its way.
            if is_own
                && (!self.is_secure || parsed.as_ref().and_then(Uri::scheme_str) == Some("https"))
            {
                return Ok(None);
            }
            if is_loopback(authority.host()) {
                return Ok(Some(value.clone()));
            }
        }
        if self
            .origins
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(origin))
        {
            return Ok(Some(value.clone()));
        }
        if self.origins.iter().any(|allowed| allowed == "*") {
            return Ok(Some(HeaderValue::from_static("*")));
        }
        Err(Problem::new(
            "origin_not_allowed",
            format!(
                "pages of {origin:?} may not call this server; start it with --allowed-origin {} if they should",
                if origin.is_empty() { "ORIGIN" } else { origin }
            ),
        ))
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn guard() -> Names {
        Names {
            hosts: vec![
                "baton.example.com".parse().unwrap(),
                "one.example:8443".parse().unwrap(),
            ],
            origins: vec!["https://app.example.com".into()],
            is_secure: false,
        }
    }

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn hosts_are_loopback_or_named() {
        let allowed = |host: &str| {
            guard()
                .check_host(&Uri::from_static("/"), &headers(&[(header::HOST, host)]))
                .is_ok()
        };
        for host in [
            "localhost",
            "LocalHost:5050",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5050",
            "baton.example.com",
            "Baton.Example.com:444",
            "one.example:8443",
        ] {
            assert!(allowed(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "evil@localhost",
            "one.example",
            "one.example:1",
            "0.0.0.0:5050",
            "192.168.1.1",
        ] {
            assert!(!allowed(host), "{host}");
        }
    }

    #[test]
    fn a_second_host_must_be_allowed_too() {
        let absolute = Uri::from_static("http://evil.example/");
        assert!(
            guard()
                .check_host(&absolute, &headers(&[(header::HOST, "localhost")]))
                .is_err()
        );
        let mut two = headers(&[(header::HOST, "localhost")]);
        two.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(guard().check_host(&Uri::from_static("/"), &two).is_err());
    }

    #[test]
    fn origins_are_absent_loopback_own_or_named() {
        let check = |host: &str, origin: &str| {
            guard().check_origin(
                &host.parse().unwrap(),
                &headers(&[(header::ORIGIN, origin)]),
            )
        };
        let none = guard().check_origin(&Authority::from_static("localhost"), &HeaderMap::new());
        assert!(matches!(none, Ok(None)));
        assert!(matches!(
            check("baton.example.com", "https://baton.example.com"),
            Ok(None)
        ));
        for origin in [
            "http://localhost:6274",
            "http://127.0.0.1",
            "http://[::1]:3",
            "https://app.example.com",
        ] {
            assert!(
                matches!(check("localhost", origin), Ok(Some(_))),
                "{origin}"
            );
        }
        for origin in [
            "null",
            "https://evil.example",
            "https://app.example.com.evil.example",
            "http://app.example.com",
            "",
        ] {
            assert!(check("localhost", origin).is_err(), "{origin}");
        }
    }

    #[test]
    fn over_tls_a_page_without_it_is_not_the_servers_own() {
        let secure = Names {
            is_secure: true,
            ..guard()
        };
        let check = |names: &Names, origin: &str| {
            let host = Authority::from_static("baton.example.com");
            let origin = headers(&[(header::ORIGIN, origin)]);
            names.check_origin(&host, &origin).is_ok()
        };
        for (origin, plainly, securely) in [
            ("https://baton.example.com", true, true),
            ("http://baton.example.com", true, false),
        ] {
            assert_eq!(check(&guard(), origin), plainly, "{origin}");
            assert_eq!(check(&secure, origin), securely, "{origin}");
        }
    }
}
