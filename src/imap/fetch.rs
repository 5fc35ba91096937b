//! FETCH (RFC 3501 section 6.4.5), selected state.
//!
//! Messages are taken in chunks: states from memory, summaries in one question, bodies a window at a time.
//! Nothing is held in the database while the client reads, and what is held in memory is bounded by a window.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::task::JoinHandle;

use super::client::Client;
use super::command::{Fetch, FetchItem, FetchSection, SectionText};
use super::envelope::envelope;
use super::folder::STATES_CHUNK;
use super::outcome::{Done, Failure, Outcome};
use super::respond;
use super::section;
use super::selected::Selected;
use super::structure::structure;
use crate::base::id::Uid;
use crate::service::error::{Result as ServiceResult, ServiceError};
use crate::service::mailstore::types::{Access, FlagBits, FlagMode, FlagSet, MessageState};
use crate::service::mailstore::view::{CHUNK_MESSAGES_MAX, MessageSummary};

/// Messages whose summaries are read at a time: with headers some 5 KiB each.
const SUMMARIES_CHUNK: usize = 128;
/// Chunks whose summaries are read while the one before them is written: one comes from the database while the other
/// is decompressed and parsed.
const CHUNKS_AHEAD: usize = 2;

/// What the items ask for.
struct Plan<'a> {
    items: &'a [FetchItem],
    summaries: bool,
    /// Whether fetching sets `\Seen`.
    seen: bool,
    tell_mod_seq: bool,
}

/// A message on its way to the client.
struct Message {
    sequence: u32,
    state: MessageState,
    summary: Option<MessageSummary>,
    body: Option<Bytes>,
    /// Whether its flags have just been changed by this command.
    flags_changed: bool,
}

/// Tells what was asked of each message.
pub async fn fetch(client: &mut Client, selected: &mut Selected, fetch: &Fetch) -> Outcome {
    let uids = selected.view.uids();
    let ranges =
        if fetch.by_uid { fetch.set.indexes_by_uid(uids) } else { fetch.set.indexes_by_sequence(uids)? };
    selected.keywords_tell(&mut client.out);
    let plan = Plan::new(fetch, selected);
    let chunk_size = if plan.summaries { SUMMARIES_CHUNK } else { STATES_CHUNK };
    let mut trouble = None;
    let mut indexes = ranges.into_iter().flatten();
    let mut ahead = VecDeque::new();
    loop {
        while ahead.len() <= CHUNKS_AHEAD {
            let chunk: Vec<usize> = indexes.by_ref().take(chunk_size).collect();
            if chunk.is_empty() {
                break;
            }
            ahead.push_back(Chunk::begin(selected, &plan, &chunk, fetch));
        }
        let Some(chunk) = ahead.pop_front() else { break };
        if selected.account.session.ended().now_or_never().is_some() {
            return Err(Failure::Bye("this session was ended by the administration"));
        }
        let mut messages = chunk.gather(selected, &mut trouble).await?;
        while !messages.is_empty() {
            let rest = messages.split_off(window(selected, &plan, &messages).max(1).min(messages.len()));
            send(client, selected, &plan, messages, &mut trouble).await?;
            messages = rest;
        }
    }
    match trouble {
        Some(failure) => Err(failure),
        None => Ok(Done::new("FETCH completed")),
    }
}

impl<'a> Plan<'a> {
    fn new(fetch: &'a Fetch, selected: &Selected) -> Self {
        use FetchItem::{Body, BodyStructure, Envelope, InternalDate, Section};
        let needs_summary = |item: &FetchItem| match item {
            InternalDate | Envelope | BodyStructure | Body => true,
            // A whole message needs no offsets.
            Section(wanted) => !wanted.section.is_whole(),
            _ => false,
        };
        let sets_seen = |item: &FetchItem| matches!(item, Section(section) if !section.peek);
        Self {
            items: &fetch.items,
            summaries: fetch.items.iter().any(needs_summary),
            seen: selected.view.access() == Access::ReadWrite && fetch.items.iter().any(sets_seen),
            tell_mod_seq: selected.account.condstore,
        }
    }

    fn needs_body(&self, message: &Message) -> bool {
        let needs_body = |item: &FetchItem| match (item, &message.summary) {
            (FetchItem::Section(wanted), Some(summary)) => section::needs_body(&wanted.section, summary),
            (FetchItem::Section(_), None) => true,
            _ => false,
        };
        self.items.iter().any(needs_body)
    }
}

/// Messages that are told together.
struct Chunk {
    /// Sequence numbers and UIDs, ascending.
    messages: Vec<(u32, Uid)>,
    /// Their summaries, being read. When nobody wants them any more they are read to the end, which is not far.
    summaries: Option<JoinHandle<ServiceResult<Vec<MessageSummary>>>>,
}

