//! Reads packs back, wherever their copies are, and compares every living body with its checksums.
//!
//! # Consistency
//! What is read is what the database says is there: a body that moved meanwhile is left to its new pack, a pack that
//! went meanwhile is left out. Bodies that nothing refers to are not read.
//!
//! # Cancellation
//! Between two packs, and at every await; what was found so far is in the [`Verification`], which goes on behind the
//! last pack.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::background::background;
use super::bodies::Bodies;
use super::metadata::lane::Priority;
use super::metadata::rewrite::{self, Living, PackRow};
use super::pack::{Frame, FrameLocation, IndexEntry, PackEnd, PackReader};
use super::remote::{ObjectKey, Remote, RemoteError};
use super::rewriter::Pace;
use super::volumes::Volume;
use super::{Result, StorageError};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, PackId, StoreId, random_text};
use crate::base::progress::Progress;

/// Damages that are told one by one; the others are counted.
const DAMAGES_MAX: usize = 100;
/// Octets of frames that are read at once, unless a single one is larger.
const SLICE_OCTETS_MAX: u64 = 4 << 20;
/// Octets of bodies that are in memory at once, unless a single one is larger.
const BODIES_OCTETS_MAX: u64 = 16 << 20;
/// Bodies looked up at once.
const LOOKUP_MAX: usize = 1_000;
/// Packs asked for at a time.
const PAGE_PACKS: i64 = 256;

/// Something that cannot be read as it was written.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Damage {
    /// Name of the pack.
    pub pack: String,
    /// Which copy of it: `volume` or `object storage`.
    pub copy: String,
    /// The body; nothing when it is the whole copy.
    pub body: Option<String>,
    /// What is wrong.
    pub what: String,
}

/// How far a verification is, and what it has found.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, Debug)]
pub struct Verification {
    /// Copies of packs that were read.
    pub packs: u64,
    /// Bodies that were read.
    pub bodies: u64,
    /// Octets of their frames.
    pub octets: u64,
    /// Damages that were found.
    pub damage: u64,
    /// The first hundred of them.
    pub damaged: Vec<Damage>,
    /// The last pack that is done.
    after: i64,
    /// What a sample is drawn with.
    seed: String,
    /// Packs that were looked at, drawn or not.
    passed: u64,
}

impl Verification {
    fn add(&mut self, pack: &PackRow, copy: &str, body: Option<BodyId>, what: String) {
        self.damage += 1;
        if self.damaged.len() < DAMAGES_MAX {
            let (pack, copy) = (pack.name.to_string(), copy.to_owned());
            self.damaged.push(Damage { pack, copy, body: body.map(|body| body.to_string()), what });
        }
    }

    /// Whether a pack belongs to a sample of so many percent.
    fn draws(&self, pack: &PackRow, percent: u32) -> bool {
        let hash = blake3::hash(format!("{}{}", self.seed, pack.name).as_bytes());
        let drawn = hash.as_bytes().first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        drawn % 100 < percent
    }
}

/// Reads the packs of a store back, or a sample of `percent` of them, from where `so_far` is; `each` is told after
/// every pack.
///
/// # Errors
/// What the database says; what object storage says, unless it is that something is missing or damaged; `Busy` when the
/// store was stopped. Damage is no error.
pub async fn verify(
    bodies: &Bodies,
    store: StoreId,
    percent: u32,
    so_far: Verification,
    (now, progress): (Timestamp, &Progress),
    mut each: impl FnMut(&Verification),
) -> Result<Verification> {
    let mut done = so_far;
    if done.seed.is_empty() {
        done.seed = random_text(16);
    }
    let total = bodies.database().read(|conn| Box::pin(rewrite::living_packs(conn, store))).await?;
    let pace = bodies.volumes().get(store).await?.store.settings.compaction.octets_per_sec_max;
    let mut work = Work { bodies, pace: Pace::new(pace), now };
    let mut last: Option<PackRow> = None;
    loop {
        let after = PackId(done.after);
        let read = bodies
            .database()
            .read(|conn| Box::pin(async move { rewrite::packs_after(conn, store, after, PAGE_PACKS).await }));
        let page: Vec<PackRow> = read.await?;
        let Some(end) = page.last().cloned() else { break };
        for pack in &page {
            progress.go_on()?;
            if done.draws(pack, percent) {
                work.pack(store, pack, &mut done).await?;
            }
            (done.after, done.passed) = (pack.pack.0, done.passed + 1);
            progress.advance(done.passed, Some(total), "packs");
            each(&done);
        }
        last = Some(end);
    }
    // A sample of few packs may have drawn none.
    if let Some(pack) = last.filter(|_| done.packs == 0) {
        work.pack(store, &pack, &mut done).await?;
    }
    Ok(done)
}

