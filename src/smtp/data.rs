//! The bytes of a message on their way in: DATA with its dots (RFC 5321 section 4.5.2), BDAT without.
//!
//! Invariants
//! - Only CRLF ends a line, so only CRLF `.` CRLF ends the message: `\n.\n`, `\n.\r\n`, `\r\n.\n`, `\r.\r` and their
//!   kin never do ("SMTP smuggling"). A message that holds one of them is read to its true end and refused.
//! - How the bytes are cut into chunks makes no difference.
//! - A message that is going to be refused is not kept.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Why the bytes of a message cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// CR not followed by LF.
    BareCr,
    /// LF not preceded by CR.
    BareLf,
    /// An octet of value zero.
    Nul,
    /// More octets than allowed.
    TooLarge,
    /// No memory left for messages.
    Memory,
}

/// A share of the memory for messages, given back when dropped.
pub(super) struct Lease {
    memory: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

/// Memory is leased in steps of this many KiB.
const LEASE_STEP_KIB: usize = 64;

/// Most room that is made for a message before it arrives, in octets.
const EXPECTED_OCTETS_MAX: usize = 64 * 1024;

impl Lease {
    pub fn new(memory: &Arc<Semaphore>) -> Self {
        Self { memory: Arc::clone(memory), permit: None }
    }

    /// Makes the lease cover `octets`; false when there is not that much.
    fn cover(&mut self, octets: usize) -> bool {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if octets <= held * 1024 {
            return true;
        }
        let wanted = octets.div_ceil(1024 * LEASE_STEP_KIB) * LEASE_STEP_KIB;
        let Ok(missing) = u32::try_from(wanted - held) else { return false };
        let Ok(more) = Arc::clone(&self.memory).try_acquire_many_owned(missing) else { return false };
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        true
    }
}

/// A received message and the memory it takes.
pub(super) struct Message {
    pub bytes: Bytes,
    pub lease: Lease,
}

/// Collects the octets of one message, or the first reason to refuse it.
pub(super) struct Collector {
    message: Vec<u8>,
    octets: u64,
    octets_max: u64,
    lease: Lease,
    fault: Option<Fault>,
    /// Whether the last octet of a BDAT chunk was a CR whose LF is still to come.
    pending_cr: bool,
}

impl Collector {
    pub fn new(octets_max: u64, lease: Lease) -> Self {
        Self { message: Vec::new(), octets: 0, octets_max, lease, fault: None, pending_cr: false }
    }

    /// Makes room for the size that the client declared, as far as it is cheap to believe.
    pub fn expect(&mut self, octets_declared: u64) {
        let octets = usize::try_from(octets_declared).unwrap_or(usize::MAX).min(EXPECTED_OCTETS_MAX);
        self.message.reserve(octets);
    }

    /// Octets of the message so far, kept or not.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// The first reason to refuse, if any.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    fn fail(&mut self, fault: Fault) {
        if self.fault.is_none() {
            self.fault = Some(fault);
            self.message = Vec::new();
            self.lease.permit = None;
        }
    }

    fn push(&mut self, octets: &[u8]) {
        self.octets = self.octets.saturating_add(octets.len() as u64);
        if self.octets > self.octets_max {
            self.fail(Fault::TooLarge);
        }
        if self.fault.is_none() {
            if self.lease.cover(self.message.len() + octets.len()) {
                self.message.extend_from_slice(octets);
            } else {
                self.fail(Fault::Memory);
            }
        }
    }

    /// Takes a piece of a BDAT chunk: no dots, the same rules about line ends and NUL.
    pub fn chunk(&mut self, octets: &[u8]) {
        let mut rest = octets;
        if self.pending_cr && !rest.is_empty() {
            self.pending_cr = false;
            match rest.strip_prefix(b"\n") {
                Some(after) => {
                    self.push(b"\r\n");
                    rest = after;
                }
                None => {
                    self.fail(Fault::BareCr);
                    self.push(b"\r");
                }
            }
        }
        while let Some((special, before, after)) = next_special(rest) {
            self.push(before);
            match (special, after) {
                (b'\r', [b'\n', after @ ..]) => {
                    self.push(b"\r\n");
                    rest = after;
                    continue;
                }
                (b'\r', []) => {
                    self.pending_cr = true;
                    return;
                }
                (b'\r', _) => self.fail(Fault::BareCr),
                (b'\n', _) => self.fail(Fault::BareLf),
                _ => self.fail(Fault::Nul),
            }
            self.push(&[special]);
            rest = after;
        }
        self.push(rest);
    }

    /// The message, complete.
    ///
    /// # Errors
    /// The first reason to refuse it.
    pub fn finish(mut self) -> Result<Message, Fault> {
        if self.pending_cr {
            self.fail(Fault::BareCr);
        }
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(Message { bytes: Bytes::from(self.message), lease: self.lease }),
        }
    }
}

