//! Makes the dictionary that compresses bodies: `cargo run --release --example train-dictionary -- CORPUS
//! OUTPUT`.
//!
//! A zstd dictionary holds verbatim pieces of the text it was trained on. So only text is used in which
//! every window of 32 bytes occurs in the mail of at least 20 senders, without addresses, host names,
//! people's names and long numbers. Without OUTPUT it only measures: it trains on three quarters of the
//! corpus and compresses the rest.

mod corpus;
mod filter;
mod windows;

use std::collections::HashMap;
use std::io::{Error, Result};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

use corpus::Mail;
use filter::{Names, SEPARATOR, SHORT_OCTETS, WINDOW_OCTETS};

/// Fewest senders in whose mail a text must occur.
const SENDERS_MIN: usize = 20;
/// Size of the dictionary, in bytes: 110 KiB, where the gain on mail flattens.
const DICTIONARY_OCTETS: usize = 110 * 1024;
/// Level for which the statistics are made, the one used at delivery.
const LEVEL: i32 = 3;
/// Number of the dictionary, in its header and in every zstd frame made with it.
const DICTIONARY_ID: u32 = 1;
/// Longer text is compressed without dictionary.
const DICTIONARY_TEXT_OCTETS_MAX: usize = 64 * 1024;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = arguments.next().ok_or_else(|| Error::other("usage: train-dictionary CORPUS [OUTPUT]"))?;
    let mails = corpus::read(&folder)?;
    println!("{} messages, {} bytes", mails.len(), mails.iter().map(|mail| mail.octets.len()).sum::<usize>());
    if let Some(output) = arguments.next() {
        return std::fs::write(output, train(&mails)?);
    }
    let (held_out, training): (Vec<Mail>, Vec<Mail>) = mails.into_iter().partition(is_held_out);
    let dictionary = train(&training)?;
    measure("held out", &held_out, &dictionary)?;
    measure("training", &training, &dictionary)
}

/// Every fourth message, by a hash (FNV-1a) of its bytes.
fn is_held_out(mail: &Mail) -> bool {
    let hash = mail.octets.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32).is_multiple_of(4)
}

fn train(mails: &[Mail]) -> Result<Vec<u8>> {
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

/// Prints how small `mails` become, by size, and how fast.
fn measure(what: &str, mails: &[Mail], dictionary: &[u8]) -> Result<()> {
    let encoder = EncoderDictionary::copy(dictionary, LEVEL);
    let mut with = Compressor::with_prepared_dictionary(&encoder)?;
    let mut without = Compressor::new(LEVEL)?;
    let decoder = DecoderDictionary::copy(dictionary);
    let mut back = Decompressor::with_prepared_dictionary(&decoder)?;
    for (name, octets_max) in
        [("all", usize::MAX), ("<= 64 KiB", DICTIONARY_TEXT_OCTETS_MAX), ("< 8 KiB", 8191), ("< 2 KiB", 2047)]
    {
        let (mut count, mut raw, mut plain, mut packed) = (0, 0, 0, 0);
        let (mut compressing, mut decompressing) = (Duration::ZERO, Duration::ZERO);
        for octets in mails.iter().map(|mail| &mail.octets).filter(|octets| octets.len() <= octets_max) {
            let alone = without.compress(octets)?.len();
            count += 1;
            raw += octets.len();
            plain += alone;
            if octets.len() > DICTIONARY_TEXT_OCTETS_MAX {
                packed += alone;
                continue;
            }
            let started = Instant::now();
            let small = with.compress(octets)?;
            compressing += started.elapsed();
            packed += small.len();
            let started = Instant::now();
            back.decompress(&small, octets.len())?;
            decompressing += started.elapsed();
        }
        let percent = |part: usize| 100.0 * part as f64 / raw.max(1) as f64;
        let (plain, packed) = (percent(plain), percent(packed));
        println!(
            "{what}, {name}: {count} messages, {raw} bytes; alone {plain:.1} %, with dictionary {packed:.1} %"
        );
        if octets_max == DICTIONARY_TEXT_OCTETS_MAX {
            let rate = |elapsed: Duration| raw as f64 / 1e6 / elapsed.as_secs_f64();
            println!("  {:.0} MB/s in, {:.0} MB/s out", rate(compressing), rate(decompressing));
        }
    }
    Ok(())
}
