//! Sequence sets (RFC 3501 section 9) and what they mean in a view.

use std::num::NonZeroU32;
use std::ops::Range;

use super::lexer::{Lexer, Result, SyntaxError};
use super::respond;
use crate::base::id::Uid;

/// Most ranges in one set; a line of 64 KiB holds about as many.
const RANGES_MAX: usize = 32_768;

/// One end of a range; nothing means `*`, the largest number in use.
type Bound = Option<NonZeroU32>;

/// A set of sequence numbers or UIDs as the client wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SequenceSet(Vec<(Bound, Bound)>);

impl SequenceSet {
    /// Reads a set.
    pub fn parse(lexer: &mut Lexer) -> Result<Self> {
        let mut ranges = Vec::new();
        loop {
            let first = bound(lexer)?;
            let last = if lexer.accept(b':') { bound(lexer)? } else { first };
            if ranges.len() == RANGES_MAX {
                return Err(SyntaxError("too many ranges in a sequence set".to_owned()));
            }
            ranges.push((first, last));
            if !lexer.accept(b',') {
                return Ok(Self(ranges));
            }
        }
    }

    /// Whether `octet` can begin a set.
    pub const fn starts_with(octet: u8) -> bool {
        octet.is_ascii_digit() || octet == b'*'
    }

    /// The ranges with `*` as `largest`, each ascending, sorted, without overlaps.
    fn normalized(&self, largest: u32) -> Vec<(u32, u32)> {
        let number = |bound: Bound| bound.map_or(largest, NonZeroU32::get);
        let mut ranges: Vec<(u32, u32)> = self
            .0
            .iter()
            .map(|&(first, last)| (number(first), number(last)))
            .map(|(first, last)| (first.min(last), first.max(last)))
            .collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len().min(64));
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        merged
    }

    /// Index ranges into a view of `uids` when the set holds sequence numbers; ascending and disjoint.
    ///
    /// # Errors
    /// A number beyond the folder's messages, which RFC 3501 section 9 (seq-number) wants answered with
    /// `BAD`. `*` in an empty folder is none: clients ask for `1:*` there.
    pub fn indexes_by_sequence(&self, uids: &[Uid]) -> Result<Vec<Range<usize>>> {
        let count = u32::try_from(uids.len()).unwrap_or(u32::MAX);
        let star = self.0.iter().any(|&(first, last)| first.is_none() || last.is_none());
        if count == 0 && star {
            return Ok(Vec::new());
        }
        let ranges = self.normalized(count);
        if let Some((_, last)) = ranges.last().filter(|(_, last)| *last > count) {
            return Err(SyntaxError(format!("there is no message {last}: the folder has {count}")));
        }
        Ok(ranges.into_iter().map(|(first, last)| first as usize - 1..last as usize).collect())
    }

    /// Index ranges into a view of `uids` when the set holds UIDs; ascending and disjoint. UIDs that are not
    /// there are passed over (RFC 3501 section 6.4.8).
    pub fn indexes_by_uid(&self, uids: &[Uid]) -> Vec<Range<usize>> {
        let Some(largest) = uids.last() else { return Vec::new() };
        self.normalized(largest.0)
            .into_iter()
            .map(|(first, last)| {
                uids.partition_point(|uid| uid.0 < first)..uids.partition_point(|uid| uid.0 <= last)
            })
            .filter(|range| !range.is_empty())
            .collect()
    }

    /// UID ranges for a search: `*` is the largest UID of the view, nothing in an empty one.
    pub fn uid_ranges(&self, uids: &[Uid]) -> Vec<(Uid, Uid)> {
        let Some(largest) = uids.last() else { return Vec::new() };
        self.normalized(largest.0).into_iter().map(|(first, last)| (Uid(first), Uid(last))).collect()
    }
}

fn bound(lexer: &mut Lexer) -> Result<Bound> {
    if lexer.accept(b'*') {
        return Ok(None);
    }
    match NonZeroU32::new(lexer.number()?) {
        Some(number) => Ok(Some(number)),
        None => Err(SyntaxError::expected("a number greater than zero or * in a sequence set")),
    }
}

