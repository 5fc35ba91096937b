//! Writing one pack: intent, file, publication. Numbers in `reach` are the points of the room's document.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Packer, cut};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, PackId};
use crate::storage::bodies::{blocking, unpack};
use crate::storage::metadata::delivery::Packed;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::pack::{self, Framed, Intended, StoreVolume, Waiting};
use crate::storage::pack::{
    Codec, CodecKind, Compressed, FrameHeader, LEVEL_DEFAULT, PackName, PackSummary, PackWriter,
};
use crate::storage::{Result, StorageError};

/// Most bytes that are read from the database, or deleted there, at once.
const SLICE_OCTETS_MAX: u64 = 2 << 20;
/// Most rows that one transaction changes.
const SLICE_ROWS_MAX: usize = 256;

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
            Ok(Some((summary, frames))) => self.publish(volume, summary, frames, now).await.map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if !matches!(outcome, Ok(Some(_))) {
            let intended = Intended { name, store_path: volume.path.clone() };
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
    ) -> Result<Option<(PackSummary, Vec<Framed>)>> {
        let (folder, store) = (self.bodies.pack_folder(&volume.path), volume.store);
        let recompression = recompression(volume);
        let mut writer = blocking(move || PackWriter::create(&folder, name, store)).await?;
        let mut frames = Vec::with_capacity(bodies.len());
        for slice in cut(bodies, SLICE_OCTETS_MAX, SLICE_ROWS_MAX, |body| body.stored_octets) {
            let ids: Vec<BodyId> = slice.iter().map(|body| body.body).collect();
            let wanted = ids.clone();
            let read = self
                .bodies
                .database()
                .read(|conn| Box::pin(async move { pack::waiting_bytes(conn, &wanted).await }));
            let mut bytes: HashMap<BodyId, Packed> = read.await?.into_iter().collect();
            let ordered: Vec<_> = ids.into_iter().filter_map(|id| bytes.remove_entry(&id)).collect();
            let (codec, wanted) = (self.bodies.codec().clone(), recompression.clone());
            let append = move || {
                let appended = append_all(&mut writer, &codec, wanted.as_ref(), &ordered)?;
                Ok((writer, appended))
            };
            let (written, appended) = blocking(append).await?;
            writer = written;
            frames.extend(appended);
            self.reach(2).await;
        }
        if frames.is_empty() {
            return Ok(None);
        }
        let summary = blocking(move || writer.finish()).await?;
        self.reach(3).await;
        Ok(Some((summary, frames)))
    }

    async fn publish(
        &self,
        volume: &StoreVolume,
        summary: PackSummary,
        frames: Vec<Framed>,
        now: Timestamp,
    ) -> Result<PackSummary> {
        let (name, octets, store) = (summary.name, summary.octets, volume.store);
        // Freeing the pages of a large body takes as long as writing them.
        let octets_of = |frame: &Framed| u64::from(frame.stored_octets);
        let mut slices = cut(&frames, SLICE_OCTETS_MAX, SLICE_ROWS_MAX, octets_of).into_iter();
        let (all, first) = (Arc::new(frames.clone()), slices.next().unwrap_or_default().len());
        let write = self.bodies.database().write(Priority::Background, move |conn| {
            let all = Arc::clone(&all);
            Box::pin(async move {
                let pack = pack::publish(conn, name, store, octets, &all, now).await?;
                pack::repoint(conn, pack, all.get(..first).unwrap_or_default()).await?;
                Ok::<PackId, StorageError>(pack)
            })
        });
        let pack = write.await?;
        self.reach(4).await;
        for slice in slices {
            let slice = slice.to_vec();
            let write = self.bodies.database().write(Priority::Background, move |conn| {
                let slice = slice.clone();
                Box::pin(async move { pack::repoint(conn, pack, &slice).await })
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

/// The codec with which a store wants its packs compressed anew; nothing if what was made at delivery is
/// good enough.
fn recompression(volume: &StoreVolume) -> Option<Codec> {
    let wanted = &volume.settings.compression;
    let (level, dictionary) = (wanted.level.cast_signed(), wanted.dictionary);
    (level > LEVEL_DEFAULT || !dictionary).then(|| Codec::new(level).with_dictionary(dictionary))
}

/// Appends bodies, each read back from what the database has. One that is damaged stays there and is
/// reported.
fn append_all(
    writer: &mut PackWriter,
    codec: &Codec,
    wanted: Option<&Codec>,
    bodies: &[(BodyId, Packed)],
) -> Result<Vec<Framed>> {
    let mut frames = Vec::with_capacity(bodies.len());
    for (body, packed) in bodies {
        let original = match unpack(codec, packed) {
            Ok(original) => original,
            Err(StorageError::Corrupt(what)) => {
                tracing::error!(%body, what, "a body in the database is damaged and is not packed");
                continue;
            }
            Err(error) => return Err(error),
        };
        let compressed = match wanted {
            Some(codec) => codec.compress(&original),
            None => Compressed {
                codec: CodecKind::from_number(packed.codec).unwrap_or(CodecKind::Raw),
                dictionary_id: packed.dictionary_id,
                data: packed.data.to_vec(),
            },
        };
        let header = FrameHeader::new(*body, &original, &compressed)?;
        let location = writer.append(&header, &compressed.data)?;
        frames.push(Framed { body: *body, offset: location.offset, stored_octets: header.stored_len });
    }
    Ok(frames)
}
