//! Catalogs: files beside the packs that say what the database says of the mail, so that losing the database does not
//! mean losing the mail (`docs/catalog-format.md`). Each store has its own, in the folder `catalogs` and, if it has
//! one, in its bucket.
//!
//! # Consistency
//! A file is immutable; CURRENT names those that belong to the present state, and is replaced in one step. It is
//! written after the files that it names, and files go after it no longer names them. Which mailboxes have changed is
//! found from their folders' rows; only those are written, and large ones only with what has changed in them.
//!
//! CURRENT also names the packs, and says of which of them the catalogs know all that lives in them. That is true of
//! those that were there before the first mailbox was read. A local copy of a pack goes only after the CURRENT in
//! object storage names the object.
//!
//! # Crash Consistency
//! The points where a crash can happen, and what the next pass finds:
//! 1. after the directory, 2. after the mailboxes, 3. after merging: files that CURRENT does not name; each has a row;
//!    the next CURRENT names them, or they are removed by their rows;
//! 4. after CURRENT: dropped files, which are removed by their rows.
//!
//! # Cancellation
//! As a crash, but for the temporary file, which goes at once.

mod current;
mod dictionaries;
mod entry;
mod file;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod merge;
mod pass;
pub mod record;
pub mod restore;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use current::{Current, name_packs};
pub use format::{Header, Kind, SectionReader, SectionWriter};

use super::Result;
use super::bodies::Bodies;
use super::metadata::catalog::{self, NamedPack, StoreState};
use super::volumes::Volume;
use crate::base::clock::{Clock, Timestamp};
use crate::base::id::StoreId;

/// How often it is looked whose time has come.
const INTERVAL: Duration = Duration::from_secs(60);

/// What one pass wrote.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Written {
    /// Entries of mailboxes.
    pub mailboxes: u64,
    /// Files.
    pub files: u64,
    /// Their octets, merged ones aside.
    pub octets: u64,
    /// Mailboxes that are gone from the catalogs.
    pub gone: u64,
}

/// A file that belongs to the present state of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateFile {
    /// Its name below the folder of the store, and its key in object storage.
    pub name: String,
    /// Its length in octets; nothing where that is not known without looking.
    pub octets: Option<u64>,
}

/// Writes catalogs in the background.
pub struct Catalogs {
    bodies: Bodies,
    /// Passes take turns.
    turn: tokio::sync::Mutex<()>,
    /// When the catalogs of a store were brought up to date.
    written_at: Mutex<HashMap<StoreId, Timestamp>>,
    /// The packs that CURRENT was last written with.
    packs: Mutex<HashMap<StoreId, Vec<NamedPack>>>,
    #[cfg(test)]
    pub(super) fault: Option<super::packer_tests::Fault>,
}

impl Catalogs {
    /// For all mail stores. At most one may be on a database.
    pub fn new(bodies: Bodies) -> Self {
        Self {
            bodies,
            turn: tokio::sync::Mutex::default(),
            written_at: Mutex::default(),
            packs: Mutex::default(),
            #[cfg(test)]
            fault: None,
        }
    }

    /// Brings the catalogs of each store up to date as often as its settings say. Never returns; may be dropped at any
    /// time.
    pub async fn run(self: Arc<Self>, clock: Clock) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.look(clock.now()).await {
                tracing::warn!(%error, "catalogs could not be written; it is tried again");
            }
        }
    }

    /// Brings the catalogs of those stores up to date whose time has come. What fails for one store does not keep the
    /// others.
    ///
    /// # Errors
    /// What the database says.
    pub async fn look(&self, now: Timestamp) -> Result<()> {
        for volume in self.bodies.volumes().all().await? {
            if volume.admit_writes().is_ok() && self.is_due(&volume, now).await? {
                self.write_or_tell(&volume, now).await;
            }
        }
        Ok(())
    }

    /// Brings the catalogs of all stores up to date.
    ///
    /// # Errors
    /// What the database says; what fails for one store does not keep the others and is told in the log.
    pub async fn write_all(&self, now: Timestamp) -> Result<()> {
        for volume in self.bodies.volumes().all().await? {
            if volume.admit_writes().is_ok() {
                self.write_or_tell(&volume, now).await;
            }
        }
        Ok(())
    }

    async fn write_or_tell(&self, volume: &Volume, now: Timestamp) {
        match self.write(volume, now).await {
            Ok(written) if written != Written::default() => {
                tracing::info!(store = volume.name, ?written, "catalogs written");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(store = volume.name, %error, "catalogs could not be written; it is tried again");
            }
        }
        // After a failure, too, there is time until the next try.
        let mut written_at = self.written_at.lock().unwrap_or_else(PoisonError::into_inner);
        written_at.insert(volume.store.store, now);
    }

    async fn is_due(&self, volume: &Volume, now: Timestamp) -> Result<bool> {
        let interval = Duration::from_secs(60) * volume.store.settings.catalog_minutes;
        Ok(self.written_at(volume).await?.plus(interval) <= now)
    }

    async fn written_at(&self, volume: &Volume) -> Result<Timestamp> {
        let store = volume.store.store;
        let known = self.written_at.lock().unwrap_or_else(PoisonError::into_inner).get(&store).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let read = self.bodies.database().read(|conn| Box::pin(catalog::store_state(conn, store)));
        let state: StoreState = read.await?;
        Ok(state.complete_at)
    }

    /// The files beside the packs that belong to the present state of a store, besides CURRENT: catalogs and
    /// dictionaries. With these, CURRENT and the packs, the store can be rebuilt without the database.
    ///
    /// # Errors
    /// What the database says.
    pub async fn files(bodies: &Bodies, volume: &Volume) -> Result<Vec<StateFile>> {
        let catalogs = current::present_files(bodies, volume).await?;
        let catalogs = catalogs
            .into_iter()
            .map(|file| StateFile { name: file::key(file.name).to_string(), octets: Some(file.octets) });
        let dictionaries = dictionaries::placed(bodies, volume.store.store).await?.into_iter();
        let dictionaries = dictionaries
            .map(|number| StateFile { name: file::dictionary_key(number).to_string(), octets: None });
        Ok(catalogs.chain(dictionaries).collect())
    }

    fn is_current(&self, volume: &Volume, packs: &[NamedPack]) -> bool {
        let known = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&volume.store.store).is_some_and(|known| known == packs)
    }

    fn forget_current(&self, volume: &Volume) {
        let mut known = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&volume.store.store);
    }

    /// The packs as the next pass finds them if nothing changes.
    fn note_current(&self, volume: &Volume, packs: &[NamedPack], is_complete: bool) {
        let covered =
            |pack: &NamedPack| NamedPack { is_covered: pack.is_covered || is_complete, ..pack.clone() };
        let mut known = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(volume.store.store, packs.iter().map(covered).collect());
    }

    /// A point where a crash is tried out.
    #[cfg(test)]
    async fn reach(&self, point: u8) {
        if let Some(fault) = &self.fault {
            fault.reach(point).await;
        }
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, clippy::unused_async, reason = "only tests crash here")]
    async fn reach(&self, _point: u8) {}
}