struct Work<'a> {
    bodies: &'a Bodies,
    pace: Pace,
    now: Timestamp,
}

/// A copy of a pack, to be read by ranges.
enum Copy<'a> {
    Local(Arc<PackReader>),
    Remote(&'a Remote, ObjectKey),
}

impl Work<'_> {
    /// All copies of a pack.
    async fn pack(&mut self, store: StoreId, pack: &PackRow, done: &mut Verification) -> Result<()> {
        let volume = self.bodies.volumes().get(store).await?;
        volume.admit_reads()?;
        let (before, id) = (done.damage, pack.pack);
        let mut damaged = 0;
        for (is_there, name) in [(pack.is_local, "volume"), (pack.is_remote, "object storage")] {
            if !is_there {
                continue;
            }
            let found = match self.open(&volume, pack, name == "volume").await {
                Ok(copy) => self.copy(pack, &copy, done).await,
                Err(error) => Err(error),
            };
            let found = match found {
                Ok(found) => found,
                Err(error) if is_damage(&error) => {
                    if self.has_moved(pack).await? {
                        return Ok(());
                    }
                    vec![(None, error.to_string())]
                }
                Err(error) => return Err(error),
            };
            done.packs += 1;
            damaged = damaged.max(found.iter().filter(|(body, _)| body.is_some()).count() as u64);
            for (body, what) in found {
                tracing::error!(pack = %pack.name, copy = name, ?body, what, "damage was found");
                done.add(pack, name, body, what);
            }
        }
        let (is_intact, now) = (done.damage == before, self.now);
        let note = self.bodies.database().write(Priority::Background, move |conn| {
            Box::pin(async move {
                if is_intact {
                    rewrite::note_intact(conn, id).await
                } else {
                    rewrite::note_damage(conn, id, damaged, now).await
                }
            })
        });
        note.await
    }

    /// Whether a pack is not where it was said to be because it went or changed places meanwhile.
    async fn has_moved(&self, pack: &PackRow) -> Result<bool> {
        let id = pack.pack;
        let read = self.bodies.database().read(|conn| Box::pin(rewrite::pack_now(conn, id)));
        let now: Option<PackRow> = read.await?;
        Ok(now.is_none_or(|now| (now.is_local, now.is_remote) != (pack.is_local, pack.is_remote)))
    }

    async fn open<'v>(&self, volume: &'v Volume, pack: &PackRow, is_local: bool) -> Result<Copy<'v>> {
        if !is_local {
            return Ok(Copy::Remote(volume.remote()?, ObjectKey::of_pack(pack.name)));
        }
        let path = pack.name.path(&self.bodies.pack_folder(&volume.store.path));
        let (name, octets) = (pack.name, pack.octets);
        let opened = background(move || {
            let reader = PackReader::open(&path)?;
            if reader.name() != name || reader.octets() != octets {
                return Err(StorageError::Corrupt(format!("{} is not this pack", path.display())));
            }
            Ok(reader)
        });
        match opened.await {
            Ok(reader) => Ok(Copy::Local(Arc::new(reader))),
            Err(error) => {
                volume.confirm_folder()?;
                Err(error)
            }
        }
    }

    /// Every living body of a copy. Answers what is damaged.
    async fn copy(
        &mut self,
        pack: &PackRow,
        copy: &Copy<'_>,
        done: &mut Verification,
    ) -> Result<Vec<(Option<BodyId>, String)>> {
        let mut found = Vec::new();
        let mut living = self.living(pack, copy.index(pack).await?, &mut found).await?;
        living.sort_unstable_by_key(|one| one.offset);
        let mut rest = living.as_slice();
        while !rest.is_empty() {
            let (slice, after) = cut(rest);
            rest = after;
            let frames = copy.frames(pack, slice).await?;
            done.bodies += slice.len() as u64;
            let octets: u64 = slice.iter().map(|one| one.stored_octets).sum();
            done.octets += octets;
            let read: Vec<Result<Bytes>> = self.bodies.unpack_frames(frames).await;
            for (one, read) in slice.iter().zip(read) {
                let Err(error) = read else { continue };
                if !is_damage(&error) {
                    return Err(error);
                }
                if self.is_there(pack, one).await? {
                    found.push((Some(one.body), error.to_string()));
                }
            }
            self.pace.step(octets).await;
        }
        Ok(found)
    }

    /// Whether a body is still where it was read.
    async fn is_there(&self, pack: &PackRow, body: &Living) -> Result<bool> {
        let (id, wanted) = (pack.pack, [body.body]);
        let read = self
            .bodies
            .database()
            .read(|conn| Box::pin(async move { rewrite::living(conn, id, &wanted).await }));
        let now: Vec<Living> = read.await?;
        Ok(now.iter().any(|now| now.offset == body.offset))
    }

    /// The living bodies of a pack, by its index. Those that the index does not have where the database has them are
    /// damage.
    async fn living(
        &self,
        pack: &PackRow,
        index: Vec<IndexEntry>,
        found: &mut Vec<(Option<BodyId>, String)>,
    ) -> Result<Vec<Living>> {
        let mut living = Vec::with_capacity(index.len());
        for chunk in index.chunks(LOOKUP_MAX) {
            let (id, wanted) = (pack.pack, chunk.iter().map(|entry| entry.body).collect::<Vec<_>>());
            let read = self
                .bodies
                .database()
                .read(|conn| Box::pin(async move { rewrite::living(conn, id, &wanted).await }));
            let some: Vec<Living> = read.await?;
            for one in some {
                let entry = chunk.binary_search_by_key(&one.body, |entry| entry.body);
                let entry = entry.ok().and_then(|at| chunk.get(at));
                if entry.is_some_and(|entry| u64::from(entry.offset) == one.offset) {
                    living.push(one);
                } else {
                    found.push((Some(one.body), "the index has it elsewhere".to_owned()));
                }
            }
        }
        Ok(living)
    }
}

