//! A cache on disk of ranges of packs that are in object storage only.
//!
//! Packs are cut into blocks. A reader names all the ranges that it wants of a pack; blocks that are missing are
//! fetched in runs, over small gaps, and further ahead when runs follow each other, so that reading a folder takes a
//! few large requests. However many readers wait for a block, it is fetched once.
//!
//! # Consistency
//! What is cached never changes, since packs never do; whether it is right is shown by the checksums of the pack.
//! Nothing here survives a restart: the folder is emptied when the cache is opened.
//!
//! # Bounds
//! Beyond its bound the packs that were used longest ago go. What cannot be written (the disk is full, all of the
//! cache is being read) is handed to the reader that fetched it and not kept.
//!
//! # Cancellation
//! A reader that is dropped gives up its fetches; who waited for them fetches anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::bodies::blocking;
use super::pack::PackName;
use super::{Result, StorageError};

/// Length of a block in octets: about what object storage delivers in the time that it takes to answer at all.
const BLOCK_OCTETS: u64 = 128 * 1024;
/// Most blocks that one request asks for.
const RUN_BLOCKS_MAX: u64 = 64;
/// A gap of so many blocks is fetched too, instead of asking twice.
const GAP_BLOCKS_MAX: u64 = 2;
/// Requests that one reader makes at a time.
const FETCHES_MAX: usize = 4;
/// Octets of one block or run in memory, checked when a range is cut out.
const RANGE_OCTETS_MAX: u64 = 1 << 31;

/// What is gone when a file of the cache is.
const LOST: &str = "cached pack";

/// Fetches a range of a pack: exactly its octets.
pub type Fetch<'a> = &'a (dyn Fn(Range<u64>) -> BoxFuture<'a, Result<Bytes>> + Send + Sync);

/// The cache. Cheap to clone.
#[derive(Clone)]
pub struct RangeCache {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    octets_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    packs: HashMap<PackName, Entry>,
    /// Octets of all blocks that are kept.
    octets: u64,
    /// Grows with every use.
    uses: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Absent,
    Loading,
    Present,
}

struct Entry {
    blocks: Vec<Block>,
    octets: u64,
    /// Length of the last run, and the block behind it.
    run: (u64, u64),
    used: u64,
    readers: usize,
    changed: Arc<Notify>,
}

/// What a reader has to do next.
struct Plan {
    fetch: Vec<Range<u64>>,
    /// Others fetch something that it needs.
    wait: bool,
}

impl std::fmt::Debug for RangeCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RangeCache({})", self.inner.folder.display())
    }
}

