//! The index of a target: which backups it has.

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::storage::metadata::restore::Counts;

/// Version of the form of index and manifests.
pub(super) const FORMAT: u32 = 1;
/// Octets of the checksum and the line end behind it.
const CHECKSUM_OCTETS: usize = 65;

/// What a check or a trial of a backup found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// When.
    pub at: Timestamp,
    /// Whether everything was as it should be.
    pub good: bool,
    /// One line for people.
    pub what: String,
}

/// A backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its id: `20261122T030000Z-` and random letters.
    pub id: String,
    /// As of when.
    pub at: Timestamp,
    /// The program that took it.
    pub version: String,
    /// BLAKE3 of the manifest object, hexadecimal.
    pub manifest_blake3: String,
    /// Length of the manifest object.
    pub manifest_octets: u64,
    /// Packs in it.
    pub packs: u64,
    /// Octets of everything in it.
    pub octets: u64,
    /// Octets that no backup before had.
    pub new_octets: u64,
    /// What the database holds.
    pub counts: Counts,
    /// Packs that could not be read: their mail is not in it.
    pub missing: u64,
    /// The last comparison with the manifest.
    pub verified: Option<Finding>,
    /// The last trial.
    pub tested: Option<Finding>,
}

impl Entry {
    /// Whether it has everything, as far as is known.
    pub fn is_good(&self) -> bool {
        let is_good = |finding: &Option<Finding>| finding.as_ref().is_none_or(|finding| finding.good);
        self.missing == 0 && is_good(&self.verified) && is_good(&self.tested)
    }
}

/// Which backups a target has.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    pub format: u32,
    /// Grows with every write.
    pub generation: u64,
    /// Whose backups these are.
    pub installation: String,
    /// Oldest first.
    pub backups: Vec<Entry>,
    /// Backups that are being removed.
    pub dropping: Vec<Entry>,
}

impl Index {
    /// The object: a checksum in hexadecimal, a line end, JSON.
    pub fn encode(&self) -> Vec<u8> {
        // Strings, numbers and lists can always be written.
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut object = blake3::hash(&json).to_hex().as_bytes().to_vec();
        object.push(b'\n');
        object.extend_from_slice(&json);
        object
    }

    /// Reads an object.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(object: &[u8]) -> Result<Self, String> {
        let (checksum, json) = object.split_at_checked(CHECKSUM_OCTETS).ok_or("the index is cut off")?;
        if checksum.strip_suffix(b"\n") != Some(blake3::hash(json).to_hex().as_bytes()) {
            return Err("the index is damaged".to_owned());
        }
        let value: serde_json::Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            return Err("the index has a form that this version does not know".to_owned());
        }
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    /// The backup with this id.
    pub fn find(&self, id: &str) -> Option<&Entry> {
        self.backups.iter().find(|entry| entry.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_comes_back_and_any_changed_octet_is_noticed() {
        let index = Index { format: FORMAT, generation: 7, installation: "x".to_owned(), ..Index::default() };
        let object = index.encode();
        assert_eq!(Index::decode(&object).unwrap(), index);
        for at in 0..object.len() {
            let mut damaged = object.clone();
            damaged[at] ^= 1;
            assert!(Index::decode(&damaged).is_err(), "{at}");
            assert!(Index::decode(&object[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn newer_forms_are_refused_by_name() {
        let index = Index { format: FORMAT + 1, ..Index::default() };
        assert!(Index::decode(&index.encode()).unwrap_err().contains("does not know"));
    }
}
