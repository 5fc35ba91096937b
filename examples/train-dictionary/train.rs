//! Training: text that enough senders wrote, and the tables in front of it.

use std::collections::HashMap;
use std::io::{Error, Result};

use crate::corpus::Mail;
use crate::filter::{self, Names, SEPARATOR, SHORT_OCTETS, WINDOW_OCTETS};
use crate::windows;

/// Fewest senders in whose mail a text must occur.
const SENDERS_MIN: usize = 20;
/// Size of the dictionary, in bytes: 110 KiB, where the gain on mail flattens.
const DICTIONARY_OCTETS: usize = 110 * 1024;
/// Level for which the statistics are made, the one used at delivery.
pub const LEVEL: i32 = 3;
/// Number of the dictionary, in its header and in every zstd frame made with it.
const DICTIONARY_ID: u32 = 1;
/// Longer text is compressed without dictionary.
pub const DICTIONARY_TEXT_OCTETS_MAX: usize = 64 * 1024;

/// Every fourth message, by its bytes.
#[allow(dead_code, reason = "measure-packs divides by senders")]
pub fn is_held_out(mail: &Mail) -> bool {
    fold(&mail.octets, 4) == 0
}

/// The one of `folds` to which all mail of a sender belongs.
#[allow(dead_code, reason = "train-dictionary divides by messages")]
pub fn fold_of_sender(mail: &Mail, folds: u64) -> u64 {
    fold(mail.sender.as_bytes(), folds)
}

/// By a hash (FNV-1a).
fn fold(octets: &[u8], folds: u64) -> u64 {
    let hash = octets.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32) % folds.max(1)
}

/// A dictionary that holds nothing by which anybody could be recognised.
///
/// # Errors
/// When zstd makes none of this text.
pub fn train(mails: &[Mail]) -> Result<Vec<u8>> {
    let names = Names::collect(mails, SENDERS_MIN);
    let long = windows::shared(mails, WINDOW_OCTETS, SENDERS_MIN);
    let short = windows::shared(mails, SHORT_OCTETS, SENDERS_MIN);
    println!("{} shared windows of {WINDOW_OCTETS} bytes, {} of {SHORT_OCTETS}", long.len(), short.len());
    let mut text = Vec::new();
    let mut sizes = Vec::new();
    for mail in mails {
        let kept = filter::keep(&mail.octets, &names, &long, &short);
        if kept.len() > SHORT_OCTETS {
            sizes.push(kept.len());
            text.extend(kept);
        }
    }
    println!("{} bytes may be used", text.len());
    let trained = zstd::dict::from_continuous(&text, &sizes, DICTIONARY_OCTETS)?;
    let mut content = content(&trained)?.to_vec();
    mend(&mut content, mails);
    finalize(&content, mails)
}

/// Where pieces meet, a window can by chance be something that only few senders wrote: breaks those.
fn mend(content: &mut [u8], mails: &[Mail]) {
    let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
    windows::roll(content, WINDOW_OCTETS, |end, hash| places.entry(hash).or_default().push(end));
    let mut senders: HashMap<u64, Vec<u32>> = HashMap::new();
    for (mail, sender) in mails.iter().zip(windows::number_senders(mails)) {
        windows::roll(&mail.octets, WINDOW_OCTETS, |_, hash| {
            if places.contains_key(&hash) {
                let known = senders.entry(hash).or_default();
                if known.len() < SENDERS_MIN && !known.contains(&sender) {
                    known.push(sender);
                }
            }
        });
    }
    let mut rare: Vec<usize> = senders
        .iter()
        .filter(|(_, known)| known.len() < SENDERS_MIN)
        .flat_map(|(hash, _)| places.get(hash).into_iter().flatten().copied())
        .collect();
    rare.sort_unstable();
    println!("{} windows broken where pieces meet", rare.len());
    // Windows of 16 bytes apart share a byte, so one separator breaks all that begin before it.
    let mut broken_at = None;
    for end in rare {
        let start = end + 1 - WINDOW_OCTETS;
        if broken_at.is_some_and(|at| at >= start) {
            continue;
        }
        let middle = end - WINDOW_OCTETS / 2;
        if let Some(byte) = content.get_mut(middle) {
            *byte = SEPARATOR;
        }
        broken_at = Some(middle);
    }
}

/// The text of a dictionary, without its tables.
#[allow(unsafe_code, reason = "zstd offers the size of the tables only to C")]
fn content(dictionary: &[u8]) -> Result<&[u8]> {
    // SAFETY: reads within the given length only.
    let tables = unsafe {
        zstd::zstd_safe::zstd_sys::ZDICT_getDictHeaderSize(dictionary.as_ptr().cast(), dictionary.len())
    };
    dictionary.get(tables..).ok_or_else(|| Error::other("no dictionary"))
}

/// Puts the tables in front: statistics of the literals and lengths that remain when real mail is
/// compressed with this content. They are counts, not text.
#[allow(unsafe_code, reason = "zstd offers this only to C")]
fn finalize(content: &[u8], mails: &[Mail]) -> Result<Vec<u8>> {
    use zstd::zstd_safe::zstd_sys::{ZDICT_finalizeDictionary, ZDICT_isError, ZDICT_params_t};
    let mails: Vec<&Mail> =
        mails.iter().filter(|mail| mail.octets.len() <= DICTIONARY_TEXT_OCTETS_MAX).collect();
    let samples: Vec<u8> = mails.iter().flat_map(|mail| mail.octets.iter().copied()).collect();
    let sizes: Vec<usize> = mails.iter().map(|mail| mail.octets.len()).collect();
    let mut dictionary = vec![0u8; DICTIONARY_OCTETS];
    let parameters = ZDICT_params_t { compressionLevel: LEVEL, notificationLevel: 0, dictID: DICTIONARY_ID };
    let count = std::ffi::c_uint::try_from(sizes.len()).map_err(Error::other)?;
    // SAFETY: every pointer comes with the length of what it points to, and `sizes` adds up to `samples`.
    let (length, failed) = unsafe {
        let length = ZDICT_finalizeDictionary(
            dictionary.as_mut_ptr().cast(),
            dictionary.len(),
            content.as_ptr().cast(),
            content.len(),
            samples.as_ptr().cast(),
            sizes.as_ptr(),
            count,
            parameters,
        );
        (length, ZDICT_isError(length) != 0)
    };
    if failed {
        return Err(Error::other("zstd made no dictionary of this text"));
    }
    dictionary.truncate(length);
    Ok(dictionary)
}
