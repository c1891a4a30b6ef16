//! The Baton that a program on this machine talks to: the data folder in this process, or a server over REST.
//!
//! Both sides take an operation's name and its input. Where REST has it is looked up in the catalogue, written once.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::catalog::Catalog;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::op::Route;

/// Where calls go. Cheap to clone.
#[derive(Clone)]
pub enum Remote {
    /// The data folder, opened by this process.
    Local {
        /// What can be called.
        catalog: Arc<Catalog>,
        /// Who calls, for which tenant.
        ctx: Ctx,
    },
    /// A server.
    Rest(Arc<Rest>),
}

/// A server's REST interface.
pub struct Rest {
    base: String,
    tenant: Option<TenantId>,
    catalog: Catalog,
}

impl Remote {
    /// Calls go to the server at `url`, such as `http://127.0.0.1:5050`.
    ///
    /// # Errors
    /// `url` is no http address.
    pub fn rest(url: &str, tenant: Option<TenantId>) -> Result<Self> {
        let base = url.trim_end_matches('/');
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(Error::invalid(
                "invalid_url",
                format!("{url:?} is not a server's address; http://127.0.0.1:5050 would be one"),
            ));
        }
        Ok(Self::Rest(Arc::new(Rest {
            base: base.to_owned(),
            tenant,
            catalog: Catalog::new(),
        })))
    }

    /// Calls the operation `name`.
    ///
    /// # Errors
    /// What the operation answers; `Unavailable` when the server can't be reached.
    pub async fn call(&self, name: &str, input: Map<String, Value>) -> Result<Value> {
        match self {
            Self::Local { catalog, ctx } => catalog.call(ctx.clone(), name, input).await,
            Self::Rest(rest) => rest.call(name, input).await,
        }
    }
}

impl Rest {
    async fn call(&self, name: &str, mut input: Map<String, Value>) -> Result<Value> {
        let op = self.catalog.require(name)?;
        let route = op.routes.first().ok_or_else(|| {
            Error::invalid("not_over_rest", format!("{name} can't be called over REST"))
        })?;
        let path = fill(route, &mut input)?;
        todo!()
    }
}

/// The route's path, with the fields of `input` that it names; these leave the input.
fn fill(route: &Route, input: &mut Map<String, Value>) -> Result<String> {
    let mut path = String::new();
    for segment in route.path.split('/').skip(1) {
        path.push('/');
        let name = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}'));
        match name {
            None => path.push_str(segment),
            Some(name) => match input.remove(name) {
                Some(Value::String(value)) if !value.is_empty() => path.push_str(&escaped(&value)),
                _ => return Err(Error::invalid_at(format!("/{name}"), "a text is needed here")),
            },
        }
    }
    Ok(path)
}

/// The text as one segment of a path or one part of a query.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            all.push(char::from(byte));
        } else {
            all.push_str(&format!("%{byte:02X}"));
        }
        all
    })
}
