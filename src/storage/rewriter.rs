//! Writes packs anew: to leave out what is dead, to put together what is read together, to compress in another way.
//!
//! # Consistency
//! The living frames of all sources are sorted, copied into new packs, and then re-pointed, each in one transaction
//! with the counts of both packs ([`rewrite::repoint`]). A body is readable at every moment. A frame that is damaged
//! stays where it is and is reported.
//!
//! # Crash Consistency
//! The points where a crash can happen, and what the next start finds:
//!
//! - after the intent (5), while frames are written (6), after the file has its name (7): the file is removed by the
//!   intent, as with the packer's;
//! - after some bodies were re-pointed (8): the others are where they were, and their frames in the new pack are dead.
//!
//! # Cancellation
//! As a crash, but for the temporary file, which goes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::background::background;
use super::bodies::Bodies;
use super::metadata::dictionary;
use super::metadata::lane::Priority;
use super::metadata::pack::{self, Framed, Intended, StoreVolume, Written};
use super::metadata::rewrite::{self, Heritage, Living, Moved, PackRow};
use super::pack::{
    Codec, DICTIONARY_NONE, DICTIONARY_SHIPPED, Frame, FrameHeader, PackName, PackReader, PackSummary,
    PackWriter, TARGET_OCTETS, recode,
};
use super::{Result, StorageError};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, PackId};

/// Most octets that are copied in one go on a thread.
const SLICE_OCTETS_MAX: u64 = 2 << 20;
/// Most rows that one transaction changes.
const SLICE_ROWS_MAX: usize = 128;
/// Bodies looked up at once.
const LOOKUP_MAX: usize = 1_000;

/// How fast background work reads and writes.
#[derive(Debug)]
pub struct Pace {
    octets_per_sec: u64,
    since: Instant,
    octets: u64,
}

impl Pace {
    /// At most so many octets a second; 0 means no limit.
    pub fn new(octets_per_sec: u64) -> Self {
        Self { octets_per_sec, since: Instant::now(), octets: 0 }
    }

    /// Waits until `octets` more may be moved.
    pub async fn step(&mut self, octets: u64) {
        self.octets = self.octets.saturating_add(octets);
        if let Some(millis) = self.octets.saturating_mul(1_000).checked_div(self.octets_per_sec) {
            tokio::time::sleep_until(self.since + Duration::from_millis(millis)).await;
        }
    }
}

/// A pack to be written anew, open.
#[derive(Clone, Debug)]
pub struct Source {
    /// The pack.
    pub row: PackRow,
    /// Its file, or a copy of its object.
    pub reader: Arc<PackReader>,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Rewritten {
    /// The new packs.
    pub packs: Vec<PackName>,
    /// Bodies that were copied.
    pub bodies: u64,
    /// Octets of the old packs.
    pub octets_before: u64,
    /// Octets of the new packs.
    pub octets_after: u64,
    /// Bodies whose frames are damaged, with their packs, where they stay.
    pub damaged: Vec<(PackId, BodyId)>,
}

/// How packs are written anew.
pub struct Rewriting<'a> {
    /// The mail store.
    pub volume: &'a StoreVolume,
    /// How often the bodies were merged then.
    pub tier: i64,
    /// Whether frames are compressed anew as the store's settings say; else they are copied as they are.
    pub recodes: bool,
    /// How fast.
    pub pace: &'a mut Pace,
    /// Now.
    pub now: Timestamp,
    /// Where a crash is tried out.
    #[cfg(test)]
    pub(super) fault: Option<&'a super::packer_tests::Fault>,
}

impl Rewriting<'_> {
    /// A point where a crash is tried out; the numbers go on behind those of `offload.rs`.
    #[cfg(test)]
    async fn reach(&self, point: u8) {
        if let Some(fault) = self.fault {
            fault.reach(point).await;
        }
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, clippy::unused_async, reason = "only tests crash here")]
    async fn reach(&self, _point: u8) {}
}

/// Writes what lives in `sources` into new packs on the volume; the sources are dead afterwards, but for damaged
/// frames.
///
/// # Errors
/// `Full`, `Io` or `Database`; what was moved before stays so.
pub async fn rewrite(bodies: &Bodies, sources: &[Source], mut how: Rewriting<'_>) -> Result<Rewritten> {
    let mut living = Vec::new();
    let mut done = Rewritten::default();
    // Frames that are copied as they are need theirs.
    let packs: Vec<PackId> = sources.iter().map(|source| source.row.pack).collect();
    bodies.place_dictionaries_of(how.volume.store, &packs).await?;
    for source in sources {
        done.octets_before += source.row.octets;
        living.extend(living_of(bodies, source).await?);
    }
    living.sort_unstable();
    let readers: Readers =
        sources.iter().map(|source| (source.row.pack, Arc::clone(&source.reader))).collect();
    let readers = Arc::new(readers);
    let oldest = sources.iter().map(|source| source.row.generation).min().unwrap_or(0);
    let lineage = Lineage {
        youngest: sources.iter().map(|source| source.row.created_at).max().unwrap_or(how.now),
        generation: if how.recodes { how.volume.generation } else { oldest },
    };
    let recoder =
        if how.recodes { Some(Arc::new(Recoder::new(bodies, how.volume, &living).await?)) } else { None };
    let mut rest = living.as_slice();
    while !rest.is_empty() {
        let (part, after) = cut(rest, TARGET_OCTETS, usize::MAX);
        rest = after;
        write(bodies, (&readers, recoder.as_ref()), part, lineage, &mut how, &mut done).await?;
    }
    Ok(done)
}

