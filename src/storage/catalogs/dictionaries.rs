//! Dictionaries beside the packs: frames that were compressed with one cannot be read without it, so each lies as a
//! file in every store that uses it, before the first frame does, and goes with the last.

use std::collections::BTreeSet;

use super::Catalogs;
use super::file::{self, FileWriter, dictionary_key, dictionary_path};
use super::format::{Header, Kind};
use super::record::{DictionaryRecord, section, to_json};
use crate::base::clock::Timestamp;
use crate::base::id::{PackId, StoreId};
use crate::storage::bodies::{Bodies, blocking};
use crate::storage::metadata::dictionary::{self, Place};
use crate::storage::metadata::lane::Priority;
use crate::storage::pack::{DICTIONARY_TRAINED, PackName};
use crate::storage::volumes::Volume;
use crate::storage::{Result, StorageError};

/// Numbers of the dictionaries that lie beside the packs of a store.
pub(super) async fn placed(bodies: &Bodies, store: StoreId) -> Result<Vec<u32>> {
    bodies.database().read(|conn| Box::pin(dictionary::placed(conn, store))).await
}

impl Bodies {
    /// Makes sure that dictionaries lie beside the packs of a store, and in its bucket if it has one. When this
    /// returns, frames may use them.
    ///
    /// # Errors
    /// `Gone` when one of them is not there any more; what the database says; `Io`, `Full`, or what object storage
    /// says.
    pub async fn place_dictionaries(&self, store: StoreId, numbers: &BTreeSet<u32>) -> Result<()> {
        let wanted: Vec<u32> =
            numbers.iter().copied().filter(|number| *number >= DICTIONARY_TRAINED).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let volume = self.volumes().get(store).await?;
        let (has_remote, asked) = (volume.has_remote(), wanted.clone());
        let read = self.database().read(|conn| {
            Box::pin(async move { dictionary::unplaced(conn, store, &asked, has_remote).await })
        });
        let unplaced: Vec<u32> = read.await?;
        for number in unplaced {
            self.place_dictionary(&volume, number).await?;
        }
        Ok(())
    }

    /// As [`Self::place_dictionaries`] for those that packs need.
    ///
    /// # Errors
    /// As there.
    pub async fn place_dictionaries_of(&self, store: StoreId, packs: &[PackId]) -> Result<()> {
        let packs: Vec<i64> = packs.iter().map(|pack| pack.0).collect();
        let read =
            self.database().read(|conn| Box::pin(async move { dictionary::of_packs(conn, &packs).await }));
        let numbers: BTreeSet<u32> = read.await?;
        self.place_dictionaries(store, &numbers).await
    }

    async fn place_dictionary(&self, volume: &Volume, number: u32) -> Result<()> {
        let store = volume.store.store;
        let begin = self
            .database()
            .write(Priority::Background, move |conn| Box::pin(dictionary::place_begins(conn, store, number)));
        let begun: Result<()> = begin.await;
        begun?;
        let read = self.database().read(|conn| Box::pin(dictionary::whole(conn, number)));
        let found: Option<(i64, i64, Vec<u8>)> = read.await?;
        let (customer, created_at, bytes) = found.ok_or(StorageError::Gone("a dictionary"))?;
        let folder = self.volumes().folder().join(&volume.store.path);
        let path = dictionary_path(&folder, number);
        let header =
            Header { kind: Kind::Dictionary, name: PackName::random(), store: store.0, at: Timestamp(0) };
        let mut writer = FileWriter::create(path.clone(), header).await?;
        let owner = DictionaryRecord { customer, created_at };
        writer.append(section::DICTIONARY_OWNER, to_json(&owner)?).await?;
        writer.append(section::DICTIONARY, bytes).await?;
        let octets = writer.finish().await?;
        if volume.has_remote() {
            volume.remote()?.put_file(&dictionary_key(number), &path, octets).await?;
        }
        let has_remote = volume.has_remote();
        let done = self.database().write(Priority::Background, move |conn| {
            Box::pin(dictionary::place_done(conn, store, number, has_remote))
        });
        done.await
    }

    /// Deletes dictionaries that nothing needs any more, with their files. Answers how many files.
    ///
    /// # Errors
    /// What the database says; `Io`, or what object storage says: what remains is removed later.
    pub async fn prune_dictionaries(&self, now: Timestamp) -> Result<u64> {
        let prune =
            self.database().write(Priority::Background, move |conn| Box::pin(dictionary::prune(conn, now)));
        let _: u64 = prune.await?;
        let places: Vec<Place> = self.database().read(|conn| Box::pin(dictionary::going(conn))).await?;
        let mut removed = 0;
        for Place { number, store, is_remote } in places {
            let volume = self.volumes().get(store).await?;
            if is_remote && volume.has_remote() {
                volume.remote()?.delete(&dictionary_key(number)).await?;
            }
            let path = dictionary_path(&self.volumes().folder().join(&volume.store.path), number);
            blocking(move || file::remove(&path)).await?;
            let gone = self.database().write(Priority::Background, move |conn| {
                Box::pin(dictionary::place_gone(conn, store, number))
            });
            let gone: Result<()> = gone.await;
            gone?;
            removed += 1;
        }
        Ok(removed)
    }
}

impl Catalogs {
    /// Places the dictionaries of packs that were written before dictionaries were placed, or before the store had a
    /// bucket.
    pub(super) async fn place_all_dictionaries(&self, volume: &Volume) -> Result<()> {
        let (store, has_remote) = (volume.store.store, volume.has_remote());
        let read = self
            .bodies
            .database()
            .read(|conn| Box::pin(dictionary::unplaced_of_packs(conn, store, has_remote)));
        let unplaced: Vec<u32> = read.await?;
        for number in unplaced {
            self.bodies.place_dictionary(volume, number).await?;
        }
        Ok(())
    }
}
