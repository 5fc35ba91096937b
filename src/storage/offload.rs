//! Sends packs to object storage as their store's policy says, drops local copies, and writes packs anew that hold
//! too much that is dead.
//!
//! # Consistency
//! A pack's local copy goes only after its object was compared and that was recorded; readers learn of it in the same
//! row. Packs that are released together are merged first: sorted by customer, mailbox, folder and date, so that a
//! folder is read with few requests.
//!
//! # Crash Consistency
//! The points where a crash can happen, and what the next look finds:
//! 1. after `uploading` was noted: there may be an object, whole or not at all: the upload is done again, with the
//!    same bytes under the same name;
//! 2. after the object is there: the same;
//! 3. after `removing` was noted: readers take the object; the file is removed again;
//! 4. after the file was removed: the same;
//! 5. to 8. while packs are written anew: what `rewriter.rs` says.
//!
//! Objects of packs that are dropped meanwhile are deleted with them, since the row says that there may be one.
//!
//! # Cancellation
//! As a crash.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::background::background;
use super::bodies::Bodies;
use super::catalogs::name_packs;
use super::metadata::lane::Priority;
use super::metadata::pack::Intended;
use super::metadata::rewrite::{self, PackRow, Wanted};
use super::pack::PackReader;
use super::remote::ObjectKey;
use super::rewriter::{Pace, Rewriting, Rewritten, Source, rewrite};
use super::volumes::Volume;
use super::{Result, StorageError};
use crate::base::clock::{Clock, Timestamp};
use crate::base::id::{PackId, StoreId};
use crate::base::progress::Progress;
use crate::base::store_settings::OffloadWhen;

/// How often policies are looked at.
const INTERVAL: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long background work leaves a pack alone in which damage was found.
const DAMAGE_REST: Duration = DAY;
/// Most packs on the volume that are merged at once: they need as much room again.
const MERGED_LOCAL_MAX: usize = 128;
/// Most packs that are fetched from object storage to be written anew at once.
const MERGED_REMOTE_MAX: usize = 16;
/// So many packs of one tier in object storage are merged into the next.
const TIER_PACKS: usize = 10;
/// Packs of this tier are not merged any more: a body is rewritten at most so often.
const TIER_MAX: i64 = 3;

/// What one look did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Offloaded {
    /// Packs uploaded.
    pub uploaded: u64,
    /// Their octets.
    pub uploaded_octets: u64,
    /// Local copies removed.
    pub removed: u64,
    /// Their octets.
    pub removed_octets: u64,
    /// Packs written anew.
    pub rewritten: u64,
    /// Their octets.
    pub rewritten_octets: u64,
    /// Octets of what they became.
    pub became_octets: u64,
    /// Damaged bodies that were found; each is in the log.
    pub damaged: u64,
}

/// Offloads and compacts in the background.
pub struct Offloader {
    bodies: Bodies,
    /// Looks take turns, or two would write the same packs anew.
    turn: tokio::sync::Mutex<()>,
    #[cfg(test)]
    pub(crate) fault: Option<super::packer_tests::Fault>,
}

impl Offloader {
    /// For all mail stores. At most one may be on a database.
    pub fn new(bodies: Bodies) -> Self {
        Self {
            bodies,
            turn: tokio::sync::Mutex::default(),
            #[cfg(test)]
            fault: None,
        }
    }

