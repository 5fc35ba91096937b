//! Compresses and decompresses bodies, summaries and everything else that is kept.
//!
//! Contexts are reused: making one costs more than compressing a small message. What comes from a disk is
//! never trusted: lengths are checked before memory is taken, and the result has the promised length or is
//! an error.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use zstd::dict::EncoderDictionary;
use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

use super::dictionary::{self, DICTIONARY_NONE, DICTIONARY_SHIPPED, DICTIONARY_TRAINED, Shelf};
use super::recipe::Recipe;
use crate::storage::{Result, StorageError};

/// Level at delivery: docs/pack-format.md has the rates and ratios.
pub const LEVEL_DEFAULT: i32 = 3;
/// Highest level. Above it zstd needs more memory to decompress.
pub const LEVEL_MAX: i32 = 19;
/// Most bytes that one body may have.
pub const ORIGINAL_OCTETS_MAX: usize = 1 << 30;
/// Longer text gains nothing from a dictionary: it makes its own within the first part.
const DICTIONARY_TEXT_OCTETS_MAX: usize = 64 * 1024;
/// Idle contexts that are kept; a context has about 1 MB at level 3.
const IDLE_CONTEXTS_MAX: usize = 8;
/// A scratch buffer that grew beyond this is given back.
const SCRATCH_OCTETS_MAX: usize = 1 << 20;
/// Most bytes that a zstd block can become (RFC 8878 section 3.1.1.2.4).
const BLOCK_OCTETS_MAX: usize = 128 * 1024;
/// The length of a recipe stands before its zstd frame.
const RECIPE_LENGTH_OCTETS: usize = 4;
/// Fewest bytes of a block: three of header and one of content (RFC 8878 section 3.1.1.2).
const BLOCK_STORED_OCTETS_MIN: usize = 4;

/// How a body is stored. The numbers are part of the pack format and of the database.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum CodecKind {
    /// As it is.
    Raw = 0,
    /// One zstd frame (RFC 8878).
    Zstd = 1,
    /// A [`Recipe`]: its length (4 octets), then one zstd frame of it.
    Recipe = 2,
}

impl CodecKind {
    /// The number that is stored.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// What a stored number means, if anything.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            2 => Some(Self::Recipe),
            _ => None,
        }
    }
}

/// Compressed bytes, and what must be known to decompress them besides the original length.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compressed {
    /// How they are stored.
    pub codec: CodecKind,
    /// The dictionary's number; [`DICTIONARY_NONE`] if there is none.
    pub dictionary_id: u32,
    /// What to store.
    pub data: Vec<u8>,
}

/// What to compress with.
enum Prepared {
    Without,
    Shipped,
    Trained(u32, Arc<EncoderDictionary<'static>>),
}

impl Prepared {
    const fn id(&self) -> u32 {
        match self {
            Self::Without => DICTIONARY_NONE,
            Self::Shipped => DICTIONARY_SHIPPED,
            Self::Trained(id, _) => *id,
        }
    }
}

/// A context with the buffer it writes to.
struct Encoder {
    context: CCtx<'static>,
    scratch: Vec<u8>,
}

/// Idle contexts, for all clones of a codec.
#[derive(Default)]
struct Pool {
    encoders: Mutex<Vec<Encoder>>,
    decoders: Mutex<Vec<DCtx<'static>>>,
}

/// Compresses at one level, decompresses whatever any level made. Cheap to clone; clones share their
/// contexts.
#[derive(Clone)]
pub struct Codec {
    level: i32,
    dictionary: bool,
    pool: Arc<Pool>,
    shelf: Shelf,
}

impl Default for Codec {
    fn default() -> Self {
        Self::new(LEVEL_DEFAULT)
    }
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec")
            .field("level", &self.level)
            .field("dictionary", &self.dictionary)
            .finish_non_exhaustive()
    }
}

impl Codec {
    /// A codec for `level`; what is outside 1 to [`LEVEL_MAX`] is taken as the nearest.
    pub fn new(level: i32) -> Self {
        let (level, shelf) = (level.clamp(1, LEVEL_MAX), Shelf::default());
        Self { level, dictionary: true, pool: Arc::default(), shelf }
    }

    /// A codec for another level that shares the dictionaries of this one.
    #[must_use]
    pub fn at_level(&self, level: i32) -> Self {
        Self { shelf: self.shelf.clone(), ..Self::new(level) }
    }

