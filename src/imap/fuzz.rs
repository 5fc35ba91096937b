//! Fuzz targets of this room: commands as they arrive, and what is said about messages.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::command::{Command, Fetch, FetchItem, SearchProgram, Tagged};
use super::envelope::envelope;
use super::frame::{Collector, skip_line, skip_literal};
use super::lexer::Lexer;
use super::list::Pattern;
use super::parse::{AppendHead, append_head, parse};
use super::sequence::{SequenceSet, write_set};
use super::structure::structure;
use super::{folder, search, section, utf7};
use crate::base::clock::Timestamp;
use crate::base::id::{ModSeq, Uid};
use crate::service::mailstore::search::{Candidate, Details, SearchKey, SearchText, Verdict, matches};
use crate::service::mailstore::summary::{Summary, summarize};
use crate::service::mailstore::types::{FlagBits, FolderName, MessageState};
use crate::service::mailstore::view::MessageSummary;
use crate::wire::fuzz::block_on;
use crate::wire::line::{LineError, Reader};
use crate::wire::stream::Connection;

/// Longest command, and most octets in one literal.
const OCTETS_MAX: usize = 4096;
/// UIDs of a folder with gaps.
const UIDS: [Uid; 9] = [Uid(1), Uid(2), Uid(3), Uid(5), Uid(8), Uid(13), Uid(100), Uid(101), Uid(u32::MAX)];
/// The message that commands are about.
const MESSAGE: &[u8] = b"From: Ann <ann@x.example>\r\nSubject: =?utf-8?q?gr=C3=BCn?=\r\n\
    Date: 1 Feb 2024 10:00:00 +0100\r\n\
    Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nHello\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n\
    Subject: inner\r\n\r\nworld\r\n--b--\r\n";

/// Lines and literals become commands, the same ones however the octets arrive; each is understood or refused.
pub fn commands(input: &[u8]) {
    let whole = block_on(frames(input, 1 << 16));
    assert_eq!(whole, block_on(frames(input, 7)), "commands depend on how octets arrive");
    whole.into_iter().for_each(command);
}

/// Takes commands until the input ends.
async fn frames(input: &[u8], pipe_octets: usize) -> Vec<Bytes> {
    let (mut client, server) = tokio::io::duplex(pipe_octets);
    let send = async move {
        let _ = client.write_all(input).await;
    };
    let receive = async move {
        let (mut connection, mut reader) = (Connection::memory(server, None), Reader::new());
        let mut found = Vec::new();
        while let Some(next) = frame(&mut connection, &mut reader).await {
            found.extend(next);
        }
        found
    };
    tokio::join!(send, receive).1
}

/// The next command; inside nothing for one that is refused, outside at the end.
async fn frame(connection: &mut Connection, reader: &mut Reader) -> Option<Option<Bytes>> {
    let mut collector = Collector::default();
    loop {
        let in_step = match collector.line(connection, reader, OCTETS_MAX).await {
            Ok(None) => return Some(Some(collector.finish())),
            Ok(Some(head)) => {
                let total = head.octets.saturating_add(collector.literal_octets());
                // What the session asks before it lets a literal come.
                let refused = append_head(collector.so_far()).is_err();
                if total <= OCTETS_MAX as u64 && !refused {
                    collector.literal(connection, reader, head).await.ok()?;
                    continue;
                }
                skip_literal(connection, reader, head, OCTETS_MAX).await
            }
            Err(LineError::TooLong) => skip_line(connection, reader).await,
            Err(error) => Err(error),
        };
        return in_step.ok()?.then_some(None);
    }
}

fn command(frame: Bytes) {
    let Ok(Tagged { tag, command }) = parse(frame.clone()) else { return };
    assert!(frame.starts_with(&tag) && !tag.is_empty());
    let _ = command.asks_for_mod_seq();
    match &command {
        Command::Append { folder, messages } => {
            let octets: usize = messages.iter().map(|message| message.bytes.len()).sum();
            assert!(octets <= frame.len() && !messages.is_empty());
            append(&frame, folder);
        }
        Command::Search { program, .. } => searched(program),
        Command::Fetch(fetch) => fetched(fetch),
        Command::Store(store) => set(&store.set),
        Command::Copy(transfer) | Command::Move(transfer) => set(&transfer.set),
        Command::List(list) => {
            for pattern in &list.patterns {
                listed(&list.reference, pattern);
            }
        }
        Command::Lsub { reference, pattern } => listed(reference, pattern),
        Command::Create { folder, .. } | Command::Select { folder, .. } | Command::Status { folder, .. } => {
            drop(folder::name(folder));
        }
        _ => {}
    }
}