/// What new packs have from all sources together.
#[derive(Clone, Copy)]
struct Lineage {
    youngest: Timestamp,
    generation: i64,
}

type Readers = BTreeMap<PackId, Arc<PackReader>>;
/// Where frames come from, and what makes others of them.
type From<'a> = (&'a Arc<Readers>, Option<&'a Arc<Recoder>>);

/// Compresses frames as a store's settings say.
struct Recoder {
    codec: Codec,
    /// Dictionaries in use, by customer.
    dictionaries: BTreeMap<i64, u32>,
    dictionary: bool,
    decode: bool,
}

impl Recoder {
    /// For these bodies: the dictionaries of their customers are loaded.
    async fn new(bodies: &Bodies, volume: &StoreVolume, living: &[Living]) -> Result<Self> {
        let wanted = &volume.settings.compression;
        let scopes: BTreeSet<i64> = living.iter().map(|one| one.scope).collect();
        let scopes: Vec<i64> = scopes.into_iter().collect();
        let read = bodies.database().read(|conn| {
            Box::pin(async move {
                Ok::<_, StorageError>((
                    dictionary::of(conn, &scopes).await?,
                    dictionary::in_use(conn, &scopes).await?,
                ))
            })
        });
        let (all, mut dictionaries): (Vec<u32>, BTreeMap<i64, u32>) = read.await?;
        let lost = bodies.learn(all.into_iter().collect()).await?;
        dictionaries.retain(|_, id| wanted.retrain && !lost.contains(id));
        bodies.place_dictionaries(volume.store, &dictionaries.values().copied().collect()).await?;
        let codec = bodies.codec().at_level(wanted.level.cast_signed());
        Ok(Self { codec, dictionaries, dictionary: wanted.dictionary, decode: wanted.decode })
    }

    /// Another frame; nothing when this one is good. One whose dictionary cannot be loaded stays as it is.
    fn recode(&self, frame: &Frame, scope: i64) -> Result<Option<(FrameHeader, Vec<u8>)>> {
        let own = self.dictionaries.get(&scope).copied().unwrap_or(DICTIONARY_SHIPPED);
        let dictionary = if self.dictionary { own } else { DICTIONARY_NONE };
        match recode(&self.codec, frame, dictionary, self.decode) {
            Err(StorageError::Busy(_)) => Ok(None),
            recoded => recoded,
        }
    }
}

async fn living_of(bodies: &Bodies, source: &Source) -> Result<Vec<Living>> {
    let (reader, pack) = (Arc::clone(&source.reader), source.row.pack);
    let index = background(move || reader.index()).await?;
    let mut living = Vec::with_capacity(index.len());
    for chunk in index.chunks(LOOKUP_MAX) {
        let wanted: Vec<BodyId> = chunk.iter().map(|entry| entry.body).collect();
        let read = bodies
            .database()
            .read(|conn| Box::pin(async move { rewrite::living(conn, pack, &wanted).await }));
        let found: Vec<Living> = read.await?;
        living.extend(found);
    }
    Ok(living)
}

/// As many from the front as make `octets` or `rows`, and the rest.
fn cut(living: &[Living], octets: u64, rows: usize) -> (&[Living], &[Living]) {
    let (mut sum, mut count) = (0_u64, 0);
    for one in living {
        sum = sum.saturating_add(one.stored_octets);
        count += 1;
        if sum >= octets || count >= rows {
            break;
        }
    }
    living.split_at_checked(count).unwrap_or((living, &[]))
}