    /// The level at which it compresses.
    pub const fn level(&self) -> i32 {
        self.level
    }

    /// Whether frames that need this dictionary can be decompressed now; else [`Self::learn`] it first.
    pub fn knows(&self, dictionary_id: u32) -> bool {
        dictionary_id < DICTIONARY_TRAINED || self.shelf.find(dictionary_id).is_some()
    }

    /// Takes a dictionary from the database into use. It may be forgotten again when many others are.
    ///
    /// # Errors
    /// `Corrupt` when it is none.
    pub fn learn(&self, dictionary_id: u32, bytes: Vec<u8>) -> Result<()> {
        self.shelf.put(dictionary_id, bytes)
    }

    /// The same, compressing with or without dictionary. Either decompresses what the other made.
    #[must_use]
    pub fn with_dictionary(self, dictionary: bool) -> Self {
        Self { dictionary, ..self }
    }

    /// Compresses. Bytes that don't get smaller, and bytes for which there is no memory, are stored as they
    /// are.
    pub fn compress(&self, bytes: &[u8]) -> Compressed {
        self.compress_with(bytes, DICTIONARY_SHIPPED)
    }

    /// As [`Self::compress`], with another dictionary than the shipped one, if it is known.
    pub fn compress_with(&self, bytes: &[u8], dictionary_id: u32) -> Compressed {
        let prepared = self.prepare(bytes.len(), dictionary_id);
        let dictionary_id = prepared.id();
        match self.try_compress(bytes, &prepared).filter(|data| data.len() < bytes.len()) {
            Some(data) => Compressed { codec: CodecKind::Zstd, dictionary_id, data },
            None => {
                Compressed { codec: CodecKind::Raw, dictionary_id: DICTIONARY_NONE, data: bytes.to_vec() }
            }
        }
    }

    /// Compresses a recipe as [`Self::compress_with`], even if it doesn't get smaller: what it stands for may be
    /// in parts. Nothing if there is no memory.
    pub fn compress_recipe(&self, recipe: &[u8], dictionary_id: u32) -> Option<Compressed> {
        let length = u32::try_from(recipe.len()).ok()?.to_le_bytes();
        let prepared = self.prepare(recipe.len(), dictionary_id);
        let frame = self.try_compress(recipe, &prepared)?;
        let data = [&length[..], &frame].concat();
        Some(Compressed { codec: CodecKind::Recipe, dictionary_id: prepared.id(), data })
    }

    fn prepare(&self, octets: usize, dictionary_id: u32) -> Prepared {
        if octets > DICTIONARY_TEXT_OCTETS_MAX || !self.dictionary {
            return Prepared::Without;
        }
        let trained = self.shelf.find(dictionary_id).and_then(|trained| trained.encoder(self.level));
        trained.map_or(Prepared::Shipped, |encoder| Prepared::Trained(dictionary_id, encoder))
    }

    fn try_compress(&self, bytes: &[u8], dictionary: &Prepared) -> Option<Vec<u8>> {
        let idle = lock(&self.pool.encoders).pop();
        let mut encoder = match idle {
            Some(encoder) => encoder,
            None => {
                let mut context = CCtx::try_create()?;
                context.set_parameter(CParameter::CompressionLevel(self.level)).ok()?;
                Encoder { context, scratch: Vec::new() }
            }
        };
        encoder.scratch.clear();
        encoder.scratch.reserve(zstd_safe::compress_bound(bytes.len()));
        let with = match dictionary {
            Prepared::Without => None,
            Prepared::Shipped => Some(dictionary::encoder(self.level)?.as_cdict()),
            Prepared::Trained(_, encoder) => Some(encoder.as_cdict()),
        };
        let length = match with {
            None => encoder.context.compress2(&mut encoder.scratch, bytes),
            Some(with) => encoder.context.compress_using_cdict(&mut encoder.scratch, bytes, with),
        };
        // A context that failed is not used again.
        length.ok()?;
        let data = encoder.scratch.clone();
        if encoder.scratch.capacity() > SCRATCH_OCTETS_MAX {
            encoder.scratch = Vec::new();
        }
        keep(&self.pool.encoders, encoder);
        Some(data)
    }

