//! A folder's live state in memory, one for all sessions that have the folder open.
//!
//! # Consistency
//! The database is the truth; mod-sequences order what happened. A tick of [`Changes`] only says that looking is
//! worth it: the table then asks for everything after what it knows, whoever made the change and in whatever order
//! ticks came. Sessions that ask at the same time share one query. After each look the number of messages must be
//! the folder's; if not (old expunged ranges have been forgotten) the table is read anew.
//!
//! # Cancellation
//! A look that is cancelled or fails leaves the table as it was and is repeated by the next.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::base::id::{FolderId, MailboxId};
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::changes::Touched;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::folder;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::message::{self, Cursor, FolderNumbers, PAGE_ROWS, Page, StateRow};

/// Changes remembered so that views need not scan the folder.
const LOG_LENGTH_MAX: usize = 4096;
/// Tables kept although nobody has the folder open: clients come back soon.
const IDLE_TABLES_MAX: usize = 64;
/// Most messages in idle tables; an entry has 32 octets.
const IDLE_ENTRIES_MAX: usize = 1 << 19;
/// Where nodes share the database a notification may be lost; after so long a look is due without one.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Folder tables by folder.
#[derive(Default)]
pub(super) struct Tables {
    open: Mutex<HashMap<FolderId, Weak<FolderTable>>>,
    idle: Mutex<VecDeque<Arc<FolderTable>>>,
}

impl Tables {
    /// The folder's table, not yet brought up to date.
    pub(super) fn table(&self, database: &Database, mailbox: MailboxId, id: FolderId) -> Arc<FolderTable> {
        let table = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            // Entries of tables that are gone are dropped when the map has doubled.
            if open.len() >= 64 && open.len().is_power_of_two() {
                open.retain(|_, table| table.strong_count() > 0);
            }
            match open.get(&id).and_then(Weak::upgrade) {
                Some(table) => table,
                None => {
                    let table = Arc::new(FolderTable::new(database.clone(), mailbox, id));
                    open.insert(id, Arc::downgrade(&table));
                    table
                }
            }
        };
        self.keep(&table);
        table
    }

    /// Makes `table` the most recently used one and lets go of the longest unused.
    fn keep(&self, table: &Arc<FolderTable>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|other| !Arc::ptr_eq(other, table));
        idle.push_front(Arc::clone(table));
        let mut entries = 0;
        let mut keep = 0;
        for table in idle.iter().take(IDLE_TABLES_MAX) {
            entries += table.read().entries.len();
            if entries > IDLE_ENTRIES_MAX {
                break;
            }
            keep += 1;
        }
        idle.truncate(keep);
    }
}

/// What is known of a folder.
#[derive(Default)]
pub(super) struct State {
    /// Messages by UID.
    pub(super) entries: Vec<StateRow>,
    /// Last states of messages that some view still shows, with the mod-sequence of their going.
    pub(super) removed: BTreeMap<u32, (u64, StateRow)>,
    /// Names of keywords in the order of their bits.
    pub(super) keywords: Arc<[String]>,
    /// Numbers of the folder as of the last look.
    pub(super) numbers: FolderNumbers,
    /// Whether the folder was deleted.
    pub(super) gone: bool,
    /// Mod-sequence and UID of changes, ascending.
    log: VecDeque<(u64, u32)>,
    /// All changes after this mod-sequence are in the log.
    log_floor: u64,
}

/// See the module's text.
pub(super) struct FolderTable {
    /// The mailbox.
    pub(super) mailbox: MailboxId,
    /// The folder.
    pub(super) id: FolderId,
    pub(super) database: Database,
    state: RwLock<State>,
    loader: tokio::sync::Mutex<Loader>,
    /// Mod-sequence up to which each view has been told of expunged messages.
    told: Mutex<Vec<Weak<AtomicU64>>>,
    /// First UID that no view has claimed as recent.
    recent: AtomicU32,
    /// First UID whose claim is not yet in the database.
    recent_kept: AtomicU32,
}