impl RangeCache {
    /// A cache in `folder`, which is emptied, of at most `octets_max`.
    ///
    /// # Errors
    /// `Io` when the folder cannot be emptied or made.
    pub fn open(folder: PathBuf, octets_max: u64) -> Result<Self> {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("empty", &folder, error)),
            _ => {}
        }
        std::fs::create_dir_all(&folder).map_err(|error| io("create", &folder, error))?;
        Ok(Self { inner: Arc::new(Inner { folder, octets_max, state: Mutex::default() }) })
    }

    /// Octets that are kept at present.
    pub fn octets(&self) -> u64 {
        self.inner.lock().octets
    }

    /// Ranges of the pack `name`, which is `pack_octets` long, in their order.
    pub async fn read(
        &self,
        name: PackName,
        pack_octets: u64,
        wanted: &[Range<u64>],
        fetch: Fetch<'_>,
    ) -> Vec<Result<Bytes>> {
        let is_inside = move |range: &Range<u64>| range.start <= range.end && range.end <= pack_octets;
        let blocks: BTreeSet<u64> =
            wanted.iter().filter(|range| is_inside(range)).flat_map(blocks_of).collect();
        let reader = Reader::enter(&self.inner, name, pack_octets);
        let loaded = reader.load(&blocks, fetch).await;
        let (inner, wanted) = (Arc::clone(&self.inner), wanted.to_vec());
        let count = wanted.len();
        let cut = move || {
            let file = File::open(inner.path(name)).ok();
            let one = |range: &Range<u64>| {
                if !is_inside(range) {
                    return Err(StorageError::Corrupt("a range lies outside its pack".to_owned()));
                }
                loaded.range(file.as_ref(), range)
            };
            Ok(wanted.iter().map(one).collect::<Vec<_>>())
        };
        let cut = blocking(cut).await;
        drop(reader);
        if cut
            .as_ref()
            .is_ok_and(|cut| cut.iter().any(|range| matches!(range, Err(StorageError::Gone(LOST)))))
        {
            self.forget(name);
        }
        cut.unwrap_or_else(|error| (0..count).map(|_| Err(again(&error))).collect())
    }

    /// Forgets a pack: it is gone, or what was read of it was wrong.
    pub fn forget(&self, name: PackName) {
        let mut state = self.inner.lock();
        let Some(entry) = state.packs.get_mut(&name) else { return };
        if entry.readers > 0 {
            entry
                .blocks
                .iter_mut()
                .filter(|block| **block == Block::Present)
                .for_each(|b| *b = Block::Absent);
            let octets = std::mem::take(&mut entry.octets);
            state.octets = state.octets.saturating_sub(octets);
            return;
        }
        let octets = entry.octets;
        state.packs.remove(&name);
        state.octets = state.octets.saturating_sub(octets);
        self.inner.unlink(name);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: PackName) -> PathBuf {
        self.folder.join(name.to_string())
    }

    fn unlink(&self, name: PackName) {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a file of the cache could not be removed");
            }
            _ => {}
        }
    }

    /// Makes room for `octets`; false when everything is in use.
    fn make_room(&self, octets: u64) -> bool {
        loop {
            let mut state = self.lock();
            if state.octets.saturating_add(octets) <= self.octets_max {
                state.octets += octets;
                return true;
            }
            let idle = state.packs.iter().filter(|(_, entry)| entry.readers == 0 && entry.octets > 0);
            let Some((&name, _)) = idle.min_by_key(|(_, entry)| entry.used) else { return false };
            if let Some(entry) = state.packs.remove(&name) {
                state.octets = state.octets.saturating_sub(entry.octets);
            }
            // Under the lock: nobody may begin this file anew before it is gone.
            self.unlink(name);
        }
    }

    fn write(&self, name: PackName, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(self.path(name))?;
        file.write_all_at(bytes, offset)
    }
}

/// A reader of one pack: while it lasts, nothing of the pack is dropped.
struct Reader {
    inner: Arc<Inner>,
    name: PackName,
    pack_octets: u64,
    changed: Arc<Notify>,
}

impl Reader {
    fn enter(inner: &Arc<Inner>, name: PackName, pack_octets: u64) -> Self {
        let mut state = inner.lock();
        state.uses += 1;
        let used = state.uses;
        let entry = state.packs.entry(name).or_insert_with(|| {
            let count = usize::try_from(pack_octets.div_ceil(BLOCK_OCTETS)).unwrap_or(0);
            let blocks = vec![Block::Absent; count];
            Entry { blocks, octets: 0, run: (0, 0), used, readers: 0, changed: Arc::default() }
        });
        entry.used = used;
        entry.readers += 1;
        let changed = Arc::clone(&entry.changed);
        drop(state);
        Self { inner: Arc::clone(inner), name, pack_octets, changed }
    }

