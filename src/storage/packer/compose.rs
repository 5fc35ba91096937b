//! What becomes of a body in a pack: as it was compressed at delivery, compressed anew, or taken apart.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use crate::base::id::{BodyId, StoreId};
use crate::storage::bodies::unpack;
use crate::storage::metadata::delivery::Packed;
use crate::storage::metadata::pack::{Framed, Placed, StoreVolume, Waiting};
use crate::storage::metadata::part::{NewPart, PartHash};
use crate::storage::pack::recipe::{self, PART_OCTETS_MIN, PARTS_MAX, Recipe, Run};
use crate::storage::pack::{
    Codec, CodecKind, Compressed, DICTIONARY_SHIPPED, FrameHeader, LEVEL_DEFAULT, PackWriter,
};
use crate::storage::{Result, StorageError};

/// A body may grow by one in so many octets when attachments become parts.
const PART_LOSS_ONE_IN: usize = 50;

/// How a store wants its packs.
#[derive(Clone)]
pub(super) struct Composer {
    /// Reads what the database has.
    delivery: Codec,
    /// What packs are compressed with; nothing if what was made at delivery is good enough.
    anew: Option<Codec>,
    store: StoreId,
    decode: bool,
    share: bool,
    /// Customers with a dictionary of their own.
    dictionaries: BTreeMap<i64, u32>,
}

/// A body that was read back and looked through.
pub(super) struct Draft {
    waiting: Waiting,
    packed: Packed,
    original: Vec<u8>,
    /// Its base64, each with the hash of what may be a part.
    runs: Vec<(Run, Option<PartHash>)>,
}

impl Draft {
    /// The customer, and the hashes of its parts.
    pub(super) fn hashes(&self) -> impl Iterator<Item = (i64, PartHash)> {
        let scope = self.waiting.scope;
        self.runs.iter().filter_map(move |(_, hash)| hash.map(|hash| (scope, hash)))
    }
}

/// The parts that bodies of one pack may use.
#[derive(Default)]
pub(super) struct Parts {
    ids: HashMap<(i64, PartHash), BodyId>,
    /// Those that are in this pack or were known before it.
    written: HashSet<BodyId>,
}

impl Parts {
    /// Whether nothing is known of a part yet.
    pub(super) fn is_new(&self, key: &(i64, PartHash)) -> bool {
        !self.ids.contains_key(key)
    }

    /// A part that the database knows.
    pub(super) fn known(&mut self, key: (i64, PartHash), body: BodyId) {
        self.ids.insert(key, body);
        self.written.insert(body);
    }

    /// The body that a part will be, if it is written.
    pub(super) fn reserve(&mut self, key: (i64, PartHash), body: BodyId) {
        self.ids.insert(key, body);
    }
}

/// What was appended to a pack.
#[derive(Default)]
pub(super) struct Appended {
    pub(super) placed: Vec<Placed>,
    pub(super) parts: Vec<NewPart>,
    pub(super) original_octets: u64,
}

/// A body's frame and those of the parts that must be written before it.
struct Composed {
    compressed: Compressed,
    parts: Vec<BodyId>,
    new: Vec<(BodyId, PartHash, usize, Compressed)>,
}

impl Composer {
    pub(super) fn new(delivery: Codec, volume: &StoreVolume, dictionaries: BTreeMap<i64, u32>) -> Self {
        let wanted = &volume.settings.compression;
        let (level, dictionary) = (wanted.level.cast_signed(), wanted.dictionary);
        let anew = (level > LEVEL_DEFAULT || !dictionary)
            .then(|| delivery.at_level(level).with_dictionary(dictionary));
        let (decode, share) = (wanted.decode, wanted.share);
        Self { delivery, anew, store: volume.store, decode, share, dictionaries }
    }