impl Chunk {
    /// Chooses the messages at `indexes` of the view that are asked for, and begins to read their summaries.
    fn begin(selected: &Selected, plan: &Plan<'_>, indexes: &[usize], fetch: &Fetch) -> Self {
        let view = &selected.view;
        let uids: Vec<Uid> = indexes.iter().filter_map(|&index| view.uids().get(index).copied()).collect();
        let sequences = indexes.iter().map(|&index| u32::try_from(index + 1).unwrap_or(u32::MAX));
        let mut messages: Vec<(u32, Uid)> = sequences.zip(uids.iter().copied()).collect();
        if let Some(since) = fetch.changed_since {
            let mut changed = view.states(&uids).into_iter().filter(|state| state.mod_seq > since).peekable();
            messages.retain(|(_, uid)| changed.next_if(|state| state.uid == *uid).is_some());
        }
        let summaries = (plan.summaries && !messages.is_empty()).then(|| {
            let uids: Vec<Uid> = messages.iter().map(|(_, uid)| *uid).collect();
            tokio::spawn(view.summaries_ahead(&uids))
        });
        Self { messages, summaries }
    }

    /// The messages with their states as of now.
    async fn gather(
        self,
        selected: &Selected,
        trouble: &mut Option<Failure>,
    ) -> Result<Vec<Message>, Failure> {
        let has_summaries = self.summaries.is_some();
        let summaries = match self.summaries {
            Some(reading) => reading.await.map_err(|error| ServiceError::Internal(error.to_string()))??,
            None => Vec::new(),
        };
        let uids: Vec<Uid> = self.messages.iter().map(|(_, uid)| *uid).collect();
        let mut states = selected.view.states(&uids).into_iter().peekable();
        let mut summaries = summaries.into_iter().peekable();
        let mut messages = Vec::with_capacity(uids.len());
        for (sequence, uid) in self.messages {
            let state = states.next_if(|state| state.uid == uid);
            let summary = summaries.next_if(|summary| summary.uid == uid);
            match state {
                Some(state) if summary.is_some() || !has_summaries => {
                    messages.push(Message { sequence, state, summary, body: None, flags_changed: false });
                }
                _ => gone(trouble),
            }
        }
        Ok(messages)
    }
}

/// RFC 5530, EXPUNGEISSUED: a message that was expunged by others and cannot be told any more.
fn gone(trouble: &mut Option<Failure>) {
    trouble.get_or_insert_with(|| Failure::refused("EXPUNGEISSUED", "some of the messages are gone"));
}

/// How many of `messages` can be sent together: as many as have their bodies read at once.
fn window(selected: &Selected, plan: &Plan<'_>, messages: &[Message]) -> usize {
    let bodies: Vec<(usize, Uid)> = messages
        .iter()
        .enumerate()
        .filter(|(_, message)| plan.needs_body(message))
        .map(|(index, message)| (index, message.state.uid))
        .take(CHUNK_MESSAGES_MAX + 1)
        .collect();
    let uids: Vec<Uid> = bodies.iter().map(|(_, uid)| *uid).collect();
    // The window ends before the first body that has to wait.
    bodies.get(selected.view.chunk_len(&uids)).map_or(messages.len(), |(index, _)| *index)
}

/// Reads the bodies of a window, sets `\Seen`, and writes the responses. A message whose body cannot be read is
/// left out and the command answered with the reason: never an empty message instead.
async fn send(
    client: &mut Client,
    selected: &mut Selected,
    plan: &Plan<'_>,
    mut messages: Vec<Message>,
    trouble: &mut Option<Failure>,
) -> Result<(), Failure> {
    let wanted: Vec<Uid> =
        messages.iter().filter(|message| plan.needs_body(message)).map(|message| message.state.uid).collect();
    if !wanted.is_empty() {
        let mut bodies = Box::pin(selected.view.messages(&wanted)).await?.into_iter().peekable();
        messages.retain_mut(|message| {
            if !plan.needs_body(message) {
                return true;
            }
            match bodies.next_if(|(uid, _)| *uid == message.state.uid) {
                Some((_, Ok(body))) => {
                    message.body = Some(body);
                    true
                }
                Some((_, Err(error))) => {
                    trouble.get_or_insert_with(|| error.into());
                    false
                }
                None => {
                    gone(trouble);
                    false
                }
            }
        });
    }
    if plan.seen {
        set_seen(selected, &mut messages, trouble).await;
    }
    for message in &messages {
        write(client, selected, plan, message).await?;
    }
    Ok(())
}

/// Sets `\Seen` where it is missing. What was read is told even if that fails.
async fn set_seen(selected: &mut Selected, messages: &mut [Message], trouble: &mut Option<Failure>) {
    let unseen: Vec<Uid> = messages
        .iter()
        .filter(|message| !message.state.flags.contains(FlagBits::SEEN))
        .map(|message| message.state.uid)
        .collect();
    if unseen.is_empty() {
        return;
    }
    let seen = FlagSet { system: FlagBits::SEEN, keywords: Vec::new() };
    let stored = selected.view.flags_store(&unseen, FlagMode::Add, &seen, None, true);
    if let Err(error) = Box::pin(stored).await {
        trouble.get_or_insert_with(|| error.into());
        return;
    }
    let mut states = selected.view.states(&unseen).into_iter().peekable();
    for message in messages {
        if let Some(state) = states.next_if(|state| state.uid == message.state.uid) {
            message.flags_changed = state.flags != message.state.flags;
            message.state = state;
        }
    }
}

