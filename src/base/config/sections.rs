//! The sections of the file: every key with its default and its bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::backup::read_backup;
use super::mistake::ConfigMistake;
use super::read::{Mistakes, Section, Value, expected, path, text};
use super::{
    Admin, Audit, Config, Data, Database, Dns, Limits, Listen, Log, LogFormat, Retention, Server, Store, Tls,
    Webhooks,
};
use crate::base::endpoint::Endpoint;
use crate::base::secret::Secret;
use crate::base::store_settings::{self, StoreSettings};
use crate::base::telemetry::filter;
use crate::base::tls::CertificateFiles;

/// Longest path of a Unix socket, in octets (`sun_path` of unix(7), without the closing zero).
const SOCKET_PATH_OCTETS_MAX: usize = 107;

/// Reads as much as can be understood, with defaults for the rest, and notes every mistake.
pub(super) fn read(source: &str) -> (Config, Vec<ConfigMistake>) {
    let (table, errors) = DeTable::parse_recoverable(source);
    let mistakes = Mistakes::new(source);
    let config = read_root(Section::root(table.get_ref(), &mistakes));
    if errors.is_empty() {
        return (config, mistakes.sorted());
    }
    // What follows from a broken line is not the reader's mistake.
    let broken = Mistakes::new(source);
    for error in &errors {
        broken.add(&error.span().unwrap_or(0..0), error.message().trim());
    }
    let mut all = broken.sorted();
    let lines: BTreeSet<usize> = all.iter().map(|mistake| mistake.line).collect();
    all.extend(mistakes.sorted().into_iter().filter(|mistake| !lines.contains(&mistake.line)));
    all.sort();
    (config, all)
}

fn read_root(mut root: Section<'_>) -> Config {
    let server = read_server(root.section("server"));
    let data = read_data(root.section("data"));
    let database = read_database(root.section("database"), &data.dir);
    let listen = read_listen(root.section("listen"));
    let tls = read_tls(root.section("tls"), &data.dir);
    let admin = read_admin(root.section("admin"), &data.dir);
    let limits = read_limits(root.section("limits"));
    let stores = read_stores(&mut root, &data.dir);
    let log = read_log(root.section("log"));
    let retention = read_retention(root.section("retention"));
    let backup = read_backup(root.section("backup"));
    let audit = read_audit(root.section("audit"), &data.dir);
    let dns = read_dns(root.section("dns"));
    let webhooks = read_webhooks(root.section("webhooks"));
    root.finish();
    Config {
        server,
        data,
        database,
        listen,
        tls,
        admin,
        limits,
        stores,
        log,
        retention,
        backup,
        audit,
        dns,
        webhooks,
    }
}

fn read_server(mut section: Section<'_>) -> Server {
    let name = section.value("name", String::new(), |value| {
        let name = text(value)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        if name.len() > 253 || !name.chars().all(is_name) {
            return Err(format!("{name:?} is no host name"));
        }
        Ok(name)
    });
    section.finish();
    Server { name: if name.is_empty() { host_name() } else { name } }
}

/// The machine's name, or `localhost` when it has none that can stand in a greeting.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let is_usable = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c));
    if is_usable { name } else { "localhost".to_owned() }
}

fn read_data(mut section: Section<'_>) -> Data {
    let dir = section.path("dir", PathBuf::from("posthouse-data"));
    section.finish();
    Data { dir }
}

