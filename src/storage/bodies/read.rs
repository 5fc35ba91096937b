//! Reading bodies: from the database, from packs, and put together from parts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{Bodies, INLINE_OCTETS_MAX, blocking, unpack};
use crate::base::id::{BodyId, PackId, StoreId};
use crate::storage::metadata::body::{InPack, Location, locate, locate_all};
use crate::storage::metadata::delivery::Packed;
use crate::storage::metadata::dictionary;
use crate::storage::pack::recipe::Recipe;
use crate::storage::pack::{Content, Frame, FrameLocation, PackReader};
use crate::storage::remote::ObjectKey;
use crate::storage::{Result, StorageError};

/// How often a body is looked up that is not where it was said to be.
const LOOKUPS_MAX: usize = 2;
/// Parts that are looked up with one statement.
const PARTS_LOCATED_MAX: usize = 256;

/// Dictionaries that are loaded with one statement.
const DICTIONARIES_LOADED_MAX: usize = 16;

/// A body on its way out.
enum Opened {
    Whole(Bytes),
    /// Its parts are still to be read.
    Parts(Frame, Recipe),
}

/// What is to be decompressed.
enum Stored {
    Fresh(Packed),
    Frame(Frame),
}

impl Bodies {
    /// The original bytes of a body.
    ///
    /// # Errors
    /// `Gone` when there is no such body, `Corrupt` when its bytes, or those of a part, are damaged or missing,
    /// `Io` or `Database` when they cannot be read now.
    pub async fn read(&self, body: BodyId) -> Result<Bytes> {
        let mut missing = None;
        for _ in 0..LOOKUPS_MAX {
            let location = self.inner.database.read(|conn| Box::pin(locate(conn, body))).await?;
            let located = vec![(body, location.ok_or(StorageError::Gone("body"))?)];
            match self.read_once(located).await.pop() {
                Some(Err(StorageError::Gone(what))) => missing = Some(what),
                Some(read) => return read,
                None => {}
            }
        }
        let what = missing.unwrap_or("pack");
        Err(StorageError::Corrupt(format!("the {what} of body {body} is missing")))
    }

    /// Bodies that were just looked up, in their order; those that are not there any more are looked up again.
    /// All of them are held in memory, so give about a megabyte.
    pub async fn read_located(&self, wanted: Vec<(BodyId, Location)>) -> Vec<Result<Bytes>> {
        let bodies: Vec<BodyId> = wanted.iter().map(|(body, _)| *body).collect();
        let mut read = self.read_once(wanted).await;
        for (body, read) in bodies.iter().zip(&mut read) {
            if matches!(read, Err(StorageError::Gone(_))) {
                *read = self.read(*body).await;
            }
        }
        read
    }

    /// Reads bodies, in their order; `Gone` for those of which something is not where it was said to be.
    async fn read_once(&self, wanted: Vec<(BodyId, Location)>) -> Vec<Result<Bytes>> {
        let opened = self.open(wanted).await;
        self.assemble_all(opened).await
    }

    /// What frames that were read hold, compared with their hashes, in their order. Parts are read where they are.
    pub(in crate::storage) async fn unpack_frames(
        &self,
        mut frames: Vec<Result<Frame>>,
    ) -> Vec<Result<Bytes>> {
        let count = frames.len();
        self.learn_for(&mut frames).await;
        let own = self.clone();
        let open = move |frame: Result<Frame>| own.decompress_stored(Stored::Frame(frame?));
        let opened = blocking(move || Ok(frames.into_iter().map(open).collect())).await;
        let mut opened: Vec<Result<Opened>> = opened.unwrap_or_default();
        opened.resize_with(count, || Err(StorageError::Busy("work on a body was interrupted")));
        self.assemble_all(opened).await
    }

    /// Puts bodies together that are made of parts, in their order.
    async fn assemble_all(&self, opened: Vec<Result<Opened>>) -> Vec<Result<Bytes>> {
        let needed = |opened: &Result<Opened>| match opened {
            Ok(Opened::Parts(_, recipe)) => recipe.parts().into_keys().collect(),
            Ok(Opened::Whole(_)) | Err(_) => Vec::new(),
        };
        let needed: BTreeSet<BodyId> = opened.iter().flat_map(needed).collect();
        let parts = self.read_parts(needed).await;
        let mut read = Vec::with_capacity(opened.len());
        for opened in opened {
            read.push(match opened {
                Ok(Opened::Whole(original)) => Ok(original),
                Ok(Opened::Parts(frame, recipe)) => assemble(frame, recipe, &parts).await,
                Err(error) => Err(error),
            });
        }
        read
    }

