//! How a mail store keeps mail: every setting once, with name, default and bounds. The configuration file, the command
//! line and the database all read and write them by these names.

use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};

use super::secret::Secret;
use super::size::parse_size;

/// When packs go to object storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffloadWhen {
    /// Never.
    Never,
    /// As soon as they are written. They are not merged then, so that reading a folder takes more requests.
    AtOnce,
    /// When they are so old.
    AfterDays,
    /// When the volume is fuller than the watermark, oldest first.
    AboveWatermark,
}

impl OffloadWhen {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Never, "never"),
        (Self::AtOnce, "at-once"),
        (Self::AfterDays, "after-days"),
        (Self::AboveWatermark, "above-watermark"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(when, _)| *when == self).map_or("never", |(_, name)| name)
    }
}

/// How bodies are compressed when they are packed.
#[derive(Clone, PartialEq, Debug)]
pub struct CompressionSettings {
    /// zstd level, 1 to 19.
    pub level: u32,
    /// Whether short bodies use a dictionary.
    pub dictionary: bool,
    /// Whether a customer with enough mail gets a dictionary of its own.
    pub retrain: bool,
    /// Whether base64 is decoded.
    pub decode: bool,
    /// Whether attachments are kept once for each customer.
    pub share: bool,
}

/// When bodies go from the database into packs.
#[derive(Clone, PartialEq, Debug)]
pub struct PackingSettings {
    /// Younger bodies stay in the database, in seconds.
    pub age_min_secs: u32,
    /// Older bodies are packed however few they are, in seconds.
    pub age_max_secs: u32,
    /// Less than this waits for more, in octets.
    pub octets_min: u64,
    /// A superseded pack's file stays so long for readers that looked it up before.
    pub grace_minutes: u32,
}

/// When packs with dead bodies are written anew.
#[derive(Clone, PartialEq, Debug)]
pub struct CompactionSettings {
    /// Share of a pack that is dead, in percent.
    pub dead_percent: u32,
    /// Packs in object storage that are younger stay, in days: storage classes with a minimum storage time.
    pub age_min_days: u32,
    /// After this time nothing of a purged customer is left in shared packs.
    pub purge_deadline_days: u32,
    /// Read and write octets per second of all background work on packs together; 0 means no limit.
    pub octets_per_sec_max: u64,
}

/// When packs go to object storage, and where that is.
#[derive(Clone, PartialEq, Debug)]
pub struct OffloadSettings {
    /// The policy.
    pub when: OffloadWhen,
    /// For `after-days`.
    pub after_days: u32,
    /// For `above-watermark`: percent of the volume that may be used.
    pub watermark_percent: u32,
    /// Local copies of uploaded packs stay so long, in days.
    pub keep_local_days: u32,
    /// `https://HOST[:PORT]`; Amazon's for the region if empty. `file:///PATH`: a folder that holds the bucket.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket; empty: there is no object storage.
    pub bucket: String,
    /// What every key starts with.
    pub prefix: String,
    /// Whether the bucket stands in the path instead of the host name; unless told, with an endpoint of one's own.
    pub path_style: Option<bool>,
    /// Allows plain HTTP to a host that is not this machine.
    pub insecure_http: bool,
    /// Access key; from the environment if there is none.
    pub access_key: Option<Secret>,
    /// Secret key; from the environment if there is none.
    pub secret_key: Option<Secret>,
    /// Storage class of packs; the bucket's default if empty.
    pub storage_class: String,
    /// Limit of uploads; 0 means no limit.
    pub upload_octets_per_sec: u64,
    /// Most requests at a time.
    pub connections_max: u32,
}

/// Everything that can be set for a mail store.
#[derive(Clone, PartialEq, Debug)]
pub struct StoreSettings {
    /// How bodies are compressed.
    pub compression: CompressionSettings,
    /// When bodies are packed.
    pub packing: PackingSettings,
    /// When packs are written anew.
    pub compaction: CompactionSettings,
    /// Object storage.
    pub offload: OffloadSettings,
    /// Bound of the cache for packs in object storage, in octets.
    pub cache_octets_max: u64,
    /// How often catalogs are brought up to date, in minutes.
    pub catalog_minutes: u32,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            // Mail arrives at level 3 whatever stands here; the packer has time: level 9 takes 5 % less space for about
            // 0.1 ms a message.
            compression: CompressionSettings {
                level: 9,
                dictionary: true,
                retrain: true,
                decode: true,
                share: true,
            },
            packing: PackingSettings {
                age_min_secs: 10 * 60,
                age_max_secs: 6 * 60 * 60,
                octets_min: 32 << 20,
                grace_minutes: 5,
            },
            compaction: CompactionSettings {
                dead_percent: 20,
                age_min_days: 0,
                purge_deadline_days: 30,
                octets_per_sec_max: 0,
            },
            offload: OffloadSettings {
                when: OffloadWhen::Never,
                after_days: 30,
                watermark_percent: 80,
                keep_local_days: 0,
                endpoint: String::new(),
                region: "us-east-1".to_owned(),
                bucket: String::new(),
                prefix: String::new(),
                path_style: None,
                insecure_http: false,
                access_key: None,
                secret_key: None,
                storage_class: String::new(),
                upload_octets_per_sec: 0,
                connections_max: 16,
            },
            cache_octets_max: 10 << 30,
            catalog_minutes: 15,
        }
    }
}