/// Writes `numbers` as a set in the given order: runs that count up by one become ranges.
pub fn write_set(out: &mut Vec<u8>, numbers: impl IntoIterator<Item = u32>) {
    let mut run: Option<(u32, u32)> = None;
    let mut first_run = true;
    for number in numbers {
        match &mut run {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => {
                write_run(out, run.replace((number, number)), &mut first_run);
            }
        }
    }
    write_run(out, run, &mut first_run);
}

fn write_run(out: &mut Vec<u8>, run: Option<(u32, u32)>, first_run: &mut bool) {
    let Some((first, last)) = run else { return };
    if !std::mem::take(first_run) {
        out.push(b',');
    }
    respond::number(out, u64::from(first));
    if last != first {
        out.push(b':');
        respond::number(out, u64::from(last));
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are what is tested")]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn set(text: &str) -> SequenceSet {
        let mut lexer = Lexer::new(Bytes::copy_from_slice(text.as_bytes()));
        let set = SequenceSet::parse(&mut lexer).unwrap();
        lexer.end().unwrap();
        set
    }

    fn uids(numbers: &[u32]) -> Vec<Uid> {
        numbers.iter().copied().map(Uid).collect()
    }

    #[test]
    fn sequence_numbers_become_indexes() {
        let view = uids(&[3, 5, 9, 12]);
        for (text, want) in [
            ("1", vec![0..1]),
            ("2:3", vec![1..3]),
            ("3:2", vec![1..3]),
            ("*", vec![3..4]),
            ("*:3", vec![2..4]),
            ("1,3", vec![0..1, 2..3]),
            ("3,1:2,2", vec![0..3]),
            ("1:*", vec![0..4]),
        ] {
            assert_eq!(set(text).indexes_by_sequence(&view).unwrap(), want, "{text}");
        }
        assert!(set("5").indexes_by_sequence(&view).is_err());
        assert!(set("4:5").indexes_by_sequence(&view).is_err());
        assert!(set("1").indexes_by_sequence(&[]).is_err());
        assert_eq!(set("1:*").indexes_by_sequence(&[]).unwrap(), vec![]);
    }

    #[test]
    fn uids_that_are_missing_are_passed_over() {
        let view = uids(&[3, 5, 9, 12]);
        for (text, want) in [
            ("1:4", vec![0..1]),
            ("4", vec![]),
            ("100:*", vec![3..4]),
            ("*:100", vec![3..4]),
            ("5:9", vec![1..3]),
            ("1:4294967295", vec![0..4]),
        ] {
            assert_eq!(set(text).indexes_by_uid(&view), want, "{text}");
        }
        assert_eq!(set("1:*").indexes_by_uid(&[]), vec![]);
    }

    #[test]
    fn malformed_sets_are_refused() {
        for bad in ["0", "", "1,", "1:", ":1", "a", "1:0", "4294967296", "1::2", "-1"] {
            let mut lexer = Lexer::new(Bytes::copy_from_slice(bad.as_bytes()));
            assert!(SequenceSet::parse(&mut lexer).and_then(|_| lexer.end()).is_err(), "{bad}");
        }
    }

    #[test]
    fn runs_are_written_as_ranges_in_order() {
        let text = |numbers: &[u32]| {
            let mut out = Vec::new();
            write_set(&mut out, numbers.iter().copied());
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[1, 2, 3, 7, 9, 10]), "1:3,7,9:10");
        assert_eq!(text(&[5, 4, 3]), "5,4,3");
        assert_eq!(text(&[u32::MAX]), "4294967295");
    }

    proptest::proptest! {
        #[test]
        fn indexes_agree_with_membership(
            numbers in proptest::collection::btree_set(1_u32..60, 0..30),
            ranges in proptest::collection::vec((1_u32..70, 1_u32..70), 1..6),
        ) {
            let view: Vec<Uid> = numbers.iter().copied().map(Uid).collect();
            let text = ranges.iter().map(|(a, b)| format!("{a}:{b}")).collect::<Vec<_>>().join(",");
            let found: Vec<u32> =
                set(&text).indexes_by_uid(&view).into_iter().flat_map(|r| view[r].to_vec()).map(|u| u.0).collect();
            let wanted: Vec<u32> = numbers
                .iter()
                .copied()
                .filter(|n| ranges.iter().any(|(a, b)| a.min(b) <= n && n <= a.max(b)))
                .collect();
            proptest::prop_assert_eq!(found, wanted);
        }
    }
}