    /// The bytes of parts; an error for each that can't be had.
    async fn read_parts(&self, parts: BTreeSet<BodyId>) -> BTreeMap<BodyId, Result<Bytes>> {
        let parts: Vec<BodyId> = parts.into_iter().collect();
        let mut read = BTreeMap::new();
        for some in parts.chunks(PARTS_LOCATED_MAX) {
            let wanted = some.to_vec();
            let locate = self
                .inner
                .database
                .read(|conn| Box::pin(async move { locate_all(conn, &wanted).await }))
                .await;
            let located = match locate {
                Ok(located) => located,
                Err(error) => {
                    tracing::warn!(%error, "parts of bodies could not be looked up");
                    read.extend(some.iter().map(|part| (*part, Err(LATER))));
                    continue;
                }
            };
            let found: Vec<BodyId> = located.iter().map(|(part, _)| *part).collect();
            let opened = self.open(located).await;
            let whole = opened.into_iter().map(|opened| match opened? {
                Opened::Whole(original) => Ok(original),
                Opened::Parts(..) => Err(StorageError::Corrupt("a part is made of parts".to_owned())),
            });
            read.extend(found.into_iter().zip(whole));
        }
        read
    }

    /// Reads and decompresses, in their order.
    async fn open(&self, wanted: Vec<(BodyId, Location)>) -> Vec<Result<Opened>> {
        let count = wanted.len();
        let (mut stored, mut places) = (Vec::with_capacity(count), Vec::new());
        let closed = self.closed(wanted.iter().map(|(_, location)| location.store()).collect()).await;
        for (body, location) in wanted {
            if let Some(why) = closed.get(&location.store()) {
                stored.push(Some(Err(StorageError::Busy(why))));
                continue;
            }
            stored.push(match location {
                Location::Fresh { packed, .. } => Some(Ok(Stored::Fresh(packed))),
                Location::Pack(place) => {
                    places.push((body, place));
                    None
                }
            });
        }
        let mut frames = self.read_frames(places).await;
        self.learn_for(&mut frames).await;
        let mut frames = frames.into_iter();
        let lost = || Err(StorageError::Busy("work on a body was interrupted"));
        let mut next_frame = || frames.next().unwrap_or_else(lost).map(Stored::Frame);
        let stored: Vec<Result<Stored>> =
            stored.into_iter().map(|stored| stored.unwrap_or_else(&mut next_frame)).collect();
        let octets = stored.iter().flatten().fold(0_u64, |sum, stored| sum.saturating_add(stored.octets()));
        let own = self.clone();
        let open = move || stored.into_iter().map(|stored| own.decompress_stored(stored?)).collect();
        let mut opened: Vec<Result<Opened>> = if octets <= INLINE_OCTETS_MAX as u64 {
            open()
        } else {
            blocking(move || Ok(open())).await.unwrap_or_default()
        };
        opened.resize_with(count, || Err(StorageError::Busy("work on a body was interrupted")));
        opened
    }