struct Loader {
    ticks: watch::Receiver<u64>,
    cursor: Option<Cursor>,
    /// Whether a look is due whatever the ticks say.
    stale: bool,
    looked_at: Instant,
}

impl FolderTable {
    fn new(database: Database, mailbox: MailboxId, id: FolderId) -> Self {
        let ticks = database.changes().watch(Touched::Folder(id));
        let loader = Loader { ticks, cursor: None, stale: true, looked_at: Instant::now() };
        Self {
            mailbox,
            id,
            database,
            state: RwLock::default(),
            loader: tokio::sync::Mutex::new(loader),
            told: Mutex::default(),
            recent: AtomicU32::new(0),
            recent_kept: AtomicU32::new(0),
        }
    }

    /// The state as of the last look.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a view; while it lives, messages that it has not been told to forget are remembered.
    pub(super) fn register(&self) -> Arc<AtomicU64> {
        let told = Arc::new(AtomicU64::new(0));
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|view| view.strong_count() > 0);
        all.push(Arc::downgrade(&told));
        told
    }

    /// Claims the UIDs below `uid_next` as recent; answers the first that nobody had claimed.
    pub(super) fn claim_recent(&self, uid_next: u32) -> u32 {
        self.recent.fetch_max(uid_next, Ordering::AcqRel)
    }

    /// The first UID that nobody has claimed as recent.
    pub(super) fn recent_uid(&self) -> u32 {
        self.recent.load(Ordering::Acquire)
    }

    /// Writes down what has been claimed as recent.
    pub(super) async fn keep_recent(&self, priority: Priority) -> Result<()> {
        let uid = self.recent_uid();
        if self.recent_kept.fetch_max(uid, Ordering::AcqRel) >= uid {
            return Ok(());
        }
        let (mailbox, id) = (self.mailbox, self.id);
        let write = self.database.write(priority, move |conn| {
            Box::pin(
                async move { folder::claim_recent(conn, mailbox, id, uid).await.map_err(ServiceError::from) },
            )
        });
        write.await
    }

    /// Looks what happened, if there may be something.
    pub(super) async fn catch_up(&self) -> Result<()> {
        let mut loader = self.loader.lock().await;
        let overdue = self.database.is_shared() && loader.looked_at.elapsed() >= LOOK_INTERVAL;
        // An error means that the sender is gone, which cannot be while this receiver lives.
        let ticked = loader.ticks.has_changed().unwrap_or(true);
        if !loader.stale && !ticked && !overdue {
            return Ok(());
        }
        loader.stale = true;
        loader.ticks.borrow_and_update();
        let cursor = match loader.cursor {
            Some(cursor) => self.look(cursor).await?,
            None => self.load().await?,
        };
        loader.cursor = Some(cursor);
        loader.looked_at = Instant::now();
        loader.stale = false;
        Ok(())
    }

    /// Reads the changes after `cursor` and applies them.
    async fn look(&self, cursor: Cursor) -> Result<Cursor> {
        let (page, cursor) = self.changes(cursor).await?;
        let Some(numbers) = page.folder else {
            self.write(|state| state.gone = true);
            return Ok(cursor);
        };
        let keywords = self.keywords_if_needed(&page.changed).await?;
        self.recent.fetch_max(numbers.recent_uid, Ordering::AcqRel);
        self.recent_kept.fetch_max(numbers.recent_uid, Ordering::AcqRel);
        let told = self.told();
        let complete = self.write(|state| {
            state.forget(told);
            if let Some(keywords) = keywords {
                state.keywords = keywords;
            }
            state.apply(page, numbers);
            state.entries.len() == numbers.messages as usize
        });
        if complete { Ok(cursor) } else { self.load().await }
    }

    /// All changes after `cursor`; the folder's numbers are those of the snapshot of the last page.
    async fn changes(&self, mut cursor: Cursor) -> Result<(Page, Cursor)> {
        let (mailbox, id) = (self.mailbox, self.id);
        let mut all = Page::default();
        loop {
            let page = self
                .database
                .read(move |conn| Box::pin(async move { message::changes(conn, mailbox, id, cursor).await }))
                .await
                .map_err(ServiceError::from)?;
            let last = page.changed.len() < PAGE_ROWS && page.expunged.len() < PAGE_ROWS;
            if let Some(row) = page.changed.last() {
                cursor.changed = (row.mod_seq, row.uid);
            }
            if let Some(&(mod_seq, first, _)) = page.expunged.last() {
                cursor.expunged = (mod_seq, first);
            }
            all.folder = page.folder;
            all.changed.extend(page.changed);
            all.expunged.extend(page.expunged);
            let Some(numbers) = all.folder else { return Ok((all, cursor)) };
            if last {
                return Ok((all, after(numbers.mod_seq)));
            }
        }
    }

    /// Reads the whole folder by pages, then what happened meanwhile, and replaces the state. Views see it as
    /// changes: what is no longer there went away just now.
    async fn load(&self) -> Result<Cursor> {
        let (mailbox, id) = (self.mailbox, self.id);
        let start = self
            .database
            .read(move |conn| Box::pin(async move { folder::by_id(conn, mailbox, id).await }))
            .await
            .map_err(ServiceError::from)?;
        let Some(start) = start else {
            self.write(|state| state.gone = true);
            return Ok(after(0));
        };
        let mut entries: Vec<StateRow> = Vec::new();
        loop {
            let uid = entries.last().map_or(0, |row| row.uid);
            let page = self
                .database
                .read(move |conn| Box::pin(async move { message::states(conn, mailbox, id, uid).await }))
                .await
                .map_err(ServiceError::from)?;
            let last = page.len() < PAGE_ROWS;
            if entries.is_empty() && !last {
                entries.reserve(usize::try_from(start.messages).unwrap_or(0));
            }
            entries.extend(page);
            if last {
                break;
            }
        }
        let (page, cursor) = self.changes(after(start.mod_seq)).await?;
        let Some(numbers) = page.folder else {
            self.write(|state| state.gone = true);
            return Ok(cursor);
        };
        let keywords = self.keywords().await?;
        self.recent.fetch_max(numbers.recent_uid, Ordering::AcqRel);
        self.recent_kept.fetch_max(numbers.recent_uid, Ordering::AcqRel);
        let complete = self.write(|state| {
            state.keywords = keywords;
            state.replace(entries, page, numbers);
            state.entries.len() == numbers.messages as usize
        });
        if !complete {
            tracing::error!(folder = %id, "the folder's counter of messages differs from its messages");
        }
        Ok(cursor)
    }

    async fn keywords(&self) -> Result<Arc<[String]>> {
        let id = self.id;
        let read = self.database.read(move |conn| {
            Box::pin(async move { folder::keywords(conn, id).await.map_err(ServiceError::from) })
        });
        Ok(read.await?.into())
    }

    /// Keywords are read again only when a message has one that is unknown.
    async fn keywords_if_needed(&self, changed: &[StateRow]) -> Result<Option<Arc<[String]>>> {
        let known = self.read().keywords.len();
        let used = changed.iter().fold(0, |bits, row| bits | row.flags);
        let unknown = used.checked_shr(5 + u32::try_from(known).unwrap_or(u32::MAX)).unwrap_or(0) != 0;
        if unknown { self.keywords().await.map(Some) } else { Ok(None) }
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The mod-sequence up to which every view has been told of expunged messages.
    fn told(&self) -> u64 {
        let all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let views = all.iter().filter_map(Weak::upgrade);
        views.map(|told| told.load(Ordering::Acquire)).min().unwrap_or(u64::MAX)
    }
}