fn read_database(mut section: Section<'_>, data: &Path) -> Database {
    let default = Secret::plain(&format!("sqlite:{}", data.join("metadata.db").display()));
    let before = section.take("url");
    let url = section.secret("url", default);
    if let (Some(value), Secret::Plain(_)) = (before, &url)
        && let Some(text) = value.get_ref().as_str()
        && !["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme))
    {
        section.mistake(value, "url", "expected \"sqlite:PATH\" or \"postgres://USER@HOST/DATABASE\"");
    }
    section.finish();
    Database { url }
}

fn read_listen(mut section: Section<'_>) -> Listen {
    let mut seen = BTreeMap::new();
    let mut endpoints = |section: &mut Section<'_>, key: &'static str, default: &[&str]| -> Vec<Endpoint> {
        let list: Vec<Endpoint> = section.list(key, default);
        let value = section.take(key);
        for endpoint in &list {
            let free_port = matches!(endpoint, Endpoint::Tcp(address) if address.port() == 0);
            let other = if free_port { None } else { seen.insert(endpoint.to_string(), key) };
            if let Some(value) = value {
                if let Some(other) = other {
                    section.mistake(value, key, format!("{endpoint} is used by {other} already"));
                }
                if let Endpoint::Unix { path, .. } = endpoint {
                    check_socket_path(section, key, value, path);
                }
            }
        }
        list
    };
    let listen = Listen {
        lmtp: endpoints(&mut section, "lmtp", &["127.0.0.1:2424"]),
        smtp: endpoints(&mut section, "smtp", &["127.0.0.1:2525"]),
        imap: endpoints(&mut section, "imap", &["127.0.0.1:1143"]),
        imaps: endpoints(&mut section, "imaps", &["127.0.0.1:1993"]),
        pop3: endpoints(&mut section, "pop3", &["127.0.0.1:1110"]),
        pop3s: endpoints(&mut section, "pop3s", &["127.0.0.1:1995"]),
        socketmap: endpoints(&mut section, "socketmap", &[]),
        sasl: endpoints(&mut section, "sasl", &[]),
        http: endpoints(&mut section, "http", &["127.0.0.1:1180"]),
        proxy_networks: section.list("proxy_networks", &[]),
    };
    section.finish();
    listen
}

fn check_socket_path(section: &Section<'_>, key: &str, value: Value<'_>, path: &Path) {
    if path.as_os_str().len() > SOCKET_PATH_OCTETS_MAX {
        let message = format!("the path of a Unix socket has at most {SOCKET_PATH_OCTETS_MAX} octets");
        section.mistake(value, key, message);
    }
}

fn read_tls(mut section: Section<'_>, data: &Path) -> Tls {
    let mut certificates = Vec::new();
    let certificate = section.take("certificate");
    let key = section.take("key");
    if certificate.is_some() || key.is_some() {
        certificates.extend(read_pair(&section, certificate, key));
    }
    for (value, mut pair) in section.sections("certificates") {
        let (certificate, key) = (pair.take("certificate"), pair.take("key"));
        if certificate.is_none() && key.is_none() {
            pair.mistake(value, "certificate", "missing, and key as well");
        }
        certificates.extend(read_pair(&pair, certificate, key));
        pair.finish();
    }
    section.finish();
    let is_self_signed = certificates.is_empty();
    if is_self_signed {
        let pair = CertificateFiles { certificate: data.join("certificate.pem"), key: data.join("key.pem") };
        certificates.push(pair);
    }
    Tls { certificates, is_self_signed }
}

fn read_pair<'r>(
    section: &Section<'r>,
    certificate: Option<Value<'r>>,
    key: Option<Value<'r>>,
) -> Option<CertificateFiles> {
    let file = |name: &str, value: Value<'r>| {
        path(value.get_ref()).map_err(|message| section.mistake(value, name, message)).ok()
    };
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (file("certificate", certificate), file("key", key));
            Some(CertificateFiles { certificate: certificate?, key: key? })
        }
        (Some(certificate), None) => {
            section.mistake(certificate, "certificate", "its key is missing: add key = \"FILE\"");
            None
        }
        (None, Some(key)) => {
            section.mistake(key, "key", "its certificate is missing: add certificate = \"FILE\"");
            None
        }
        (None, None) => None,
    }
}

fn read_admin(mut section: Section<'_>, data: &Path) -> Admin {
    let value = section.take("socket");
    let socket = section.path("socket", data.join("admin.sock"));
    if let Some(value) = value {
        check_socket_path(&section, "socket", value, &socket);
    }
    let mut map = section.section("administrators");
    let mut administrators = BTreeMap::new();
    for (uid, name) in map.entries() {
        let uid_parsed = uid.parse::<u32>().map_err(|_| format!("{uid:?} is no numeric user id"));
        match (uid_parsed, text(name.get_ref())) {
            (Ok(uid), Ok(name)) => {
                administrators.insert(uid, name);
            }
            (Err(message), _) | (_, Err(message)) => map.mistake(name, uid, message),
        }
    }
    map.finish();
    section.finish();
    Admin { socket, administrators }
}

fn read_limits(mut section: Section<'_>) -> Limits {
    /// A day: longer silence than that is nobody waiting.
    const TIMEOUT_SECS_MAX: u32 = 86_400;
    /// What storage and IMAP literals take at most.
    const MESSAGE_OCTETS_MAX: u64 = 1 << 30;
    let value = section.take("message_octets_max");
    let message_octets_max = section.size("message_octets_max", 50 << 20, 64 * 1024);
    if let Some(value) = value
        && message_octets_max > MESSAGE_OCTETS_MAX
    {
        section.mistake(value, "message_octets_max", "is more than 1GiB");
    }
    let mut timeout = |key, default| section.integer(key, default, 1..=TIMEOUT_SECS_MAX);
    let login_timeout_secs = timeout("login_timeout_secs", 60);
    let smtp_timeout_secs = timeout("smtp_timeout_secs", 300);
    let imap_timeout_secs = timeout("imap_timeout_secs", 1_800);
    let pop3_timeout_secs = timeout("pop3_timeout_secs", 600);
    let drain_timeout_secs = timeout("drain_timeout_secs", 20);
    let limits = Limits {
        message_octets_max,
        // RFC 5321 section 4.5.3.1.8: at least 100.
        recipients_max: section.integer("recipients_max", 1_000, 1..=100_000),
        connections_max: section.integer("connections_max", 10_000, 1..=1_000_000),
        connections_per_address_max: section.integer("connections_per_address_max", 500, 1..=1_000_000),
        login_timeout_secs,
        smtp_timeout_secs,
        imap_timeout_secs,
        pop3_timeout_secs,
        drain_timeout_secs,
        hierarchy_depth_max: section.integer("hierarchy_depth_max", 64, 1..=1_000),
    };
    section.finish();
    limits
}