/// The literal of the first message is known for one before it is read, with the folder that the whole command names.
fn append(frame: &Bytes, folder: &Bytes) {
    let heads = frame.windows(3).enumerate().filter(|(_, window)| *window == b"}\r\n");
    let mut heads = heads.map(|(at, _)| append_head(frame.get(..at + 3).unwrap_or_default()));
    assert!(heads.any(|head| head == Ok(AppendHead::Message(folder.clone()))), "{frame:?}");
}

/// The arguments of SEARCH alone: keys, charsets, nesting.
pub fn searches(input: &[u8]) {
    command([b"a SEARCH ", input].concat().into());
}

fn searched(program: &SearchProgram) {
    let Ok(decoder) = search::Decoder::of(program.charset.as_deref()) else { return };
    for uids in [&UIDS[..], &[]] {
        let keys: Result<Vec<SearchKey>, _> =
            program.keys.iter().map(|key| search::resolve(key, uids, &decoder)).collect();
        let Ok(keys) = keys else { continue };
        let summary = summarize(MESSAGE);
        let text = SearchText::new(&summary, MESSAGE);
        let state = MessageState {
            uid: Uid(5),
            flags: FlagBits::SEEN,
            mod_seq: ModSeq(7),
            octets: MESSAGE.len() as u32,
        };
        let internal_date = Timestamp::from_secs(1_700_000_000);
        let details = Details { internal_date, prefix: b"", summary: &summary };
        let mut candidate = Candidate { state, recent: false, keywords: &[], details: None, text: None };
        let key = SearchKey::And(keys);
        let early = matches(&key, &candidate);
        candidate.details = Some(details);
        candidate.text = Some(&text);
        let settled = matches(&key, &candidate);
        assert!(
            matches!(settled, Verdict::Yes | Verdict::No),
            "a search that everything known does not settle"
        );
        // What was decided with less is not decided otherwise with more.
        assert!(!matches!(early, Verdict::Yes | Verdict::No) || early == settled);
    }
}

fn fetched(fetch: &Fetch) {
    set(&fetch.set);
    let message = MessageSummary {
        uid: Uid(5),
        internal_date: Timestamp::from_secs(0),
        prefix: Bytes::from_static(b"Received: x\r\n"),
        summary: Arc::new(summarize(MESSAGE)),
    };
    let whole = [&message.prefix, MESSAGE].concat();
    for item in &fetch.items {
        let FetchItem::Section(item) = item else { continue };
        let _ = section::needs_body(&item.section, &message);
        let Some(range) = section::range(&item.section, &message, whole.len()) else { continue };
        let range = section::partial(range, item.partial);
        assert!(whole.get(range).is_some(), "a section outside of the message");
    }
}

fn listed(reference: &[u8], pattern: &[u8]) {
    let Some(parsed) = Pattern::parse(reference, pattern) else { return };
    for name in ["INBOX", "Sent", "a/b/c", "Gr\u{fc}n/\u{1f600}"] {
        if let Ok(name) = FolderName::parse(name) {
            let _ = parsed.matches(&name);
        }
    }
    let Some(text) = utf7::decode(pattern).filter(|_| reference.is_empty()) else { return };
    if let Ok(name) = FolderName::parse(&text)
        && name.as_str() == text
    {
        assert!(parsed.matches(&name), "{text:?} does not match itself");
    }
}

fn set(set: &SequenceSet) {
    let _ = set.indexes_by_sequence(&UIDS);
    let _ = set.indexes_by_uid(&UIDS);
}