/// The next CR, LF or NUL with what stands before and after it.
fn next_special(octets: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let at = memchr::memchr3(b'\r', b'\n', 0, octets)?;
    let (before, from) = octets.split_at_checked(at)?;
    let (special, after) = from.split_first()?;
    Some((*special, before, after))
}

/// Where the decoder stands within a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Position {
    LineStart,
    /// After the dot that began the line; it is not part of the message.
    Dot,
    /// After the CR that followed that dot.
    DotCr,
    Middle,
    /// After a CR within a line.
    Cr,
}

/// Finds the end of a message sent with DATA and takes the stuffed dots out.
pub(super) struct DotDecoder {
    position: Position,
}

impl DotDecoder {
    pub const fn new() -> Self {
        Self { position: Position::LineStart }
    }

    /// Takes octets into the collector. Returns how many it used and whether the message is complete; all are used
    /// unless it is.
    pub fn feed(&mut self, octets: &[u8], into: &mut Collector) -> (usize, bool) {
        let mut rest = octets;
        while let Some((&first, after)) = rest.split_first() {
            match (self.position, first) {
                (Position::LineStart, b'.') => {
                    self.position = Position::Dot;
                    rest = after;
                }
                (Position::Dot, b'\r') => {
                    self.position = Position::DotCr;
                    rest = after;
                }
                (Position::DotCr, b'\n') => return (octets.len() - after.len(), true),
                (Position::Cr, b'\n') => {
                    into.push(b"\r\n");
                    self.position = Position::LineStart;
                    rest = after;
                }
                (Position::Cr | Position::DotCr, _) => {
                    into.fail(Fault::BareCr);
                    into.push(b"\r");
                    self.position = Position::Middle;
                }
                (Position::LineStart | Position::Dot | Position::Middle, _) => {
                    self.position = Position::Middle;
                    rest = self.middle(rest, into);
                }
            }
        }
        (octets.len(), false)
    }

