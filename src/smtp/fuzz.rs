//! Fuzz targets of this room: whole sessions, and the content of messages.

use std::sync::{Arc, PoisonError};

use tokio::sync::Semaphore;

use super::data::{Collector, DotDecoder, Lease};
use super::fake::{Fake, Kept};
use super::{Dialect, Limits, Server, session};
use crate::wire::fuzz::talk;

/// Largest message here, in octets.
const OCTETS_MAX: u64 = 2000;

/// An LMTP and an SMTP session. What it answers keeps to the grammar, and replies and deliveries do not depend on how
/// the octets arrive.
pub fn sessions(input: &[u8]) {
    for dialect in [Dialect::Lmtp, Dialect::Smtp] {
        let (codes, kept) = run(dialect, input, 1 << 16);
        assert_eq!((codes, kept), run(dialect, input, 23));
    }
}

/// The codes of all replies, and what was delivered.
fn run(dialect: Dialect, input: &[u8], pipe_octets: usize) -> (Vec<Vec<u8>>, Kept) {
    let fake = Fake::default();
    let limits =
        Limits { message_octets_max: OCTETS_MAX, recipients_max: 3, errors_max: 20, ..Limits::default() };
    let server = Server::new(fake.clone(), "mx.x.example".to_owned(), None, limits);
    let output =
        talk(input, pipe_octets, |connection, shutdown| session(server, dialect, connection, shutdown));
    let mut codes = Vec::new();
    for line in output.split_inclusive(|octet| *octet == b'\n') {
        let text = line.strip_suffix(b"\r\n").unwrap_or_default();
        let (code, rest) = text.split_at_checked(4).unwrap_or_default();
        let sound = code.iter().take(3).all(u8::is_ascii_digit) && matches!(code.last(), Some(b' ' | b'-'));
        assert!(sound && !rest.contains(&b'\r') && line.len() <= 512, "{}", String::from_utf8_lossy(line));
        codes.push(code.to_vec());
    }
    let kept = fake.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (_, _, recipients, message) in &kept {
        assert!(!recipients.is_empty() && is_clean(message), "{}", String::from_utf8_lossy(message));
    }
    (codes, kept)
}

/// No NUL, and CR and LF as line ends only.
fn is_clean(message: &[u8]) -> bool {
    message.len() as u64 <= OCTETS_MAX
        && !message.contains(&0)
        && message.split(|octet| *octet == b'\n').rev().skip(1).all(|line| line.ends_with(b"\r"))
        && message.iter().filter(|octet| **octet == b'\r').count()
            == message.iter().filter(|octet| **octet == b'\n').count()
}

/// The content of DATA and of BDAT: however it is cut, the same message or the same fault; with dots the message ends
/// where RFC 5321 section 4.5.2 says, and stuffing dots is undone.
pub fn content(input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else { return };
    let cut = usize::from(first) % 7 + 1;
    assert_eq!(dotted(rest, rest.len().max(1)), dotted(rest, cut));
    let chunked = chunks(rest, rest.len().max(1));
    assert_eq!(chunked, chunks(rest, cut));
    // A clean message, stuffed and sent with DATA, is the message.
    if let Some(message) = chunked.filter(|message| message.is_empty() || message.ends_with(b"\r\n")) {
        assert!(is_clean(&message));
        let mut stuffed = Vec::new();
        for line in message.split_inclusive(|octet| *octet == b'\n') {
            if line.starts_with(b".") {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(line);
        }
        stuffed.extend_from_slice(b".\r\n");
        let octets = stuffed.len();
        stuffed.extend_from_slice(b"QUIT\r\n");
        assert_eq!(dotted(&stuffed, cut), (octets, Some(Some(message))));
    }
}

fn collector() -> Collector {
    Collector::new(OCTETS_MAX, Lease::new(&Arc::new(Semaphore::new(1 << 20))))
}

/// Octets used, and when the end was found the message, or nothing for one that is refused.
fn dotted(input: &[u8], step: usize) -> (usize, Option<Option<Vec<u8>>>) {
    let (mut collector, mut decoder, mut used) = (collector(), DotDecoder::new(), 0);
    for piece in input.chunks(step) {
        let (count, complete) = decoder.feed(piece, &mut collector);
        used += count;
        if complete {
            return (used, Some(collector.finish().ok().map(|message| message.bytes.to_vec())));
        }
        assert_eq!(count, piece.len());
    }
    (used, None)
}

fn chunks(input: &[u8], step: usize) -> Option<Vec<u8>> {
    let mut collector = collector();
    input.chunks(step).for_each(|piece| collector.chunk(piece));
    assert!(collector.octets() <= input.len() as u64);
    collector.finish().ok().map(|message| message.bytes.to_vec())
}