/// Writes one FETCH response.
async fn write(
    client: &mut Client,
    selected: &Selected,
    plan: &Plan<'_>,
    message: &Message,
) -> Result<(), Failure> {
    client.out.extend_from_slice(b"* ");
    respond::number(&mut client.out, u64::from(message.sequence));
    client.out.extend_from_slice(b" FETCH (");
    for (index, item) in plan.items.iter().enumerate() {
        if index > 0 {
            client.out.push(b' ');
        }
        match item {
            FetchItem::Section(wanted) => {
                write_section(client, wanted, message.summary.as_ref(), message.body.as_ref()).await?;
            }
            item => write_item(&mut client.out, selected, item, message),
        }
    }
    if message.flags_changed {
        if !plan.items.contains(&FetchItem::Flags) {
            client.out.push(b' ');
            write_item(&mut client.out, selected, &FetchItem::Flags, message);
        }
        if plan.tell_mod_seq && !plan.items.contains(&FetchItem::ModSeq) {
            client.out.push(b' ');
            write_item(&mut client.out, selected, &FetchItem::ModSeq, message);
        }
    }
    client.out.extend_from_slice(b")\r\n");
    client.flush_if_large().await?;
    Ok(())
}

/// Writes an item that needs no body.
fn write_item(out: &mut Vec<u8>, selected: &Selected, item: &FetchItem, message: &Message) {
    let state = &message.state;
    let summary = message.summary.as_ref();
    match item {
        FetchItem::Flags => {
            out.extend_from_slice(b"FLAGS ");
            let recent = selected.view.is_recent(state.uid);
            respond::flags(out, state.flags, recent, &selected.view.keywords());
        }
        FetchItem::Uid => {
            out.extend_from_slice(b"UID ");
            respond::number(out, u64::from(state.uid.0));
        }
        FetchItem::Size => {
            out.extend_from_slice(b"RFC822.SIZE ");
            respond::number(out, u64::from(state.octets));
        }
        FetchItem::ModSeq => {
            out.extend_from_slice(b"MODSEQ (");
            respond::number(out, state.mod_seq.0);
            out.push(b')');
        }
        FetchItem::InternalDate => {
            out.extend_from_slice(b"INTERNALDATE ");
            if let Some(summary) = summary {
                respond::date_time(out, summary.internal_date);
            }
        }
        FetchItem::Envelope => {
            out.extend_from_slice(b"ENVELOPE ");
            if let Some(summary) = summary {
                envelope(out, &summary.summary.envelope);
            }
        }
        FetchItem::BodyStructure | FetchItem::Body => {
            let extended = *item == FetchItem::BodyStructure;
            out.extend_from_slice(if extended { b"BODYSTRUCTURE " } else { b"BODY " });
            if let Some(summary) = summary {
                structure(out, &summary.summary.root, extended);
            }
        }
        // Written by `write_section`.
        FetchItem::Section(_) => {}
    }
}

/// Writes a section as a literal, `NIL` if there is no such part.
async fn write_section(
    client: &mut Client,
    wanted: &FetchSection,
    summary: Option<&MessageSummary>,
    body: Option<&Bytes>,
) -> Result<(), Failure> {
    client.out.extend_from_slice(&wanted.label);
    client.out.push(b' ');
    let body = body.map(Bytes::as_ref).unwrap_or_default();
    let pieces: [&[u8]; 2] = match summary {
        None => [body, &[]],
        Some(summary) if !section::needs_body(&wanted.section, summary) => {
            [&summary.prefix, summary.summary.header.as_deref().unwrap_or_default()]
        }
        Some(summary) => match section::range(&wanted.section, summary, body.len()) {
            Some(range) => [body.get(range).unwrap_or_default(), &[]],
            None => {
                client.out.extend_from_slice(b"NIL");
                return Ok(());
            }
        },
    };
    let mut fields = Vec::new();
    let pieces = match &wanted.section.text {
        SectionText::HeaderFields { names, not } => {
            for piece in pieces {
                section::header_fields(&mut fields, piece, names, *not);
            }
            [fields.as_slice(), &[]]
        }
        _ => pieces,
    };
    let [first, second] = pieces;
    let range = section::partial(0..first.len() + second.len(), wanted.partial);
    respond::literal_head(&mut client.out, range.len());
    let cut = |piece: &'_ [u8], offset: usize| {
        let start = range.start.saturating_sub(offset).min(piece.len());
        start..range.end.saturating_sub(offset).min(piece.len()).max(start)
    };
    client.send(first.get(cut(first, 0)).unwrap_or_default()).await?;
    client.send(second.get(cut(second, first.len())).unwrap_or_default()).await?;
    Ok(())
}