    /// Sees to it that `blocks` are cached; says which are not, and why.
    async fn load(&self, blocks: &BTreeSet<u64>, fetch: Fetch<'_>) -> Loaded {
        let mut loaded = Loaded::default();
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let missing =
                |block: &u64| !loaded.kept.contains_key(block) && !loaded.failed.contains_key(block);
            let plan = self.plan(blocks.iter().copied().filter(missing));
            if plan.fetch.is_empty() {
                if !plan.wait {
                    return loaded;
                }
                changed.await;
                continue;
            }
            // All of them now: who drops this reader in between gives all of them up.
            let mut fetches: Vec<BoxFuture<'_, Outcome>> = Vec::with_capacity(plan.fetch.len());
            for run in plan.fetch {
                fetches.push(Box::pin(Loading { reader: self, run }.fetch(fetch)));
            }
            let mut fetched = futures_util::stream::iter(fetches).buffer_unordered(FETCHES_MAX);
            while let Some(outcome) = fetched.next().await {
                loaded.add(outcome);
            }
        }
    }

    /// Cuts what is missing into runs, and marks them as being fetched.
    fn plan(&self, missing: impl Iterator<Item = u64>) -> Plan {
        let mut state = self.inner.lock();
        let Some(entry) = state.packs.get_mut(&self.name) else {
            return Plan { fetch: Vec::new(), wait: false };
        };
        let (mut fetch, mut wait): (Vec<Range<u64>>, bool) = (Vec::new(), false);
        for block in missing {
            match entry.at(block) {
                Some(Block::Present) | None => {}
                Some(Block::Loading) => wait = true,
                Some(Block::Absent) => {
                    let joined = fetch.last_mut().filter(|run| entry.may_join(run, block));
                    match joined {
                        Some(run) => run.end = block + 1,
                        None => fetch.push(block..block + 1),
                    }
                }
            }
        }
        if let Some(run) = fetch.last_mut() {
            entry.read_ahead(run);
        }
        for run in &fetch {
            entry.set(run, Block::Loading);
        }
        Plan { fetch, wait }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        if let Some(entry) = state.packs.get_mut(&self.name) {
            entry.readers = entry.readers.saturating_sub(1);
            if entry.readers == 0 && entry.octets == 0 {
                state.packs.remove(&self.name);
            }
        }
    }
}

impl Entry {
    fn at(&self, block: u64) -> Option<Block> {
        usize::try_from(block).ok().and_then(|block| self.blocks.get(block)).copied()
    }

    fn set(&mut self, run: &Range<u64>, to: Block) {
        for block in run.clone() {
            let block = usize::try_from(block).ok().and_then(|block| self.blocks.get_mut(block));
            block.into_iter().for_each(|block| *block = to);
        }
    }

    /// Whether a run may go on to `block`: all between is absent and short, and the run does not become too long.
    fn may_join(&self, run: &Range<u64>, block: u64) -> bool {
        let is_near = block - run.end <= GAP_BLOCKS_MAX && block - run.start < RUN_BLOCKS_MAX;
        is_near && (run.end..block).all(|between| self.at(between) == Some(Block::Absent))
    }

    /// Makes a run that follows the last one twice as long as that.
    fn read_ahead(&mut self, run: &mut Range<u64>) {
        let (length, end) = self.run;
        if run.start == end && length > 0 {
            let longest = run.start + (length * 2).min(RUN_BLOCKS_MAX);
            while run.end < longest && self.at(run.end) == Some(Block::Absent) {
                run.end += 1;
            }
        }
        self.run = (run.end - run.start, run.end);
    }
}

/// Blocks that are being fetched; if that comes to nothing they are absent again.
struct Loading<'a> {
    reader: &'a Reader,
    run: Range<u64>,
}

/// What became of a run.
struct Outcome {
    run: Range<u64>,
    /// Nothing when it is cached.
    unkept: Option<Result<Bytes>>,
}

impl Loading<'_> {
    fn octets(&self) -> Range<u64> {
        let end = (self.run.end * BLOCK_OCTETS).min(self.reader.pack_octets);
        self.run.start * BLOCK_OCTETS..end
    }

    async fn fetch(self, fetch: Fetch<'_>) -> Outcome {
        let bytes = fetch(self.octets()).await;
        self.finish(bytes).await
    }

    async fn finish(self, bytes: Result<Bytes>) -> Outcome {
        let (run, octets) = (self.run.clone(), self.octets());
        let length = octets.end - octets.start;
        let bytes = match bytes {
            Ok(bytes) if bytes.len() as u64 == length => bytes,
            Ok(_) => {
                return Outcome { run, unkept: Some(Err(StorageError::Busy("a range came back short"))) };
            }
            Err(error) => return Outcome { run, unkept: Some(Err(error)) },
        };
        let inner = &self.reader.inner;
        if !inner.make_room(length) {
            return Outcome { run, unkept: Some(Ok(bytes)) };
        }
        let (own, name, written) = (Arc::clone(inner), self.reader.name, bytes.clone());
        let write = blocking(move || {
            own.write(name, octets.start, &written).map_err(|error| io("write", &own.path(name), error))
        });
        match write.await {
            Ok(()) => {
                let mut state = inner.lock();
                if let Some(entry) = state.packs.get_mut(&name) {
                    entry.octets += length;
                    entry.set(&run, Block::Present);
                }
                Outcome { run, unkept: None }
            }
            Err(error) => {
                tracing::warn!(%error, "the cache takes nothing; mail is read without it");
                let mut state = inner.lock();
                state.octets = state.octets.saturating_sub(length);
                drop(state);
                Outcome { run, unkept: Some(Ok(bytes)) }
            }
        }
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let mut state = self.reader.inner.lock();
        if let Some(entry) = state.packs.get_mut(&self.reader.name) {
            for block in self.run.clone() {
                if entry.at(block) == Some(Block::Loading) {
                    entry.set(&(block..block + 1), Block::Absent);
                }
            }
        }
        drop(state);
        self.reader.changed.notify_waiters();
    }
}

