//! Which store a URI names, who says so, and what asks it. Who asks is what the caller says and nothing else: no variable of the
//! environment, no file of a home folder and no machine that tells about itself is looked at.

use std::fmt;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureConfigKey, AzureCredential, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::{RetryConfig, StaticCredentialProvider};
use serde::Deserialize;
use serde_json::Value;

use super::Stored;
use super::wire::Wire;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// Bytes of a bucket's name at most: Google's may have dots.
const NAME: usize = 222;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    S3,
    Google,
    Azure,
}

/// What a URI names: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://ACCOUNT/CONTAINER/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    provider: Provider,
    /// Azure's alone.
    account: String,
    bucket: String,
    /// What all keys begin with, part by part.
    pub(super) prefix: Vec<String>,
}

/// What else must be known to ask a store.
#[derive(Clone, Copy, Default)]
pub struct Terms<'a> {
    /// The region of a bucket of S3.
    pub region: Option<&'a str>,
    /// Where the store is, if it is not its maker's.
    pub endpoint: Option<&'a str>,
    /// Who asks; without it, anybody.
    pub secret: Option<&'a Secret>,
}

impl fmt::Debug for Terms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Terms({:?}, {:?})", self.region, self.endpoint)
    }
}

/// Whether a URI is one of a store, whatever it names.
pub fn is_store(uri: &str) -> bool {
    ["s3://", "gs://", "az://"]
        .iter()
        .any(|scheme| uri.starts_with(scheme))
}

