//! Gathering summaries into blocks once their bodies are in packs. One summary alone hardly compresses: what its header
//! has in common with others stands in those of its neighbours.
//!
//! Sixteen messages of one folder make a block; fewer wait for the next that are packed, with data of their own. So a
//! folder that grows by a few messages with every pass gets full blocks too, and nothing is gathered twice. A block
//! of which much is dead is written anew without that.
//!
//! # Crash Consistency
//! Each transaction leaves every summary in one place. What was not gathered by the end of a pass stays as it is: it
//! takes a little more space, and is gathered with the next that are packed, if it is among the newest.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Packer;
use crate::base::clock::Timestamp;
use crate::storage::background::background;
use crate::storage::bodies::{packed, unpack};
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::pack::{StoreVolume, Waiting};
use crate::storage::metadata::summary_block::{
    self, BLOCK_OCTETS_MAX, BLOCK_SUMMARIES_MAX, Member, NewBlock, SINGLES_MAX, Single, Sparse,
};
use crate::storage::pack::Codec;
use crate::storage::{Result, StorageError};

/// Blocks that one transaction inserts.
const SLICE_BLOCKS: usize = 4;
/// A pass looks at so many more messages than it has packed: those that were left over by the one before.
const LEFT_OVER: usize = 2 * BLOCK_SUMMARIES_MAX;
/// Something dead stays in a block for at most this time.
const DEAD_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl Packer {
    /// Gathers the summaries of bodies that were packed, and of those left over before, folder by folder. What cannot
    /// be gathered stays as it is.
    pub(super) async fn gather(&self, volume: &StoreVolume, bodies: &[Waiting]) {
        let mut folders: BTreeMap<(i64, i64), usize> = BTreeMap::new();
        for body in bodies {
            *folders.entry((body.mailbox, body.folder)).or_default() += 1;
        }
        let codec = self.block_codec(volume);
        for (folder, count) in folders {
            if let Err(error) = self.gather_folder(&codec, folder, count + LEFT_OVER).await {
                tracing::warn!(%error, folder = folder.1, "the summaries of a folder stay as they are");
                return;
            }
        }
    }

    fn block_codec(&self, volume: &StoreVolume) -> Codec {
        let wanted = &volume.settings.compression;
        self.bodies.codec().at_level(wanted.level.cast_signed()).with_dictionary(wanted.dictionary)
    }

    /// Gathers those of the newest `count` messages of a folder.
    async fn gather_folder(&self, codec: &Codec, folder: (i64, i64), count: usize) -> Result<()> {
        let database = self.bodies.database();
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let first = database.read(|conn| Box::pin(summary_block::first_packed(conn, folder, count))).await?;
        let Some(mut from) = first else { return Ok(()) };
        let mut singles: Vec<Single> = Vec::new();
        loop {
            let read = database.read(|conn| Box::pin(summary_block::singles(conn, folder, from)));
            let page: Vec<Single> = read.await?;
            let Some(last) = page.last() else { return Ok(()) };
            let (has_more, next) = (page.len() == SINGLES_MAX, last.uid.checked_add(1));
            singles.extend(page);
            // A folder may have one body twice.
            let mut seen = std::collections::HashSet::new();
            singles.retain(|single| seen.insert(single.body));
            if singles.len() < BLOCK_SUMMARIES_MAX {
                return Ok(());
            }
            let (codec, taken) = (codec.clone(), std::mem::take(&mut singles));
            let (blocks, rest) = background(move || gather_full(&codec, taken)).await?;
            singles = rest;
            self.insert_blocks(&blocks).await?;
            match next {
                Some(next) if has_more => from = next,
                _ => return Ok(()),
            }
        }
    }

    async fn insert_blocks(&self, blocks: &[NewBlock]) -> Result<()> {
        for slice in blocks.chunks(SLICE_BLOCKS) {
            let slice = slice.to_vec();
            let write = self.bodies.database().write(Priority::Background, move |conn| {
                let slice = slice.clone();
                Box::pin(async move { summary_block::insert(conn, &slice).await })
            });
            let done: Result<()> = write.await;
            done?;
        }
        Ok(())
    }

    /// Writes blocks anew of which much is dead, or something for long.
    ///
    /// # Errors
    /// `Database`; what remains is done by the next pass.
    pub(super) async fn thin_blocks(&self, now: Timestamp) -> Result<()> {
        let database = self.bodies.database();
        while database
            .write(Priority::Background, move |conn| Box::pin(summary_block::notice_dead(conn, now)))
            .await?
        {}
        let (before, mut after) = (now.minus(DEAD_AGE_MAX), 0);
        loop {
            let read = database.read(|conn| Box::pin(summary_block::sparse(conn, after, before)));
            let sparse: Vec<Sparse> = read.await?;
            let Some(last) = sparse.last() else { return Ok(()) };
            after = last.block;
            let codec = self.bodies.codec().clone();
            let thinned = move || Ok(sparse.iter().filter_map(|one| thin_or_leave(&codec, one)).collect());
            let blocks: Vec<NewBlock> = background(thinned).await?;
            self.insert_blocks(&blocks).await?;
        }
    }
}

