//! CURRENT: the file that names the catalogs, dictionaries and packs of a store which belong together, on the volume
//! and, under a fixed key, in its bucket. Whoever has this file and those that it names has all mail of the store.

use std::collections::BTreeSet;
use std::io::Read;

use bytes::Bytes;

use super::file::{self, current_key, current_path};
use super::format::{Header, Kind, SectionReader, SectionWriter, corrupt};
use super::record::{CatalogRecord, CurrentRecord, PackRecord, ROWS_MAX, from_json, section, to_json};
use crate::base::clock::Timestamp;
use crate::storage::bodies::{Bodies, blocking};
use crate::storage::metadata::catalog::{self, CatalogFile, NamedPack, StoreState};
use crate::storage::metadata::dictionary;
use crate::storage::metadata::lane::Priority;
use crate::storage::pack::PackName;
use crate::storage::volumes::Volume;
use crate::storage::{Result, StorageError};

/// Entries that one section names.
const ENTRIES_MAX: usize = 50_000;
/// The largest that is read from a bucket: enough for a store of 100 TB.
pub const OCTETS_MAX: u64 = 256 << 20;

/// The present state of a store.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Current {
    /// What is said of the whole.
    pub record: CurrentRecord,
    /// Its catalogs.
    pub catalogs: Vec<CatalogRecord>,
    /// Its packs.
    pub packs: Vec<PackRecord>,
}

impl Current {
    /// Reads the bytes of CURRENT.
    ///
    /// # Errors
    /// `Corrupt` when they are damaged; `Io`.
    pub fn read(input: impl Read) -> Result<Self> {
        let mut reader = SectionReader::new(input)?;
        if reader.header().kind != Kind::Current {
            return Err(corrupt("this file is not CURRENT"));
        }
        let mut current = Self::default();
        while let Some((kind, plain)) = reader.next_section()? {
            match kind {
                section::CURRENT => current.record = from_json(&plain)?,
                section::PACKS => current.packs.extend(from_json::<Vec<PackRecord>>(&plain)?),
                section::CATALOG => current.catalogs.push(from_json(&plain)?),
                // Of a later version, which adds what this one can do without.
                _ => {}
            }
        }
        Ok(current)
    }

    /// The bytes of CURRENT.
    ///
    /// # Errors
    /// `Corrupt` when a record is too long.
    pub fn write(&self, store: i64, at: Timestamp) -> Result<Vec<u8>> {
        let header = Header { kind: Kind::Current, name: PackName::random(), store, at };
        let mut writer = SectionWriter::new(Vec::new(), header)?;
        writer.append(section::CURRENT, &to_json(&self.record)?)?;
        for catalog in &self.catalogs {
            writer.append(section::CATALOG, &to_json(catalog)?)?;
        }
        for packs in self.packs.chunks(ROWS_MAX) {
            writer.append(section::PACKS, &to_json(packs)?)?;
        }
        writer.finish().map(|(bytes, _)| bytes)
    }
}

/// What was written.
pub(super) struct Named {
    /// Packs with their keys.
    packs: Vec<NamedPack>,
    current: Current,
}

async fn all_files(bodies: &Bodies, volume: &Volume, state: &'static str) -> Result<Vec<CatalogFile>> {
    let (store, mut all) = (volume.store.store, Vec::new());
    let mut after = 0;
    loop {
        let read = bodies.database().read(|conn| Box::pin(catalog::files(conn, store, state, after)));
        let page: Vec<CatalogFile> = read.await?;
        let Some(last) = page.last() else { return Ok(all) };
        after = last.id;
        all.extend(page);
    }
}

/// Files of a store's catalogs in the present state.
pub(super) async fn present_files(bodies: &Bodies, volume: &Volume) -> Result<Vec<CatalogFile>> {
    all_files(bodies, volume, "present").await
}

/// Files of a store's catalogs that are to be removed.
pub(super) async fn dropped_files(bodies: &Bodies, volume: &Volume) -> Result<Vec<CatalogFile>> {
    all_files(bodies, volume, "dropped").await
}

/// All packs of a store as the database knows them.
pub(super) async fn packs(bodies: &Bodies, volume: &Volume) -> Result<Vec<NamedPack>> {
    let (store, mut all) = (volume.store.store, Vec::new());
    let mut after = 0;
    loop {
        let read = bodies.database().read(|conn| Box::pin(catalog::packs(conn, store, after)));
        let page: Vec<NamedPack> = read.await?;
        let Some(last) = page.last() else { return Ok(all) };
        after = last.id;
        all.extend(page);
    }
}