/// A sequence set names what its text says.
pub fn sequence(input: &[u8]) {
    let mut lexer = Lexer::new(Bytes::copy_from_slice(input));
    let Ok(set) = SequenceSet::parse(&mut lexer) else { return };
    let text = input.strip_suffix(lexer.rest()).unwrap_or_default();
    for uids in [&UIDS[..], &UIDS[..1], &[]] {
        let count = uids.len() as u32;
        let largest = uids.last().map_or(0, |uid| uid.0);
        let named: Vec<u32> = set.indexes_by_uid(uids).into_iter().flatten().map(|at| at as u32).collect();
        let by_book = (0..count).filter(|at| {
            let uid = uids.get(*at as usize).map_or(0, |uid| uid.0);
            is_in(text, uid, largest)
        });
        assert!(named.iter().copied().eq(by_book), "{named:?}");
        if let Ok(ranges) = set.indexes_by_sequence(uids) {
            let named: Vec<u32> = ranges.into_iter().flatten().map(|at| at as u32 + 1).collect();
            assert!(named.iter().copied().eq((1..=count).filter(|number| is_in(text, *number, count))));
            let mut written = Vec::new();
            write_set(&mut written, named.iter().copied());
            let again = SequenceSet::parse(&mut Lexer::new(written.into()));
            let again = again.ok().and_then(|set| set.indexes_by_sequence(uids).ok()).unwrap_or_default();
            assert!(again.into_iter().flatten().map(|at| at as u32 + 1).eq(named.iter().copied()));
        }
    }
}

/// Whether `number` is in a set, by the book: RFC 3501 section 9, seq-range.
fn is_in(set: &[u8], number: u32, largest: u32) -> bool {
    set.split(|octet| *octet == b',').any(|range| {
        let mut ends = range.split(|octet| *octet == b':').map(|end| match end {
            b"*" => Some(largest),
            digits => std::str::from_utf8(digits).ok()?.parse().ok(),
        });
        let Some(first) = ends.next().flatten() else { return false };
        let last = ends.next().flatten().unwrap_or(first);
        (first.min(last)..=first.max(last)).contains(&number)
    })
}

/// Folder names: what is decoded is encoded to something that decodes to the same.
pub fn names(input: &[u8]) {
    if let Some(text) = utf7::decode(input) {
        let encoded = utf7::encode(&text);
        assert!(encoded.bytes().all(|octet| (b' '..=b'~').contains(&octet)), "{encoded:?}");
        assert_eq!(utf7::decode(encoded.as_bytes()).as_deref(), Some(text.as_str()));
    }
    let mut pieces = input.splitn(2, |octet| *octet == b'\n');
    listed(pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default());
    listed(b"", input);
}

/// What ENVELOPE, BODYSTRUCTURE and BODY say of a message of any octets, and of a stored summary of any octets, keeps
/// to the grammar: a client stays in step.
pub fn answers(input: &[u8]) {
    let stored = Summary::decode(input).ok();
    for summary in std::iter::once(summarize(input)).chain(stored) {
        let mut out = Vec::new();
        envelope(&mut out, &summary.envelope);
        for extended in [false, true] {
            structure(&mut out, &summary.root, extended);
        }
        assert_eq!(values(&out), Some(3), "{}", String::from_utf8_lossy(&out));
    }
}

/// How many values of the grammar's kinds stand here side by side, or nothing where it is broken.
fn values(mut rest: &[u8]) -> Option<usize> {
    let (mut depth, mut count) = (0_usize, 0);
    while let Some((&octet, after)) = rest.split_first() {
        rest = after;
        match octet {
            b'(' => {
                count += usize::from(depth == 0);
                depth += 1;
            }
            b')' => depth = depth.checked_sub(1)?,
            b'"' => loop {
                let (&octet, after) = rest.split_first()?;
                rest = after;
                match octet {
                    b'"' => break,
                    b'\\' => rest = rest.strip_prefix(b"\"").or_else(|| rest.strip_prefix(b"\\"))?,
                    0 | b'\r' | b'\n' | 0x80.. => return None,
                    _ => {}
                }
            },
            b'{' => {
                let end = rest.iter().position(|octet| *octet == b'}')?;
                let octets: usize = std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()?;
                rest = rest.get(end + 1..)?.strip_prefix(b"\r\n")?.get(octets..)?;
            }
            b' ' | b'0'..=b'9' | b'N' | b'I' | b'L' => {}
            _ => return None,
        }
    }
    (depth == 0).then_some(count)
}
