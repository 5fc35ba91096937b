//! The configuration: what a daemon is told before it runs. Everything about customers lives in the database.
//!
//! Every key has a default, an empty file is a configuration, and [`check`] reports all mistakes of a file at once,
//! each with its place. `config/example.toml` shows every key with its default; a test keeps the two equal.

mod backup;
mod mistake;
mod read;
mod sections;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub(crate) use mistake::similar;
pub use mistake::{ConfigError, ConfigMistake};

use super::backup_settings::BackupSettings;
use super::endpoint::Endpoint;
use super::network::Network;
use super::secret::Secret;
use super::store_settings::StoreSettings;
use super::tls::CertificateFiles;

/// Largest configuration file taken, in octets.
const FILE_OCTETS_MAX: u64 = 4 * 1024 * 1024;

/// The whole configuration. Relative paths are relative to the working directory.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[data]`
    pub data: Data,
    /// `[database]`
    pub database: Database,
    /// `[listen]`
    pub listen: Listen,
    /// `[tls]`
    pub tls: Tls,
    /// `[admin]`
    pub admin: Admin,
    /// `[limits]`
    pub limits: Limits,
    /// `[[store]]`; never empty.
    pub stores: Vec<Store>,
    /// `[log]`
    pub log: Log,
    /// `[retention]`
    pub retention: Retention,
    /// `[backup]`
    pub backup: BackupSettings,
    /// `[audit]`
    pub audit: Audit,
    /// `[dns]`
    pub dns: Dns,
    /// `[webhooks]`
    pub webhooks: Webhooks,
}

/// Who this server says it is.
#[derive(Clone, PartialEq, Debug)]
pub struct Server {
    /// Name in greetings and Received lines; the machine's name by default.
    pub name: String,
}

/// Where the daemon keeps its files.
#[derive(Clone, PartialEq, Debug)]
pub struct Data {
    /// The data directory; made at the first start.
    pub dir: PathBuf,
}

/// Where the metadata is.
#[derive(Clone, PartialEq, Debug)]
pub struct Database {
    /// `sqlite:PATH` or `postgres://…`.
    pub url: Secret,
}

/// Where each protocol listens; an empty list switches it off.
#[derive(Clone, PartialEq, Debug)]
pub struct Listen {
    /// LMTP (RFC 2033).
    pub lmtp: Vec<Endpoint>,
    /// SMTP receiving.
    pub smtp: Vec<Endpoint>,
    /// IMAP with STARTTLS.
    pub imap: Vec<Endpoint>,
    /// IMAP with implicit TLS.
    pub imaps: Vec<Endpoint>,
    /// POP3 with STLS.
    pub pop3: Vec<Endpoint>,
    /// POP3 with implicit TLS.
    pub pop3s: Vec<Endpoint>,
    /// Look-ups for a Postfix (socketmap_table(5)).
    pub socketmap: Vec<Endpoint>,
    /// Authentication for a Postfix (Dovecot's SASL protocol).
    pub sasl: Vec<Endpoint>,
    /// Metrics and health in plain HTTP.
    pub http: Vec<Endpoint>,
    /// Networks whose connections begin with a PROXY protocol header.
    pub proxy_networks: Vec<Network>,
}

/// The certificates.
#[derive(Clone, PartialEq, Debug)]
pub struct Tls {
    /// The first one is for clients that name no server, or an unknown one. Never empty.
    pub certificates: Vec<CertificateFiles>,
    /// None was configured: make a self-signed one in the data directory unless it is there.
    pub is_self_signed: bool,
}

/// Administration over the Unix socket.
#[derive(Clone, PartialEq, Debug)]
pub struct Admin {
    /// The socket's file.
    pub socket: PathBuf,
    /// Who may use it without a token: user ids of this machine and the administrators they act as (`name@CODE`).
    pub administrators: BTreeMap<u32, String>,
}

/// Bounds that protect the server.
#[derive(Clone, PartialEq, Debug)]
pub struct Limits {
    /// Largest message taken over any protocol, in octets.
    pub message_octets_max: u64,
    /// Most recipients of one message.
    pub recipients_max: u32,
    /// Most connections at a time, for each protocol.
    pub connections_max: u32,
    /// Most connections at a time from one IPv4 address or IPv6 /64, for each protocol.
    pub connections_per_address_max: u32,
    /// How long a client may take until it is logged in; without a login, until its first request or greeting.
    pub login_timeout_secs: u32,
    /// How long an SMTP or LMTP client may be silent (RFC 5321 section 4.5.3.2.7: at least 5 minutes).
    pub smtp_timeout_secs: u32,
    /// How long a logged-in IMAP client may be silent (RFC 3501 section 5.4: at least 30 minutes).
    pub imap_timeout_secs: u32,
    /// How long a logged-in POP3 client may be silent (RFC 1939 section 3: at least 10 minutes).
    pub pop3_timeout_secs: u32,
    /// How long sessions may go on after the daemon was asked to end.
    pub drain_timeout_secs: u32,
    /// Most levels of customers below the root.
    pub hierarchy_depth_max: u32,
}

/// A mail store: a volume that holds packs.
#[derive(Clone, PartialEq, Debug)]
pub struct Store {
    /// Its name, for `--store`.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// How it keeps mail.
    pub settings: StoreSettings,
    /// Names of the settings that stand in the file: they cannot be changed at run time.
    pub fixed: Vec<&'static str>,
}

/// How the log is written to standard error.
#[derive(Clone, PartialEq, Debug)]
pub struct Log {
    /// For people or for programs.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,posthouse::imap=debug`.
    pub level: String,
}

/// The form of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// Text.
    Human,
    /// One JSON object per line.
    Json,
}

/// How long things are kept.
#[derive(Clone, PartialEq, Debug)]
pub struct Retention {
    /// Days that `posthouse trace` looks back.
    pub trace_days: u32,
    /// Days in which a deleted customer, domain or mailbox can be undeleted.
    pub undelete_days: u32,
}

/// Sending events to other systems.
#[derive(Clone, PartialEq, Debug)]
pub struct Webhooks {
    /// Networks that are not public and may be reached, also without TLS.
    pub allow_networks: Vec<Network>,
}

/// The audit trail.
#[derive(Clone, PartialEq, Debug)]
pub struct Audit {
    /// The file to which signed roots are appended.
    pub roots: PathBuf,
}

/// Whom to ask for what stands in the DNS.
#[derive(Clone, PartialEq, Debug)]
pub struct Dns {
    /// The resolver; without one those that the system names.
    pub resolver: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        let (config, _) = sections::read("");
        config
    }
}

/// Reads a configuration.
///
/// # Errors
/// Every mistake in it, in the order of lines.
pub fn check(text: &str) -> Result<Config, Vec<ConfigMistake>> {
    let (config, mistakes) = sections::read(text);
    if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
}

/// Reads a configuration file.
///
/// # Errors
/// When the file cannot be read, or with every mistake in it.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    use std::io::Read;
    let failed = |error| ConfigError::File { path: path.to_owned(), error };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_OCTETS_MAX).read_to_string(&mut text).map_err(failed)?;
    check(&text).map_err(|mistakes| ConfigError::Mistakes { path: path.to_owned(), mistakes })
}

#[cfg(test)]
mod tests;