impl Place {
    /// Reads a URI.
    ///
    /// # Errors
    /// `invalid_input`.
    pub fn parse(uri: &str) -> Result<Self> {
        let wrong = || {
            let message =
                "must be s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://ACCOUNT/CONTAINER/PREFIX";
            Error::invalid_at("/uri", message)
        };
        let (scheme, rest) = uri.split_once("://").ok_or_else(wrong)?;
        let provider = match scheme {
            "s3" => Provider::S3,
            "gs" => Provider::Google,
            "az" => Provider::Azure,
            _ => return Err(wrong()),
        };
        let (mut first, mut rest) = rest.split_once('/').unwrap_or((rest, ""));
        let mut account = "";
        if provider == Provider::Azure {
            account = first;
            (first, rest) = rest.split_once('/').unwrap_or((rest, ""));
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            if !(3..=24).contains(&account.len()) || !account.chars().all(fits) {
                return Err(wrong());
            }
        }
        let fits = |c: char| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_' | '$')
        };
        let is_name = (1..=NAME).contains(&first.len()) && first.chars().all(fits);
        let is_dots = first.chars().all(|c| c == '.');
        if !is_name || is_dots {
            return Err(wrong());
        }
        // What a URI would encode is no part of a prefix, so that there is one way to write it.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$'()+,=@/".contains(c);
        let prefix = crate::folders::parts(rest).map_err(|_| wrong())?;
        if !rest.chars().all(is_plain) {
            return Err(wrong());
        }
        Ok(Self {
            provider,
            account: account.to_owned(),
            bucket: first.to_owned(),
            prefix: prefix.into_iter().map(str::to_owned).collect(),
        })
    }

    /// What asks the store.
    pub(super) fn open(&self, terms: Terms<'_>, wire: Wire) -> Result<Arc<dyn Stored>> {
        check(&terms)?;
        // A call that failed is its caller's to repeat.
        let retry = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        match self.provider {
            Provider::S3 => self.s3(terms, wire, retry),
            Provider::Google => self.google(terms, wire, retry),
            Provider::Azure => self.azure(terms, wire, retry),
        }
    }

    fn s3(&self, terms: Terms<'_>, wire: Wire, retry: RetryConfig) -> Result<Arc<dyn Stored>> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Key {
            access_key_id: String,
            secret_access_key: String,
            session_token: Option<String>,
        }
        const WANTED: &str =
            r#"{"access_key_id": …, "secret_access_key": …, "session_token": … if there is one}"#;
        let key = terms.secret.map(|secret| read::<Key>(secret, WANTED));
        let key = key.transpose()?;
        let is_anybody = key.is_none();
        let credential = AwsCredential {
            key_id: String::new(),
            secret_key: String::new(),
            token: None,
        };
        let credential = key.map_or(credential, |key| AwsCredential {
            key_id: key.access_key_id,
            secret_key: key.secret_access_key,
            token: key.session_token,
        });
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(terms.region.unwrap_or("us-east-1"))
            // With some credentials none are looked for elsewhere.
            .with_credentials(Arc::new(StaticCredentialProvider::new(credential)))
            .with_skip_signature(is_anybody)
            // No certificate is for a bucket whose name has dots.
            .with_virtual_hosted_style_request(
                terms.endpoint.is_none() && !self.bucket.contains('.'),
            )
            .with_disable_bulk_delete(true)
            .with_retry(retry)
            .with_http_connector(wire);
        if let Some(endpoint) = terms.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        Ok(Arc::new(builder.build().map_err(unusable)?))
    }

    fn google(&self, terms: Terms<'_>, wire: Wire, retry: RetryConfig) -> Result<Arc<dyn Stored>> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Key {
            Token { access_token: String },
            Account(serde_json::Map<String, Value>),
        }
        const WANTED: &str = r#"a service account's key as Google gives it, {"type": "service_account", "private_key": …}, or {"access_token": …}"#;
        let key = terms.secret.map(|secret| read::<Key>(secret, WANTED));
        let fixed = |bearer: String| {
            let credential = GcpCredential { bearer };
            Arc::new(StaticCredentialProvider::new(credential))
        };
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(&self.bucket)
            .with_retry(retry)
            .with_http_connector(wire);
        builder = match key.transpose()? {
            Some(Key::Account(key)) => {
                builder.with_service_account_key(Value::Object(key).to_string())
            }
            Some(Key::Token { access_token }) => builder.with_credentials(fixed(access_token)),
            // With some credentials none are looked for elsewhere.
            None => builder
                .with_credentials(fixed(String::new()))
                .with_skip_signature(true),
        };
        if let Some(endpoint) = terms.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        Ok(Arc::new(builder.build().map_err(unusable)?))
    }

    fn azure(&self, terms: Terms<'_>, wire: Wire, retry: RetryConfig) -> Result<Arc<dyn Stored>> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Key {
            Account {
                account_key: String,
            },
            Shared {
                sas_token: String,
            },
            Client {
                tenant_id: String,
                client_id: String,
                client_secret: String,
            },
        }
        const WANTED: &str = r#"{"account_key": …}, {"sas_token": …} or {"tenant_id": …, "client_id": …, "client_secret": …}"#;
        let key = terms.secret.map(|secret| read::<Key>(secret, WANTED));
        let fixed = |credential| Arc::new(StaticCredentialProvider::new(credential));
        let mut builder = MicrosoftAzureBuilder::new()
            .with_account(&self.account)
            .with_container_name(&self.bucket)
            .with_retry(retry)
            .with_http_connector(wire);
        builder = match key.transpose()? {
            Some(Key::Account { account_key }) => {
                let key = AzureAccessKey::try_new(account_key.trim());
                let key = key.map_err(|_| broken(WANTED))?;
                builder.with_credentials(fixed(AzureCredential::AccessKey(key)))
            }
            Some(Key::Shared { sas_token }) => {
                let builder = builder.with_config(AzureConfigKey::SasKey, sas_token.trim());
                builder.with_credential_type("sas_token")
            }
            Some(Key::Client {
                tenant_id,
                client_id,
                client_secret,
            }) => builder
                .with_client_secret_authorization(client_id, client_secret, tenant_id)
                .with_credential_type("client_secret"),
            // With some credentials none are looked for elsewhere.
            None => builder
                .with_credentials(fixed(AzureCredential::BearerToken(String::new())))
                .with_skip_signature(true),
        };
        if let Some(endpoint) = terms.endpoint {
            builder = builder.with_endpoint(endpoint.to_owned());
        }
        Ok(Arc::new(builder.build().map_err(unusable)?))
    }
}