/// Writes one pack and moves its bodies.
async fn write(
    bodies: &Bodies,
    from: From<'_>,
    living: &[Living],
    lineage: Lineage,
    how: &mut Rewriting<'_>,
    done: &mut Rewritten,
) -> Result<()> {
    let (name, store, now) = (PackName::random(), how.volume.store, how.now);
    let node = bodies.node().clone();
    let intend = bodies.database().write(Priority::Background, move |conn| {
        let node = node.clone();
        Box::pin(async move { pack::intend(conn, &node, now, &[(name, store)]).await })
    });
    intend.await?;
    how.reach(5).await;
    let outcome = match fill(bodies, from, name, living, how, done).await {
        Ok(Some((summary, moved))) => {
            let heritage = Heritage {
                tier: how.tier,
                generation: lineage.generation,
                original_octets: moved.iter().map(|(_, octets)| octets).sum(),
                created_at: lineage.youngest,
            };
            let moved: Vec<Moved> = moved.into_iter().map(|(moved, _)| moved).collect();
            publish(bodies, how, &summary, heritage, moved).await.map(|()| Some(summary))
        }
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    if let Ok(Some(summary)) = &outcome {
        done.packs.push(name);
        done.bodies += u64::from(summary.frames);
        done.octets_after += summary.octets;
        return Ok(());
    }
    bodies.discard(&Intended { name, store, store_path: how.volume.path.clone() }).await?;
    outcome.map(drop)
}

/// Copies frames into a new file; nothing when none could be copied. Answers each body's way and its length.
async fn fill(
    bodies: &Bodies,
    (readers, recoder): From<'_>,
    name: PackName,
    living: &[Living],
    how: &mut Rewriting<'_>,
    done: &mut Rewritten,
) -> Result<Option<(PackSummary, Vec<(Moved, u64)>)>> {
    let mut writer = bodies.begin_pack(how.volume, name).await?;
    let mut moved = Vec::with_capacity(living.len());
    let mut rest = living;
    while !rest.is_empty() {
        let (slice, after) = cut(rest, SLICE_OCTETS_MAX, usize::MAX);
        rest = after;
        let (slice, readers, recoder) = (slice.to_vec(), Arc::clone(readers), recoder.cloned());
        let octets: u64 = slice.iter().map(|one| one.stored_octets).sum();
        let copy = move || {
            let copied = copy_all(&mut writer, &readers, recoder.as_deref(), &slice)?;
            Ok((writer, copied))
        };
        let (written, (copied, damaged)) = background(copy).await?;
        writer = written;
        moved.extend(copied);
        done.damaged.extend(damaged);
        how.pace.step(octets).await;
        how.reach(6).await;
    }
    if moved.is_empty() {
        return Ok(None);
    }
    let summary = background(move || writer.finish()).await?;
    how.reach(7).await;
    Ok(Some((summary, moved)))
}

type Copied = (Vec<(Moved, u64)>, Vec<(PackId, BodyId)>);

fn copy_all(
    writer: &mut PackWriter,
    readers: &Readers,
    recoder: Option<&Recoder>,
    living: &[Living],
) -> Result<Copied> {
    let (mut moved, mut damaged) = (Vec::with_capacity(living.len()), Vec::new());
    for one in living {
        let reader = readers.get(&one.pack).ok_or(StorageError::Gone("pack"))?;
        let location = one.frame().ok_or(StorageError::Corrupt(format!("body {} has no place", one.body)));
        let frame = location.and_then(|location| reader.frame(location, one.body));
        let recoded = frame.and_then(|frame| match recoder {
            Some(recoder) => Ok((recoder.recode(&frame, one.scope)?, frame)),
            None => Ok((None, frame)),
        });
        let location = match recoded {
            Ok((Some((header, data)), _)) => (writer.append(&header, &data)?, header.stored_len),
            Ok((None, frame)) => (writer.append(frame.header(), frame.data())?, frame.header().stored_len),
            Err(StorageError::Corrupt(what)) => {
                tracing::error!(body = %one.body, pack = %reader.name(), what, "a damaged body stays in its pack");
                damaged.push((one.pack, one.body));
                continue;
            }
            Err(error) => return Err(error),
        };
        let to = Framed { body: one.body, offset: location.0.offset, stored_octets: location.1 };
        // A part was not received as such.
        let received = if one.is_message { one.octets } else { 0 };
        moved.push((Moved { from: one.pack, stored_octets: one.stored_octets, to }, received));
    }
    Ok((moved, damaged))
}

async fn publish(
    bodies: &Bodies,
    how: &Rewriting<'_>,
    summary: &PackSummary,
    heritage: Heritage,
    mut moved: Vec<Moved>,
) -> Result<()> {
    let now = how.now;
    // Locks are taken in the order of bodies, as whoever deletes them does.
    moved.sort_unstable_by_key(|one| one.to.body);
    let written = Written {
        summary: summary.clone(),
        store: how.volume.store,
        stored_octets: moved.iter().map(|one| u64::from(one.to.stored_octets)).sum(),
        original_octets: heritage.original_octets,
        generation: heritage.generation,
    };
    let (first, rest) = moved.split_at_checked(SLICE_ROWS_MAX).unwrap_or((&moved, &[]));
    let first = first.to_vec();
    let write = bodies.database().write(Priority::Background, move |conn| {
        let (written, first) = (written.clone(), first.clone());
        Box::pin(async move {
            let pack = pack::publish(conn, &written, now).await?;
            rewrite::inherit(conn, pack, heritage).await?;
            rewrite::repoint(conn, pack, &first).await?;
            Ok::<PackId, StorageError>(pack)
        })
    });
    let pack = write.await?;
    how.reach(8).await;
    for slice in rest.chunks(SLICE_ROWS_MAX) {
        let slice = slice.to_vec();
        let write = bodies.database().write(Priority::Background, move |conn| {
            let slice = slice.clone();
            Box::pin(async move { rewrite::repoint(conn, pack, &slice).await })
        });
        match write.await {
            Ok(()) => {}
            // All bodies that it held were deleted, and it was dropped: the rest stays where it is.
            Err(StorageError::Gone(_)) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