/// A cursor behind everything up to `mod_seq`.
fn after(mod_seq: u64) -> Cursor {
    Cursor { changed: (mod_seq, u32::MAX), expunged: (mod_seq, u32::MAX) }
}

impl State {
    /// The message with this UID, if it is there.
    pub(super) fn entry(&self, uid: u32) -> Option<&StateRow> {
        self.position(uid).ok().and_then(|index| self.entries.get(index))
    }

    /// The message with this UID, there or still shown by some view.
    pub(super) fn known(&self, uid: u32) -> Option<&StateRow> {
        self.entry(uid).or_else(|| self.removed.get(&uid).map(|(_, row)| row))
    }

    fn position(&self, uid: u32) -> std::result::Result<usize, usize> {
        self.entries.binary_search_by_key(&uid, |row| row.uid)
    }

    /// Messages with a UID above `uid`.
    pub(super) fn after(&self, uid: u32) -> &[StateRow] {
        let start = self.entries.partition_point(|row| row.uid <= uid);
        self.entries.get(start..).unwrap_or_default()
    }

    /// Whether `uids` (ascending) are exactly the messages between the first and the last of them.
    pub(super) fn is_dense(&self, uids: &[u32]) -> bool {
        let (Some(&first), Some(&last)) = (uids.first(), uids.last()) else { return false };
        let start = self.entries.partition_point(|row| row.uid < first);
        let end = self.entries.partition_point(|row| row.uid <= last);
        end - start == uids.len()
    }