    /// Looks at regular intervals. Never returns; may be dropped at any time.
    pub async fn run(self: Arc<Self>, clock: Clock) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            match self.look(clock.now()).await {
                Ok(done) if done != Offloaded::default() => tracing::info!(?done, "packs moved"),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "the mail stores could not be looked at; it is tried again")
                }
            }
        }
    }

    /// Does for every store what its settings say at `now`. What fails for one store does not keep the others.
    ///
    /// # Errors
    /// What the database says.
    pub async fn look(&self, now: Timestamp) -> Result<Offloaded> {
        let mut done = Offloaded::default();
        for volume in self.bodies.volumes().all().await? {
            if volume.admit_writes().is_err() {
                continue;
            }
            let _turn = self.turn.lock().await;
            for outcome in [
                self.offload_by_policy(&volume, now, &mut done).await,
                self.compact_by_policy(&volume, now, &mut done).await,
            ] {
                if let Err(error) = outcome {
                    tracing::warn!(store = volume.name, %error, "packs could not be moved; it is tried again");
                }
            }
        }
        Ok(done)
    }

    /// Sends all packs of a store to object storage, whatever their age, and removes the local copies.
    ///
    /// # Errors
    /// When the store has no object storage or it does not answer; what was done stays.
    pub async fn offload_now(
        &self,
        store: StoreId,
        now: Timestamp,
        progress: &Progress,
    ) -> Result<Offloaded> {
        let _turn = self.turn.lock().await;
        let volume = self.bodies.volumes().get(store).await?;
        volume.admit_writes()?;
        volume.remote()?;
        let mut done = Offloaded::default();
        self.finish_begun(&volume, now, &mut done).await?;
        let merges = volume.store.settings.offload.when != OffloadWhen::AtOnce;
        let released = self.packs(&volume, Wanted::Unreleased { until: now }).await?;
        self.release(&volume, released, merges, now, (&mut done, progress)).await?;
        self.drop_copies(&volume, Wanted::Doubled { uploaded_until: now }, None, now, &mut done).await?;
        Ok(done)
    }

    /// Writes packs anew that hold anything dead or were written with older settings.
    ///
    /// # Errors
    /// `Full`, `Io`, `Database`, or what object storage says; what was done stays.
    pub async fn compact_now(
        &self,
        store: StoreId,
        now: Timestamp,
        progress: &Progress,
    ) -> Result<Offloaded> {
        let _turn = self.turn.lock().await;
        let volume = self.bodies.volumes().get(store).await?;
        volume.admit_writes()?;
        let mut done = Offloaded::default();
        self.note_dead(now).await?;
        let mut due = self.packs(&volume, Wanted::Overdue { dead_until: now }).await?;
        let generation = volume.store.generation;
        due.extend(self.packs(&volume, Wanted::Outdated { generation }).await?);
        self.compact(&volume, due, now, (&mut done, progress)).await?;
        Ok(done)
    }

    async fn offload_by_policy(&self, volume: &Volume, now: Timestamp, done: &mut Offloaded) -> Result<()> {
        let settings = &volume.store.settings.offload;
        self.finish_begun(volume, now, done).await?;
        if !volume.has_remote() || settings.when == OffloadWhen::Never {
            return Ok(());
        }
        let kept_until = now.minus(DAY * settings.keep_local_days);
        let (until, merges) = match settings.when {
            OffloadWhen::Never => return Ok(()),
            OffloadWhen::AtOnce => (now, false),
            OffloadWhen::AfterDays => (now.minus(DAY * settings.after_days), true),
            OffloadWhen::AboveWatermark => {
                let Some(excess) = self.excess(volume).await? else { return Ok(()) };
                let freed = self
                    .drop_copies(volume, Wanted::Doubled { uploaded_until: now }, Some(excess), now, done)
                    .await?;
                let Some(left) = excess.checked_sub(freed).filter(|&left| left > 0) else { return Ok(()) };
                let released = self.rested(volume, Wanted::Unreleased { until: now }, now).await?;
                let released = until_octets(released, Some(left));
                self.release(volume, released, true, now, (done, &Progress::default())).await?;
                self.drop_copies(volume, Wanted::Doubled { uploaded_until: now }, Some(left), now, done)
                    .await?;
                return Ok(());
            }
        };
        let released = self.rested(volume, Wanted::Unreleased { until }, now).await?;
        self.release(volume, released, merges, now, (done, &Progress::default())).await?;
        self.drop_copies(volume, Wanted::Doubled { uploaded_until: kept_until }, None, now, done)
            .await
            .map(drop)
    }

    /// Octets by which the volume is fuller than its watermark; nothing when it is not.
    async fn excess(&self, volume: &Volume) -> Result<Option<u64>> {
        let folder = self.bodies.pack_folder(&volume.store.path);
        let percent = u64::from(volume.store.settings.offload.watermark_percent);
        background(move || {
            // Before the first pack the folder is not there yet.
            let Ok(stat) = rustix::fs::statvfs(&folder) else { return Ok(None) };
            let used = stat.f_blocks.saturating_sub(stat.f_bavail).saturating_mul(stat.f_frsize);
            let allowed = (stat.f_blocks.saturating_mul(stat.f_frsize) / 100).saturating_mul(percent);
            Ok(used.checked_sub(allowed).filter(|&excess| excess > 0))
        })
        .await
    }

    async fn packs(&self, volume: &Volume, wanted: Wanted) -> Result<Vec<PackRow>> {
        let store = volume.store.store;
        self.bodies.database().read(|conn| Box::pin(rewrite::packs(conn, store, wanted))).await
    }

    /// The same, without those in which damage was found lately: background work tries them again after a while.
    async fn rested(&self, volume: &Volume, wanted: Wanted, now: Timestamp) -> Result<Vec<PackRow>> {
        let mut packs = self.packs(volume, wanted).await?;
        let until = now.minus(DAMAGE_REST);
        packs.retain(|pack| pack.damaged_at.is_none_or(|at| at <= until));
        Ok(packs)
    }

    /// Remembers damage, so that it is shown and the pack rests for a while.
    async fn note_damage(&self, pack: PackId, bodies: u64, now: Timestamp) -> Result<()> {
        let note = self
            .bodies
            .database()
            .write(Priority::Background, move |conn| Box::pin(rewrite::note_damage(conn, pack, bodies, now)));
        note.await
    }

    /// What a crash left half done.
    async fn finish_begun(&self, volume: &Volume, now: Timestamp, done: &mut Offloaded) -> Result<()> {
        let store = volume.store.store;
        let read = self.bodies.database().read(|conn| Box::pin(rewrite::removing(conn, store)));
        let removing: Vec<PackRow> = read.await?;
        for pack in removing {
            self.remove_local(volume, &pack, done).await?;
        }
        let read = self.bodies.database().read(|conn| Box::pin(rewrite::uploading(conn, store)));
        let uploading: Vec<PackRow> = read.await?;
        for pack in uploading.into_iter().filter(|_| volume.has_remote()) {
            self.upload_or_tell(volume, &pack, now, done).await?;
        }
        Ok(())
    }

    /// Merges what is released and uploads it, the oldest first.
    async fn release(
        &self,
        volume: &Volume,
        mut released: Vec<PackRow>,
        merges: bool,
        now: Timestamp,
        (done, progress): (&mut Offloaded, &Progress),
    ) -> Result<()> {
        let unmerged = released.iter().filter(|pack| pack.tier == 0).count();
        if merges && unmerged > 1 {
            let (unmerged, merged): (Vec<_>, Vec<_>) = released.into_iter().partition(|pack| pack.tier == 0);
            released = merged;
            for some in unmerged.chunks(MERGED_LOCAL_MAX) {
                if progress.is_cancelled() {
                    return Ok(());
                }
                let names = match self.write_anew(volume, some, 1, false, now, done).await {
                    Ok(rewritten) => rewritten.packs,
                    Err(StorageError::Full) => {
                        tracing::warn!(
                            store = volume.name,
                            "no room to merge packs: they are uploaded as they are"
                        );
                        released.extend_from_slice(some);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let all = self.packs(volume, Wanted::Unreleased { until: Timestamp(i64::MAX) }).await?;
                released.extend(all.into_iter().filter(|pack| names.contains(&pack.name)));
            }
        }
        let total = released.iter().map(|pack| pack.octets).sum();
        let mut sent = 0;
        for pack in &released {
            if progress.is_cancelled() {
                return Ok(());
            }
            self.upload_or_tell(volume, pack, now, done).await?;
            sent += pack.octets;
            progress.advance(sent, Some(total), "octets");
        }
        Ok(())
    }

    /// A pack that cannot be read does not keep the others.
    async fn upload_or_tell(
        &self,
        volume: &Volume,
        pack: &PackRow,
        now: Timestamp,
        done: &mut Offloaded,
    ) -> Result<()> {
        match self.upload(volume, pack, now, done).await {
            Err(error @ (StorageError::Io { .. } | StorageError::Corrupt(_) | StorageError::Gone(_))) => {
                tracing::error!(store = volume.name, pack = %pack.name, %error, "a pack cannot be uploaded");
                volume.confirm_folder()?;
                self.note_damage(pack.pack, 0, now).await
            }
            uploaded => uploaded,
        }
    }

    async fn upload(
        &self,
        volume: &Volume,
        pack: &PackRow,
        now: Timestamp,
        done: &mut Offloaded,
    ) -> Result<()> {
        let (remote, id) = (volume.remote()?, pack.pack);
        self.bodies.place_dictionaries_of(volume.store.store, &[id]).await?;
        let begin = self
            .bodies
            .database()
            .write(Priority::Background, move |conn| Box::pin(rewrite::upload_begins(conn, id)));
        let begun: bool = begin.await?;
        if !begun {
            return Ok(());
        }
        self.reach(1).await;
        let path = pack.name.path(&self.bodies.pack_folder(&volume.store.path));
        remote.put_file(&ObjectKey::of_pack(pack.name), &path, pack.octets).await?;
        self.reach(2).await;
        let record = self
            .bodies
            .database()
            .write(Priority::Background, move |conn| Box::pin(rewrite::uploaded(conn, id, now)));
        let recorded: bool = record.await?;
        if !recorded {
            return Ok(remote.delete(&ObjectKey::of_pack(pack.name)).await?);
        }
        done.uploaded += 1;
        done.uploaded_octets += pack.octets;
        Ok(())
    }

    /// Removes local copies, oldest first, until `octets` are free. Answers how many octets.
    async fn drop_copies(
        &self,
        volume: &Volume,
        wanted: Wanted,
        octets: Option<u64>,
        now: Timestamp,
        done: &mut Offloaded,
    ) -> Result<u64> {
        let mut freed = 0;
        let packs = until_octets(self.packs(volume, wanted).await?, octets);
        if !packs.is_empty() {
            // Whoever has only the bucket must find them.
            name_packs(&self.bodies, volume, now).await?;
        }
        for pack in packs {
            let id = pack.pack;
            let going = self
                .bodies
                .database()
                .write(Priority::Background, move |conn| Box::pin(rewrite::local_goes(conn, id, now)));
            let goes: bool = going.await?;
            if goes {
                self.reach(3).await;
                self.remove_local(volume, &pack, done).await?;
                freed += pack.octets;
            }
        }
        Ok(freed)
    }

    async fn remove_local(&self, volume: &Volume, pack: &PackRow, done: &mut Offloaded) -> Result<()> {
        let id = pack.pack;
        self.bodies.forget_reader(id);
        let (name, store) = (pack.name, volume.store.store);
        self.bodies.remove(&Intended { name, store, store_path: volume.store.path.clone() }).await?;
        self.reach(4).await;
        let gone = self
            .bodies
            .database()
            .write(Priority::Background, move |conn| Box::pin(rewrite::local_gone(conn, id)));
        let gone: Result<()> = gone.await;
        gone?;
        done.removed += 1;
        done.removed_octets += pack.octets;
        Ok(())
    }

    async fn note_dead(&self, now: Timestamp) -> Result<()> {
        let note = self
            .bodies
            .database()
            .write(Priority::Background, move |conn| Box::pin(rewrite::note_dead(conn, now)));
        note.await
    }

    async fn compact_by_policy(&self, volume: &Volume, now: Timestamp, done: &mut Offloaded) -> Result<()> {
        self.note_dead(now).await?;
        let settings = &volume.store.settings.compaction;
        let uploaded_until = now.minus(DAY * settings.age_min_days);
        let percent = settings.dead_percent;
        let mut due = self.rested(volume, Wanted::Sparse { percent, uploaded_until }, now).await?;
        let dead_until = now.minus(DAY * settings.purge_deadline_days);
        due.extend(self.rested(volume, Wanted::Overdue { dead_until }, now).await?);
        let generation = volume.store.generation;
        let outdated = self.rested(volume, Wanted::Outdated { generation }, now).await?;
        due.extend(outdated.into_iter().take(MERGED_REMOTE_MAX));
        self.compact(volume, due, now, (done, &Progress::default())).await?;
        for tier in 1..TIER_MAX {
            let mut packs = self.rested(volume, Wanted::Tier(tier), now).await?;
            if packs.len() >= TIER_PACKS {
                packs.truncate(MERGED_REMOTE_MAX);
                self.write_anew(volume, &packs, tier + 1, true, now, done).await?;
            }
        }
        Ok(())
    }

    /// Writes packs anew, those of one tier and place together.
    async fn compact(
        &self,
        volume: &Volume,
        due: Vec<PackRow>,
        now: Timestamp,
        (done, progress): (&mut Offloaded, &Progress),
    ) -> Result<()> {
        let mut groups: BTreeMap<(bool, i64), BTreeMap<PackId, PackRow>> = BTreeMap::new();
        for pack in due {
            groups.entry((pack.is_local, pack.tier)).or_default().insert(pack.pack, pack);
        }
        let total = groups.values().flat_map(BTreeMap::values).map(|pack| pack.octets).sum();
        let mut rewritten = 0;
        for ((is_local, tier), packs) in groups {
            let packs: Vec<PackRow> = packs.into_values().collect();
            for some in packs.chunks(if is_local { MERGED_LOCAL_MAX } else { MERGED_REMOTE_MAX }) {
                if progress.is_cancelled() {
                    return Ok(());
                }
                self.write_anew(volume, some, tier, true, now, done).await?;
                rewritten += some.iter().map(|pack| pack.octets).sum::<u64>();
                progress.advance(rewritten, Some(total), "octets");
            }
        }
        Ok(())
    }

    async fn write_anew(
        &self,
        volume: &Volume,
        packs: &[PackRow],
        tier: i64,
        recodes: bool,
        now: Timestamp,
        done: &mut Offloaded,
    ) -> Result<Rewritten> {
        let fetched = Fetched::new(self.bodies.volumes().folder().join(&volume.store.path).join("fetched"));
        let mut sources = Vec::with_capacity(packs.len());
        for row in packs {
            match self.open(volume, row, &fetched).await {
                Ok(reader) => sources.push(Source { row: row.clone(), reader }),
                Err(error @ (StorageError::Io { .. } | StorageError::Corrupt(_) | StorageError::Gone(_))) => {
                    tracing::error!(store = volume.name, pack = %row.name, %error, "a pack cannot be read");
                    volume.confirm_folder()?;
                    self.note_damage(row.pack, 0, now).await?;
                }
                Err(error) => return Err(error),
            }
        }
        let mut pace = Pace::new(volume.store.settings.compaction.octets_per_sec_max);
        let how = Rewriting {
            volume: &volume.store,
            tier,
            recodes,
            pace: &mut pace,
            now,
            #[cfg(test)]
            fault: self.fault.as_ref(),
        };
        let rewritten = rewrite(&self.bodies, &sources, how).await?;
        done.rewritten += sources.len() as u64;
        done.rewritten_octets += rewritten.octets_before;
        done.became_octets += rewritten.octets_after;
        done.damaged += rewritten.damaged.len() as u64;
        let mut damaged: BTreeMap<PackId, u64> = BTreeMap::new();
        for (pack, _) in &rewritten.damaged {
            *damaged.entry(*pack).or_default() += 1;
        }
        for (pack, bodies) in damaged {
            self.note_damage(pack, bodies, now).await?;
        }
        Ok(rewritten)
    }

    /// A pack's file, or a copy of its object.
    async fn open(&self, volume: &Volume, row: &PackRow, fetched: &Fetched) -> Result<Arc<PackReader>> {
        let path = if row.is_local {
            row.name.path(&self.bodies.pack_folder(&volume.store.path))
        } else {
            let path = fetched.folder.join(row.name.to_string());
            fetched.prepare()?;
            volume.remote()?.get_to_file(&ObjectKey::of_pack(row.name), row.octets, &path).await?;
            path
        };
        background(move || {
            let reader = PackReader::open(&path)?;
            // Without its index nothing of it can be found.
            reader.index()?;
            Ok(Arc::new(reader))
        })
        .await
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

/// The first of them that make `octets` together; all without a number.
fn until_octets(packs: Vec<PackRow>, octets: Option<u64>) -> Vec<PackRow> {
    let Some(octets) = octets else { return packs };
    let mut sum = 0_u64;
    let take = |pack: &PackRow| {
        let more = sum < octets;
        sum = sum.saturating_add(pack.octets);
        more
    };
    packs.into_iter().take_while(take).collect()
}

/// Copies of objects while they are written anew. The folder goes with it; what a crash left goes with the next one.
struct Fetched {
    folder: PathBuf,
}

impl Fetched {
    fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn prepare(&self) -> Result<()> {
        let what = || format!("create {}", self.folder.display());
        std::fs::create_dir_all(&self.folder).map_err(|error| StorageError::Io { what: what(), error })
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        // What cannot be removed now is overwritten or removed by the next one.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