fn read_stores(root: &mut Section<'_>, data: &Path) -> Vec<Store> {
    let mut stores: Vec<Store> = Vec::new();
    for (at, mut section) in root.sections("store") {
        let value = section.take("name");
        let name = section.text("name", "main");
        if !store_settings::is_store_name(&name) {
            let message = "expected 1 to 63 of a-z, 0-9, - and _";
            section.mistake(value.unwrap_or(at), "name", message);
        } else if stores.iter().any(|store| store.name == name) {
            section.mistake(value.unwrap_or(at), "name", format!("there are two stores {name:?}"));
        }
        let path = section.path("path", data.join("stores").join(&name));
        let (mut settings, mut fixed) = (StoreSettings::default(), Vec::new());
        for table in SETTING_TABLES {
            read_settings(table, section.section(table), &mut settings, &mut fixed);
        }
        if let Err((name, message)) = settings.check() {
            section.mistake(at, name, message);
        }
        section.finish();
        stores.push(Store { name, path, settings, fixed });
    }
    if stores.is_empty() {
        let path = data.join("stores").join("main");
        let (settings, fixed) = (StoreSettings::default(), Vec::new());
        stores.push(Store { name: "main".to_owned(), path, settings, fixed });
    }
    stores
}

/// Tables of a store; their keys are in `store_settings`.
const SETTING_TABLES: [&str; 6] = ["compression", "packing", "compaction", "offload", "cache", "catalog"];

fn read_settings(
    table: &str,
    mut section: Section<'_>,
    settings: &mut StoreSettings,
    fixed: &mut Vec<&'static str>,
) {
    for setting in store_settings::all() {
        let key = setting.name.strip_prefix(table).and_then(|rest| rest.strip_prefix('.'));
        let Some(key) = key else { continue };
        let Some(value) = section.take(key) else { continue };
        let set = plain_text(value.get_ref()).and_then(|text| settings.set(setting.name, &text));
        match set {
            Ok(()) => fixed.push(setting.name),
            Err(message) => section.mistake(value, key, message),
        }
    }
    section.finish();
}

/// A value as the command line would write it.
pub(super) fn plain_text(value: &DeValue<'_>) -> Result<String, String> {
    let wrong =
        || expected("text, a number, true or false, { file = \"…\" } or { credential = \"…\" }", value);
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    if let Some(number) = value.as_integer() {
        return Ok(number.as_str().to_owned());
    }
    if let Some(boolean) = value.as_bool() {
        return Ok(boolean.to_string());
    }
    let table = value.as_table().ok_or_else(wrong)?;
    let mut entries = table.iter().map(|(key, value)| (key.get_ref().as_ref(), value.get_ref().as_str()));
    match (entries.next(), entries.next()) {
        (Some((place @ ("file" | "credential"), Some(text))), None) => Ok(format!("{place}:{text}")),
        _ => Err(wrong()),
    }
}

fn read_log(mut section: Section<'_>) -> Log {
    let format = section.value("format", LogFormat::Human, |value| match value.as_str() {
        Some("human") => Ok(LogFormat::Human),
        Some("json") => Ok(LogFormat::Json),
        _ => Err(match value.as_str() {
            Some(other) => format!("expected \"human\" or \"json\", found {other:?}"),
            None => expected("\"human\" or \"json\"", value),
        }),
    });
    let level = section.value("level", "info".to_owned(), |value| {
        let level = text(value)?;
        match filter(&level) {
            Some(_) => Ok(level),
            None => Err(format!(
                "{level:?} is no level: expected error, warn, info, debug or trace, or a filter such as \
                 info,posthouse::imap=debug"
            )),
        }
    });
    section.finish();
    Log { format, level }
}

fn read_audit(mut section: Section<'_>, data: &Path) -> Audit {
    let roots = section.path("roots", data.join("audit-roots.jsonl"));
    section.finish();
    Audit { roots }
}

fn read_dns(mut section: Section<'_>) -> Dns {
    let resolver = section.value("resolver", None, |value| {
        let address = text(value)?;
        if address.is_empty() {
            return Ok(None);
        }
        let wrong = |_| format!("expected ADDRESS:PORT such as \"127.0.0.1:53\", found {address:?}");
        address.parse().map(Some).map_err(wrong)
    });
    section.finish();
    Dns { resolver }
}

fn read_webhooks(mut section: Section<'_>) -> Webhooks {
    let allow_networks = section.list("allow_networks", &[]);
    section.finish();
    Webhooks { allow_networks }
}

fn read_retention(mut section: Section<'_>) -> Retention {
    /// 100 years; moments stay far from the end of time.
    const DAYS_MAX: u32 = 36_500;
    let trace_days = section.integer("trace_days", 14, 0..=DAYS_MAX);
    let undelete_days = section.integer("undelete_days", 30, 0..=DAYS_MAX);
    section.finish();
    Retention { trace_days, undelete_days }
}
