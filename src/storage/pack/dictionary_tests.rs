//! What must not stand in the shipped dictionary.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::dictionary::SHIPPED;

// The same reader of mailbox files as the trainer's; what is searched for is decided here alone.
#[path = "../../../examples/train-dictionary/corpus.rs"]
mod corpus;

/// Text that fewer senders wrote is theirs.
const SENDERS_MIN: usize = 20;
/// Shorter text says nothing about its author.
const WINDOW_OCTETS: usize = 32;
/// Size of the table of hashes, in bits; a power of two.
const TABLE_BITS: usize = 1 << 24;

#[test]
fn shipped_dictionary_has_no_addresses() {
    let is_atom = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_+=%!#$&'*/?^`{|}~".contains(byte);
    for at in SHIPPED.iter().enumerate().filter(|(_, byte)| **byte == b'@').map(|(place, _)| place) {
        let local = SHIPPED[..at].iter().rev().take_while(|byte| is_atom(byte)).count();
        let domain: Vec<u8> = SHIPPED[at + 1..].iter().copied().take_while(is_atom).collect();
        let is_address = local > 0 && domain.iter().position(|byte| *byte == b'.').is_some_and(|dot| dot > 0);
        assert!(!is_address, "{}", String::from_utf8_lossy(&SHIPPED[at - local..=at + domain.len()]));
    }
}

#[test]
fn shipped_dictionary_has_110_kib_and_its_number() {
    assert!(SHIPPED.len() <= 110 * 1024);
    let number = u32::from_le_bytes([SHIPPED[4], SHIPPED[5], SHIPPED[6], SHIPPED[7]]);
    assert_eq!(number, super::DICTIONARY_SHIPPED);
}

/// Polynomial hash of a window, and of each window that follows, without reading it again.
struct Rolling {
    hash: u32,
    outgoing: u32,
}

impl Rolling {
    const BASE: u32 = 0x0100_0193;

    fn new() -> Self {
        Self { hash: 0, outgoing: Self::BASE.wrapping_pow(WINDOW_OCTETS as u32) }
    }

    fn push(&mut self, entering: u8, leaving: u8) -> usize {
        self.hash = self.hash.wrapping_mul(Self::BASE).wrapping_add(u32::from(entering) + 1);
        self.hash = self.hash.wrapping_sub(self.outgoing.wrapping_mul(u32::from(leaving) + 1));
        (self.hash ^ (self.hash >> 11)) as usize & (TABLE_BITS - 1)
    }
}

/// Calls `each` with every window and its hash.
fn windows(bytes: &[u8], mut each: impl FnMut(&[u8], usize)) {
    let mut rolling = Rolling::new();
    // The window of NULs that precedes everything has the value that pushing NULs gives.
    for _ in 0..WINDOW_OCTETS {
        rolling.hash = rolling.hash.wrapping_mul(Rolling::BASE).wrapping_add(1);
    }
    for (place, byte) in bytes.iter().enumerate() {
        let leaving = if place < WINDOW_OCTETS { 0 } else { bytes[place - WINDOW_OCTETS] };
        let hash = rolling.push(*byte, leaving);
        if place + 1 >= WINDOW_OCTETS {
            each(&bytes[place + 1 - WINDOW_OCTETS..=place], hash);
        }
    }
}

#[test]
fn shipped_dictionary_has_no_text_of_few_senders() {
    let Some(folder) = std::env::var_os("POSTHOUSE_TEST_CORPUS") else {
        let required = std::env::var("POSTHOUSE_TEST_REQUIRE").is_ok_and(|value| value == "all");
        assert!(!required, "POSTHOUSE_TEST_CORPUS is not set, and POSTHOUSE_TEST_REQUIRE=all");
        eprintln!("skipped: set POSTHOUSE_TEST_CORPUS to a folder of *.mbox.zst files");
        return;
    };
    let mut table = vec![false; TABLE_BITS];
    let mut senders_of: HashMap<&[u8], HashSet<String>> = HashMap::new();
    windows(SHIPPED, |_, hash| table[hash] = true);
    for window in SHIPPED.windows(WINDOW_OCTETS) {
        senders_of.entry(window).or_default();
    }
    let mut messages = 0;
    for mail in corpus::read(Path::new(&folder)).unwrap() {
        messages += 1;
        windows(&mail.octets, |window, hash| {
            if table[hash]
                && let Some(senders) = senders_of.get_mut(window)
                && senders.len() < SENDERS_MIN
                && !senders.contains(&mail.sender)
            {
                senders.insert(mail.sender.clone());
            }
        });
    }
    assert!(messages > 1_000, "only {messages} messages in the corpus");
    let shared = senders_of.values().filter(|senders| senders.len() == SENDERS_MIN).count();
    assert!(shared > 5_000, "only {shared} windows of the dictionary occur in the corpus");
    // Windows that occur nowhere lie across the places where two texts meet.
    for (window, senders) in senders_of {
        let count = senders.len();
        assert!(count == 0 || count >= SENDERS_MIN, "{count} senders: {:?}", String::from_utf8_lossy(window));
    }
}
