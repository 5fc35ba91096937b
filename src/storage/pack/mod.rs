//! Packs: immutable files of compressed bodies, and the codec that compresses bodies wherever they are
//! kept.
//!
//! The format is described in `docs/pack-format.md`.
//!
//! # Consistency
//! A pack is complete from the moment it has its final name: it is written under another name, synced,
//! renamed, and its folder synced. It is never changed afterwards. Which body is where is said by the
//! database alone; the index at the end of a pack serves checks and reconstruction.
//!
//! # Crash Consistency
//! A crash leaves a file with its temporary name, or a complete pack that the database does not know. Both
//! are removed by what the database remembers of the intention, never by listing folders.
//!
//! # Integrity
//! Every byte of a pack is under a CRC-32C, and every body under a BLAKE3 hash of its original bytes. The
//! checksums are keyed with the random name of the pack, so bytes inside a message can't pass for a frame.

mod codec;
mod dictionary;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod reader;
pub mod recipe;
mod recode;
mod recovery;
mod writer;

pub use codec::{Codec, CodecKind, Compressed, LEVEL_DEFAULT, LEVEL_MAX, ORIGINAL_OCTETS_MAX};
pub use dictionary::{DICTIONARY_NONE, DICTIONARY_SHIPPED, DICTIONARY_TRAINED};
pub use format::{FrameHeader, FrameLocation, IndexEntry, PackName};
pub use reader::{Content, Frame, PackEnd, PackReader};
pub use recode::recode;
pub use recovery::{Damage, Recovered, Verified, recover, verify};
pub use writer::{PackSummary, PackWriter, SYNC_OCTETS, TARGET_OCTETS, sync_folder};

#[cfg(test)]
mod dictionary_tests;
#[cfg(test)]
mod tests;
