//! Comparing a backup with its manifest.

use serde::{Deserialize, Serialize};

use super::BackupError;
use super::Result;
use super::create::Source;
use super::index::Finding;
use super::manifest::{Content, Manifest, database_key, pack_key};
use super::target::{Target, patiently};
use crate::base::clock::Timestamp;
use crate::storage::remote::{ObjectKey, RemoteError};

/// Read at a time, in octets.
const PIECE_OCTETS: u64 = 16 << 20;
/// Most damaged objects that are named.
const NAMES_MAX: usize = 1_000;

/// A backup that was checked, or is being checked: also the position of that work.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checked {
    /// The backup.
    pub id: String,
    /// As of when it was taken.
    pub at: Timestamp,
    /// Objects that were read.
    pub files: u64,
    /// Their octets.
    pub octets: u64,
    /// How many are damaged or missing.
    pub damages: u64,
    /// Their keys; at most 1,000.
    pub damaged: Vec<String>,
}

/// Reads every object of a backup and compares it with the manifest, from `position` on, which the progress was told of
/// the last time; empty: from the beginning. The index remembers what was found.
///
/// # Errors
/// See [`BackupError`]; damage is no error but in the answer.
pub async fn verify(source: &Source, target: &Target, id: &str, position: &str) -> Result<Checked> {
    source.lease_read(target, id).await?;
    let outcome = compare(source, target, id, position).await;
    if let Ok(checked) = &outcome {
        let what = format!("{} files read, {} damaged or missing", checked.files, checked.damages);
        let finding = Finding { at: source.clock.now(), good: checked.damages == 0, what };
        source.note(target, id, |entry| entry.verified = Some(finding.clone())).await?;
    }
    source.lease_end().await;
    outcome
}

async fn compare(source: &Source, target: &Target, id: &str, position: &str) -> Result<Checked> {
    let progress = &source.progress;
    let manifest = target.manifest_of(id, progress).await?;
    let none =
        Checked { id: id.to_owned(), at: manifest.at, files: 0, octets: 0, damages: 0, damaged: Vec::new() };
    // A position of another version is as good as none.
    let begun: Option<Checked> = serde_json::from_str(position).ok();
    let mut checked = begun.filter(|begun| begun.id == id).unwrap_or(none);
    let behind = usize::try_from(checked.files).unwrap_or(usize::MAX);
    let total = manifest.octets();
    for (key, content) in objects(&manifest).skip(behind) {
        progress.go_on()?;
        checked.files += 1;
        checked.octets = checked.octets.saturating_add(content.octets);
        if !is_whole(source, target, &key, &content).await? {
            tracing::error!(place = %target.place(), %key, "an object of a backup is damaged or missing");
            checked.damages += 1;
            if checked.damaged.len() < NAMES_MAX {
                checked.damaged.push(key.to_string());
            }
        }
        progress.advance(checked.octets, Some(total), "octets");
        progress.save_position(serde_json::to_string(&checked).unwrap_or_default());
    }
    Ok(checked)
}

/// Everything that a manifest names; the database first.
fn objects(manifest: &Manifest) -> impl Iterator<Item = (ObjectKey, Content)> + '_ {
    let database = (database_key(&manifest.id), manifest.database.clone());
    let packs = manifest
        .packs
        .iter()
        .map(|pack| (pack_key(&pack.name), Content { octets: pack.octets, blake3: pack.blake3.clone() }));
    std::iter::once(database).chain(packs)
}

/// Whether an object has the content that it should have.
pub(super) async fn is_whole(
    source: &Source,
    target: &Target,
    key: &ObjectKey,
    content: &Content,
) -> Result<bool> {
    let progress = &source.progress;
    let absent = |error| match error {
        BackupError::Target(RemoteError::NotFound(_) | RemoteError::Corrupt(_)) => Ok(false),
        error => Err(error),
    };
    let (mut hasher, mut offset) = (blake3::Hasher::new(), 0);
    while offset < content.octets {
        let length = PIECE_OCTETS.min(content.octets - offset);
        match patiently(progress, || target.remote.get_range(key, offset, length)).await {
            Ok(piece) => hasher.update(&piece),
            Err(error) => return absent(error),
        };
        offset += length;
    }
    // Nothing may stand behind it either.
    match patiently(progress, || target.remote.head(key)).await {
        Ok(head) => {
            Ok(head.octets == content.octets && hasher.finalize().to_hex().as_str() == content.blake3)
        }
        Err(error) => absent(error),
    }
}

impl Source {
    /// Changes what the index says of a backup, if it is there still.
    pub(super) async fn note(
        &self,
        target: &Target,
        id: &str,
        change: impl Fn(&mut super::Entry),
    ) -> Result<()> {
        self.lease_write(target).await?;
        let mut index = self.own_index(target).await?;
        let Some(entry) = index.backups.iter_mut().find(|entry| entry.id == id) else { return Ok(()) };
        change(entry);
        self.publish(target, &mut index).await
    }
}
