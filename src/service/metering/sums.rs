//! The arithmetic of metering: which lines an hour makes, folding those of a day, and what a period comes to.

use std::collections::BTreeMap;

use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::metering::{Counted, Level, Line};

/// Hours of a day.
pub(super) const DAY_HOURS: i64 = 24;

/// Messages and their octets, by domain and hour.
pub(super) type Received = BTreeMap<(i64, i64), (i64, i64)>;

pub(super) fn too_much() -> ServiceError {
    ServiceError::Internal("what was used is more than can be counted".to_owned())
}

/// A domain when hours are closed.
pub(super) struct Closing {
    pub domain: i64,
    pub last: Option<Line>,
    /// What it has now, at the end of the last hour.
    pub level: Level,
    /// Where it belongs now; nothing when it was purged: it stays where it was last.
    pub path: Option<i64>,
}

/// The lines of a domain for the hours from `from` to `until`, which is the last. Hours in which nothing changed have
/// none. What it has at the end of the last hour counts for all of that hour; those before have what it had before.
pub(super) fn lines_of(closing: &Closing, from: i64, until: i64, received: &Received) -> Result<Vec<Line>> {
    let known = closing.last.map(|last| (last.path, last.after));
    let Some(path_now) = closing.path.or(known.map(|(path, _)| path)) else { return Ok(Vec::new()) };
    let (mut path, mut level) = known.unwrap_or((path_now, Level::default()));
    let from = closing.last.map_or(from, |last| from.max(last.start + last.hours));
    if from > until {
        return Ok(Vec::new());
    }
    let busy = received.range((closing.domain, from)..(closing.domain, until));
    let hours = busy.map(|(&(_, hour), _)| hour).chain([until]);
    let mut lines = Vec::new();
    for hour in hours {
        let messages = received.get(&(closing.domain, hour)).copied();
        let is_last = hour == until;
        // A domain has a line from the start, so that it is known where it was.
        let has_changed = is_last && (known.is_none() || closing.level != level || path_now != path);
        if messages.is_none() && !has_changed {
            continue;
        }
        if is_last {
            (path, level) = (path_now, closing.level);
        }
        let mut counted = level.over(1).ok_or_else(too_much)?;
        (counted.messages_in, counted.octets_in) = messages.unwrap_or_default();
        lines.push(Line { domain: closing.domain, start: hour, hours: 1, path, counted, after: level });
    }
    Ok(lines)
}

/// What to put in the place of lines of one domain, by hour: those of the same day and place become one.
pub(super) fn folded(lines: &[Line]) -> Result<Vec<Line>> {
    let mut folds = Vec::new();
    let mut open: Option<(Line, usize)> = None;
    for &line in lines {
        let day = |start: i64| start.div_euclid(DAY_HOURS);
        open = match open {
            Some((first, count)) if first.path == line.path && day(first.start) == day(line.start) => {
                let between =
                    first.after.over(line.start - first.start - first.hours).ok_or_else(too_much)?;
                let counted = first.counted.plus(&between).and_then(|sum| sum.plus(&line.counted));
                let hours = line.start + line.hours - first.start;
                let counted = counted.ok_or_else(too_much)?;
                Some((Line { hours, counted, after: line.after, ..first }, count + 1))
            }
            other => {
                folds.extend(other.filter(|(_, count)| *count > 1).map(|(fold, _)| fold));
                Some((line, 1))
            }
        };
    }
    folds.extend(open.filter(|(_, count)| *count > 1).map(|(fold, _)| fold));
    Ok(folds)
}