    /// Reads bodies back from what the database has, and finds the base64 in them. One that is damaged stays in
    /// the database and is reported.
    pub(super) fn drafts(&self, bodies: Vec<(Waiting, Packed)>) -> Result<Vec<Draft>> {
        let mut drafts = Vec::with_capacity(bodies.len());
        for (waiting, packed) in bodies {
            let original = match unpack(&self.delivery, &packed) {
                Ok(original) => original,
                Err(StorageError::Corrupt(what)) => {
                    let body = waiting.body;
                    tracing::error!(%body, what, "a body in the database is damaged and is not packed");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let found = if self.decode { recipe::runs(&original) } else { Vec::new() };
            let mut parts = 0;
            let hashed = |run: Run| {
                let is_part = self.share && run.decoded.len() >= PART_OCTETS_MIN && parts < PARTS_MAX;
                parts += usize::from(is_part);
                let hash = is_part.then(|| *blake3::hash(&run.decoded).as_bytes());
                (run, hash)
            };
            let runs = found.into_iter().map(hashed).collect();
            drafts.push(Draft { waiting, packed, original, runs });
        }
        Ok(drafts)
    }

    /// Appends bodies to a pack, parts before the first that uses them.
    pub(super) fn append(
        &self,
        writer: &mut PackWriter,
        drafts: &[Draft],
        parts: &mut Parts,
    ) -> Result<Appended> {
        let mut appended = Appended::default();
        for draft in drafts {
            let composed = self.compose(draft, parts);
            let waiting = &draft.waiting;
            for (body, hash, octets, compressed) in &composed.new {
                let decoded = draft.runs.iter().find(|(_, of)| of.as_ref() == Some(hash));
                let Some((run, _)) = decoded else { continue };
                let frame = append(writer, *body, &run.decoded, compressed)?;
                parts.written.insert(*body);
                appended.parts.push(NewPart {
                    scope: waiting.scope,
                    store: self.store,
                    hash: *hash,
                    octets: *octets as u64,
                    mailbox: waiting.mailbox,
                    folder: waiting.folder,
                    frame,
                });
            }
            let frame = append(writer, waiting.body, &draft.original, &composed.compressed)?;
            let fresh_octets = draft.packed.data.len() as u64;
            appended.original_octets += draft.original.len() as u64;
            appended.placed.push(Placed { frame, parts: composed.parts, fresh_octets });
        }
        Ok(appended)
    }

    /// The smallest form of a body.
    fn compose(&self, draft: &Draft, parts: &Parts) -> Composed {
        if let Some(composed) = self.take_apart(draft, parts) {
            return composed;
        }
        let dictionary = self.dictionaries.get(&draft.waiting.scope).copied();
        let compressed = match (&self.anew, dictionary) {
            (Some(codec), dictionary) => {
                codec.compress_with(&draft.original, dictionary.unwrap_or(DICTIONARY_SHIPPED))
            }
            (None, Some(dictionary)) => self.delivery.compress_with(&draft.original, dictionary),
            (None, None) => Compressed {
                codec: CodecKind::from_number(draft.packed.codec).unwrap_or(CodecKind::Raw),
                dictionary_id: draft.packed.dictionary_id,
                data: draft.packed.data.to_vec(),
            },
        };
        Composed { compressed, parts: Vec::new(), new: Vec::new() }
    }

    /// A body as a recipe, if that is smaller than what the database has.
    fn take_apart(&self, draft: &Draft, parts: &Parts) -> Option<Composed> {
        let (scope, codec) = (draft.waiting.scope, self.anew.as_ref().unwrap_or(&self.delivery));
        let part_of = |hash: &Option<PartHash>| hash.and_then(|hash| parts.ids.get(&(scope, hash))).copied();
        let runs = draft.runs.iter().map(|(run, hash)| (run, part_of(hash)));
        let recipe = recipe::encode(&draft.original, runs)?;
        let dictionary = self.dictionaries.get(&scope).copied().unwrap_or(DICTIONARY_SHIPPED);
        let compressed = codec.compress_recipe(&recipe, dictionary)?;
        // The other copy goes for good: so what readers will do is done once now.
        let decoded = |(run, hash): &(Run, Option<PartHash>)| {
            part_of(hash).map(|part| (part, Bytes::copy_from_slice(&run.decoded)))
        };
        let decoded: BTreeMap<BodyId, Bytes> = draft.runs.iter().filter_map(decoded).collect();
        let assembled =
            Recipe::decode(recipe, draft.original.len()).and_then(|recipe| recipe.assemble(&decoded));
        if assembled.ok().as_ref() != Some(&draft.original) {
            tracing::error!(body = %draft.waiting.body, "a body can't be put together again, and is packed as it is");
            return None;
        }
        let (mut octets, mut used, mut new) = (compressed.data.len(), Vec::new(), Vec::new());
        for (run, hash) in &draft.runs {
            let (Some(hash), Some(part)) = (hash, part_of(hash)) else { continue };
            if used.contains(&part) {
                continue;
            }
            used.push(part);
            if !parts.written.contains(&part) {
                let stored = codec.compress_with(&run.decoded, dictionary);
                octets += stored.data.len();
                new.push((part, *hash, run.decoded.len(), stored));
            }
        }
        // What is shared later pays for a little more now: base64 of what can't be compressed is as small.
        let fresh = draft.packed.data.len();
        let octets_max = if used.is_empty() { fresh } else { fresh + fresh / PART_LOSS_ONE_IN };
        (octets < octets_max).then_some(Composed { compressed, parts: used, new })
    }
}

fn append(writer: &mut PackWriter, body: BodyId, original: &[u8], compressed: &Compressed) -> Result<Framed> {
    let header = FrameHeader::new(body, original, compressed)?;
    let location = writer.append(&header, &compressed.data)?;
    Ok(Framed { body, offset: location.offset, stored_octets: header.stored_len })
}
