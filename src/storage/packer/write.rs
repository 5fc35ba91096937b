//! Writing one pack: intent, file, publication. Numbers in `reach` are the points of the room's document.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::compose::{Appended, Composer, Draft, Parts};
use super::{Packer, cut};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, PackId};
use crate::storage::background::background;
use crate::storage::metadata::delivery::Packed;
use crate::storage::metadata::dictionary;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::pack::{self, Intended, Placed, StoreVolume, Waiting, Written};
use crate::storage::metadata::part::{self, NewPart, PartHash};
use crate::storage::pack::{PackName, PackSummary};
use crate::storage::{Result, StorageError};

/// Most bytes that are read from the database at once.
const SLICE_OCTETS_MAX: u64 = 2 << 20;
/// Most bodies that are read at once.
const SLICE_ROWS_MAX: usize = 256;
/// Most bytes that one transaction deletes from the database.
const DELETED_OCTETS_MAX: u64 = 1 << 20;
/// Most rows that one transaction changes.
const CHANGED_ROWS_MAX: usize = 128;
/// Most bytes of bodies that are decompressed at once, but for a single body.
const DRAFTS_OCTETS_MAX: u64 = 8 << 20;

impl Packer {
    /// Writes one pack and re-points its bodies. Nothing when none of them was there any more.
    pub(super) async fn write_pack(
        &self,
        volume: &StoreVolume,
        bodies: &[Waiting],
        now: Timestamp,
    ) -> Result<Option<PackSummary>> {
        let name = PackName::random();
        let (node, store) = (self.bodies.node().clone(), volume.store);
        let intend = self.bodies.database().write(Priority::Background, move |conn| {
            let node = node.clone();
            Box::pin(async move { pack::intend(conn, &node, now, &[(name, store)]).await })
        });
        intend.await?;
        self.reach(1).await;
        let outcome = match self.fill(volume, name, bodies).await {
            Ok(Some((summary, filled))) => self.publish(volume, summary, filled, now).await.map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if !matches!(outcome, Ok(Some(_))) {
            let intended = Intended { name, store, store_path: volume.path.clone() };
            if let Err(error) = self.bodies.discard(&intended).await {
                tracing::warn!(%error, "a pack that was not made known is removed later");
            }
        }
        outcome
    }

    /// Writes the file. Nothing when there was nothing to write.
    async fn fill(
        &self,
        volume: &StoreVolume,
        name: PackName,
        bodies: &[Waiting],
    ) -> Result<Option<(PackSummary, Appended)>> {
        let dictionaries = self.dictionaries(volume, bodies).await?;
        let composer = Arc::new(Composer::new(self.bodies.codec().clone(), volume, dictionaries));
        let mut writer = self.bodies.begin_pack(volume, name).await?;
        let (mut filled, mut parts) = (Appended::default(), Parts::default());
        for slice in cut(bodies, SLICE_OCTETS_MAX, SLICE_ROWS_MAX, |body| (body.stored_octets, 1)) {
            let read = self.waiting_bytes(slice).await?;
            for batch in cut(&read, DRAFTS_OCTETS_MAX, SLICE_ROWS_MAX, |(_, packed)| (packed.octets, 1)) {
                let (batch, composing) = (batch.to_vec(), Arc::clone(&composer));
                let drafts = background(move || composing.drafts(batch)).await?;
                self.find_parts(volume, &drafts, &mut parts).await?;
                let composing = Arc::clone(&composer);
                let append = move || {
                    let appended = composing.append(&mut writer, &drafts, &mut parts)?;
                    Ok((writer, parts, appended))
                };
                let (written, with, mut appended) = background(append).await?;
                (writer, parts) = (written, with);
                filled.placed.append(&mut appended.placed);
                filled.parts.append(&mut appended.parts);
                filled.original_octets += appended.original_octets;
            }
            self.reach(2).await;
        }
        if filled.placed.is_empty() {
            return Ok(None);
        }
        let summary = background(move || writer.finish()).await?;
        self.reach(3).await;
        Ok(Some((summary, filled)))
    }

    /// The dictionaries of the customers of these bodies, ready for use.
    async fn dictionaries(&self, volume: &StoreVolume, bodies: &[Waiting]) -> Result<BTreeMap<i64, u32>> {
        let wanted = &volume.settings.compression;
        if !wanted.dictionary || !wanted.retrain {
            return Ok(BTreeMap::new());
        }
        let scopes: BTreeSet<i64> = bodies.iter().map(|body| body.scope).collect();
        let scopes: Vec<i64> = scopes.into_iter().collect();
        let read = self
            .bodies
            .database()
            .read(|conn| Box::pin(async move { dictionary::in_use(conn, &scopes).await }));
        let mut dictionaries: BTreeMap<i64, u32> = read.await?;
        let lost = self.bodies.learn(dictionaries.values().copied().collect()).await?;
        dictionaries.retain(|_, id| !lost.contains(id));
        let numbers = dictionaries.values().copied().collect();
        if let Err(error) = self.bodies.place_dictionaries(volume.store, &numbers).await {
            tracing::warn!(%error, "dictionaries cannot be put beside the packs: this pack does without");
            dictionaries.clear();
        }
        Ok(dictionaries)
    }

    /// What the database has of bodies, in their order; those that are gone are left out.
    async fn waiting_bytes(&self, slice: &[Waiting]) -> Result<Vec<(Waiting, Packed)>> {
        let wanted: Vec<BodyId> = slice.iter().map(|body| body.body).collect();
        let read = self
            .bodies
            .database()
            .read(|conn| Box::pin(async move { pack::waiting_bytes(conn, &wanted).await }));
        let mut bytes: HashMap<BodyId, Packed> = read.await?.into_iter().collect();
        Ok(slice.iter().filter_map(|body| Some((*body, bytes.remove(&body.body)?))).collect())
    }

    /// Looks up which parts of these bodies are there already, and reserves numbers for the others.
    async fn find_parts(&self, volume: &StoreVolume, drafts: &[Draft], parts: &mut Parts) -> Result<()> {
        let (store, database) = (volume.store, self.bodies.database());
        let new: BTreeSet<(i64, PartHash)> =
            drafts.iter().flat_map(Draft::hashes).filter(|key| parts.is_new(key)).collect();
        let mut scopes: BTreeMap<i64, Vec<PartHash>> = BTreeMap::new();
        for (scope, hash) in new {
            scopes.entry(scope).or_default().push(hash);
        }
        for (scope, hashes) in scopes {
            let wanted = hashes.clone();
            let read =
                database.read(|conn| Box::pin(async move { part::known(conn, scope, store, &wanted).await }));
            let known: Vec<(PartHash, BodyId)> = read.await?;
            known.into_iter().for_each(|(hash, body)| parts.known((scope, hash), body));
            let missing: Vec<PartHash> =
                hashes.into_iter().filter(|hash| parts.is_new(&(scope, *hash))).collect();
            let count = i64::try_from(missing.len()).unwrap_or(i64::MAX);
            if count == 0 {
                continue;
            }
            let reserve = database.write(Priority::Background, move |conn| Box::pin(conn.object_ids(count)));
            let reserved: Vec<i64> = reserve.await?;
            let pairs = missing.into_iter().zip(reserved);
            pairs.for_each(|(hash, body)| parts.reserve((scope, hash), BodyId(body)));
        }
        Ok(())
    }

    async fn publish(
        &self,
        volume: &StoreVolume,
        summary: PackSummary,
        filled: Appended,
        now: Timestamp,
    ) -> Result<PackSummary> {
        let frames = filled.placed.iter().map(|placed| placed.frame);
        let frames = frames.chain(filled.parts.iter().map(|part| part.frame));
        let written = Written {
            summary: summary.clone(),
            store: volume.store,
            stored_octets: frames.map(|frame| u64::from(frame.stored_octets)).sum(),
            original_octets: filled.original_octets,
            generation: volume.generation,
        };
        let new: BTreeMap<BodyId, NewPart> =
            filled.parts.into_iter().map(|part| (part.frame.body, part)).collect();
        let new = Arc::new(new);
        // Freeing the pages of a large body takes as long as writing them.
        let weigh = |placed: &Placed| (placed.fresh_octets, 1 + placed.parts.len());
        let mut slices = cut(&filled.placed, DELETED_OCTETS_MAX, CHANGED_ROWS_MAX, weigh).into_iter();
        let (first, parts) = (slices.next().unwrap_or_default().to_vec(), Arc::clone(&new));
        let write = self.bodies.database().write(Priority::Background, move |conn| {
            let (written, first, parts) = (written.clone(), first.clone(), Arc::clone(&parts));
            Box::pin(async move {
                let pack = pack::publish(conn, &written, now).await?;
                pack::repoint(conn, pack, &first, &parts).await?;
                Ok::<PackId, StorageError>(pack)
            })
        });
        let pack = write.await?;
        self.reach(4).await;
        for slice in slices {
            let (slice, parts) = (slice.to_vec(), Arc::clone(&new));
            let write = self.bodies.database().write(Priority::Background, move |conn| {
                let (slice, parts) = (slice.clone(), Arc::clone(&parts));
                Box::pin(async move { pack::repoint(conn, pack, &slice, &parts).await })
            });
            match write.await {
                Ok(()) => {}
                // All bodies that it held were deleted, and it was dropped: the rest stays fresh.
                Err(StorageError::Gone(_)) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(summary)
    }
}