    /// Which of these stores cannot be read now, and why.
    async fn closed(&self, stores: BTreeSet<StoreId>) -> BTreeMap<StoreId, &'static str> {
        let mut closed = BTreeMap::new();
        for store in stores {
            // Whether a store is there at all shows when its files are opened.
            if let Ok(volume) = self.volumes().get(store).await
                && let Err(StorageError::Busy(why)) = volume.admit_reads()
            {
                closed.insert(store, why);
            }
        }
        closed
    }

    /// Loads the dictionaries that frames need; a frame whose dictionary is gone can't be read any more.
    async fn learn_for(&self, frames: &mut [Result<Frame>]) {
        let needed = frames.iter().flatten().map(|frame| frame.header().dictionary_id).collect();
        let lost = match self.learn(needed).await {
            Ok(lost) => lost,
            Err(error) => {
                // Reading them answers that this must be done first.
                tracing::warn!(%error, "a dictionary could not be loaded");
                return;
            }
        };
        for frame in frames.iter_mut() {
            let needs = frame.as_ref().map_or(0, |frame| frame.header().dictionary_id);
            if lost.contains(&needs) {
                *frame = Err(StorageError::Corrupt(format!("dictionary {needs} is missing")));
            }
        }
    }

    /// Loads dictionaries, so that the codec can decompress frames that need them. Answers which are not there.
    ///
    /// # Errors
    /// `Database`, or `Corrupt` when one is damaged.
    pub async fn learn(&self, dictionaries: BTreeSet<u32>) -> Result<BTreeSet<u32>> {
        let codec = &self.inner.codec;
        let mut unknown: BTreeSet<u32> = dictionaries.into_iter().filter(|id| !codec.knows(*id)).collect();
        let wanted: Vec<u32> = unknown.iter().copied().collect();
        for some in wanted.chunks(DICTIONARIES_LOADED_MAX) {
            let some = some.to_vec();
            let load = self
                .inner
                .database
                .read(|conn| Box::pin(async move { dictionary::bytes(conn, &some).await }));
            let loaded: Vec<(u32, Vec<u8>)> = load.await?;
            for (id, bytes) in loaded {
                codec.learn(id, bytes)?;
                unknown.remove(&id);
            }
        }
        Ok(unknown)
    }

    fn decompress_stored(&self, stored: Stored) -> Result<Opened> {
        match stored {
            Stored::Fresh(packed) => unpack(&self.inner.codec, &packed).map(Bytes::from).map(Opened::Whole),
            Stored::Frame(frame) => match frame.content(&self.inner.codec)? {
                Content::Whole(original) => Ok(Opened::Whole(original.into())),
                Content::Parts(recipe) => Ok(Opened::Parts(frame, recipe)),
            },
        }
    }

    /// The frames of bodies in packs, in their order. `Gone` where the pack is not where it was said to be.
    pub(super) async fn read_frames(&self, places: Vec<(BodyId, InPack)>) -> Vec<Result<Frame>> {
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        let is_local: Vec<bool> = places.iter().map(|(_, place)| place.is_local).collect();
        for place in places {
            if place.1.is_local { local.push(place) } else { remote.push(place) }
        }
        let (local, remote) = tokio::join!(self.read_local(local), self.read_remote(remote));
        let (mut local, mut remote) = (local.into_iter(), remote.into_iter());
        let lost = || Err(StorageError::Busy("work on a body was interrupted"));
        let next = |is_local| if is_local { local.next() } else { remote.next() }.unwrap_or_else(lost);
        is_local.into_iter().map(next).collect()
    }

    /// From the volume, with one hand-over to a thread where blocking is allowed.
    async fn read_local(&self, places: Vec<(BodyId, InPack)>) -> Vec<Result<Frame>> {
        let count = places.len();
        if count == 0 {
            return Vec::new();
        }
        let mut volumes = BTreeMap::new();
        for store in places.iter().map(|(_, place)| place.store).collect::<BTreeSet<_>>() {
            volumes.extend(self.volumes().get(store).await.ok().map(|volume| (store, volume)));
        }
        let own = self.clone();
        let read_one = move |(body, place): (BodyId, InPack)| match own.reader(&place) {
            Ok(reader) => reader.frame(place.frame, body),
            Err(error @ StorageError::Gone(_)) => {
                // What an unmounted volume does not show is not missing.
                volumes.get(&place.store).map_or(Ok(()), |volume| volume.confirm_folder())?;
                Err(error)
            }
            Err(error) => Err(error),
        };
        let read = move || Ok(places.into_iter().map(read_one).collect());
        let mut frames: Vec<Result<Frame>> = blocking(read).await.unwrap_or_default();
        frames.resize_with(count, || Err(StorageError::Busy("work on a body was interrupted")));
        frames
    }

    /// From object storage through the cache: the ranges of one pack are asked for together.
    async fn read_remote(&self, places: Vec<(BodyId, InPack)>) -> Vec<Result<Frame>> {
        let mut packs: BTreeMap<PackId, Vec<usize>> = BTreeMap::new();
        for (at, (_, place)) in places.iter().enumerate() {
            packs.entry(place.pack).or_default().push(at);
        }
        let mut frames: Vec<Option<Result<Frame>>> = places.iter().map(|_| None).collect();
        for wanted in packs.into_values() {
            let some: Vec<&(BodyId, InPack)> = wanted.iter().filter_map(|&at| places.get(at)).collect();
            let Some((_, place)) = some.first() else { continue };
            let mut read = self.read_cached(place, &some).await;
            if read.iter().any(|frame| matches!(frame, Err(StorageError::Corrupt(_)))) {
                // The fault may be the cache's; a second time it is the object's.
                if let Ok(volume) = self.volumes().get(place.store).await
                    && let Ok(cache) = volume.cache(self.volumes().folder())
                {
                    cache.forget(place.name);
                    read = self.read_cached(place, &some).await;
                }
            }
            for (at, frame) in wanted.into_iter().zip(read) {
                if let Some(slot) = frames.get_mut(at) {
                    *slot = Some(frame);
                }
            }
        }
        let lost = || Err(StorageError::Busy("work on a body was interrupted"));
        frames.into_iter().map(|frame| frame.unwrap_or_else(lost)).collect()
    }

    async fn read_cached(&self, pack: &InPack, places: &[&(BodyId, InPack)]) -> Vec<Result<Frame>> {
        let volume = match self.volumes().get(pack.store).await {
            Ok(volume) => volume,
            Err(error) => return all_failed(places.len(), &error),
        };
        let (remote, cache) = match (volume.remote(), volume.cache(self.volumes().folder())) {
            (Ok(remote), Ok(cache)) => (remote, cache),
            (Err(error), _) | (_, Err(error)) => return all_failed(places.len(), &error),
        };
        let key = ObjectKey::of_pack(pack.name);
        let fetch = |range: Range<u64>| -> BoxFuture<'_, Result<Bytes>> {
            let key = &key;
            Box::pin(async move {
                Ok(remote.get_range(key, range.start, range.end.saturating_sub(range.start)).await?)
            })
        };
        let range = |frame: FrameLocation| {
            let start = u64::from(frame.offset);
            start..start + u64::from(frame.length)
        };
        let wanted: Vec<Range<u64>> = places.iter().map(|(_, place)| range(place.frame)).collect();
        let ranges = cache.read(pack.name, pack.pack_octets, &wanted, &fetch).await;
        let decode = |((body, _), bytes): (&&(BodyId, InPack), Result<Bytes>)| {
            Frame::decode(pack.name, bytes?.to_vec(), *body)
        };
        places.iter().zip(ranges).map(decode).collect()
    }

    /// The open file of a pack.
    fn reader(&self, place: &InPack) -> Result<Arc<PackReader>> {
        if let Some(reader) = self.inner.readers.get(&place.pack) {
            return Ok(reader);
        }
        let path = place.name.path(&self.pack_folder(&place.store_path));
        let reader = Arc::new(PackReader::open(&path)?);
        if reader.name() != place.name {
            return Err(StorageError::Corrupt(format!("{} is another pack", path.display())));
        }
        self.inner.readers.insert(place.pack, Arc::clone(&reader));
        Ok(reader)
    }
}