/// Refuses what can't be.
///
/// # Errors
/// `invalid_input`.
pub fn check(terms: &Terms<'_>) -> Result<()> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_region = |region: &str| (1..=40).contains(&region.len()) && region.chars().all(fits);
    if !terms.region.is_none_or(is_region) {
        let message = "must be a region such as eu-central-1";
        return Err(Error::invalid_at("/metadata/region", message));
    }
    let is_endpoint = |endpoint: &str| {
        let rest = endpoint.strip_prefix("https://");
        let rest = rest.or(endpoint.strip_prefix("http://"));
        let host = rest.and_then(|rest| rest.split('/').next());
        let is_url = endpoint.parse::<http::Uri>().is_ok();
        is_url && host.is_some_and(|host| !host.is_empty()) && !endpoint.contains(['@', '?', '#'])
    };
    if !terms.endpoint.is_none_or(is_endpoint) {
        let message = "must be https://HOST/PATH without a query, a name or a password";
        return Err(Error::invalid_at("/metadata/endpoint", message));
    }
    Ok(())
}

/// What a secret says. Why it does not is not repeated: that could quote it.
fn read<T: serde::de::DeserializeOwned>(secret: &Secret, wanted: &str) -> Result<T> {
    serde_json::from_str(secret.reveal()).map_err(|_| broken(wanted))
}

fn broken(wanted: &str) -> Error {
    let message = format!("the secret of this store must be JSON: {wanted}");
    Error::conflict("secret_broken", message)
}

/// What the library does not take. Its words may quote a key.
fn unusable(_: object_store::Error) -> Error {
    Error::conflict(
        "secret_broken",
        "the store can't be asked with this secret, or at this endpoint",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::Outside;
    use crate::reach::Reach;

    #[test]
    fn a_uri_names_a_bucket_and_what_is_below_a_prefix() {
        let at = |uri: &str| Place::parse(uri).ok();
        let place = at("s3://acme-data/reports/2026/").unwrap();
        assert_eq!(
            (place.provider, &*place.bucket),
            (Provider::S3, "acme-data")
        );
        assert_eq!(place.prefix, ["reports", "2026"]);
        assert!(at("gs://acme.example.com").unwrap().prefix.is_empty());
        let place = at("az://acme/box/a").unwrap();
        assert_eq!((&*place.account, &*place.bucket), ("acme", "box"));
        assert_eq!(place.prefix, ["a"]);
        for bad in [
            "s3://",
            "s3:///x",
            "s3://..",
            "s3://UPPER/x",
            "s3://a@b/x",
            "s3://a:80/x",
            "s3://b/../x",
            "s3://b/./x",
            "s3://b//x",
            "s3://b/%2e%2e/x",
            "s3://b/x?y",
            "s3://b/x#y",
            "s3://b/\0",
            "s3://b/.baton-1",
            "az://acme",
            "az://acme.evil.com/box",
            "az://acme/",
            "gcs://b",
            "file:///b",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_store_is_asked_by_whom_the_secret_names_and_by_nobody_else() {
        let open = |uri: &str, secret: Option<&str>| {
            let secret = secret.map(|text| Secret::from(text.to_owned()));
            let terms = Terms {
                secret: secret.as_ref(),
                ..Terms::default()
            };
            let wire = Wire(Outside::new(Reach::new(Vec::new()), None));
            let opened = Place::parse(uri).unwrap().open(terms, wire);
            opened.map(drop).map_err(|error| error.to_string())
        };
        for uri in ["s3://b", "gs://b", "az://acme/b"] {
            assert_eq!(open(uri, None), Ok(()), "{uri}");
            for bad in ["", "hunter2", "{}", "[]", r#"{"password": "hunter2"}"#] {
                let error = open(uri, Some(bad)).unwrap_err();
                assert!(!error.contains("hunter2"), "{error}");
            }
        }
        for (uri, secret) in [
            (
                "s3://b",
                r#"{"access_key_id": "AKIA", "secret_access_key": "x"}"#,
            ),
            ("gs://b", r#"{"access_token": "ya29"}"#),
            ("az://acme/b", r#"{"account_key": "aGk="}"#),
            ("az://acme/b", r#"{"sas_token": "?sv=2022&sig=a%2Bb"}"#),
            (
                "az://acme/b",
                r#"{"tenant_id": "t", "client_id": "c", "client_secret": "s"}"#,
            ),
        ] {
            assert_eq!(open(uri, Some(secret)), Ok(()), "{uri}");
        }
        for endpoint in ["ftp://x", "https://", "https://a@b", "https://b?c", "x"] {
            let terms = Terms {
                endpoint: Some(endpoint),
                ..Terms::default()
            };
            assert!(check(&terms).is_err(), "{endpoint}");
        }
    }
}
