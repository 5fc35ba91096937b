//! What has to be known of a bucket. Secrets are written here and never shown again.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use super::error::{RemoteError, Result};
use super::key::is_path;
use crate::base::secret::Secret;

/// Longest prefix, in octets; with the longest key it stays within the 1,024 octets of S3.
const PREFIX_OCTETS_MAX: usize = 384;
/// The least limit of uploads: below it a pack of 64 MiB would take more than an hour.
const UPLOAD_OCTETS_PER_SEC_MIN: u64 = 16 * 1024;
/// Most connections to one endpoint.
const CONNECTIONS_MAX: u32 = 1_024;
/// Longest time limit, in seconds.
const TIMEOUT_SECS_MAX: u32 = 3_600;

/// A bucket of an S3 server and how to use it.
///
/// Serializing it hides the secret key, for reports; [`RemoteSettings::to_database`] does not.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RemoteSettings {
    /// `https://HOST[:PORT]`; Amazon's for the region if there is none.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket; it must exist.
    pub bucket: String,
    /// What every key starts with, without a slash at either end; may be empty.
    pub prefix: String,
    /// Whether the bucket stands in the path instead of the host name; unless told, with an endpoint of one's own.
    pub path_style: Option<bool>,
    /// Allows plain HTTP to a host that is not this machine.
    pub insecure_http: bool,
    /// Access key; from `AWS_ACCESS_KEY_ID` of the environment if there is none.
    #[serde(serialize_with = "show_place", deserialize_with = "read_secret")]
    pub access_key: Option<Secret>,
    /// Secret key; from `AWS_SECRET_ACCESS_KEY` of the environment if there is none.
    #[serde(serialize_with = "show_place", deserialize_with = "read_secret")]
    pub secret_key: Option<Secret>,
    /// Storage class of packs, such as `STANDARD_IA`; the bucket's default if there is none.
    pub storage_class: Option<String>,
    /// Limit of all uploads together; unlimited if there is none.
    pub upload_octets_per_sec: Option<u64>,
    /// Most requests at a time; uploads take at most half of them.
    pub connections_max: u32,
    /// How long a connection may take to open.
    pub connect_timeout_secs: u32,
    /// How long an answer may take to begin, and pause.
    pub response_timeout_secs: u32,
    /// How long all attempts of one request may take together, besides the time its octets need.
    pub total_timeout_secs: u32,
}

impl Default for RemoteSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            bucket: String::new(),
            prefix: String::new(),
            path_style: None,
            insecure_http: false,
            access_key: None,
            secret_key: None,
            storage_class: None,
            upload_octets_per_sec: None,
            connections_max: 16,
            connect_timeout_secs: 5,
            response_timeout_secs: 15,
            total_timeout_secs: 45,
        }
    }
}

impl RemoteSettings {
    /// Reads what [`Self::to_database`] wrote.
    ///
    /// # Errors
    /// `Invalid` when it is damaged or [wrong](Self::check).
    pub fn from_database(text: &str) -> Result<Self> {
        let settings: Self =
            serde_json::from_str(text).map_err(|error| RemoteError::Invalid(format!("settings: {error}")))?;
        settings.check()?;
        Ok(settings)
    }

    /// As JSON with the secrets in it: for the database alone.
    ///
    /// # Errors
    /// `Invalid` never in practice: these settings can always be written.
    pub fn to_database(&self) -> Result<String> {
        let failed = |error: serde_json::Error| RemoteError::Invalid(format!("settings: {error}"));
        let mut value = serde_json::to_value(self).map_err(failed)?;
        if let Value::Object(map) = &mut value {
            map.insert("access_key".to_owned(), kept(self.access_key.as_ref()));
            map.insert("secret_key".to_owned(), kept(self.secret_key.as_ref()));
        }
        serde_json::to_string(&value).map_err(failed)
    }

    /// These settings with the keys of `old` where they name none: who changes settings has not seen the secret.
    pub fn keeping_secrets_of(mut self, old: &Self) -> Self {
        if self.access_key.is_none() && self.secret_key.is_none() {
            self.access_key.clone_from(&old.access_key);
            self.secret_key.clone_from(&old.secret_key);
        }
        self
    }

