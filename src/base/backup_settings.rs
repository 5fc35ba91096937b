//! Where backups go, when they are taken and how long they stay: section `[backup]` of the configuration file.

use std::path::PathBuf;
use std::time::Duration;

use super::clock::Timestamp;
use super::store_settings::OffloadSettings;

/// A day, in minutes.
const DAY_MINUTES: u32 = 24 * 60;

/// Where backups go.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum BackupPlace {
    /// Nowhere, unless a command names a directory.
    #[default]
    None,
    /// A directory, which must exist.
    Directory(PathBuf),
    /// A bucket.
    Bucket(Box<OffloadSettings>),
}

/// Which backups stay: the newest ones, and the newest of each of the last days, weeks and months that have any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupsKept {
    /// The newest; at least 1.
    pub last: u32,
    /// Days (UTC).
    pub daily: u32,
    /// Weeks (ISO 8601: from Monday on).
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
}

impl Default for BackupsKept {
    fn default() -> Self {
        Self { last: 2, daily: 7, weekly: 5, monthly: 12 }
    }
}

/// Everything that can be set for backups.
#[derive(Clone, PartialEq, Debug)]
pub struct BackupSettings {
    /// Where they go.
    pub place: BackupPlace,
    /// How often one is taken, in hours; 0: only on command.
    pub every_hours: u32,
    /// The time of day (UTC) from which the hours are counted, in minutes.
    pub at_minutes: u32,
    /// Which stay.
    pub kept: BackupsKept,
    /// How often the newest is tried out, in days; 0: only on command.
    pub test_every_days: u32,
    /// How many bodies a trial reads; 0: all.
    pub test_bodies: u32,
    /// When the newest good backup is older, in hours, the operator is warned; 0: never.
    pub warn_after_hours: u32,
}

impl Default for BackupSettings {
    fn default() -> Self {
        Self {
            place: BackupPlace::None,
            every_hours: 24,
            at_minutes: 3 * 60,
            kept: BackupsKept::default(),
            test_every_days: 7,
            test_bodies: 1_000,
            warn_after_hours: 50,
        }
    }
}

impl BackupSettings {
    /// Number and beginning of the last time at which a backup was to be taken, if any is to be taken by itself.
    pub fn turn(&self, now: Timestamp) -> Option<(i64, Timestamp)> {
        if self.place == BackupPlace::None || self.every_hours == 0 {
            return None;
        }
        let step = i64::from(self.every_hours) * 3_600;
        let offset = i64::from(self.at_minutes % DAY_MINUTES) * 60;
        let number = (now.secs() - offset).div_euclid(step);
        Some((number, Timestamp::from_secs(number.saturating_mul(step).saturating_add(offset))))
    }

    /// Whether the newest good backup, of `at`, is so old that somebody should look.
    pub fn is_overdue(&self, at: Timestamp, now: Timestamp) -> bool {
        let limit = Duration::from_secs(u64::from(self.warn_after_hours) * 3_600);
        self.place != BackupPlace::None && self.warn_after_hours > 0 && at.plus(limit) < now
    }

    /// Whether the last good trial, of `at`, is so old that somebody should look: a second one was missed.
    pub fn is_test_overdue(&self, at: Timestamp, now: Timestamp) -> bool {
        let limit = Duration::from_secs(u64::from(self.test_every_days) * 2 * 24 * 3_600);
        self.place != BackupPlace::None && self.test_every_days > 0 && at.plus(limit) < now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn turns_begin_at_the_time_of_day_and_follow_each_other() {
        let place = BackupPlace::Directory(PathBuf::from("/x"));
        let mut settings = BackupSettings { place, ..BackupSettings::default() };
        let (first, begun) = settings.turn(at("2026-11-22T02:59:59Z")).unwrap();
        assert_eq!(begun, at("2026-11-21T03:00:00Z"));
        assert_eq!(settings.turn(at("2026-11-22T03:00:00Z")), Some((first + 1, at("2026-11-22T03:00:00Z"))));
        settings.every_hours = 6;
        assert_eq!(settings.turn(at("2026-11-22T10:00:00Z")).unwrap().1, at("2026-11-22T09:00:00Z"));
        settings.every_hours = 0;
        assert_eq!(settings.turn(at("2026-11-22T10:00:00Z")), None);
        let nowhere = BackupSettings::default();
        assert_eq!(nowhere.turn(at("2026-11-22T10:00:00Z")), None);
        assert!(!nowhere.is_overdue(Timestamp(0), at("2026-11-22T10:00:00Z")));
    }

    #[test]
    fn old_backups_and_trials_are_told() {
        let place = BackupPlace::Directory(PathBuf::from("/x"));
        let settings = BackupSettings { place, ..BackupSettings::default() };
        let now = at("2026-11-22T10:00:00Z");
        assert!(!settings.is_overdue(at("2026-11-20T10:00:00Z"), now));
        assert!(settings.is_overdue(at("2026-11-20T07:00:00Z"), now));
        assert!(!settings.is_test_overdue(at("2026-11-08T11:00:00Z"), now));
        assert!(settings.is_test_overdue(at("2026-11-08T09:00:00Z"), now));
    }
}