/// A setting: its name, what it means, and how it is read and written.
pub struct Setting {
    /// `offload.after_days`; a table of the configuration file and a key in it.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    set: fn(&mut StoreSettings, &str) -> Result<(), String>,
    get: fn(&StoreSettings) -> String,
    /// Written in full for the database alone, when it must not be shown.
    secret: Option<fn(&StoreSettings) -> String>,
}

impl Setting {
    /// Whether its value is not shown.
    pub fn is_secret(&self) -> bool {
        self.secret.is_some()
    }

    fn whole(&self, of: &StoreSettings) -> String {
        self.secret.map_or((self.get)(of), |whole| whole(of))
    }
}

fn integer(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let number = text.parse::<u32>().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("expected a number from {least} to {most}, got {text:?}"))
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("expected true or false, got {text:?}"))
}

fn size(text: &str, least: u64) -> Result<u64, String> {
    let octets = if text == "none" { 0 } else { parse_size(text).map_err(|error| error.to_string())? };
    if octets < least {
        Err(format!("{octets} is too little: expected at least {least}"))
    } else {
        Ok(octets)
    }
}

fn plain(text: &str) -> Result<String, String> {
    const OCTETS_MAX: usize = 1_024;
    if text.len() > OCTETS_MAX || text.chars().any(char::is_control) {
        return Err(format!("expected at most {OCTETS_MAX} octets without control characters"));
    }
    Ok(text.to_owned())
}

/// `file:PATH`, `credential:NAME`, nothing, or the secret itself.
fn secret(text: &str) -> Result<Option<Secret>, String> {
    Ok(match (text.strip_prefix("file:"), text.strip_prefix("credential:")) {
        (Some(path), _) if path.starts_with('/') => Some(Secret::File(PathBuf::from(path))),
        (Some(_), _) => return Err("expected an absolute path behind file:".to_owned()),
        (_, Some(name)) => Some(Secret::Credential(plain(name)?)),
        _ if text.is_empty() => None,
        _ => Some(Secret::plain(&plain(text)?)),
    })
}

fn place(secret: Option<&Secret>) -> String {
    match secret {
        None => String::new(),
        Some(Secret::Plain(_)) => "(set)".to_owned(),
        Some(Secret::File(path)) => format!("file:{}", path.display()),
        Some(Secret::Credential(name)) => format!("credential:{name}"),
    }
}

fn whole(secret: Option<&Secret>) -> String {
    match secret {
        Some(Secret::Plain(text)) => text.expose_secret().to_owned(),
        other => place(other),
    }
}

macro_rules! settings {
    (@get $s:ident, $($field:ident).+, integer $($x:tt)*) => { $s.$($field).+.to_string() };
    (@get $s:ident, $($field:ident).+, boolean $($x:tt)*) => { $s.$($field).+.to_string() };
    (@get $s:ident, $($field:ident).+, size $($x:tt)*) => { $s.$($field).+.to_string() };
    (@get $s:ident, $($field:ident).+, plain $($x:tt)*) => { $s.$($field).+.clone() };
    ($($name:literal, $help:literal: $($field:ident).+ = $read:ident($($bound:expr),*);)+) => {
        &[$(Setting {
            name: $name,
            help: $help,
            set: |settings, text| {
                settings.$($field).+ = $read(text $(, $bound)*)?;
                Ok(())
            },
            get: |settings| settings!(@get settings, $($field).+, $read),
            secret: None,
        }),+]
    };
}

const DAYS_MAX: u32 = 36_500;
/// Longest name of a mail store.
const STORE_NAME_OCTETS_MAX: usize = 63;

