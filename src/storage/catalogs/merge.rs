//! Putting small files of catalogs together, and writing those anew of which little is left. What is copied was
//! written before: the database's messages are not read for it.
//!
//! A file that comes of it is large enough not to be merged again for being small, so an entry is copied a few times
//! at most, and the number of files stays bounded by the octets that belong to the present state.

use std::collections::BTreeSet;

use super::current;
use super::file::{self, FileWriter};
use super::format::Kind;
use super::pass::{Open, TARGET_OCTETS, begin, upload};
use super::record::{MailboxRecord, from_json, section};
use crate::base::clock::Timestamp;
use crate::storage::background::background;
use crate::storage::bodies::Bodies;
use crate::storage::metadata::catalog::{self, CatalogFile};
use crate::storage::metadata::lane::Priority;
use crate::storage::volumes::Volume;
use crate::storage::{Result, StorageError};

/// So many files that are small or have little left are merged.
const FILES_MIN: usize = 8;
/// Most octets that one merged file takes over.
const MERGED_OCTETS_MAX: u64 = 64 << 20;
/// So much that is dead is reason enough.
const DEAD_OCTETS_MAX: u64 = 32 << 20;

fn is_due(file: &CatalogFile) -> bool {
    file.octets < TARGET_OCTETS / 2 || file.living_octets.saturating_mul(2) < file.octets
}

/// Merges, if it is worth it. Answers how many files were written.
///
/// # Errors
/// What the database says; `Io` or `Full`. What was merged before stays so.
pub(super) async fn merge(bodies: &Bodies, volume: &Volume, now: Timestamp) -> Result<u64> {
    let mut files = current::present_files(bodies, volume).await?;
    files.retain(|file| !file.is_directory && is_due(file));
    let dead: u64 = files.iter().map(|file| file.octets.saturating_sub(file.living_octets)).sum();
    if files.len() < FILES_MIN && dead < DEAD_OCTETS_MAX {
        return Ok(0);
    }
    files.sort_unstable_by_key(|file| file.living_octets);
    let mut octets = 0_u64;
    let fits = |file: &CatalogFile| {
        let is_first = octets == 0;
        octets = octets.saturating_add(file.living_octets);
        is_first || octets <= MERGED_OCTETS_MAX
    };
    let files: Vec<CatalogFile> = files.into_iter().take_while(fits).collect();
    let Open { id, name, mut writer } = begin(bodies, volume, Kind::Mailboxes, now).await?;
    let mut moved = Vec::new();
    for file in files {
        let living = living(bodies, &file).await?;
        let path = file::path(&bodies.volumes().folder().join(&volume.store.path), file.name);
        let copy = move || {
            let copied = copy(&path, &living, &mut writer);
            Ok((writer, copied))
        };
        let (written, copied) = background(copy).await?;
        writer = written;
        match copied {
            Ok(entries) => moved.push((file.id, entries)),
            Err(error @ (StorageError::Corrupt(_) | StorageError::Gone(_))) => {
                tracing::error!(catalog = %file.name, %error, "a catalog is written anew from the database");
                while give_up(bodies, file.id).await? > 0 {}
            }
            Err(error) => return Err(error),
        }
    }
    let octets = writer.finish().await?;
    upload(bodies, volume, id, name, octets).await;
    let complete = bodies
        .database()
        .write(Priority::Background, move |conn| Box::pin(catalog::complete(conn, id, octets)));
    let completed: Result<()> = complete.await;
    completed?;
    for (from, entries) in moved {
        for slice in entries.chunks(catalog::SLICE_ROWS) {
            let slice = slice.to_vec();
            let write = bodies.database().write(Priority::Background, move |conn| {
                let slice = slice.clone();
                Box::pin(async move { catalog::move_entries(conn, from, id, &slice).await })
            });
            let moved: Result<()> = write.await;
            moved?;
        }
    }
    let store = volume.store.store;
    let drop_dead =
        bodies.database().write(Priority::Background, move |conn| Box::pin(catalog::drop_dead(conn, store)));
    let _: u64 = drop_dead.await?;
    Ok(1)
}

/// Begins the mailboxes of a file anew; a slice. Answers how many.
pub(super) async fn give_up(bodies: &Bodies, file: i64) -> Result<u64> {
    let write = bodies
        .database()
        .write(Priority::Background, move |conn| Box::pin(catalog::give_up_entries(conn, file)));
    write.await
}

async fn living(bodies: &Bodies, file: &CatalogFile) -> Result<BTreeSet<(i64, i64)>> {
    let (mut living, mut after, id) = (BTreeSet::new(), (i64::MIN, 0), file.id);
    loop {
        let read = bodies.database().read(|conn| Box::pin(catalog::entries(conn, id, after)));
        let page: Vec<(i64, i64, i64)> = read.await?;
        let Some(&(mailbox, sequence, _)) = page.last() else { return Ok(living) };
        after = (mailbox, sequence);
        living.extend(page.into_iter().map(|(mailbox, sequence, _)| (mailbox, sequence)));
    }
}

/// Copies the living entries of a file: mailbox, sequence and octets of each.
fn copy(
    path: &std::path::Path,
    living: &BTreeSet<(i64, i64)>,
    writer: &mut FileWriter,
) -> Result<Vec<(i64, i64, i64)>> {
    let mut reader = file::open(path)?;
    let (mut copied, mut begun) = (Vec::new(), None::<((i64, i64), u64)>);
    let mut close = |begun: &mut Option<((i64, i64), u64)>, octets: u64| {
        if let Some(((mailbox, sequence), from)) = begun.take() {
            let length = i64::try_from(octets.saturating_sub(from)).unwrap_or(i64::MAX);
            copied.push((mailbox, sequence, length));
        }
    };
    while let Some((kind, plain)) = reader.next_section()? {
        if kind == section::MAILBOX {
            close(&mut begun, writer.octets());
            let record: MailboxRecord = from_json(&plain)?;
            let key = (record.id, record.sequence.cast_signed());
            begun = living.contains(&key).then(|| (key, writer.octets()));
        }
        if begun.is_some() {
            writer.append_blocking(kind, &plain)?;
        }
    }
    close(&mut begun, writer.octets());
    if copied.len() < living.len() {
        return Err(StorageError::Corrupt("entries are missing".to_owned()));
    }
    Ok(copied)
}
