//! One session's view of an open folder.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::watch;

use super::content::{Reads, off_thread, read_messages, unpack_summaries};
use super::flags::{FlagChange, store_slice};
use super::search::SearchKey;
use super::stage;
use super::summary::Summary;
use super::table::{FolderTable, State};
use super::types::{
    Access, Copied, FlagBits, FlagMode, FlagSet, FolderEvent, FolderName, MessageState, Stored,
};
use super::work::{self, priority, slices};
use super::{Inner, OpenFolder};
use crate::base::clock::Timestamp;
use crate::base::id::{ModSeq, Uid, UidValidity};
use crate::service::content_access::{Visit, enter, may_change};
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::changes::Touched;
use crate::storage::metadata::content;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::message::{self, PAGE_ROWS, StateRow};
use crate::storage::metadata::summary::{self, SUMMARIES_MAX, Summaries};

/// Most messages in one read of bodies.
pub const CHUNK_MESSAGES_MAX: usize = 64;
/// Most octets in one read of bodies, unless the first message alone is larger.
pub const CHUNK_OCTETS_MAX: u64 = 1024 * 1024;

/// How often a message is looked up whose body is not there any more.
const LOOKUPS_MAX: usize = 8;

/// What a message's summary row holds for one message.
#[derive(Clone, Debug)]
pub struct MessageSummary {
    /// UID.
    pub uid: Uid,
    /// INTERNALDATE.
    pub internal_date: Timestamp,
    /// Trace lines that stand before the body: they are part of the header, of offsets and of the size.
    pub prefix: Bytes,
    /// Structure and header of the body.
    pub summary: Arc<Summary>,
}

/// A session's view of an open folder: the UIDs it has been told of, in order.
pub struct FolderView {
    folder: OpenFolder,
    access: Access,
    /// The administrator who is there in the owner's place.
    visit: Option<Arc<Visit>>,
    inner: Arc<Inner>,
    table: Arc<FolderTable>,
    ticks: watch::Receiver<u64>,
    uids: Vec<Uid>,
    /// Ranges of UIDs that are recent here, ascending, inclusive.
    recent: Vec<(u32, u32)>,
    /// Changes and arrivals up to here have been told.
    mod_seq: u64,
    /// Mod-sequence up to which expunged messages have been told; shared with the table.
    told: Arc<AtomicU64>,
    keywords_told: usize,
    /// Own changes that the client knows already: UID and mod-sequence.
    silenced: HashMap<u32, u64>,
}

impl FolderView {
    /// Opens the table's folder.
    pub(super) async fn open(
        (inner, visit): (Arc<Inner>, Option<Arc<Visit>>),
        table: Arc<FolderTable>,
        name: FolderName,
        access: Access,
    ) -> Result<Self> {
        let mut ticks = table.database.changes().watch(Touched::Folder(table.id));
        ticks.borrow_and_update();
        let told = table.register();
        table.catch_up().await?;
        let (folder, keywords_told) = {
            let state = table.read();
            if state.gone {
                return Err(work::no_folder(&name));
            }
            let folder = OpenFolder {
                id: table.id,
                name,
                uid_validity: UidValidity(state.numbers.uid_validity),
                uid_next: Uid(state.numbers.uid_next),
                highest_mod_seq: ModSeq(state.numbers.mod_seq),
            };
            (folder, state.keywords.len())
        };
        let mut view = Self {
            folder,
            access,
            visit,
            inner,
            table,
            ticks,
            uids: Vec::new(),
            recent: Vec::new(),
            mod_seq: 0,
            told,
            keywords_told,
            silenced: HashMap::new(),
        };
        view.take_present();
        if access == Access::ReadWrite
            && let Err(error) = view.table.keep_recent(Priority::Interactive).await
        {
            // A folder can be read while nothing can be written; its messages may then be recent once more.
            tracing::warn!(%error, "which messages are recent could not be kept");
        }
        Ok(view)
    }

    /// Starts the view with what is there.
    fn take_present(&mut self) {
        let table = Arc::clone(&self.table);
        let state = table.read();
        self.uids = state.entries.iter().map(|row| Uid(row.uid)).collect();
        self.mod_seq = state.numbers.mod_seq;
        self.told.store(self.mod_seq, Ordering::Release);
        self.folder.uid_next = Uid(state.numbers.uid_next);
        self.folder.highest_mod_seq = ModSeq(self.mod_seq);
        self.keywords_told = state.keywords.len();
        self.claim_recent(state.numbers.uid_next);
    }