/// The settings that are numbers, sizes, switches or plain text.
static PLAIN: &[Setting] = settings! {
    "compression.level", "zstd level of packs, 1 (fast) to 19 (small)": compression.level = integer(1, 19);
    "compression.dictionary", "short bodies use a dictionary": compression.dictionary = boolean();
    "compression.retrain", "customers with enough mail get a dictionary of their own": compression.retrain = boolean();
    "compression.decode", "base64 is decoded when that can be undone bit for bit": compression.decode = boolean();
    "compression.share", "attachments are kept once for each customer": compression.share = boolean();
    "packing.age_min_secs", "younger mail stays in the database": packing.age_min_secs = integer(0, 86_400);
    "packing.age_max_secs", "older mail is packed however little it is": packing.age_max_secs = integer(0, 172_800);
    "packing.octets_min", "less than this waits for more": packing.octets_min = size(0);
    "packing.grace_minutes", "files of superseded packs stay so long": packing.grace_minutes = integer(0, 10_080);
    "compaction.dead_percent", "packs are written anew when so much is dead": compaction.dead_percent = integer(1, 100);
    "compaction.age_min_days", "younger packs in object storage are left alone":
        compaction.age_min_days = integer(0, DAYS_MAX);
    "compaction.purge_deadline_days", "nothing of a purged customer is left after this time":
        compaction.purge_deadline_days = integer(0, DAYS_MAX);
    "compaction.octets_per_sec_max", "speed of background work on packs; none: no limit":
        compaction.octets_per_sec_max = size(0);
    "offload.after_days", "age at which packs go to object storage": offload.after_days = integer(0, DAYS_MAX);
    "offload.watermark_percent", "how full the volume may be": offload.watermark_percent = integer(1, 99);
    "offload.keep_local_days", "local copies of uploaded packs stay so long":
        offload.keep_local_days = integer(0, DAYS_MAX);
    "offload.endpoint", "https://HOST[:PORT]; Amazon's if empty; file:///PATH for a folder": offload.endpoint = plain();
    "offload.region", "region that requests are signed for": offload.region = plain();
    "offload.bucket", "the bucket; empty: no object storage": offload.bucket = plain();
    "offload.prefix", "what every key starts with": offload.prefix = plain();
    "offload.insecure_http", "plain HTTP to another machine": offload.insecure_http = boolean();
    "offload.storage_class", "storage class of packs, such as STANDARD_IA": offload.storage_class = plain();
    "offload.upload_octets_per_sec", "limit of uploads; none: no limit": offload.upload_octets_per_sec = size(0);
    "offload.connections_max", "most requests at a time": offload.connections_max = integer(1, 1_024);
    "cache.octets_max", "bound of the cache for packs in object storage": cache_octets_max = size(64 << 20);
    "catalog.minutes", "how often catalogs beside the packs are brought up to date":
        catalog_minutes = integer(1, 10_080);
};

/// The others.
static SPECIAL: &[Setting] = &[
    Setting {
        name: "offload.when",
        help: "never, at-once, after-days or above-watermark",
        set: |settings, text| {
            let found = OffloadWhen::ALL.iter().find(|(_, name)| *name == text);
            let expected = || format!("expected never, at-once, after-days or above-watermark, got {text:?}");
            settings.offload.when = found.ok_or_else(expected)?.0;
            Ok(())
        },
        get: |settings| settings.offload.when.name().to_owned(),
        secret: None,
    },
    Setting {
        name: "offload.path_style",
        help: "the bucket stands in the path: true, false, or empty to choose by the endpoint",
        set: |settings, text| {
            settings.offload.path_style = if text.is_empty() { None } else { Some(boolean(text)?) };
            Ok(())
        },
        get: |settings| settings.offload.path_style.map(|style| style.to_string()).unwrap_or_default(),
        secret: None,
    },
    Setting {
        name: "offload.access_key",
        help: "file:PATH, credential:NAME or the key; empty: AWS_ACCESS_KEY_ID",
        set: |settings, text| secret(text).map(|key| settings.offload.access_key = key),
        get: |settings| place(settings.offload.access_key.as_ref()),
        secret: Some(|settings| whole(settings.offload.access_key.as_ref())),
    },
    Setting {
        name: "offload.secret_key",
        help: "file:PATH, credential:NAME or the key; empty: AWS_SECRET_ACCESS_KEY",
        set: |settings, text| secret(text).map(|key| settings.offload.secret_key = key),
        get: |settings| place(settings.offload.secret_key.as_ref()),
        secret: Some(|settings| whole(settings.offload.secret_key.as_ref())),
    },
];

/// Whether a mail store can have this name.
pub fn is_store_name(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    (1..=STORE_NAME_OCTETS_MAX).contains(&name.len()) && name.chars().all(is_letter)
}

/// All settings.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    PLAIN.iter().chain(SPECIAL)
}

/// The setting of this name.
pub fn named(name: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.name == name)
}

