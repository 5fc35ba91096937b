//! The packer: moves fresh bodies out of the database into packs, and removes packs that hold nothing any
//! more.
//!
//! # Consistency
//! A body is readable at every moment: it is re-pointed to its frame, and its fresh row deleted, in one
//! transaction, after the pack is on disk. Bodies deleted meanwhile are dead in the pack from the
//! beginning.
//!
//! # Crash Consistency
//! The points where a crash can happen, and what the next start finds:
//! 1. after the intent: no file, or part of one with a temporary name: removed by the intent;
//! 2. while frames are written: the same;
//! 3. after the file has its name: a complete pack that no row names: removed by the intent;
//! 4. after the first slice was re-pointed: the intent is gone, the pack is known; the other bodies are still
//!    fresh and are packed again, and their frames in this pack count as dead;
//! 5. after a dropped pack's file was removed: the row names no file; removing it again does nothing.
//!
//! # Cancellation
//! A pass that is dropped is like a crash, but for the temporary file, which goes at once.

mod compose;
mod retrain;
mod summaries;
mod write;

pub use retrain::Retrained;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::bodies::Bodies;
use super::metadata::lane::Priority;
use super::metadata::pack::{self, Dropped, Intended, StoreVolume, Waiting};
use super::pack::TARGET_OCTETS;
use super::remote::ObjectKey;
use super::volumes::Volume;
use super::{Result, StorageError};
use crate::base::clock::{Clock, Timestamp};
use crate::base::id::{BodyId, PackId, StoreId};
use crate::base::store_settings::PackingSettings;

/// Most bodies that are sorted together.
const SORTED_MAX: usize = 1 << 16;
/// Most bytes that are sorted together: eight packs.
const SORTED_OCTETS_MAX: u64 = 8 * TARGET_OCTETS;
/// Whatever was intended longer ago was cut off: no file takes so long to be written and made known. Should one
/// after all, making it known fails and its bodies stay where they are.
const INTENT_AGE_MAX: Duration = Duration::from_secs(60 * 60);
/// Most looks back that are remembered; older ones say nothing new.
const MARKS_MAX: usize = 4_096;

/// How often the packer looks.
const INTERVAL: Duration = Duration::from_secs(60);

/// How the packer works.
#[derive(Clone, Default, Debug)]
pub struct PackerSettings {
    /// For all mail stores, instead of what each of them says.
    pub packing: Option<PackingSettings>,
}

/// What was packed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// Packs written.
    pub packs: u64,
    /// Bodies in them.
    pub bodies: u64,
    /// Bytes of their files.
    pub octets: u64,
}

/// Which bodies are packed.
#[derive(Clone, Copy, Debug)]
struct Ripe {
    /// Those up to this one.
    last: BodyId,
    /// If one of them is not above this one, all, however few.
    old: BodyId,
    octets_min: u64,
}

/// Packs bodies in the background.
pub struct Packer {
    bodies: Bodies,
    settings: PackerSettings,
    /// Which body was the newest when: ids ascend, so this tells how old others are at least.
    marks: Mutex<VecDeque<(Timestamp, BodyId)>>,
    /// Passes take turns, or two would pack the same bodies.
    turn: tokio::sync::Mutex<()>,
    /// Whose dictionary is trained next.
    turns: tokio::sync::Mutex<retrain::Turns>,
    #[cfg(test)]
    pub(crate) fault: Option<super::packer_tests::Fault>,
}

impl Packer {
    /// A packer for all mail stores. At most one may be on a database.
    pub fn new(bodies: Bodies, settings: PackerSettings) -> Self {
        let (marks, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self {
            bodies,
            settings,
            marks,
            turn,
            turns: tokio::sync::Mutex::default(),
            #[cfg(test)]
            fault: None,
        }
    }

    /// Cleans up, then looks at regular intervals. Never returns; may be dropped at any time.
    pub async fn run(self: Arc<Self>, clock: Clock) {
        if let Err(error) = self.clean_up(clock.now()).await {
            tracing::warn!(%error, "files that were begun before the last stop could not be removed");
        }
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.look(clock.now()).await {
                tracing::warn!(%error, "packing failed; it is tried again");
            }
            if let Err(error) = self.retrain_next(clock.now()).await {
                tracing::warn!(%error, "a dictionary could not be trained");
            }
        }
    }

