//! Recipes: how a message is put together again from plain bytes and from what its base64 text stood for.
//!
//! Base64 hides from the compressor what it encodes, and from comparison that two messages carry the same
//! attachment. So when a message is packed, stretches of base64 are decoded, and a recipe says how to encode
//! them again.
//!
//! # Invariants
//! - A stretch is taken apart only if encoding it again gives its bytes, bit for bit; what differs in any way
//!   (a space at a line's end, no padding, lines of odd or changing width, mixed line ends) stays as it is.
//! - A recipe says how long its result is before any memory is taken for it, and is refused where that is not
//!   the length that the frame promises.
//! - A part is plain bytes, never a recipe: nothing here is recursive.
//! - No file and no database is touched here.
//!
//! ```text
//! version 1 · number of segments · segments · literal bytes of all segments · decoded bytes of all segments
//! segment  tag · width (base64 only) · length · body (part only)
//! tag      bits 0 and 1: 0 literal, 1 base64, 2 base64 of a part; bit 2: CR LF; bit 3: line end at the end
//! ```
//! Numbers are LEB128. Lengths are of the literal or decoded bytes. Literal and decoded bytes stand apart,
//! because text and images don't compress well in one block.

use std::collections::BTreeMap;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::codec::ORIGINAL_OCTETS_MAX;
use crate::base::id::BodyId;
use crate::storage::{Result, StorageError};

/// Decoded bytes from this length on may be shared by messages as a body of its own. Below, its rows and its
/// frame would cost more than sharing saves.
pub const PART_OCTETS_MIN: usize = 16 * 1024;
/// Most parts of one message: what ends with it is released in one transaction.
pub const PARTS_MAX: usize = 64;
/// Version of the encoding.
const VERSION: u8 = 1;
/// Most stretches that are decoded in one message; those behind stay text.
const RUNS_MAX: usize = 512;
/// Most segments: literal bytes before, between and behind the stretches.
const SEGMENTS_MAX: usize = 2 * RUNS_MAX + 1;
/// Shorter stretches are not worth a segment, and are often only words.
const RUN_OCTETS_MIN: usize = 96;
/// Longest line: RFC 5321 section 4.5.3.1.6 allows 998 octets, of which 996 can be whole groups.
const WIDTH_MAX: usize = 996;

/// How base64 text is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base64Form {
    /// Length of every line but the last, which may be shorter; a multiple of four.
    width: usize,
    /// Lines end in CR LF, else in LF.
    has_cr: bool,
    /// The last line ends like the others, else its end is no part of the text.
    is_ended: bool,
}

impl Base64Form {
    const fn line_end(self) -> &'static [u8] {
        if self.has_cr { b"\r\n" } else { b"\n" }
    }

    /// Length of the text for so many decoded octets; nothing if no memory could hold it.
    fn encoded_len(self, octets: usize) -> Option<usize> {
        let characters = octets.div_ceil(3).checked_mul(4)?;
        let lines = characters.div_ceil(self.width);
        let ends = if self.is_ended { lines } else { lines.saturating_sub(1) };
        characters.checked_add(ends.checked_mul(self.line_end().len())?)
    }

    /// Appends the text.
    fn encode(self, decoded: &[u8], out: &mut Vec<u8>) {
        let mut lines = decoded.chunks(self.width / 4 * 3).peekable();
        let mut line_text = String::with_capacity(self.width);
        while let Some(line) = lines.next() {
            line_text.clear();
            STANDARD.encode_string(line, &mut line_text);
            out.extend_from_slice(line_text.as_bytes());
            if self.is_ended || lines.peek().is_some() {
                out.extend_from_slice(self.line_end());
            }
        }
    }
}

/// A stretch of base64 text in a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Where it is.
    pub place: Range<usize>,
    /// How it is laid out.
    pub form: Base64Form,
    /// What it stands for.
    pub decoded: Vec<u8>,
}

/// A line of a message.
struct Line<'a> {
    text: &'a [u8],
    /// Empty, LF, or CR LF.
    end: &'a [u8],
}

impl<'a> Line<'a> {
    /// The line at the beginning of `bytes`, and what follows it.
    fn split(bytes: &'a [u8]) -> (Self, &'a [u8]) {
        let whole = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
        let (line, rest) = bytes.split_at_checked(whole).unwrap_or((bytes, &[]));
        let ends: [&[u8]; 2] = [b"\r\n", b"\n"];
        let end = ends.into_iter().find(|end| line.ends_with(end)).map_or(0, <[u8]>::len);
        let (text, end) = line.split_at_checked(line.len() - end).unwrap_or((line, &[]));
        (Self { text, end }, rest)
    }
}

