//! Which backups stay.

use std::collections::BTreeSet;

use super::index::Entry;
use crate::base::backup_settings::BackupsKept;

/// The ids of those that go. `backups` are in order of time, oldest first. The newest always stays, and the newest good
/// one whatever else is said.
pub(super) fn outdated(backups: &[Entry], kept: BackupsKept) -> Vec<String> {
    let mut staying: BTreeSet<&str> = BTreeSet::new();
    let last = usize::try_from(kept.last.max(1)).unwrap_or(usize::MAX);
    staying.extend(backups.iter().rev().take(last).map(|entry| entry.id.as_str()));
    staying.extend(backups.iter().rev().find(|entry| entry.is_good()).map(|entry| entry.id.as_str()));
    let day = |entry: &Entry| i64::from(entry.at.utc().date().to_julian_day());
    // Julian day 0 was a Monday.
    let week = |entry: &Entry| day(entry).div_euclid(7);
    let month =
        |entry: &Entry| i64::from(entry.at.utc().year()) * 12 + i64::from(u8::from(entry.at.utc().month()));
    staying.extend(newest_of(backups, kept.daily, day));
    staying.extend(newest_of(backups, kept.weekly, week));
    staying.extend(newest_of(backups, kept.monthly, month));
    let goes = |entry: &&Entry| !staying.contains(entry.id.as_str());
    backups.iter().filter(goes).map(|entry| entry.id.clone()).collect()
}

/// The newest backup of each of the last `count` periods that have any.
fn newest_of(backups: &[Entry], count: u32, period: impl Fn(&Entry) -> i64) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    let first = backups.iter().rev().filter(|entry| seen.insert(period(entry)));
    first.take(usize::try_from(count).unwrap_or(usize::MAX)).map(|entry| entry.id.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::storage::metadata::restore::Counts;

    fn entry(at: &str, missing: u64) -> Entry {
        Entry {
            id: at.to_owned(),
            at: Timestamp::parse_rfc3339(at).unwrap(),
            version: String::new(),
            manifest_blake3: String::new(),
            manifest_octets: 0,
            packs: 0,
            octets: 0,
            new_octets: 0,
            counts: Counts::default(),
            missing,
            verified: None,
            tested: None,
        }
    }

    fn staying(times: &[&str], kept: BackupsKept) -> Vec<String> {
        let backups: Vec<Entry> = times.iter().map(|at| entry(at, 0)).collect();
        let gone = outdated(&backups, kept);
        times.iter().filter(|at| !gone.iter().any(|id| id == *at)).map(|at| (*at).to_owned()).collect()
    }

    const NONE: BackupsKept = BackupsKept { last: 1, daily: 0, weekly: 0, monthly: 0 };

    #[test]
    fn newest_of_each_period_stays() {
        // 2026-11-22 is a Sunday.
        let times = [
            "2026-09-30T03:00:00Z",
            "2026-10-31T03:00:00Z",
            "2026-11-15T03:00:00Z",
            "2026-11-16T03:00:00Z",
            "2026-11-21T03:00:00Z",
            "2026-11-21T15:00:00Z",
            "2026-11-22T03:00:00Z",
            "2026-11-22T04:00:00Z",
        ];
        assert_eq!(staying(&times, NONE), ["2026-11-22T04:00:00Z"]);
        let kept = BackupsKept { last: 2, ..NONE };
        assert_eq!(staying(&times, kept), ["2026-11-22T03:00:00Z", "2026-11-22T04:00:00Z"]);
        let kept = BackupsKept { daily: 3, ..NONE };
        let days = ["2026-11-16T03:00:00Z", "2026-11-21T15:00:00Z", "2026-11-22T04:00:00Z"];
        assert_eq!(staying(&times, kept), days);
        let kept = BackupsKept { weekly: 2, ..NONE };
        assert_eq!(staying(&times, kept), ["2026-11-15T03:00:00Z", "2026-11-22T04:00:00Z"]);
        let kept = BackupsKept { monthly: 3, ..NONE };
        let months = ["2026-09-30T03:00:00Z", "2026-10-31T03:00:00Z", "2026-11-22T04:00:00Z"];
        assert_eq!(staying(&times, kept), months);
    }

    #[test]
    fn newest_good_one_stays_whatever_is_said() {
        let backups = [
            entry("2026-11-20T03:00:00Z", 0),
            entry("2026-11-21T03:00:00Z", 1),
            entry("2026-11-22T03:00:00Z", 2),
        ];
        assert_eq!(outdated(&backups, NONE), ["2026-11-21T03:00:00Z"]);
    }
}