/// Full blocks, and what is left over for the next.
fn gather_full(codec: &Codec, singles: Vec<Single>) -> Result<(Vec<NewBlock>, Vec<Single>)> {
    let (mut blocks, mut pending, mut octets) = (Vec::new(), Vec::new(), 0);
    for single in singles {
        let length = single.summary.octets;
        if octets + length > BLOCK_OCTETS_MAX {
            blocks.extend(gather_block(codec, &pending)?);
            pending.clear();
            octets = 0;
        }
        octets += length;
        pending.push(single);
        if pending.len() == BLOCK_SUMMARIES_MAX {
            blocks.extend(gather_block(codec, &pending)?);
            pending.clear();
            octets = 0;
        }
    }
    Ok((blocks, pending))
}

/// One block; nothing of a single summary, which would gain nothing.
fn gather_block(codec: &Codec, singles: &[Single]) -> Result<Option<NewBlock>> {
    if singles.len() < 2 {
        return Ok(None);
    }
    let (mut plain, mut members) = (Vec::new(), Vec::with_capacity(singles.len()));
    for single in singles {
        let summary = match unpack(codec, &single.summary) {
            Ok(summary) => summary,
            Err(StorageError::Corrupt(what)) => {
                tracing::error!(body = %single.body, what, "a damaged summary stays where it is");
                continue;
            }
            Err(error) => return Err(error),
        };
        let (offset, octets) = (plain.len() as u64, summary.len() as u64);
        members.push(Member { body: single.body, offset, octets });
        plain.extend_from_slice(&summary);
    }
    let packed = packed(codec.compress(&plain), plain.len());
    Ok(Some(NewBlock { packed, members, from: None }))
}

/// As [`thin`]; nothing of a damaged block, which is reported and stays.
fn thin_or_leave(codec: &Codec, sparse: &Sparse) -> Option<NewBlock> {
    let thinned = thin(codec, sparse);
    thinned
        .inspect_err(|error| tracing::error!(%error, block = sparse.block, "a block of summaries stays"))
        .ok()
}

/// What lives in a block as a block of its own.
fn thin(codec: &Codec, sparse: &Sparse) -> Result<NewBlock> {
    let whole = unpack(codec, &sparse.packed)?;
    let (mut plain, mut members): (Vec<u8>, Vec<Member>) = (Vec::new(), Vec::new());
    let mut last: Option<(Member, u64)> = None;
    for member in &sparse.members {
        // Bodies with the same bytes may have one summary in common.
        let offset = match last {
            Some((of, offset)) if (of.offset, of.octets) == (member.offset, member.octets) => offset,
            _ => {
                let offset = plain.len() as u64;
                plain.extend_from_slice(summary_block::cut(&whole, member.offset, member.octets)?);
                offset
            }
        };
        last = Some((*member, offset));
        members.push(Member { offset, ..*member });
    }
    let packed = packed(codec.compress(&plain), plain.len());
    Ok(NewBlock { packed, members, from: Some(sparse.block) })
}