    /// Looks for mistakes without asking the server.
    ///
    /// # Errors
    /// `Invalid` with the first one.
    pub fn check(&self) -> Result<()> {
        let plain = |text: &str, more: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let range = |what: &str, value: u32, max: u32| {
            let message = || format!("{what} is {value}: expected 1 to {max}");
            if (1..=max).contains(&value) { Ok(()) } else { Err(RemoteError::Invalid(message())) }
        };
        if !plain(&self.bucket, ".-_") || self.bucket.len() > 255 {
            return invalid(format!("bucket: {:?} is no name of a bucket", self.bucket));
        }
        if !self.prefix.is_empty() && (self.prefix.len() > PREFIX_OCTETS_MAX || !is_path(&self.prefix)) {
            let expected = "expected letters, digits and . _ - / without a slash at either end";
            return invalid(format!("prefix: {:?}: {expected}", self.prefix));
        }
        if !plain(&self.region, "-_") {
            return invalid(format!("region: {:?} is no name of a region", self.region));
        }
        if self.storage_class.as_ref().is_some_and(|class| !plain(class, "_")) {
            return invalid("storage_class: expected a name such as STANDARD_IA".to_owned());
        }
        if self.access_key.is_some() != self.secret_key.is_some() {
            return invalid("access_key and secret_key belong together: one of them is missing".to_owned());
        }
        if self.upload_octets_per_sec.is_some_and(|limit| limit < UPLOAD_OCTETS_PER_SEC_MIN) {
            let least = UPLOAD_OCTETS_PER_SEC_MIN;
            return invalid(format!("upload_octets_per_sec: expected at least {least}, or none"));
        }
        range("connections_max", self.connections_max, CONNECTIONS_MAX)?;
        range("connect_timeout_secs", self.connect_timeout_secs, TIMEOUT_SECS_MAX)?;
        range("response_timeout_secs", self.response_timeout_secs, TIMEOUT_SECS_MAX)?;
        range("total_timeout_secs", self.total_timeout_secs, TIMEOUT_SECS_MAX)?;
        self.endpoint.as_deref().map_or(Ok(()), |endpoint| self.check_endpoint(endpoint))
    }

    fn check_endpoint(&self, endpoint: &str) -> Result<()> {
        let uri: hyper::Uri = endpoint
            .parse()
            .map_err(|error| RemoteError::Invalid(format!("endpoint {endpoint:?}: {error}")))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = uri.host().unwrap_or("");
        let is_whole = !host.is_empty() && !authority.contains('@') && uri.query().is_none();
        match uri.scheme_str() {
            Some("https") if is_whole => Ok(()),
            Some("http") if is_whole && (self.insecure_http || is_loopback(host)) => Ok(()),
            Some("http") if is_whole => invalid(format!(
                "endpoint {endpoint:?} would send mail in plain HTTP: use https, or say insecure_http = true"
            )),
            _ => invalid(format!("endpoint {endpoint:?}: expected https://HOST or https://HOST:PORT")),
        }
    }

    /// Whether the bucket stands in the path.
    pub(super) fn is_path_style(&self) -> bool {
        self.path_style.unwrap_or(self.endpoint.is_some())
    }

    pub(super) fn response_timeout(&self) -> Duration {
        Duration::from_secs(self.response_timeout_secs.into())
    }
}

