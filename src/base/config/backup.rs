//! The section `[backup]`.

use std::path::PathBuf;

use super::read::{Section, path, text};
use super::sections::plain_text;
use crate::base::backup_settings::{BackupPlace, BackupSettings, BackupsKept};
use crate::base::store_settings::{self, StoreSettings};

/// Settings of object storage that a bucket for backups has too.
const BUCKET_KEYS: [&str; 11] = [
    "offload.endpoint",
    "offload.region",
    "offload.bucket",
    "offload.prefix",
    "offload.path_style",
    "offload.insecure_http",
    "offload.access_key",
    "offload.secret_key",
    "offload.storage_class",
    "offload.upload_octets_per_sec",
    "offload.connections_max",
];

/// `HH:MM` in minutes.
fn time_of_day(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str, end: u32| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|number| is_number && *number < end)
    };
    Some(number(hours, 24)? * 60 + number(minutes, 60)?)
}

pub(super) fn read_backup(mut section: Section<'_>) -> BackupSettings {
    let default = BackupSettings::default();
    let directory = section.value("directory", PathBuf::new(), |value| match value.as_str() {
        Some("") => Ok(PathBuf::new()),
        _ => {
            let path = path(value)?;
            if path.is_absolute() { Ok(path) } else { Err("expected an absolute path".to_owned()) }
        }
    });
    let place = read_place(&mut section, directory);
    let at_minutes = section.value("at", default.at_minutes, |value| {
        let text = text(value)?;
        time_of_day(&text).ok_or_else(|| format!("expected a time of day such as \"03:00\", got {text:?}"))
    });
    let settings = BackupSettings {
        place,
        every_hours: section.integer("every_hours", default.every_hours, 0..=8_784),
        at_minutes,
        kept: BackupsKept {
            last: section.integer("keep_last", default.kept.last, 1..=10_000),
            daily: section.integer("keep_daily", default.kept.daily, 0..=10_000),
            weekly: section.integer("keep_weekly", default.kept.weekly, 0..=10_000),
            monthly: section.integer("keep_monthly", default.kept.monthly, 0..=10_000),
        },
        test_every_days: section.integer("test_every_days", default.test_every_days, 0..=3_650),
        test_bodies: section.integer("test_bodies", default.test_bodies, 0..=1_000_000_000),
        warn_after_hours: section.integer("warn_after_hours", default.warn_after_hours, 0..=87_600),
    };
    section.finish();
    settings
}

fn read_place(section: &mut Section<'_>, directory: PathBuf) -> BackupPlace {
    let mut settings = StoreSettings::default();
    let mut bucket = None;
    for name in BUCKET_KEYS {
        let Some(setting) = store_settings::named(name) else { continue };
        let key = name.trim_start_matches("offload.");
        let Some(value) = section.take(key) else { continue };
        if key == "bucket" {
            bucket = Some(value);
        }
        let set = plain_text(value.get_ref()).and_then(|text| settings.set(setting.name, &text));
        if let Err(message) = set {
            section.mistake(value, key, message);
        }
    }
    let has_bucket = !settings.offload.bucket.is_empty();
    if let (Some(value), true) = (bucket, has_bucket) {
        if let Err((_, message)) = settings.check() {
            section.mistake(value, "secret_key", message);
        }
        if directory != PathBuf::new() {
            section.mistake(value, "bucket", "there is a directory already: backups go to one place");
        }
    }
    match (has_bucket, directory == PathBuf::new()) {
        (true, _) => BackupPlace::Bucket(Box::new(settings.offload)),
        (false, true) => BackupPlace::None,
        (false, false) => BackupPlace::Directory(directory),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::super::mistake::ConfigMistake;
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        check(text).unwrap_err().iter().map(ConfigMistake::to_string).collect()
    }

    #[test]
    fn directory_or_bucket_with_times_and_what_stays() {
        let text =
            "[backup]\ndirectory = \"/srv/backup\"\nat = \"23:30\"\nevery_hours = 12\nkeep_daily = 3\n";
        let backup = check(text).unwrap().backup;
        assert_eq!(backup.place, BackupPlace::Directory(PathBuf::from("/srv/backup")));
        assert_eq!((backup.at_minutes, backup.every_hours, backup.kept.daily), (23 * 60 + 30, 12, 3));
        let text = "[backup]\nbucket = \"safe\"\nendpoint = \"https://s3.example\"\nprefix = \"mail\"\n\
                    access_key = { file = \"/k\" }\nsecret_key = { file = \"/s\" }\n";
        let BackupPlace::Bucket(bucket) = check(text).unwrap().backup.place else { panic!("no bucket") };
        assert_eq!((bucket.bucket.as_str(), bucket.prefix.as_str()), ("safe", "mail"));
        assert!(bucket.secret_key.is_some());
    }

    #[test]
    fn mistakes_are_told() {
        for (text, part) in [
            ("directory = \"relative\"", "absolute"),
            ("directory = \"/x\"\nbucket = \"b\"", "one place"),
            ("at = \"3:00\"", "time of day"),
            ("at = \"24:00\"", "time of day"),
            ("keep_last = 0", "expected 1"),
            ("bucket = \"b\"\naccess_key = \"x\"", "access_key"),
            ("keep = 3", "unknown key"),
        ] {
            let found = mistakes(&format!("[backup]\n{text}\n"));
            assert!(found.iter().any(|mistake| mistake.contains(part)), "{text}: {found:?}");
        }
    }
}