/// Finds the stretches of base64 in a message and decodes them, ascending. Only those are given that come
/// back bit for bit. Looks at lines alone, not at MIME structure, so that nothing in a header can mislead it;
/// time and memory are linear in the length of the message.
pub fn runs(original: &[u8]) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut rest = original;
    while !rest.is_empty() && runs.len() < RUNS_MAX {
        let start = original.len() - rest.len();
        let (form, length, decoded) = match run(rest) {
            Some(found) => found,
            None => {
                rest = Line::split(rest).1;
                continue;
            }
        };
        let (text, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        rest = after;
        let mut again = Vec::with_capacity(text.len());
        if decoded.len() >= RUN_OCTETS_MIN {
            form.encode(&decoded, &mut again);
            if again == text {
                runs.push(Run { place: start..start + length, form, decoded });
            }
        }
    }
    runs
}

/// The longest stretch of base64 lines at the beginning of `bytes`: its form, its length, and its meaning.
fn run(bytes: &[u8]) -> Option<(Base64Form, usize, Vec<u8>)> {
    let first = Line::split(bytes).0;
    let (width, end) = (first.text.len(), first.end);
    if !(4..=WIDTH_MAX).contains(&width) || !width.is_multiple_of(4) {
        return None;
    }
    let mut form = Base64Form { width, has_cr: end.len() == 2, is_ended: false };
    let (mut decoded, mut length, mut rest) = (Vec::new(), 0, bytes);
    while !rest.is_empty() {
        let (line, after) = Line::split(rest);
        let fits = (1..=width).contains(&line.text.len()) && line.text.len().is_multiple_of(4);
        let before = decoded.len();
        if !fits || STANDARD.decode_vec(line.text, &mut decoded).is_err() {
            decoded.truncate(before);
            break;
        }
        rest = after;
        length += line.text.len();
        form.is_ended = line.end == end && !end.is_empty();
        if form.is_ended {
            length += end.len();
        }
        if line.text.len() < width || line.text.ends_with(b"=") || !form.is_ended {
            break;
        }
    }
    (length > 0).then_some((form, length, decoded))
}

/// The recipe for `original` with its runs, ascending; those with a body are taken from there, at most
/// [`PARTS_MAX`]. Nothing if there is no run.
pub fn encode<'a>(
    original: &[u8],
    runs: impl IntoIterator<Item = (&'a Run, Option<BodyId>)>,
) -> Option<Vec<u8>> {
    let (mut segments, mut literals, mut inlines) = (Vec::new(), Vec::new(), Vec::new());
    let (mut count, mut done, mut parts) = (0_u64, 0, 0);
    let mut literal = |range: Range<usize>, segments: &mut Vec<u8>| {
        let bytes = original.get(range).unwrap_or_default();
        if bytes.is_empty() {
            return 0;
        }
        segments.push(0);
        put(segments, bytes.len() as u64);
        literals.extend_from_slice(bytes);
        1
    };
    for (run, part) in runs {
        count += literal(done..run.place.start, &mut segments) + 1;
        done = run.place.end;
        let part = part.filter(|_| parts < PARTS_MAX).and_then(|body| u64::try_from(body.0).ok());
        parts += usize::from(part.is_some());
        let kind = if part.is_some() { 2 } else { 1 };
        segments.push(kind | u8::from(run.form.has_cr) << 2 | u8::from(run.form.is_ended) << 3);
        put(&mut segments, run.form.width as u64);
        put(&mut segments, run.decoded.len() as u64);
        match part {
            Some(body) => put(&mut segments, body),
            None => inlines.extend_from_slice(&run.decoded),
        }
    }
    if done == 0 {
        return None;
    }
    count += literal(done..original.len(), &mut segments);
    let mut bytes = vec![VERSION];
    put(&mut bytes, count);
    bytes.append(&mut segments);
    bytes.append(&mut literals);
    bytes.append(&mut inlines);
    Some(bytes)
}

/// What a segment of a recipe is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Literal,
    Base64(Base64Form),
    Part(Base64Form, BodyId),
}

/// A recipe that was read back: all lengths fit each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipe {
    segments: Vec<(Source, usize)>,
    bytes: Vec<u8>,
    /// Where the literal and the decoded bytes begin.
    literals_at: usize,
    inlines_at: usize,
    original_len: usize,
}