impl Copy<'_> {
    async fn index(&self, pack: &PackRow) -> Result<Vec<IndexEntry>> {
        match self {
            Self::Local(reader) => {
                let reader = Arc::clone(reader);
                background(move || reader.index()).await
            }
            Self::Remote(remote, key) => {
                let start = pack.octets.saturating_sub(PackEnd::OCTETS);
                let bytes = remote.get_range(key, start, PackEnd::OCTETS).await?;
                let end = PackEnd::decode(pack.name, &bytes, pack.octets)?;
                let (offset, length) = end.index_place();
                end.index(&remote.get_range(key, offset, length).await?)
            }
        }
    }

    /// The frames of bodies that lie behind each other.
    async fn frames(&self, pack: &PackRow, slice: &[Living]) -> Result<Vec<Result<Frame>>> {
        let misplaced = |one: &Living| {
            StorageError::Corrupt(format!("body {} cannot be where it is said to be", one.body))
        };
        match self {
            Self::Local(reader) => {
                let (reader, slice) = (Arc::clone(reader), slice.to_vec());
                let read =
                    move |one: &Living| reader.frame(one.frame().ok_or_else(|| misplaced(one))?, one.body);
                background(move || Ok(slice.iter().map(read).collect())).await
            }
            Self::Remote(remote, key) => {
                let locations: Vec<Option<FrameLocation>> = slice.iter().map(Living::frame).collect();
                let ends = locations.iter().flatten().map(|at| u64::from(at.offset) + u64::from(at.length));
                let start = locations.iter().flatten().map(|at| u64::from(at.offset)).min().unwrap_or(0);
                let end = ends.max().unwrap_or(0).min(pack.octets);
                let bytes = remote.get_range(key, start, end.saturating_sub(start)).await?;
                let cut_off = || StorageError::Corrupt("the pack is cut off".to_owned());
                let decode = |(one, location): (&Living, Option<FrameLocation>)| {
                    let location = location.ok_or_else(|| misplaced(one))?;
                    let from = usize::try_from(u64::from(location.offset).saturating_sub(start));
                    let length = usize::try_from(location.length);
                    let (from, length) = (from.unwrap_or(usize::MAX), length.unwrap_or(usize::MAX));
                    let frame = bytes.get(from..from.saturating_add(length)).ok_or_else(cut_off)?;
                    Frame::decode(pack.name, frame.to_vec(), one.body)
                };
                Ok(slice.iter().zip(locations).map(decode).collect())
            }
        }
    }
}

/// As many from the front as are read at once, at least one, and the rest; gaps count.
fn cut(living: &[Living]) -> (&[Living], &[Living]) {
    let start = living.first().map_or(0, |one| one.offset);
    let mut octets = 0_u64;
    let fits = |one: &&Living| {
        octets = octets.saturating_add(one.octets);
        let end = one.offset.saturating_add(one.stored_octets);
        octets <= BODIES_OCTETS_MAX && end.saturating_sub(start) <= SLICE_OCTETS_MAX
    };
    let count = living.iter().take_while(fits).count().max(1);
    living.split_at_checked(count).unwrap_or((living, &[]))
}

/// Whether it is damage; else reading it again later may help.
fn is_damage(error: &StorageError) -> bool {
    matches!(
        error,
        StorageError::Corrupt(_)
            | StorageError::Gone(_)
            | StorageError::Io { .. }
            | StorageError::Remote(RemoteError::NotFound(_) | RemoteError::Corrupt(_))
    )
}