/// What could not be cached: blocks in memory, and failures.
#[derive(Default)]
struct Loaded {
    kept: BTreeMap<u64, Bytes>,
    failed: BTreeMap<u64, Arc<StorageError>>,
}

impl Loaded {
    fn add(&mut self, outcome: Outcome) {
        match outcome.unkept {
            None => {}
            Some(Ok(mut bytes)) => {
                for block in outcome.run {
                    let length = bytes.len().min(usize::try_from(BLOCK_OCTETS).unwrap_or(usize::MAX));
                    self.kept.insert(block, bytes.split_to(length));
                }
            }
            Some(Err(error)) => {
                let error = Arc::new(error);
                self.failed.extend(outcome.run.map(|block| (block, Arc::clone(&error))));
            }
        }
    }

    fn range(&self, file: Option<&File>, range: &Range<u64>) -> Result<Bytes> {
        let blocks = blocks_of(range);
        if let Some((_, error)) = self.failed.range(blocks.clone()).next() {
            return Err(again(error));
        }
        let length = range.end - range.start;
        if length > RANGE_OCTETS_MAX {
            return Err(StorageError::Busy("no memory to read a pack"));
        }
        if length == 0 {
            return Ok(Bytes::new());
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        if self.kept.range(blocks.clone()).next().is_none() {
            read(file, &mut bytes, range.start)?;
            return Ok(bytes.into());
        }
        bytes.clear();
        for block in blocks {
            let start = block * BLOCK_OCTETS;
            let part = range.start.max(start)..range.end.min(start + BLOCK_OCTETS);
            let inside = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
            if let Some(kept) = self.kept.get(&block) {
                let cut = kept.get(inside(part.start)..inside(part.end));
                bytes.extend_from_slice(cut.ok_or(StorageError::Busy("a range came back short"))?);
            } else {
                let mut cut = vec![0; inside(part.end) - inside(part.start)];
                read(file, &mut cut, part.start)?;
                bytes.extend_from_slice(&cut);
            }
        }
        Ok(bytes.into())
    }
}

fn blocks_of(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_OCTETS..range.end.div_ceil(BLOCK_OCTETS)
}

/// A file that somebody removed from outside is forgotten, and the body looked up once more.
fn read(file: Option<&File>, bytes: &mut [u8], offset: u64) -> Result<()> {
    let lost = || StorageError::Gone(LOST);
    file.ok_or_else(lost)?.read_exact_at(bytes, offset).map_err(|_| lost())
}

/// The same error for another reader.
fn again(error: &StorageError) -> StorageError {
    match error {
        StorageError::Gone(what) => StorageError::Gone(what),
        StorageError::Full => StorageError::Full,
        StorageError::Busy(what) => StorageError::Busy(what),
        StorageError::Corrupt(what) => StorageError::Corrupt(what.clone()),
        other => StorageError::Io {
            what: "read from object storage".to_owned(),
            error: std::io::Error::other(other.to_string()),
        },
    }
}

fn io(what: &str, path: &Path, error: std::io::Error) -> StorageError {
    StorageError::Io { what: format!("{what} {}", path.display()), error }
}

#[cfg(test)]
mod tests;