/// What CURRENT has to say now; packs among `covered` are covered with it.
async fn gather(bodies: &Bodies, volume: &Volume, covered: &BTreeSet<i64>) -> Result<Named> {
    let store = volume.store.store;
    let mut catalogs = Vec::new();
    for file in present_files(bodies, volume).await? {
        let record = |entries: Vec<(i64, u64)>| CatalogRecord {
            name: file.name.to_string(),
            is_directory: file.is_directory,
            octets: file.octets,
            entries,
        };
        let (mut entries, mut after, before) = (Vec::new(), (i64::MIN, 0), catalogs.len());
        loop {
            let read = bodies.database().read(|conn| Box::pin(catalog::entries(conn, file.id, after)));
            let page: Vec<(i64, i64, i64)> = read.await?;
            let Some(&(mailbox, sequence, _)) = page.last() else { break };
            after = (mailbox, sequence);
            entries
                .extend(page.into_iter().map(|(mailbox, sequence, _)| (mailbox, sequence.cast_unsigned())));
            if entries.len() >= ENTRIES_MAX {
                catalogs.push(record(std::mem::take(&mut entries)));
            }
        }
        if !entries.is_empty() || catalogs.len() == before {
            catalogs.push(record(entries));
        }
    }
    let packs = packs(bodies, volume).await?;
    let read = bodies.database().read(|conn| {
        Box::pin(async move {
            let state = catalog::store_state(conn, store).await?;
            let (object_last, placed) =
                (catalog::object_last(conn).await?, dictionary::placed(conn, store).await?);
            Ok::<_, StorageError>((state, object_last, placed))
        })
    });
    let (state, object_last, dictionaries): (StoreState, i64, Vec<u32>) = read.await?;
    let (store, at) = (volume.name.clone(), state.complete_at.0);
    let record = CurrentRecord { number: 0, store, at, object_last, dictionaries };
    let named = packs.iter().map(|pack| PackRecord {
        name: pack.name.clone(),
        octets: pack.octets,
        is_local: pack.is_local,
        is_remote: pack.is_remote,
        is_covered: pack.is_covered || covered.contains(&pack.id),
    });
    let packs_named = named.collect();
    Ok(Named { packs, current: Current { record, catalogs, packs: packs_named } })
}

/// Writes CURRENT from what the database knows, on the volume and, if the store has one, in its bucket. `complete`:
/// the catalogs were brought up to date at that time, and know all that lives in these packs.
///
/// # Errors
/// What the database says; `Io`, `Full`, or what object storage says. Then one of the two may be there and not the
/// other; the higher number is the newer one.
pub async fn write(
    bodies: &Bodies,
    volume: &Volume,
    now: Timestamp,
    complete: Option<(Timestamp, &BTreeSet<i64>)>,
) -> Result<()> {
    let _turn = bodies.current_turn().lock().await;
    let store = volume.store.store;
    let none = BTreeSet::new();
    let covered = complete.map_or(&none, |(_, covered)| covered);
    if let Some((at, _)) = complete {
        let note = bodies.database().write(Priority::Background, move |conn| {
            Box::pin(async move {
                catalog::ensure_state(conn, store, 0).await?;
                catalog::completed(conn, store, at).await
            })
        });
        note.await?;
    }
    let mut named = gather(bodies, volume, covered).await?;
    let node = bodies.node().clone();
    let number = bodies.database().write(Priority::Background, move |conn| {
        let node = node.clone();
        Box::pin(async move { catalog::next_number(conn, &node, store).await })
    });
    let number: i64 = number.await?;
    named.current.record.number = number.cast_unsigned();
    let bytes = named.current.write(store.0, now)?;
    let folder = bodies.volumes().folder().join(&volume.store.path);
    let (path, local) = (current_path(&folder), bytes.clone());
    blocking(move || file::replace(&path, &local)).await?;
    if volume.has_remote() {
        volume.remote()?.put_bytes(&current_key(), Bytes::from(bytes)).await?;
        let remote = named.packs.iter().filter(|pack| pack.is_remote).map(|pack| pack.id);
        note(bodies, remote.collect(), false).await?;
    }
    let covered = named.packs.iter().filter(|pack| !pack.is_covered && covered.contains(&pack.id));
    note(bodies, covered.map(|pack| pack.id).collect(), true).await
}

async fn note(bodies: &Bodies, packs: Vec<i64>, covers: bool) -> Result<()> {
    for slice in packs.chunks(catalog::SLICE_ROWS) {
        let slice = slice.to_vec();
        let note = bodies.database().write(Priority::Background, move |conn| {
            let slice = slice.clone();
            Box::pin(async move {
                if covers {
                    catalog::packs_covered(conn, &slice).await
                } else {
                    catalog::packs_named(conn, &slice).await
                }
            })
        });
        note.await?;
    }
    Ok(())
}

/// Makes the CURRENT in object storage name all packs that are there, if it does not yet: before their local copies go.
///
/// # Errors
/// As [`write`].
pub async fn name_packs(bodies: &Bodies, volume: &Volume, now: Timestamp) -> Result<()> {
    let store = volume.store.store;
    let read = bodies.database().read(|conn| Box::pin(catalog::unnamed(conn, store)));
    let unnamed: Vec<i64> = read.await?;
    if unnamed.is_empty() {
        return Ok(());
    }
    write(bodies, volume, now, None).await
}
