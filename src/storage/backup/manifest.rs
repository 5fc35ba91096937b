//! The manifest of a backup: everything that belongs to it, with length and hash.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde::{Deserialize, Serialize};

use super::index::FORMAT;
use crate::base::clock::Timestamp;
use crate::storage::metadata::erasure::Erased;
use crate::storage::metadata::restore::Counts;
use crate::storage::pack::PackName;
use crate::storage::remote::ObjectKey;

/// Largest manifest object, in octets.
pub(super) const OBJECT_OCTETS_MAX: u64 = 512 << 20;
/// Largest manifest, in octets: packs for a petabyte of mail.
const JSON_OCTETS_MAX: u64 = 4 << 30;
/// zstd level of manifest and database.
pub(super) const LEVEL: i32 = 3;

/// Length and hash of an object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Its length.
    pub octets: u64,
    /// BLAKE3 of it, hexadecimal.
    pub blake3: String,
}

impl Content {
    pub(super) fn new(octets: u64, hash: &[u8; 32]) -> Self {
        Self { octets, blake3: blake3::Hash::from_bytes(*hash).to_hex().to_string() }
    }
}

/// A pack of a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackEntry {
    /// Its name.
    pub name: String,
    /// Name of its mail store.
    pub store: String,
    /// Its length.
    pub octets: u64,
    /// BLAKE3 of it, hexadecimal.
    pub blake3: String,
}

impl PackEntry {
    /// Its name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn pack(&self) -> Result<PackName, String> {
        PackName::parse(&self.name).ok_or_else(|| format!("{:?} is no name of a pack", self.name))
    }
}

/// Everything that belongs to a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this form.
    pub format: u32,
    /// The backup.
    pub id: String,
    /// As of when.
    pub at: Timestamp,
    /// The program that took it.
    pub version: String,
    /// Whose it is.
    pub installation: String,
    /// The database's object.
    pub database: Content,
    /// Length of the database's file.
    pub database_octets: u64,
    /// What the database holds.
    pub counts: Counts,
    /// The packs that the database names.
    pub packs: Vec<PackEntry>,
    /// Packs that could not be read when it was taken.
    pub missing: Vec<String>,
    /// What was purged for good up to then: no backup may bring it back.
    pub erased: Vec<Erased>,
}

impl Manifest {
    /// The object.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let json = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        zstd::bulk::compress(&json, LEVEL).map_err(|error| error.to_string())
    }

    /// Reads an object.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(object: &[u8]) -> Result<Self, String> {
        let damaged = |error: &dyn std::fmt::Display| format!("the manifest is damaged: {error}");
        let decoder = zstd::stream::read::Decoder::new(object).map_err(|error| damaged(&error))?;
        let mut json = Vec::new();
        decoder.take(JSON_OCTETS_MAX).read_to_end(&mut json).map_err(|error| damaged(&error))?;
        let manifest: Self = serde_json::from_slice(&json).map_err(|error| damaged(&error))?;
        if manifest.format != FORMAT {
            return Err("the manifest has a form that this version does not know".to_owned());
        }
        for pack in &manifest.packs {
            pack.pack()?;
        }
        Ok(manifest)
    }

    /// Octets of everything that it names.
    pub fn octets(&self) -> u64 {
        self.packs.iter().fold(self.database.octets, |sum, pack| sum.saturating_add(pack.octets))
    }

    /// The packs by name.
    pub(super) fn by_name(&self) -> BTreeMap<&str, &PackEntry> {
        self.packs.iter().map(|pack| (pack.name.as_str(), pack)).collect()
    }
}

pub(super) fn key(text: String) -> ObjectKey {
    // Ids and names are letters, digits and hyphens: they were looked at when they were read.
    ObjectKey::parse(&text)
        .or_else(|| ObjectKey::parse("invalid"))
        .unwrap_or_else(|| ObjectKey::of(PackName([0; 16]), "none"))
}

/// The manifest's key.
pub(super) fn manifest_key(id: &str) -> ObjectKey {
    key(format!("snapshots/{id}/manifest.json.zst"))
}

/// The database's key.
pub(super) fn database_key(id: &str) -> ObjectKey {
    key(format!("snapshots/{id}/metadata.db.zst"))
}

/// A pack's key.
pub(super) fn pack_key(name: &str) -> ObjectKey {
    key(format!("packs/{name}.pack"))
}