    /// Gives back the recipe that [`Self::compress_recipe`] took, of a body of `original_len` bytes.
    ///
    /// # Errors
    /// As [`Self::decompress`].
    pub fn open_recipe(&self, dictionary_id: u32, stored: &[u8], original_len: usize) -> Result<Recipe> {
        let (recipe_len, stored) = recipe_len(stored, original_len)?;
        let recipe = self.decompress(CodecKind::Zstd, dictionary_id, stored, recipe_len)?;
        Recipe::decode(recipe, original_len)
    }

    /// Gives back the original bytes.
    ///
    /// # Errors
    /// `Corrupt` when the codec or dictionary is unknown, `stored` is damaged, the result is not
    /// `original_len` bytes, or other bodies are needed for it. `Busy` when memory ran out, or the dictionary
    /// must be loaded first.
    pub fn decompress(
        &self,
        codec: CodecKind,
        dictionary_id: u32,
        stored: &[u8],
        original_len: usize,
    ) -> Result<Vec<u8>> {
        check_lengths(codec, stored.len(), original_len)?;
        match codec {
            CodecKind::Raw => return Ok(stored.to_vec()),
            CodecKind::Recipe => {
                let recipe = self.open_recipe(dictionary_id, stored, original_len)?;
                return recipe.assemble(&BTreeMap::new());
            }
            CodecKind::Zstd => {}
        }
        let idle = lock(&self.pool.decoders).pop();
        let mut context = match idle {
            Some(context) => context,
            None => DCtx::try_create().ok_or(StorageError::Busy("no memory to decompress"))?,
        };
        let mut original = Vec::new();
        original
            .try_reserve_exact(original_len)
            .map_err(|_| StorageError::Busy("no memory to decompress"))?;
        let length = match dictionary_id {
            DICTIONARY_NONE => context.decompress(&mut original, stored),
            DICTIONARY_SHIPPED => {
                let with = dictionary::decoder()?.as_ddict();
                context.decompress_using_ddict(&mut original, stored, with)
            }
            DICTIONARY_TRAINED.. => {
                let trained = self.shelf.find(dictionary_id);
                let trained = trained.ok_or(StorageError::Busy("a dictionary is not loaded"))?;
                context.decompress_using_ddict(&mut original, stored, trained.decoder.as_ddict())
            }
            _ => return Err(StorageError::Corrupt(format!("dictionary {dictionary_id} is not known"))),
        };
        length.map_err(|code| StorageError::Corrupt(format!("zstd: {}", zstd_safe::get_error_name(code))))?;
        keep(&self.pool.decoders, context);
        if original.len() != original_len {
            return Err(StorageError::Corrupt(format!(
                "decompressed to {} bytes, not {original_len}",
                original.len()
            )));
        }
        Ok(original)
    }
}

/// Refuses lengths that can't belong together, before any memory is taken for them.
///
/// # Errors
/// `Corrupt` when they can't.
pub(super) fn check_lengths(codec: CodecKind, stored_len: usize, original_len: usize) -> Result<()> {
    let possible = match codec {
        CodecKind::Raw => stored_len == original_len,
        CodecKind::Zstd => original_len <= stored_len / BLOCK_STORED_OCTETS_MIN * BLOCK_OCTETS_MAX,
        // Most of it may be in parts.
        CodecKind::Recipe => stored_len > RECIPE_LENGTH_OCTETS,
    };
    if possible && original_len <= ORIGINAL_OCTETS_MAX {
        Ok(())
    } else {
        Err(StorageError::Corrupt(format!("{stored_len} stored bytes can't be {original_len} bytes")))
    }
}

/// Length of a recipe, and its zstd frame. A recipe is shorter than what it is for, or it would not be stored.
fn recipe_len(stored: &[u8], original_len: usize) -> Result<(usize, &[u8])> {
    let (length, rest) = stored
        .split_first_chunk::<RECIPE_LENGTH_OCTETS>()
        .ok_or_else(|| StorageError::Corrupt("the recipe is cut off".to_owned()))?;
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > original_len {
        return Err(StorageError::Corrupt("the recipe is longer than its body".to_owned()));
    }
    Ok((length, rest))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a context back for the next user.
fn keep<T>(pool: &Mutex<Vec<T>>, context: T) {
    let mut idle = lock(pool);
    if idle.len() < IDLE_CONTEXTS_MAX {
        idle.push(context);
    }
}