    /// [`Self::pack_everything`] as a task of its own: it goes on when the caller goes away.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub async fn pack_now(self: &Arc<Self>, now: Timestamp) -> Result<Progress> {
        let own = Arc::clone(self);
        let pass = tokio::spawn(async move { own.pack_everything(now).await });
        pass.await.unwrap_or(Err(StorageError::Busy("packing was interrupted")))
    }

    /// Removes files that this node began and will never make known: those of earlier starts, those that were
    /// given up, and those of work that was cut off. Goes by intents alone. Answers how many.
    ///
    /// # Errors
    /// `Io` or `Database`; what remains is removed by the next look.
    pub async fn clean_up(&self, now: Timestamp) -> Result<u64> {
        let (before, mut removed) = (now.minus(INTENT_AGE_MAX), 0);
        for volume in self.writable_volumes().await? {
            loop {
                let (node, store) = (self.bodies.node().clone(), volume.store.store);
                let read = self
                    .bodies
                    .database()
                    .read(|conn| Box::pin(async move { pack::abandoned(conn, store, &node, before).await }));
                let files: Vec<Intended> = read.await?;
                if files.is_empty() {
                    break;
                }
                for file in &files {
                    removed += u64::from(self.bodies.discard(file).await?);
                }
            }
        }
        Ok(removed)
    }

    /// The mail stores whose files may be changed now, with their present settings.
    async fn writable_volumes(&self) -> Result<Vec<Arc<Volume>>> {
        let mut volumes = self.bodies.volumes().refresh().await?;
        volumes.retain(|volume| volume.admit_writes().is_ok());
        Ok(volumes)
    }

    /// Packs what is old enough, drops dead packs, removes files whose grace is over or that were never made known.
    ///
    /// # Errors
    /// `Full`, `Io` or `Database`; what was packed before stays so.
    pub async fn look(&self, now: Timestamp) -> Result<Progress> {
        let _turn = self.turn.lock().await;
        let (newest, unused) = (self.newest_waiting().await?, self.free_pages().await?);
        {
            let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
            marks.extend(newest.map(|body| (now, body)));
            if marks.len() > MARKS_MAX {
                marks.pop_front();
            }
        }
        let progress = self.pack_all_stores(|volume| self.ripe(volume, now), now).await?;
        self.remove_dead(now).await?;
        self.clean_up(now).await?;
        self.thin_blocks(now).await?;
        self.give_back_pages(unused).await?;
        Ok(progress)
    }

    /// Packs all fresh bodies at once, whatever their age.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub async fn pack_everything(&self, now: Timestamp) -> Result<Progress> {
        let _turn = self.turn.lock().await;
        let (mut progress, unused) = (Progress::default(), self.free_pages().await?);
        if let Some(newest) = self.newest_waiting().await? {
            let ripe = Ripe { last: newest, old: newest, octets_min: 0 };
            progress = self.pack_all_stores(|_| ripe, now).await?;
        }
        self.remove_dead(now).await?;
        self.thin_blocks(now).await?;
        let is_quiet = self.newest_waiting().await?.is_none();
        self.give_back_pages(if is_quiet { i64::MAX } else { unused }).await?;
        Ok(progress)
    }

    async fn newest_waiting(&self) -> Result<Option<BodyId>> {
        self.bodies.database().read(|conn| Box::pin(pack::newest_waiting(conn))).await
    }

    fn packing<'a>(&'a self, volume: &'a StoreVolume) -> &'a PackingSettings {
        self.settings.packing.as_ref().unwrap_or(&volume.settings.packing)
    }

    /// Which bodies of a store are packed at `now`.
    fn ripe(&self, volume: &StoreVolume, now: Timestamp) -> Ripe {
        let packing = self.packing(volume);
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let before = |age_secs: u32| {
            let until = now.minus(Duration::from_secs(age_secs.into()));
            let at = marks.partition_point(|(at, _)| *at <= until);
            at.checked_sub(1).and_then(|at| marks.get(at)).map_or(BodyId(0), |(_, body)| *body)
        };
        let (last, old) = (before(packing.age_min_secs), before(packing.age_max_secs));
        Ripe { last, old, octets_min: packing.octets_min }
    }

    async fn pack_all_stores(&self, ripe: impl Fn(&StoreVolume) -> Ripe, now: Timestamp) -> Result<Progress> {
        let mut progress = Progress::default();
        for volume in self.writable_volumes().await? {
            let packed = self.pack_store(&volume.store, ripe(&volume.store), now, &mut progress).await;
            if let Err(error) = packed {
                // One that was stopped meanwhile does not keep the others.
                let now = self.bodies.volumes().get(volume.store.store).await?;
                if now.admit_writes().is_ok() {
                    return Err(error);
                }
                tracing::warn!(store = volume.name, %error, "a mail store was stopped while it was packed");
            }
        }
        Ok(progress)
    }

    async fn pack_store(
        &self,
        volume: &StoreVolume,
        ripe: Ripe,
        now: Timestamp,
        progress: &mut Progress,
    ) -> Result<()> {
        let mut after = BodyId(0);
        loop {
            let (mut waiting, more) = self.waiting(volume, after, ripe.last).await?;
            let Some(last) = waiting.last() else { return Ok(()) };
            after = last.body;
            waiting.sort_unstable();
            for bodies in cut(&waiting, TARGET_OCTETS, usize::MAX, |body| (body.stored_octets, 1)) {
                let octets: u64 = bodies.iter().map(|body| body.stored_octets).sum();
                if octets < ripe.octets_min && !bodies.iter().any(|body| body.body <= ripe.old) {
                    continue;
                }
                if let Some(summary) = self.write_pack(volume, bodies, now).await? {
                    progress.packs += 1;
                    progress.bodies += u64::from(summary.frames);
                    progress.octets += summary.octets;
                    self.gather(volume, bodies).await;
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Bodies to sort together, and whether there are more.
    async fn waiting(
        &self,
        volume: &StoreVolume,
        after: BodyId,
        last: BodyId,
    ) -> Result<(Vec<Waiting>, bool)> {
        let (store, mut after) = (volume.store, after);
        let (mut waiting, mut octets): (Vec<Waiting>, u64) = (Vec::new(), 0);
        while waiting.len() < SORTED_MAX && octets < SORTED_OCTETS_MAX {
            let read = self.bodies.database().read(|conn| Box::pin(pack::waiting(conn, store, after, last)));
            let page: Vec<Waiting> = read.await?;
            let Some(end) = page.last() else { return Ok((waiting, false)) };
            after = end.body;
            octets += page.iter().map(|body| body.stored_octets).sum::<u64>();
            waiting.extend(page);
        }
        Ok((waiting, true))
    }

    /// Drops packs without living bodies, and removes the files of those whose grace is over.
    ///
    /// # Errors
    /// `Io` or `Database`; what remains is removed later.
    pub async fn remove_dead(&self, now: Timestamp) -> Result<u64> {
        let database = self.bodies.database();
        database.write(Priority::Background, move |conn| Box::pin(pack::drop_dead(conn, now))).await?;
        let mut removed = 0;
        for volume in self.writable_volumes().await? {
            let grace = Duration::from_secs(60) * self.packing(&volume.store).grace_minutes;
            removed += self.remove_dropped(volume.store.store, now.minus(grace), now).await?;
        }
        Ok(removed)
    }

    async fn remove_dropped(&self, store: StoreId, before: Timestamp, now: Timestamp) -> Result<u64> {
        let database = self.bodies.database();
        let (mut removed, mut after) = (0, PackId(0));
        loop {
            let packs: Vec<Dropped> =
                database.read(|conn| Box::pin(pack::dropped(conn, store, after, (before, now)))).await?;
            let Some(last) = packs.last() else { return Ok(removed) };
            after = last.pack;
            for dropped in packs {
                if dropped.may_be_remote
                    && let Err(error) = self.delete_object(&dropped).await
                {
                    tracing::warn!(%error, pack = %dropped.file.name, "an object is deleted later");
                    continue;
                }
                self.bodies.forget_reader(dropped.pack);
                self.bodies.remove(&dropped.file).await?;
                self.reach(5).await;
                let pack = dropped.pack;
                let delete = database
                    .write(Priority::Background, move |conn| Box::pin(pack::delete_dropped(conn, pack)));
                delete.await?;
                removed += 1;
            }
        }
    }

    async fn delete_object(&self, dropped: &Dropped) -> Result<()> {
        let volume = self.bodies.volumes().get(dropped.store).await?;
        Ok(volume.remote()?.delete(&ObjectKey::of_pack(dropped.file.name)).await?)
    }

    /// Pages of the database file that nothing uses.
    async fn free_pages(&self) -> Result<i64> {
        self.bodies.database().read(|conn| Box::pin(pack::free_pages(conn))).await
    }

    /// Shrinks the database file by as many pages as nothing used when the pass began: mail that had come since the one
    /// before has taken what it needed, and the next will need as many of those that this pass has freed.
    async fn give_back_pages(&self, unused: i64) -> Result<()> {
        let kept = self.free_pages().await?.saturating_sub(unused).max(0);
        let database = self.bodies.database();
        let give =
            || database.write(Priority::Background, move |conn| Box::pin(pack::give_back_pages(conn, kept)));
        while give().await? {}
        Ok(())
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

/// Cuts a list behind each item that makes a part reach `octets` or `rows`; `weigh` gives both of an item.
pub(super) fn cut<T>(items: &[T], octets: u64, rows: usize, weigh: impl Fn(&T) -> (u64, usize)) -> Vec<&[T]> {
    let (mut sum, mut row_sum, mut count) = (0, 0, 0);
    let mut parts: Vec<&[T]> = Vec::new();
    let mut rest = items;
    for item in items {
        let (item_octets, item_rows) = weigh(item);
        sum += item_octets;
        row_sum += item_rows;
        count += 1;
        if sum >= octets || row_sum >= rows {
            let (part, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            parts.push(part);
            rest = after;
            (sum, row_sum, count) = (0, 0, 0);
        }
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}