    /// UIDs of messages that changed after `mod_seq`, ascending.
    pub(super) fn changed_after(&self, mod_seq: u64) -> Vec<u32> {
        if mod_seq < self.log_floor {
            return self.entries.iter().filter(|row| row.mod_seq > mod_seq).map(|row| row.uid).collect();
        }
        let recent = self.log.iter().rev().take_while(|(at, _)| *at > mod_seq);
        let mut uids: Vec<u32> = recent.map(|(_, uid)| *uid).collect();
        uids.sort_unstable();
        uids.dedup();
        uids
    }

    /// Forgets expunged messages that every view has been told of.
    fn forget(&mut self, told: u64) {
        if !self.removed.is_empty() {
            self.removed.retain(|_, (mod_seq, _)| *mod_seq > told);
        }
    }

    fn apply(&mut self, mut page: Page, numbers: FolderNumbers) {
        self.note(&page.changed, numbers.mod_seq);
        // New ones come in the order of their UIDs, so that they are pushed and not inserted.
        page.changed.sort_by_key(|row| row.uid);
        for row in page.changed {
            match self.position(row.uid) {
                Ok(index) => {
                    if let Some(entry) = self.entries.get_mut(index) {
                        *entry = row;
                    }
                }
                Err(index) => self.entries.insert(index, row),
            }
        }
        self.remove(page.expunged);
        self.numbers = numbers;
    }

    /// Puts changes into the log.
    fn note(&mut self, changed: &[StateRow], mod_seq: u64) {
        if changed.len() >= LOG_LENGTH_MAX {
            self.log.clear();
            self.log_floor = mod_seq;
            return;
        }
        for row in changed {
            if self.log.len() >= LOG_LENGTH_MAX
                && let Some((dropped, _)) = self.log.pop_front()
            {
                self.log_floor = dropped;
            }
            self.log.push_back((row.mod_seq, row.uid));
        }
    }

    fn remove(&mut self, mut ranges: Vec<(u64, u32, u32)>) {
        if ranges.is_empty() {
            return;
        }
        ranges.sort_unstable_by_key(|&(_, first, _)| first);
        let mut ranges = ranges.into_iter().peekable();
        let removed = &mut self.removed;
        self.entries.retain(|row| {
            while ranges.next_if(|&(_, _, last)| last < row.uid).is_some() {}
            match ranges.peek() {
                Some(&(mod_seq, first, _)) if first <= row.uid => {
                    removed.insert(row.uid, (mod_seq, *row));
                    false
                }
                _ => true,
            }
        });
    }

    /// Takes over a whole new list of messages.
    fn replace(&mut self, entries: Vec<StateRow>, page: Page, numbers: FolderNumbers) {
        let old = std::mem::replace(&mut self.entries, entries);
        self.log.clear();
        self.apply(page, numbers);
        for row in old {
            if self.entry(row.uid).is_none() {
                self.removed.insert(row.uid, (numbers.mod_seq, row));
            }
        }
        // Views that know less scan the entries.
        self.log.clear();
        self.log_floor = numbers.mod_seq;
    }
}
