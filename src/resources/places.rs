//! Where a folder or a file of a resource may lie: below what the operator opened, or in the tenant's own folder; and what a
//! path within it may be. Text alone is looked at here; `files` follows no link.

use std::path::{Component, Path, PathBuf};

use crate::config::Folders;
use crate::error::{Error, Result};
pub(super) use crate::folders::parts;
use crate::folders::{Named, Place};
use crate::id::TenantId;

/// The host that stands for the tenant's own folder.
const OWN: &str = "tenant";

/// The place of `uri`: `file:///srv/docs` or, in the tenant's own folder, `file://tenant/docs`.
pub(super) fn place(
    scheme: &str,
    uri: &str,
    tenant: &TenantId,
    folders: &Folders,
) -> Result<Place> {
    let wrong = || {
        let message = format!(
            "must be {scheme}://tenant/PATH, in the tenant's own folder, or {scheme}:///PATH below what the operator opened (--files)"
        );
        Error::invalid_at("/uri", message)
    };
    let rest = uri.strip_prefix(scheme).ok_or_else(wrong)?;
    let rest = rest.strip_prefix("://").ok_or_else(wrong)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = decoded(path).ok_or_else(wrong)?;
    let parts = parts(&path).map_err(|_| wrong())?;
    let named = tenant.as_str();
    if host == OWN {
        return Ok(Place {
            base: folders.own.join(named),
            below: parts.into_iter().map(str::to_owned).collect(),
            is_own: true,
        });
    }
    if !host.is_empty() {
        return Err(wrong());
    }
    let whole: PathBuf = Path::new("/").join(parts.join("/"));
    let opened = folders.opened.iter();
    let opened =
        opened.map(|folder| PathBuf::from(folder.to_string_lossy().replace("{tenant}", named)));
    let around = opened.filter(|folder| whole.starts_with(folder));
    let base = around.max_by_key(|folder| folder.components().count());
    let base = base.ok_or_else(wrong)?;
    let below = whole.strip_prefix(&base).map_err(|_| wrong())?;
    let below = below.components().filter_map(|part| match part {
        Component::Normal(part) => part.to_str().map(str::to_owned),
        _ => None,
    });
    Ok(Place {
        below: below.collect(),
        base,
        is_own: false,
    })
}

/// The media type of a file, by its name.
pub(super) fn mime_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    match end.to_ascii_lowercase().as_str() {
        "md" | "markdown" => "text/markdown",
        "txt" | "log" | "ini" | "conf" => "text/plain",
        "html" | "htm" => "text/html",
        "css" => "text/css",
        "csv" => "text/csv",
        "js" | "mjs" => "text/javascript",
        "xml" => "application/xml",
        "json" => "application/json",
        "yaml" | "yml" => "application/yaml",
        "toml" => "application/toml",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        _ => "application/octet-stream",
    }
}

/// What `%41` means, once; none where that is no text.
pub(super) fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, others @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(others.get(..2)?).ok()?;
            let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
            rest = &others[2..];
        } else {
            bytes.push(*first);
            rest = others;
        }
    }
    String::from_utf8(bytes).ok()
}

/// A path as it stands in a URI.
pub(super) fn encoded(path: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The path in its resource of what is named in a folder; a folder's ends in `/`.
pub(super) fn path_of(folder: &str, named: &Named) -> String {
    let above = if folder.is_empty() { "" } else { "/" };
    let end = if named.is_folder { "/" } else { "" };
    format!("{folder}{above}{}{end}", named.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders() -> Folders {
        Folders {
            data: "/data".into(),
            own: "/data/files".into(),
            opened: vec!["/srv/docs".into(), "/srv/of/{tenant}".into()],
        }
    }

    #[test]
    fn a_resource_lies_where_the_operator_opened_and_nowhere_else() {
        let acme: TenantId = "acme".parse().unwrap();
        let at = |uri: &str| place("file", uri, &acme, &folders()).ok();
        let place = at("file:///srv/docs/a%20b/c").unwrap();
        assert_eq!(place.base, PathBuf::from("/srv/docs"));
        assert_eq!(
            (place.below, place.is_own),
            (vec!["a b".to_owned(), "c".into()], false)
        );
        assert!(at("file:///srv/of/acme/x").is_some() && at("file:///srv/docs").is_some());
        let own = at("file://tenant/reports/").unwrap();
        assert_eq!(own.base, PathBuf::from("/data/files/acme"));
        assert!(own.is_own && at("file://tenant").unwrap().below.is_empty());
        for bad in [
            "",
            "/srv/docs",
            "file:",
            "file:/srv/docs",
            "file:///",
            "file:///etc",
            "file:///srv/docsy",
            "file:///SRV/docs",
            "file:///srv/docs/../../etc",
            "file:///srv/docs/%2e%2e/%2e%2e/etc",
            "file:///srv/of/globex",
            "file:///srv/of/{tenant}",
            "file://tenant/../globex",
            "file://tenant/%2e%2e/globex",
            "file://tenant/%00",
            "file://tenant/%zz",
            "file://tenant/%+1",
            "file://localhost/srv/docs",
            "sqlite:///srv/docs",
            "file://tenant//x",
            "file://tenant/a%2f..%2f..%2fb",
            "file:///srv/docs/./x",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn paths_are_names_and_come_back_from_their_uris() {
        assert_eq!(parts("a/b c.md/").unwrap(), ["a", "b c.md"]);
        assert!(parts("").unwrap().is_empty());
        let long = "x".repeat(256);
        for bad in [
            "/a", "a//b", "..", "a/../b", ".", "a/.", "a\0b", "a\\b", "a\nb", ".baton-1", "//",
            &long,
        ] {
            assert!(parts(bad).is_err(), "{bad:?}");
        }
        for path in ["a/b.md", "ä b/%2e%2e", "100%"] {
            assert_eq!(decoded(&encoded(path)).as_deref(), Some(path));
        }
        assert_eq!(decoded("%2e%2e"), Some("..".to_owned()));
        assert_eq!(decoded("%252e"), Some("%2e".to_owned()));
    }
}