impl Recipe {
    /// Reads a recipe of a message that is `original_len` long.
    ///
    /// # Errors
    /// `Corrupt` when it is none, or not one of such a message.
    pub fn decode(bytes: Vec<u8>, original_len: usize) -> Result<Self> {
        let read = decode(&bytes, original_len).ok_or_else(|| corrupt("there is no recipe for the body"))?;
        let (segments, literals_at, inlines_at) = read;
        Ok(Self { segments, bytes, literals_at, inlines_at, original_len })
    }

    /// As [`encode`] made it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The parts that are needed, each with its length; those of which more is needed than one length are
    /// found out by [`Self::assemble`].
    pub fn parts(&self) -> BTreeMap<BodyId, usize> {
        let part = |(source, length): &(Source, usize)| match source {
            Source::Part(_, body) => Some((*body, *length)),
            Source::Literal | Source::Base64(_) => None,
        };
        self.segments.iter().filter_map(part).collect()
    }

    /// The message. Its hash is for the caller to check.
    ///
    /// # Errors
    /// `Corrupt` when a part is missing or not as long as it was; `Busy` when there is no memory.
    pub fn assemble(&self, parts: &BTreeMap<BodyId, Bytes>) -> Result<Vec<u8>> {
        let mut original = Vec::new();
        original
            .try_reserve_exact(self.original_len)
            .map_err(|_| StorageError::Busy("no memory to assemble a body"))?;
        let (mut literals, mut inlines) = (self.literals_at, self.inlines_at);
        let take = |at: &mut usize, length: usize| {
            let taken = self.bytes.get(*at..*at + length).unwrap_or_default();
            *at += length;
            taken
        };
        for (source, length) in &self.segments {
            match source {
                Source::Literal => original.extend_from_slice(take(&mut literals, *length)),
                Source::Base64(form) => form.encode(take(&mut inlines, *length), &mut original),
                Source::Part(form, body) => {
                    let part = parts.get(body).filter(|part| part.len() == *length);
                    let missing = || StorageError::Corrupt(format!("part {body} is missing or damaged"));
                    form.encode(part.ok_or_else(missing)?, &mut original);
                }
            }
        }
        Ok(original)
    }
}

/// Segments with their lengths, and where literal and decoded bytes begin.
type Decoded = (Vec<(Source, usize)>, usize, usize);

/// Segments and where the bytes begin; nothing if lengths don't add up.
fn decode(bytes: &[u8], original_len: usize) -> Option<Decoded> {
    let (version, mut rest) = bytes.split_first()?;
    let count = usize::try_from(take(&mut rest)?).ok()?;
    if *version != VERSION || count > SEGMENTS_MAX || original_len > ORIGINAL_OCTETS_MAX {
        return None;
    }
    let mut segments = Vec::with_capacity(count);
    let (mut result, mut literals, mut inlines, mut parts) = (0_usize, 0_usize, 0_usize, 0);
    for _ in 0..count {
        let (tag, after) = rest.split_first()?;
        rest = after;
        if *tag == 0 {
            let length = usize::try_from(take(&mut rest)?).ok()?;
            literals = literals.checked_add(length)?;
            result = result.checked_add(length)?;
            segments.push((Source::Literal, length));
            continue;
        }
        let width = usize::try_from(take(&mut rest)?).ok()?;
        let length = usize::try_from(take(&mut rest)?).ok()?;
        let form = Base64Form { width, has_cr: tag & 4 != 0, is_ended: tag & 8 != 0 };
        if !(4..=WIDTH_MAX).contains(&width) || !width.is_multiple_of(4) || length == 0 || *tag > 15 {
            return None;
        }
        result = result.checked_add(form.encoded_len(length)?)?;
        let source = match tag & 3 {
            1 => {
                inlines = inlines.checked_add(length)?;
                Source::Base64(form)
            }
            2 => {
                parts += 1;
                Source::Part(form, BodyId(i64::try_from(take(&mut rest)?).ok()?))
            }
            _ => return None,
        };
        segments.push((source, length));
    }
    let literals_at = bytes.len() - rest.len();
    let whole = literals.checked_add(inlines) == Some(rest.len()) && result == original_len;
    (whole && parts <= PARTS_MAX).then_some((segments, literals_at, literals_at + literals))
}

/// Appends a number as LEB128.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number in LEB128 off the front.
fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift > 57 && bits >> (64 - shift) != 0 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn corrupt(what: &str) -> StorageError {
    StorageError::Corrupt(what.to_owned())
}

#[cfg(test)]
mod tests;