/// What the lines of one domain, by hour, come to in the hours from `from` on and before `until`, by place. They begin
/// with the last line before `from`, if there is one.
pub(super) fn over(lines: &[Line], from: i64, until: i64) -> Result<BTreeMap<i64, Counted>> {
    let mut sums: BTreeMap<i64, Counted> = BTreeMap::new();
    let mut add = |path: i64, more: Counted| {
        let sum = sums.entry(path).or_default();
        *sum = sum.plus(&more).ok_or_else(too_much)?;
        Ok::<_, ServiceError>(())
    };
    for (index, line) in lines.iter().enumerate() {
        if line.start >= from && line.start < until {
            add(line.path, line.counted)?;
        }
        let next = lines.get(index + 1).map_or(until, |next| next.start.min(until));
        let begin = (line.start + line.hours).max(from);
        if next > begin {
            add(line.path, line.after.over(next - begin).ok_or_else(too_much)?)?;
        }
    }
    sums.retain(|_, sum| *sum != Counted::default());
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    struct Hour {
        level: Level,
        path: i64,
        messages: i64,
        /// Whether somebody looked at its end; if not, it is closed with the next.
        looked: bool,
    }

    fn hour() -> impl Strategy<Value = Hour> {
        let level = (0..3_i64, 0..2_i64).prop_map(|(bytes, mailboxes)| Level { bytes, mailboxes });
        (level, 1..3_i64, prop_oneof![3 => Just(0), 1 => 1..5_i64], prop::bool::weighted(0.8))
            .prop_map(|(level, path, messages, looked)| Hour { level, path, messages, looked })
    }

    proptest! {
        /// Hour by hour, folded or not, over any days, the sums are those of an hourly protocol.
        #[test]
        fn lines_add_up_to_what_every_hour_had(
            hours in prop::collection::vec(hour(), 1..150), begin in 0..48_i64, cut in 0..6_usize,
        ) {
            let (mut lines, mut naive): (Vec<Line>, Vec<(i64, Counted)>) = (Vec::new(), Vec::new());
            let mut received = Received::new();
            let mut from = begin;
            let mut known: Option<(i64, Level)> = None;
            for (at, one) in hours.iter().enumerate() {
                let hour = begin + at as i64;
                if one.messages > 0 {
                    received.insert((7, hour), (one.messages, one.messages * 10));
                }
                if !one.looked {
                    continue;
                }
                for missed in from..=hour {
                    let (path, level) = match known {
                        _ if missed == hour => (one.path, one.level),
                        Some(known) => known,
                        None => (one.path, Level::default()),
                    };
                    let mut counted = level.over(1).unwrap();
                    (counted.messages_in, counted.octets_in) =
                        received.get(&(7, missed)).copied().unwrap_or_default();
                    naive.push((path, counted));
                }
                known = Some((one.path, one.level));
                let (last, path) = (lines.last().copied(), Some(one.path));
                let closing = Closing { domain: 7, last, level: one.level, path };
                let more = lines_of(&closing, from, hour, &received).unwrap();
                // Looking twice adds nothing.
                let closing = Closing { last: more.last().or(lines.last()).copied(), ..closing };
                prop_assert_eq!(lines_of(&closing, from, hour, &received).unwrap().len(), 0);
                lines.extend(more);
                from = hour + 1;
            }
            let sum = |from: i64, until: i64| {
                let mut sums: BTreeMap<i64, Counted> = BTreeMap::new();
                for (at, (path, counted)) in naive.iter().enumerate() {
                    let hour = begin + at as i64;
                    if hour >= from && hour < until {
                        let sum = sums.entry(*path).or_default();
                        *sum = sum.plus(counted).unwrap();
                    }
                }
                sums.retain(|_, sum| *sum != Counted::default());
                sums
            };
            let end = begin + naive.len() as i64;
            prop_assert_eq!(over(&lines, begin, end).unwrap(), sum(begin, end));
            for fold in folded(&lines).unwrap() {
                lines.retain(|line| line.start < fold.start || line.start >= fold.start + fold.hours);
                lines.push(fold);
                lines.sort_by_key(|line| line.start);
            }
            prop_assert_eq!(folded(&lines).unwrap(), Vec::new());
            let middle = (cut as i64 + 1) * DAY_HOURS;
            for (from, until) in [(0, end), (0, middle.min(end)), (middle, end)] {
                prop_assert_eq!(over(&lines, from, until).unwrap(), sum(from, until), "{} to {}", from, until);
            }
        }
    }

    #[test]
    fn more_than_a_number_holds_is_an_error() {
        let after = Level { bytes: i64::MAX, mailboxes: 1 };
        let counted = after.over(1).unwrap();
        let line = Line { domain: 1, start: 0, hours: 1, path: 1, counted, after };
        assert!(over(&[line], 0, 1).is_ok());
        assert!(over(&[line], 0, 2).is_err());
        assert!(over(&[line], 0, 100).is_err());
    }
}