/// The same answer for all: the mail store cannot be read at present.
fn all_failed(count: usize, error: &StorageError) -> Vec<Result<Frame>> {
    tracing::warn!(%error, "packs in object storage cannot be read");
    (0..count).map(|_| Err(StorageError::Busy("the mail store cannot be read at present"))).collect()
}

/// What is wrong with a part for the time being is the same for every body that it is in.
const LATER: StorageError = StorageError::Busy("a part of a body can't be read now");

impl Stored {
    /// Length of the body.
    fn octets(&self) -> u64 {
        match self {
            Self::Fresh(packed) => packed.octets,
            Self::Frame(frame) => u64::from(frame.header().original_len),
        }
    }
}

/// A body made of its parts.
async fn assemble(frame: Frame, recipe: Recipe, parts: &BTreeMap<BodyId, Result<Bytes>>) -> Result<Bytes> {
    let mut needed = BTreeMap::new();
    for part in recipe.parts().into_keys() {
        let bytes = match parts.get(&part) {
            Some(Ok(bytes)) => bytes.clone(),
            Some(Err(StorageError::Corrupt(what))) => {
                let body = frame.header().body;
                return Err(StorageError::Corrupt(format!("part {part} of body {body}: {what}")));
            }
            None | Some(Err(StorageError::Gone(_))) => return Err(StorageError::Gone("part")),
            Some(Err(error)) => {
                tracing::warn!(%error, %part, "a part of a body can't be read");
                return Err(LATER);
            }
        };
        needed.insert(part, bytes);
    }
    if u64::from(frame.header().original_len) <= INLINE_OCTETS_MAX as u64 {
        return frame.assemble(&recipe, &needed).map(Bytes::from);
    }
    blocking(move || frame.assemble(&recipe, &needed).map(Bytes::from)).await
}