impl StoreSettings {
    /// Sets one.
    ///
    /// # Errors
    /// What is wrong with the name or the value; then nothing was changed. Values of secrets are not repeated.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let setting = named(name).ok_or_else(|| format!("there is no setting {name:?}"))?;
        (setting.set)(self, text)
    }

    /// Takes one from other settings.
    pub fn take(&mut self, name: &str, from: &Self) {
        if let Some(setting) = named(name) {
            // What was taken once is taken again.
            let _ = (setting.set)(self, &setting.whole(from));
        }
    }

    /// What can be shown of one.
    pub fn shown(&self, setting: &Setting) -> String {
        (setting.get)(self)
    }

    /// Looks for settings that contradict each other.
    ///
    /// # Errors
    /// The first one, with the setting at fault.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.offload.when != OffloadWhen::Never && self.offload.bucket.is_empty() {
            return Err(("offload.when", "needs offload.bucket".to_owned()));
        }
        if self.offload.access_key.is_some() != self.offload.secret_key.is_some() {
            return Err(("offload.secret_key", "belongs together with offload.access_key".to_owned()));
        }
        Ok(())
    }

    /// For the database: what differs from the defaults, secrets in full.
    pub fn to_database(&self) -> String {
        let default = Self::default();
        let value =
            |setting: &Setting, of: &Self| setting.secret.map_or((setting.get)(of), |whole| whole(of));
        let differs = all().filter(|setting| value(setting, self) != value(setting, &default));
        let map: Map<String, Value> =
            differs.map(|setting| (setting.name.to_owned(), Value::String(value(setting, self)))).collect();
        Value::Object(map).to_string()
    }

    /// Reads what [`Self::to_database`] wrote; settings that this version does not know are left out.
    ///
    /// # Errors
    /// What is wrong.
    pub fn from_database(text: &str) -> Result<Self, String> {
        let map: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut settings = Self::default();
        for (name, value) in &map {
            let text = value.as_str().ok_or_else(|| format!("{name} is no text"))?;
            if named(name).is_some() {
                settings.set(name, text).map_err(|error| format!("{name}: {error}"))?;
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed() -> StoreSettings {
        let mut settings = StoreSettings::default();
        for (name, text) in [
            ("compression.level", "19"),
            ("offload.when", "after-days"),
            ("offload.bucket", "mail"),
            ("offload.path_style", "true"),
            ("offload.access_key", "AKID"),
            ("offload.secret_key", "hunter2"),
            ("cache.octets_max", "1GiB"),
            ("compaction.octets_per_sec_max", "10MiB"),
        ] {
            settings.set(name, text).unwrap();
        }
        settings
    }

    #[test]
    fn settings_come_back_from_the_database() {
        assert_eq!(StoreSettings::default().to_database(), "{}");
        let settings = changed();
        assert_eq!(StoreSettings::from_database(&settings.to_database()).unwrap(), settings);
        let newer = r#"{"compression.level":"5","of.tomorrow":"1"}"#;
        assert_eq!(StoreSettings::from_database(newer).unwrap().compression.level, 5);
        for damaged in ["", "[]", r#"{"compression.level":5}"#, r#"{"compression.level":"77"}"#] {
            assert!(StoreSettings::from_database(damaged).is_err(), "{damaged}");
        }
    }

    /// Whatever is shown of a setting is taken again, except secrets, which are not shown.
    #[test]
    fn shown_settings_can_be_set_again_and_secrets_stay_hidden() {
        let settings = changed();
        for setting in all() {
            let shown = settings.shown(setting);
            assert!(!shown.contains("hunter2"), "{}", setting.name);
            if setting.secret.is_none() {
                let mut again = settings.clone();
                again.set(setting.name, &shown).unwrap_or_else(|error| panic!("{}: {error}", setting.name));
                assert_eq!(again, settings, "{}", setting.name);
            }
        }
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn wrong_values_change_nothing_and_say_what_was_expected() {
        assert!(is_store_name("fast-1_a") && is_store_name(&"x".repeat(63)));
        for name in ["", "a/b", "..", "A", "a b", "ä", &"x".repeat(64)] {
            assert!(!is_store_name(name), "{name}");
        }
        let mut settings = changed();
        for (name, text) in [
            ("compression.level", "0"),
            ("compression.level", "x"),
            ("offload.when", "sometimes"),
            ("cache.octets_max", "1"),
            ("offload.secret_key", "file:relative"),
            ("offload.bucket", "a\nb"),
            ("no.such", "1"),
        ] {
            assert!(settings.set(name, text).is_err(), "{name}={text}");
        }
        assert_eq!(settings, changed());
    }

    #[test]
    fn contradictions_are_found() {
        changed().check().unwrap();
        for (name, text) in [("offload.bucket", ""), ("offload.secret_key", "")] {
            let mut settings = changed();
            settings.set(name, text).unwrap();
            assert!(settings.check().is_err(), "{name}");
        }
    }
}