    /// Notes which messages are recent here. A read-only view takes nothing away from others.
    fn claim_recent(&mut self, uid_next: u32) {
        let first = match self.access {
            Access::ReadWrite => self.table.claim_recent(uid_next),
            Access::ReadOnly => {
                self.table.recent_uid().max(self.recent.last().map_or(0, |range| range.1 + 1))
            }
        };
        if first < uid_next {
            self.recent.push((first.max(1), uid_next - 1));
        }
    }

    /// Identity and numbers at the time of opening.
    pub fn folder(&self) -> &OpenFolder {
        &self.folder
    }

    /// How it was opened.
    pub fn access(&self) -> Access {
        self.access
    }

    /// UIDs in sequence-number order; the first has sequence number 1.
    pub fn uids(&self) -> &[Uid] {
        &self.uids
    }

    /// Whether the message is recent in this view.
    pub fn is_recent(&self, uid: Uid) -> bool {
        let index = self.recent.partition_point(|range| range.1 < uid.0);
        self.recent.get(index).is_some_and(|range| range.0 <= uid.0)
    }

    /// Number of recent messages.
    pub fn recent_count(&self) -> u32 {
        let count = |&(first, last): &(u32, u32)| {
            self.uids.partition_point(|uid| uid.0 <= last) - self.uids.partition_point(|uid| uid.0 < first)
        };
        u32::try_from(self.recent.iter().map(count).sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// HIGHESTMODSEQ up to which this view has been synchronised.
    pub fn highest_mod_seq(&self) -> ModSeq {
        ModSeq(self.mod_seq)
    }

    /// Present states of `uids` (ascending, all in this view); messages expunged meanwhile keep their last state.
    pub fn states(&self, uids: &[Uid]) -> Vec<MessageState> {
        let state = self.table.read();
        let mut rest = uids.first().map_or(&[][..], |uid| state.after(uid.0.saturating_sub(1)));
        let mut states = Vec::with_capacity(uids.len());
        for uid in uids {
            // Mostly the next one; else it is looked for in what remains.
            let skip = match rest.first() {
                Some(row) if row.uid >= uid.0 => 0,
                _ => rest.partition_point(|row| row.uid < uid.0),
            };
            rest = rest.get(skip..).unwrap_or_default();
            match rest.split_first() {
                Some((row, after)) if row.uid == uid.0 => {
                    rest = after;
                    states.push(message_state(row));
                }
                _ => states.extend(state.known(uid.0).map(message_state)),
            }
        }
        states
    }

    /// Names of the folder's keywords; index n has bit [`super::types::FlagBits::keyword`]`(n)`.
    pub fn keywords(&self) -> Arc<[String]> {
        Arc::clone(&self.table.read().keywords)
    }

    /// Brings the view up to date and tells what changed, in an order that can be sent as it is. Without
    /// `expunges` messages that went away stay in the view (RFC 3501 section 7.4.1).
    ///
    /// # Errors
    /// When the database cannot be asked; the view is as before.
    pub async fn sync(&mut self, expunges: bool) -> Result<Vec<FolderEvent>> {
        self.ticks.borrow_and_update();
        if let Err(error) = self.table.catch_up().await {
            self.ticks.mark_changed();
            return Err(error);
        }
        let table = Arc::clone(&self.table);
        let state = table.read();
        if state.gone {
            return Ok(vec![FolderEvent::Gone]);
        }
        let mut events = Vec::new();
        if expunges {
            self.tell_expunged(&state, &mut events);
        }
        if state.numbers.mod_seq == self.mod_seq {
            return Ok(events);
        }
        let known = self.uids.last().copied().unwrap_or(Uid(0));
        self.tell_new(&state, known, &mut events);
        self.tell_flags(&state, known, &mut events);
        self.mod_seq = state.numbers.mod_seq;
        Ok(events)
    }

    /// From the last to the first, so that no sequence number is moved by one told before.
    fn tell_expunged(&mut self, state: &State, events: &mut Vec<FolderEvent>) {
        let told = self.told.swap(state.numbers.mod_seq, Ordering::AcqRel);
        if state.removed.is_empty() {
            return;
        }
        let before = events.len();
        for (&uid, &(mod_seq, _)) in state.removed.iter().rev() {
            if mod_seq > told
                && let Ok(index) = self.uids.binary_search(&Uid(uid))
            {
                events.push(FolderEvent::Expunged { sequence: sequence(index), uid: Uid(uid) });
            }
        }
        if events.len() > before {
            self.uids.retain(|uid| state.removed.get(&uid.0).is_none_or(|(mod_seq, _)| *mod_seq <= told));
        }
    }

    fn tell_new(&mut self, state: &State, known: Uid, events: &mut Vec<FolderEvent>) {
        let new = state.after(known.0);
        if new.is_empty() {
            return;
        }
        self.uids.extend(new.iter().map(|row| Uid(row.uid)));
        self.claim_recent(state.numbers.uid_next);
        if self.access == Access::ReadWrite {
            let table = Arc::clone(&self.table);
            // Nobody waits for this: when it is lost, messages may be recent once more.
            tokio::spawn(async move {
                if let Err(error) = table.keep_recent(Priority::Background).await {
                    tracing::debug!(%error, "recent messages were not written down");
                }
            });
        }
        let messages = u32::try_from(self.uids.len()).unwrap_or(u32::MAX);
        events.push(FolderEvent::Exists { messages, recent: self.recent_count() });
    }

    fn tell_flags(&mut self, state: &State, known: Uid, events: &mut Vec<FolderEvent>) {
        if state.keywords.len() != self.keywords_told {
            self.keywords_told = state.keywords.len();
            events.push(FolderEvent::Keywords);
        }
        for uid in state.changed_after(self.mod_seq) {
            let Some(row) = state.entry(uid).filter(|row| uid <= known.0 && row.mod_seq > self.mod_seq)
            else {
                continue;
            };
            if self.silenced.get(&uid) == Some(&row.mod_seq) {
                continue;
            }
            if let Ok(index) = self.uids.binary_search(&Uid(uid)) {
                events.push(FolderEvent::Flags { sequence: sequence(index), state: message_state(row) });
            }
        }
        self.silenced = HashMap::new();
    }

    /// Completes when [`Self::sync`] may have something to tell. Cancel-safe.
    pub async fn changed(&self) {
        let mut ticks = self.ticks.clone();
        if self.table.database.is_shared() {
            // A notification of another node may be lost; then a regular look finds what it did.
            let _ = tokio::time::timeout(super::table::LOOK_INTERVAL, ticks.changed()).await;
        } else if ticks.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Changes flags of `uids` (ascending). Messages changed after `unchanged_since` are left alone. The view's own
    /// copy is updated: the next `sync` does not tell these changes again when `silent`, unless somebody else had
    /// changed the message meanwhile.
    ///
    /// # Errors
    /// `Limit` when the folder has no room for a new keyword. Of more than 256 messages those before the error may
    /// have been changed.
    pub async fn flags_store(
        &mut self,
        uids: &[Uid],
        mode: FlagMode,
        flags: &FlagSet,
        unchanged_since: Option<ModSeq>,
        silent: bool,
    ) -> Result<Stored> {
        may_change(self.visit.as_ref()).await?;
        let change = Arc::new(FlagChange { mode, flags: flags.clone(), unchanged_since });
        let (mailbox, id) = (self.table.mailbox, self.table.id);
        let mut stored = Stored::default();
        for slice in slices(uids) {
            let change = Arc::clone(&change);
            let slice = self
                .table
                .database
                .write(priority(uids.len()), move |conn| {
                    let (slice, change) = (Arc::clone(&slice), Arc::clone(&change));
                    Box::pin(async move { store_slice(conn, mailbox, id, &slice, &change).await })
                })
                .await?;
            if silent {
                let unseen = |before: &u64| *before > self.mod_seq;
                let told = slice.changed.iter().filter(|(_, before)| !unseen(before));
                self.silenced.extend(told.map(|(uid, _)| (*uid, slice.mod_seq)));
            }
            stored.done.extend(slice.done);
            stored.modified.extend(slice.modified);
        }
        if !stored.done.is_empty() {
            self.table.catch_up().await?;
        }
        Ok(stored)
    }

    /// Removes messages with `\Deleted`: all of them, or those of `uids` (UID EXPUNGE), as far as this view shows
    /// them. The view learns of it by the next `sync`.
    ///
    /// # Errors
    /// When the database cannot be written; of more than 256 messages those before the error may have gone.
    pub async fn expunge(&mut self, uids: Option<&[Uid]>) -> Result<()> {
        may_change(self.visit.as_ref()).await?;
        let (mailbox, id) = (self.table.mailbox, self.table.id);
        let database = &self.table.database;
        let (at, kept) = (self.inner.clock.now(), self.inner.keeps_deleted());
        let wanted = |uid: &Uid| {
            self.uids.binary_search(uid).is_ok() && uids.is_none_or(|uids| uids.binary_search(uid).is_ok())
        };
        let (mut doomed, mut after) = (Vec::new(), 0);
        loop {
            let page =
                database.read(move |conn| Box::pin(async move { message::deleted(conn, id, after).await }));
            let page = page.await.map_err(ServiceError::from)?;
            doomed.extend(page.iter().copied().map(Uid).filter(wanted));
            match page.last() {
                Some(&last) if page.len() == PAGE_ROWS => after = last,
                _ => break,
            }
        }
        for slice in slices(&doomed) {
            database
                .write(priority(doomed.len()), move |conn| {
                    let slice = Arc::clone(&slice);
                    Box::pin(async move { work::expunge_slice(conn, (mailbox, id), &slice, at, kept).await })
                })
                .await?;
        }
        Ok(())
    }

    /// Copies messages to another folder of the mailbox, all or none.
    ///
    /// # Errors
    /// `NotFound` when the target does not exist, `OverQuota`; then nothing was copied.
    pub async fn copy(&mut self, uids: &[Uid], target: &FolderName) -> Result<Copied> {
        enter(self.visit.as_ref(), target, Access::ReadWrite).await?;
        let (mailbox, id) = (self.table.mailbox, self.table.id);
        if stage::is_large_copy(uids.len()) {
            let octets = self.states(uids).iter().map(|state| i64::from(state.octets)).sum();
            return stage::copy(&self.inner, mailbox, id, uids, octets, target).await;
        }
        let all: Arc<[u32]> = uids.iter().map(|uid| uid.0).collect();
        let target = target.clone();
        self.table
            .database
            .write(priority(uids.len()), move |conn| {
                let (all, target) = (Arc::clone(&all), target.clone());
                Box::pin(async move { work::copy(conn, mailbox, id, &all, &target).await })
            })
            .await
    }

    /// Moves messages, each one atomically (RFC 6851). The view learns of the removal by the next `sync`.
    ///
    /// # Errors
    /// `NotFound` when the target does not exist. Of more than 256 messages those before the error may have moved.
    pub async fn move_to(&mut self, uids: &[Uid], target: &FolderName) -> Result<Copied> {
        enter(self.visit.as_ref(), target, Access::ReadWrite).await?;
        work::move_all(&self.table.database, self.table.mailbox, self.table.id, uids, target).await
    }

    /// Summaries of `uids` (ascending, at most 1,000 a call); reads no body. Messages that were expunged meanwhile
    /// are left out.
    ///
    /// # Errors
    /// `Invalid` for more than 1,000; `Internal` when a summary is damaged.
    pub async fn summaries(&self, uids: &[Uid]) -> Result<Vec<MessageSummary>> {
        self.summaries_ahead(uids).await
    }

    /// As [`Self::summaries`], with a future of its own: it can be read ahead while others are being used.
    ///
    /// # Errors
    /// As [`Self::summaries`].
    pub fn summaries_ahead(
        &self,
        uids: &[Uid],
    ) -> impl Future<Output = Result<Vec<MessageSummary>>> + Send + use<> {
        let (mailbox, id) = (self.table.mailbox, self.table.id);
        let (count, chosen) = (uids.len(), self.chosen(uids));
        let inner = Arc::clone(&self.inner);
        async move {
            if count > SUMMARIES_MAX {
                let message = format!("at most {SUMMARIES_MAX} at a time");
                return Err(ServiceError::Invalid { field: "uids", message });
            }
            let read = inner.database.read(move |conn| {
                Box::pin(async move {
                    summary::read(conn, mailbox, id, &chosen).await.map_err(ServiceError::from)
                })
            });
            let stored: Summaries = read.await?;
            let is_small = count < 16 && stored.blocks.len() <= 1;
            let unpack = move || unpack_summaries(&inner.bodies, &stored);
            if is_small { unpack() } else { off_thread(unpack).await? }
        }
    }

    /// How many of `uids`, from the first on, one call of [`Self::messages`] should read: at most
    /// [`CHUNK_MESSAGES_MAX`] and about [`CHUNK_OCTETS_MAX`], at least one.
    pub fn chunk_len(&self, uids: &[Uid]) -> usize {
        let mut octets = 0;
        let states = self.states(uids.get(..CHUNK_MESSAGES_MAX).unwrap_or(uids));
        let fitting = states.iter().take_while(|state| {
            octets += u64::from(state.octets);
            octets <= CHUNK_OCTETS_MAX
        });
        fitting.count().clamp(1, uids.len().max(1)).min(uids.len())
    }

    /// The whole messages `uids` (ascending), trace lines and bodies, with one read of the database: for a
    /// sequential download, chunk by chunk with [`Self::chunk_len`]. Messages that were expunged meanwhile are left
    /// out; one that cannot be read has its own error.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn messages(&self, uids: &[Uid]) -> Result<Vec<(Uid, Result<Bytes>)>> {
        self.read(uids, Reads::Whole).await
    }

    /// The whole message: trace lines and body. `Unavailable` when it cannot be read now, never empty instead.
    ///
    /// # Errors
    /// `NotFound` when it was expunged meanwhile; `Internal` when it is damaged.
    pub async fn message(&self, uid: Uid) -> Result<Bytes> {
        match self.messages(&[uid]).await?.pop() {
            Some((_, message)) => message,
            None => Err(ServiceError::NotFound { what: format!("message {uid}") }),
        }
    }

    /// The body of a message without its trace lines; nothing when it was expunged meanwhile.
    pub(super) async fn body(&self, uid: Uid) -> Result<Option<Bytes>> {
        self.read(&[uid], Reads::Body).await?.pop().map(|(_, body)| body).transpose()
    }

    /// Reads messages. While a mailbox moves, a body that a message has just had may be gone, since the message has
    /// another by now: then the message is looked up again.
    async fn read(&self, uids: &[Uid], reads: Reads) -> Result<Vec<(Uid, Result<Bytes>)>> {
        let (mut found, mut wanted) = (Vec::with_capacity(uids.len()), uids.to_vec());
        for _ in 0..LOOKUPS_MAX {
            let stored = self.stored(&wanted).await?;
            wanted.clear();
            for (stored, message) in
                stored.iter().zip(read_messages(&self.inner.bodies, &stored, reads).await)
            {
                match message {
                    Some(message) => found.push((Uid(stored.uid), message)),
                    None => wanted.push(Uid(stored.uid)),
                }
            }
            if wanted.is_empty() {
                break;
            }
        }
        let later = || ServiceError::Unavailable("the message is on its way to another place".to_owned());
        found.extend(wanted.into_iter().map(|uid| (uid, Err(later()))));
        found.sort_unstable_by_key(|(uid, _)| *uid);
        Ok(found)
    }

    async fn stored(&self, uids: &[Uid]) -> Result<Vec<content::Stored>> {
        let (mailbox, id) = (self.table.mailbox, self.table.id);
        let chosen = self.chosen(uids);
        let read = self.table.database.read(move |conn| {
            Box::pin(async move {
                content::contents(conn, mailbox, id, &chosen).await.map_err(ServiceError::from)
            })
        });
        read.await
    }

    /// UIDs of the messages in this view that match, ascending.
    ///
    /// # Errors
    /// When the database cannot be asked or a body that decides cannot be read.
    pub async fn search(&self, key: &SearchKey) -> Result<Vec<Uid>> {
        super::find::search(self, key).await
    }

    /// The UIDs as numbers for the database; where they are all messages between the first and the last, as the
    /// whole range, which the database reads in one go.
    fn chosen(&self, uids: &[Uid]) -> message::Chosen {
        let uids: Vec<u32> = uids.iter().map(|uid| uid.0).collect();
        match (uids.first(), uids.last()) {
            (Some(&first), Some(&last)) if self.table.read().is_dense(&uids) => {
                message::Chosen::Range(first, last)
            }
            _ => message::Chosen::List(uids),
        }
    }
}

fn message_state(row: &StateRow) -> MessageState {
    MessageState {
        uid: Uid(row.uid),
        flags: FlagBits(row.flags),
        mod_seq: ModSeq(row.mod_seq),
        octets: row.octets,
    }
}

fn sequence(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1)
}
