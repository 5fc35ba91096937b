//! The kept corpora through every target, as they are and changed at random.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Most files of one corpus: it is read by people too.
const FILES_MAX: usize = 40;
/// Most octets of one corpus.
const OCTETS_MAX: usize = 200 * 1024;
/// Longest input made of a corpus.
const INPUT_OCTETS_MAX: usize = 64 * 1024;

/// The files of a target's corpus, by name.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), std::fs::read(&file).unwrap())).collect()
}

#[test]
fn every_target_keeps_its_promises_on_its_corpus() {
    for target in &TARGETS {
        let files = corpus(target);
        let octets: usize = files.iter().map(|(_, content)| content.len()).sum();
        let name = target.name;
        assert!((1..=FILES_MAX).contains(&files.len()), "{name} has {} files", files.len());
        assert!(octets <= OCTETS_MAX, "{name} has {octets} octets");
        for (file, content) in files {
            let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&content)));
            assert!(outcome.is_ok(), "{name} fails on {}", file.display());
        }
        (target.run)(b"");
    }
}

#[test]
fn every_corpus_belongs_to_a_target() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(TARGETS.iter().any(|target| target.name == name), "{name:?}");
    }
}

/// One change of an input.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    Repeat(Index, u8, u8),
    Cut(Index),
    /// A piece of another file of the corpus.
    Splice(Index, Index, Index, u8),
}

impl Change {
    fn any() -> impl Strategy<Value = Self> {
        let at = any::<Index>;
        prop_oneof![
            (at(), any::<u8>()).prop_map(|(at, octet)| Self::Set(at, octet)),
            (at(), 0..8_u8).prop_map(|(at, bit)| Self::Flip(at, bit)),
            (at(), prop::collection::vec(any::<u8>(), 1..6))
                .prop_map(|(at, octets)| Self::Insert(at, octets)),
            (at(), any::<u8>()).prop_map(|(at, count)| Self::Remove(at, count)),
            (at(), 1..40_u8, 1..60_u8).prop_map(|(at, length, times)| Self::Repeat(at, length, times)),
            at().prop_map(Self::Cut),
            (at(), at(), at(), any::<u8>())
                .prop_map(|(at, file, from, length)| Self::Splice(at, file, from, length)),
        ]
    }

    fn apply(&self, input: &mut Vec<u8>, corpus: &[(PathBuf, Vec<u8>)]) {
        let place = |at: &Index| at.index(input.len() + 1);
        let piece = |from: &[u8], at: usize, length: u8| {
            from[at..(at + usize::from(length)).min(from.len())].to_vec()
        };
        match self {
            Self::Set(at, octet) => {
                let at = place(at);
                if let Some(there) = input.get_mut(at) {
                    *there = *octet;
                }
            }
            Self::Flip(at, bit) => {
                let at = place(at);
                if let Some(there) = input.get_mut(at) {
                    *there ^= 1 << bit;
                }
            }
            Self::Insert(at, octets) => {
                let at = place(at);
                input.splice(at..at, octets.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = place(at);
                input.drain(at..(at + usize::from(*count)).min(input.len()));
            }
            Self::Repeat(at, length, times) => {
                let at = place(at);
                let piece = piece(input, at, *length).repeat(usize::from(*times));
                input.splice(at..at, piece);
            }
            Self::Cut(at) => {
                let at = place(at);
                input.truncate(at);
            }
            Self::Splice(at, file, from, length) => {
                let at = place(at);
                let other = &corpus[file.index(corpus.len())].1;
                let piece = piece(other, from.index(other.len() + 1), *length);
                input.splice(at..at, piece);
            }
        }
        input.truncate(INPUT_OCTETS_MAX);
    }
}

#[test]
fn every_target_keeps_its_promises_on_changed_input() {
    for target in &TARGETS {
        let corpus = corpus(target);
        let changes = prop::collection::vec(Change::any(), 1..8);
        let mut runner =
            TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&(any::<Index>(), changes), |(file, changes)| {
            let mut input = corpus[file.index(corpus.len())].1.clone();
            for change in &changes {
                change.apply(&mut input, &corpus);
            }
            let broken = catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err();
            prop_assert!(!broken, "input: \"{}\"", input.escape_ascii());
            Ok(())
        });
        assert!(outcome.is_ok(), "{}: {outcome:?}", target.name);
    }
}