/// `ENDPOINT/BUCKET/PREFIX`, for messages.
impl fmt::Display for RemoteSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint.as_deref().unwrap_or("s3:/").trim_end_matches('/');
        write!(f, "{endpoint}/{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

fn invalid<T>(message: String) -> Result<T> {
    Err(RemoteError::Invalid(message))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The secret itself.
fn kept(secret: Option<&Secret>) -> Value {
    match secret {
        None => Value::Null,
        Some(Secret::Plain(text)) => json!(text.expose_secret()),
        Some(Secret::File(path)) => json!({ "file": path }),
        Some(Secret::Credential(name)) => json!({ "credential": name }),
    }
}

/// Where the secret is, not what it is.
fn show_place<S: Serializer>(secret: &Option<Secret>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let shown = match secret {
        Some(Secret::Plain(_)) => json!({ "set": true }),
        other => kept(other.as_ref()),
    };
    shown.serialize(serializer)
}

fn read_secret<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Secret>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Plain(String),
        File { file: std::path::PathBuf },
        Credential { credential: String },
    }
    // The text of what does not fit may be the secret: no error repeats it.
    let value = Value::deserialize(deserializer)?;
    let expected =
        || serde::de::Error::custom("expected text, {\"file\": …} or {\"credential\": …} for a key");
    let written: Option<Written> = serde_json::from_value(value).map_err(|_| expected())?;
    Ok(written.map(|written| match written {
        Written::Plain(text) => Secret::plain(&text),
        Written::File { file } => Secret::File(file),
        Written::Credential { credential } => Secret::Credential(credential),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> RemoteSettings {
        RemoteSettings {
            endpoint: Some("https://s3.example.org".to_owned()),
            bucket: "mail".to_owned(),
            access_key: Some(Secret::plain("key-id")),
            secret_key: Some(Secret::plain("hunter2")),
            ..RemoteSettings::default()
        }
    }

    #[test]
    fn settings_come_back_from_the_database_with_their_secrets() {
        let file = Secret::File("/run/key".into());
        let filed = RemoteSettings { secret_key: Some(file), ..settings() };
        let from_environment = RemoteSettings { access_key: None, secret_key: None, ..settings() };
        for settings in [settings(), filed, from_environment] {
            let text = settings.to_database().unwrap();
            assert_eq!(RemoteSettings::from_database(&text).unwrap(), settings, "{text}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let settings = settings();
        let shown = serde_json::to_string(&settings).unwrap();
        let debug = format!("{settings:?} {settings}");
        assert!(!shown.contains("hunter2") && !debug.contains("hunter2"), "{shown} {debug}");
        assert!(shown.contains(r#""secret_key":{"set":true}"#), "{shown}");
        let error =
            RemoteSettings::from_database(r#"{"bucket": "b", "secret_key": ["hunter2"]}"#).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn changed_settings_keep_the_secret_unless_they_bring_one() {
        let changed =
            RemoteSettings { access_key: None, secret_key: None, region: "eu".to_owned(), ..settings() };
        assert_eq!(changed.keeping_secrets_of(&settings()).secret_key, Some(Secret::plain("hunter2")));
        let other = RemoteSettings { secret_key: Some(Secret::plain("other")), ..settings() };
        assert_eq!(other.keeping_secrets_of(&settings()).secret_key, Some(Secret::plain("other")));
    }

    #[test]
    fn mistakes_are_told_before_anything_is_asked() {
        settings().check().unwrap();
        let endpoint = |text: &str| RemoteSettings { endpoint: Some(text.to_owned()), ..settings() };
        for right in
            ["http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost", "https://s3.example:9/x"]
        {
            endpoint(right).check().unwrap_or_else(|error| panic!("{right}: {error}"));
        }
        RemoteSettings { insecure_http: true, ..endpoint("http://10.0.0.1") }.check().unwrap();
        let wrong = [
            endpoint("http://10.0.0.1"),
            endpoint("http://localhost.example.org"),
            endpoint("s3.example.org"),
            endpoint("ftp://s3.example.org"),
            endpoint("https://user:word@s3.example.org"),
            RemoteSettings { bucket: String::new(), ..settings() },
            RemoteSettings { bucket: "a/b".to_owned(), ..settings() },
            RemoteSettings { prefix: "/a".to_owned(), ..settings() },
            RemoteSettings { prefix: "a/".to_owned(), ..settings() },
            RemoteSettings { region: String::new(), ..settings() },
            RemoteSettings { secret_key: None, ..settings() },
            RemoteSettings { storage_class: Some("a b".to_owned()), ..settings() },
            RemoteSettings { upload_octets_per_sec: Some(0), ..settings() },
            RemoteSettings { connections_max: 0, ..settings() },
            RemoteSettings { total_timeout_secs: 0, ..settings() },
        ];
        for wrong in wrong {
            assert!(matches!(wrong.check(), Err(RemoteError::Invalid(_))), "{wrong:?}");
        }
    }
}
