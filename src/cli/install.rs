//! `baton install`: puts Baton into a client's file, beside whatever else stands there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::hosts::{Host, Link, Place, Scope};
use super::{print, print_json};
use crate::id::TenantId;
use crate::places::Places;
use crate::splice;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The client
    #[arg(value_name = "CLIENT")]
    host: Host,

    /// Print the entry instead of writing it
    #[arg(long)]
    print: bool,

    /// Let the client call a server at this address, instead of starting Baton itself
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    url: Option<String>,

    /// Folder that holds the data [default: the platform's data folder]
    #[arg(long, env = "BATON_DATA", value_name = "DIR")]
    data: Option<PathBuf>,

    /// Tenant that the client is bound to
    #[arg(long, env = "BATON_TENANT", value_name = "TENANT")]
    tenant: Option<TenantId>,

    /// Whose configuration to change
    #[arg(long, value_enum, default_value_t = Scope::User)]
    scope: Scope,

    /// Name of the entry
    #[arg(long, value_name = "NAME", default_value = "baton")]
    name: String,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let place = args.host.place(args.scope, &Places::of_user()?)?;
    let entry = args.host.entry(&args.link()?)?;
    let file = place.file.display();
    if args.print {
        let all = place
            .keys
            .iter()
            .rev()
            .fold(json!({&args.name: entry}), |value, key| json!({key: value}));
        print_json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let title = args.host.title();
    let said = match write(&place, &args.name, &entry)? {
        Written::Already => format!("{title} has this entry already, in {file}\n"),
        Written::New => format!("wrote {file}\n{}\n", args.host.next_step()),
        Written::Changed(backup) => format!(
            "wrote {file} (as it was: {})\n{}\n",
            backup.display(),
            args.host.next_step()
        ),
    };
    print(&said)?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn link(&self) -> anyhow::Result<Link> {
        if let Some(url) = &self.url {
            return Ok(Link::Http {
                url: endpoint(url, self.tenant.as_ref())?,
            });
        }
        let command = std::env::current_exe().context("can't tell where this program lies")?;
        let mut args = vec!["stdio".to_owned()];
        if let Some(data) = &self.data {
            let data = std::path::absolute(data)?;
            args.extend(["--data".to_owned(), text(&data)?]);
        }
        if let Some(tenant) = &self.tenant {
            args.extend(["--tenant".to_owned(), tenant.to_string()]);
        }
        Ok(Link::Stdio {
            command: text(&command)?,
            args,
        })
    }
}

/// The MCP endpoint of the server at `url`, which may be the endpoint itself.
fn endpoint(url: &str, tenant: Option<&TenantId>) -> anyhow::Result<String> {
    let url = url.trim_end_matches('/');
    let Some((_, rest)) = url
        .split_once("://")
        .filter(|(scheme, rest)| ["http", "https"].contains(scheme) && !rest.is_empty())
    else {
        bail!("{url:?} is not a server's address; http://127.0.0.1:5050 would be one");
    };
    let is_endpoint = rest.ends_with("/mcp");
    Ok(match tenant {
        None if is_endpoint => url.to_owned(),
        None => format!("{url}/mcp"),
        Some(_) if is_endpoint => bail!(
            "name the tenant in the address (…/t/TENANT/mcp), or give the server's address without /mcp"
        ),
        Some(tenant) => format!("{url}/t/{tenant}/mcp"),
    })
}

fn text(path: &Path) -> anyhow::Result<String> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!("{} is not UTF-8, which JSON needs", path.display()),
    }
}

enum Written {
    Already,
    New,
    Changed(PathBuf),
}

/// Writes the entry, in one step, so that a crash leaves the old file or the new one.
fn write(place: &Place, name: &str, entry: &Value) -> anyhow::Result<Written> {
    // What a link points to is replaced, not the link.
    let file = fs::canonicalize(&place.file).unwrap_or_else(|_| place.file.clone());
    let old = match fs::read_to_string(&file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("can't read {}", file.display())),
    };
    let mut path: Vec<&str> = place.keys.iter().map(String::as_str).collect();
    path.push(name);
    let new = splice::set(old.as_deref().unwrap_or_default(), &path, entry).with_context(|| {
        format!(
            "{} is left as it is, since it can't be changed safely (comments and trailing commas are not JSON); put the \
             entry in yourself: the same command with --print prints it",
            file.display()
        )
    })?;
    let Some(new) = new else {
        return Ok(Written::Already);
    };
    let folder = file.parent().context("a file lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    let written = if old.is_some() {
        let backup = beside(&file, ".bak");
        fs::copy(&file, &backup)
            .with_context(|| format!("can't write the backup {}", backup.display()))?;
        Written::Changed(backup)
    } else {
        Written::New
    };
    replace(&file, &new).with_context(|| format!("can't write {}", file.display()))?;
    Ok(written)
}

fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let fresh = beside(file, &format!(".{}.new", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    // Such files may hold other servers' keys: nobody else gets to read what was private.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut handle = options.open(&fresh)?;
    if let Ok(old) = fs::metadata(file) {
        fs::set_permissions(&fresh, old.permissions())?;
    }
    handle.write_all(text.as_bytes())?;
    handle.sync_all()?;
    fs::rename(&fresh, file).inspect_err(|_| {
        let _ = fs::remove_file(&fresh);
    })
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_an_endpoint() {
        let acme: TenantId = "acme".parse().unwrap();
        for (url, tenant, expected) in [
            ("http://127.0.0.1:5050", None, "http://127.0.0.1:5050/mcp"),
            ("http://127.0.0.1:5050/", None, "http://127.0.0.1:5050/mcp"),
            ("https://b.example/mcp", None, "https://b.example/mcp"),
            (
                "http://127.0.0.1:5050",
                Some(&acme),
                "http://127.0.0.1:5050/t/acme/mcp",
            ),
        ] {
            assert_eq!(endpoint(url, tenant).unwrap(), expected);
        }
        for bad in ["127.0.0.1:5050", "ftp://x", "http://"] {
            assert!(endpoint(bad, None).is_err(), "{bad}");
        }
        assert!(endpoint("http://x/mcp", Some(&acme)).is_err());
    }
}