    /// Within a line: everything up to the next CR, LF or NUL at once.
    fn middle<'a>(&mut self, octets: &'a [u8], into: &mut Collector) -> &'a [u8] {
        let Some((special, before, after)) = next_special(octets) else {
            into.push(octets);
            return &[];
        };
        // The common case: the line ends here, and the next one begins.
        if let (b'\r', [b'\n', after @ ..]) = (special, after)
            && let Some((line, _)) = octets.split_at_checked(before.len() + 2)
        {
            into.push(line);
            self.position = Position::LineStart;
            return after;
        }
        into.push(before);
        match (special, after) {
            (b'\r', _) => {
                self.position = Position::Cr;
                return after;
            }
            (b'\n', _) => into.fail(Fault::BareLf),
            _ => into.fail(Fault::Nul),
        }
        into.push(&[special]);
        after
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn collector(octets_max: u64, kib: usize) -> Collector {
        Collector::new(octets_max, Lease::new(&Arc::new(Semaphore::new(kib))))
    }

    /// Feeds `input` cut at `cuts`; returns what was used, and the outcome when it was complete.
    fn decode(input: &[u8], cuts: &[usize]) -> (usize, Option<Result<Vec<u8>, Fault>>) {
        let mut collector = collector(1 << 20, 1 << 20);
        let mut decoder = DotDecoder::new();
        let mut used = 0;
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(input.len());
        for end in ends {
            if end > used {
                let (count, complete) = decoder.feed(&input[used..end], &mut collector);
                used += count;
                if complete {
                    return (used, Some(collector.finish().map(|message| message.bytes.to_vec())));
                }
            }
        }
        (used, None)
    }

    /// The same by the book: find CRLF . CRLF, split at CRLF, take one leading dot from each line.
    fn oracle(input: &[u8]) -> Option<(usize, Option<Vec<u8>>)> {
        let with_start = [b"\r\n", input].concat();
        let end = with_start.windows(5).position(|window| window == b"\r\n.\r\n")?;
        let body = &with_start[2..(end + 2).max(2)];
        let mut message = Vec::new();
        let mut rest = body;
        while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
            let line = &rest[..at];
            message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            message.extend_from_slice(b"\r\n");
            rest = &rest[at + 2..];
        }
        assert!(rest.is_empty());
        let bare = message.iter().enumerate().any(|(at, byte)| match byte {
            b'\r' => message.get(at + 1) != Some(&b'\n'),
            b'\n' => at == 0 || message[at - 1] != b'\r',
            0 => true,
            _ => false,
        });
        Some((end + 3, (!bare).then_some(message)))
    }

    #[test]
    fn dots_are_taken_out_exactly() {
        let (used, outcome) = decode(b"..\r\n...a\r\na.\r\n.b\r\n\r\n.\r\nQUIT\r\n", &[]);
        assert_eq!(outcome, Some(Ok(b".\r\n..a\r\na.\r\nb\r\n\r\n".to_vec())));
        assert_eq!(used, 23);
        assert_eq!(decode(b".\r\n", &[]), (3, Some(Ok(Vec::new()))));
    }

    #[test]
    fn smuggling_sequences_do_not_end_the_message_and_refuse_it() {
        for (sequence, fault) in [
            (&b"\n.\n"[..], Fault::BareLf),
            (b"\n.\r\n", Fault::BareLf),
            (b"\r\n.\n", Fault::BareLf),
            (b"\r.\r", Fault::BareCr),
            (b"\r.\r\n", Fault::BareCr),
            (b"\r\n.\r", Fault::BareCr),
            (b"\r\n.\r\r\n", Fault::BareCr),
            (b"\r\n\0.\r\n", Fault::Nul),
            (b"\n\r.\r\n", Fault::BareLf),
        ] {
            let tail = b"MAIL FROM:<evil@x.example>\r\n";
            let input = [b"Subject: x\r\n\r\na", sequence, tail, b".\r\n"].concat();
            let (used, outcome) = decode(&input, &[]);
            assert_eq!(outcome, Some(Err(fault)), "{sequence:?}");
            assert_eq!(used, input.len(), "{sequence:?}");
        }
    }

    #[test]
    fn message_at_the_limit_passes_and_one_octet_more_is_too_large() {
        let mut exact = collector(6, 64);
        assert!(DotDecoder::new().feed(b"1234\r\n.\r\n", &mut exact).1);
        assert_eq!(exact.finish().map(|message| message.bytes.len()).ok(), Some(6));
        let mut over = collector(6, 64);
        assert!(DotDecoder::new().feed(b"12345\r\n.\r\n", &mut over).1);
        assert_eq!(over.finish().err(), Some(Fault::TooLarge));
    }

    #[test]
    fn memory_is_leased_while_the_message_lives_and_given_back() {
        let memory = Arc::new(Semaphore::new(128));
        let mut first = Collector::new(1 << 20, Lease::new(&memory));
        first.chunk(&[b'x'; 65 * 1024]);
        assert_eq!(memory.available_permits(), 0);
        let mut second = Collector::new(1 << 20, Lease::new(&memory));
        second.chunk(b"y");
        assert_eq!(second.finish().err(), Some(Fault::Memory));
        let message = first.finish().ok().unwrap();
        assert_eq!(memory.available_permits(), 0);
        drop(message);
        assert_eq!(memory.available_permits(), 128);
    }

    fn chunked(input: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Fault> {
        let mut collector = collector(1 << 20, 1 << 20);
        let mut from = 0;
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(input.len());
        for end in ends {
            collector.chunk(&input[from..end]);
            from = end;
        }
        collector.finish().map(|message| message.bytes.to_vec())
    }

    /// Bytes of which many are the interesting ones.
    fn mail() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => Just(b"\r\n".to_vec()),
            3 => Just(b".".to_vec()),
            1 => Just(b"\r".to_vec()),
            1 => Just(b"\n".to_vec()),
            3 => Just(b"\r\n.\r\n".to_vec()),
            1 => Just(b"\0".to_vec()),
            4 => "[a-z.]{0,5}".prop_map(String::into_bytes),
        ];
        proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn decoder_agrees_with_the_book_however_the_bytes_are_cut(
            input in mail(),
            cuts in proptest::collection::vec(any::<usize>(), 0..10),
        ) {
            match (decode(&input, &cuts), oracle(&input)) {
                ((_, None), None) => {}
                ((used, Some(outcome)), Some((expected_used, expected))) => {
                    prop_assert_eq!(used, expected_used);
                    prop_assert_eq!(outcome.ok(), expected);
                }
                (got, expected) => prop_assert!(false, "{:?} {:?}", got, expected),
            }
        }

        #[test]
        fn stuffed_message_comes_out_as_it_went_in(
            lines in proptest::collection::vec("[.a-z]{0,6}", 0..20),
            cuts in proptest::collection::vec(any::<usize>(), 0..10),
        ) {
            let message: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\r\n").into_bytes()).collect();
            let stuffed: Vec<u8> = lines
                .iter()
                .flat_map(|line| {
                    let dot = if line.starts_with('.') { "." } else { "" };
                    format!("{dot}{line}\r\n").into_bytes()
                })
                .chain(*b".\r\n")
                .collect();
            prop_assert_eq!(decode(&stuffed, &cuts), (stuffed.len(), Some(Ok(message))));
        }

        #[test]
        fn chunks_are_kept_as_they_are_or_refused(
            input in mail(),
            cuts in proptest::collection::vec(any::<usize>(), 0..10),
        ) {
            let bare = input.iter().enumerate().any(|(at, byte)| match byte {
                b'\r' => input.get(at + 1) != Some(&b'\n'),
                b'\n' => at == 0 || input[at - 1] != b'\r',
                0 => true,
                _ => false,
            });
            match chunked(&input, &cuts) {
                Ok(message) => prop_assert!(!bare && message == input),
                Err(_) => prop_assert!(bare),
            }
        }
    }
}
