//! Makes the dictionary that compresses bodies: `cargo run --release --example train-dictionary -- CORPUS
//! OUTPUT`.
//!
//! A zstd dictionary holds verbatim pieces of the text it was trained on. So only text is used in which
//! every window of 32 bytes occurs in the mail of at least 20 senders, without addresses, host names,
//! people's names and long numbers. Without OUTPUT it only measures: it trains on three quarters of the
//! corpus and compresses the rest.

mod corpus;
mod filter;
mod train;
mod windows;

use std::io::{Error, Result};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

use corpus::Mail;
use train::{DICTIONARY_TEXT_OCTETS_MAX, LEVEL, is_held_out, train};

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
