//! Which substrings of a fixed length occur in the mail of enough different senders.

use std::collections::{HashMap, HashSet};

use crate::corpus::Mail;

/// The table of windows is built in this many passes, to bound memory.
const PASSES: u64 = 16;
/// Multiplier of the rolling hash (odd, from splitmix64).
const BASE: u64 = 0xbf58_476d_1ce4_e5b9;

/// Hashes every window of `length` bytes and calls `each` with the position of its last byte and its hash.
pub fn roll(octets: &[u8], length: usize, mut each: impl FnMut(usize, u64)) {
    let outgoing = (1..length).fold(1u64, |power, _| power.wrapping_mul(BASE));
    let mut hash = 0u64;
    let leaving = std::iter::repeat_n(0u8, length).chain(octets.iter().copied());
    for (position, (entering, leaving)) in octets.iter().zip(leaving).enumerate() {
        // Bytes count from one, so that windows of zeros are distinguished.
        let gone = if position < length { 0 } else { u64::from(leaving) + 1 };
        hash = hash.wrapping_sub(gone.wrapping_mul(outgoing)).wrapping_mul(BASE);
        hash = hash.wrapping_add(u64::from(*entering) + 1);
        if position + 1 >= length {
            let mixed = (hash ^ (hash >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
            each(position, mixed ^ (mixed >> 32));
        }
    }
}

/// Numbers the senders.
pub fn number_senders(mails: &[Mail]) -> Vec<u32> {
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    mails
        .iter()
        .map(|mail| {
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            *numbers.entry(mail.sender.as_str()).or_insert(next)
        })
        .collect()
}

/// Hashes of the windows of `length` bytes that occur in the mail of at least `senders_min` senders.
pub fn shared(mails: &[Mail], length: usize, senders_min: usize) -> HashSet<u64> {
    let senders = number_senders(mails);
    let mut shared = HashSet::new();
    let mut seen: Vec<(u64, u32)> = Vec::new();
    for pass in 0..PASSES {
        seen.clear();
        for (mail, sender) in mails.iter().zip(&senders) {
            roll(&mail.octets, length, |_, hash| {
                if hash % PASSES == pass {
                    seen.push((hash, *sender));
                }
            });
        }
        seen.sort_unstable();
        seen.dedup();
        shared.extend(
            seen.chunk_by(|a, b| a.0 == b.0)
                .filter(|same| same.len() >= senders_min)
                .filter_map(|same| same.first().map(|first| first.0)),
        );
    }
    shared
}
