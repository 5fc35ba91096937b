//! Brings the bodies of mailboxes home: into the mail store of the mailbox, and out of the scope of a customer to which
//! it no longer belongs. Whole bodies are read and written anew, by the same way as those of deliveries, so that
//! nothing of the old home is needed any more: no shared attachment, no dictionary, no pack.
//!
//! # Consistency
//! See `metadata/home.rs`. A pass goes through the mailbox once; passes are repeated until one finds nothing away and
//! nothing has come behind its back.
//!
//! # Crash consistency
//! Nothing is kept between two transactions but the mark that the mailbox has bodies away (table `homing`), which is
//! written with what moved it and goes when all are home. What was re-pointed stays so; the next pass goes by what it
//! finds. A large body on disk that no transaction refers to yet is removed by its intent.
//!
//! # Cancellation
//! May be dropped anywhere; it is as a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::bodies::Bodies;
use super::metadata::body::{Location, locate_all};
use super::metadata::delivery::BodyPlace;
use super::metadata::home::{self, Batch, Held, Holder, Replacement};
use super::metadata::lane::Priority;
use super::packer::{Packer, cut};
use super::{Result, StorageError};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, MailboxId};
use crate::base::progress::Progress;

/// Rows that one transaction re-points.
const BATCH_ROWS: usize = 256;
/// Octets of bodies in memory, unless a single one is larger.
const BATCH_OCTETS: u64 = 4 << 20;
/// Passes through one mailbox; more are needed only while its owner keeps moving messages about.
const PASSES_MAX: usize = 64;
/// Octets that are put into the database before they are packed: it grows by about so much.
const FRESH_OCTETS_MAX: u64 = 64 << 20;

/// Brings bodies home.
pub struct Homing {
    bodies: Bodies,
    packer: Option<Arc<Packer>>,
    #[cfg(test)]
    pub(crate) fault: Option<super::packer_tests::Fault>,
}

/// How far one has come with some mailboxes.
pub struct Journey<'a> {
    progress: &'a Progress,
    /// Octets to bring home, about.
    total: u64,
    done: u64,
    fresh_octets: u64,
    now: Timestamp,
    /// What was done.
    pub homed: Homed,
}

/// What was brought home.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Homed {
    /// Messages, expunged ones that can come back too.
    pub messages: u64,
    /// Octets of their bodies.
    pub octets: u64,
    /// Bodies that are damaged where they are, and stay there.
    pub damaged: u64,
}

impl<'a> Journey<'a> {
    /// Of about `total` octets; tells `progress`, and ends when that says so.
    pub fn new(progress: &'a Progress, total: u64, now: Timestamp) -> Self {
        progress.advance(0, Some(total), "octets");
        Self { progress, total, done: 0, fresh_octets: 0, now, homed: Homed::default() }
    }

    fn add(&mut self, octets: u64) {
        self.done = self.done.saturating_add(octets);
        // What arrived meanwhile makes it more.
        self.total = self.total.max(self.done);
        self.progress.advance(self.done, Some(self.total), "octets");
    }
}

/// What one pass found.
#[derive(Default)]
struct Pass {
    /// References to bodies that are away and can be brought home.
    away: usize,
    /// Bodies that are away and cannot be read.
    damaged: BTreeSet<BodyId>,
}

impl Homing {
    /// For the bodies of all mail stores; with a packer, what goes into the database is packed before it gets much.
    pub fn new(bodies: Bodies, packer: Option<Arc<Packer>>) -> Self {
        Self {
            bodies,
            packer,
            #[cfg(test)]
            fault: None,
        }
    }

    /// Brings all bodies of a mailbox home; what is home by then stays so, whatever happens. Bodies that are damaged
    /// are left where they are, and the mailbox counts as not yet home.
    ///
    /// # Errors
    /// `Interrupted`; `Busy` or `Remote` when a body cannot be read now or the mail store takes nothing; `Full`, `Io`,
    /// `Database`.
    pub async fn bring(&self, mailbox: MailboxId, journey: &mut Journey<'_>) -> Result<()> {
        let database = self.bodies.database();
        for number in 0..PASSES_MAX {
            let mark = database.read(|conn| Box::pin(home::mark(conn, mailbox))).await?;
            let pass = self.pass(mailbox, number == 0, journey).await?;
            if pass.away > 0 {
                continue;
            }
            if !pass.damaged.is_empty() {
                journey.homed.damaged += pass.damaged.len() as u64;
                return Ok(());
            }
            let mark = Arc::new(mark);
            let settle = database.write(Priority::Background, move |conn| {
                let mark = Arc::clone(&mark);
                Box::pin(async move { home::settle(conn, mailbox, &mark).await })
            });
            if settle.await? {
                return Ok(());
            }
        }
        Err(StorageError::Busy("the mailbox changes faster than its messages move"))
    }

    /// Goes through the mailbox once.
    async fn pass(&self, mailbox: MailboxId, is_first: bool, journey: &mut Journey<'_>) -> Result<Pass> {
        let (mut pass, mut after) = (Pass::default(), Holder::FIRST);
        loop {
            journey.progress.go_on()?;
            let read = self.bodies.database().read(|conn| Box::pin(home::page(conn, mailbox, after)));
            let page: Vec<Held> = read.await?;
            if is_first {
                let at_home = page.iter().filter(|held| held.is_home);
                journey.add(at_home.fold(0, |sum, held| sum.saturating_add(held.octets)));
            }
            let away: Vec<Held> = page.iter().filter(|held| !held.is_home).copied().collect();
            for batch in cut(&away, BATCH_OCTETS, BATCH_ROWS, |held| (held.octets, 1)) {
                journey.progress.go_on()?;
                self.batch(mailbox, batch, &mut pass, journey).await?;
            }
            let is_last = page.len() < home::PAGE_ROWS;
            after = match (page.last(), after) {
                (Some(last), _) if !is_last => last.holder,
                (_, Holder::Message(..)) => Holder::FIRST_TOMBSTONE,
                (_, Holder::Tombstone(_)) => return Ok(pass),
            };
        }
    }

    /// Brings the bodies of some references home.
    async fn batch(
        &self,
        mailbox: MailboxId,
        held: &[Held],
        pass: &mut Pass,
        journey: &mut Journey<'_>,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (held.first(), held.last()) else { return Ok(()) };
        let octets: BTreeMap<BodyId, u64> = held.iter().map(|held| (held.body, held.octets)).collect();
        let wanted: Vec<BodyId> = octets.keys().copied().collect();
        let read = self
            .bodies
            .database()
            .read(|conn| Box::pin(async move { home::copies(conn, mailbox, wanted.into_iter()).await }));
        let copies = read.await?;
        let mut places = Vec::new();
        let to_read = octets.keys().copied().filter(|body| !copies.contains_key(body)).collect();
        let placed = self.place(mailbox, to_read, journey.now, &mut places, &mut pass.damaged).await;
        let outcome = match placed {
            Ok(()) => {
                self.reach(1).await;
                let copied = copies.iter().map(|(old, copy)| (*old, Replacement::Copy(*copy)));
                let placed =
                    places.iter().map(|(old, place)| (*old, Replacement::Placed(BodyPlace::clone(place))));
                let replacements = copied
                    .chain(placed)
                    .map(|(old, with)| (old, (octets.get(&old).copied().unwrap_or(0), with)))
                    .collect();
                let batch = Batch { first: first.holder, last: last.holder, replacements };
                self.repoint(mailbox, Arc::new(batch), journey.now).await
            }
            Err(error) => Err(error),
        };
        self.reach(2).await;
        for (_, place) in &places {
            if let Err(error) = self.bodies.settle(place).await {
                tracing::warn!(%error, "a pack that nothing refers to is removed later");
            }
        }
        let (messages, moved) = outcome?;
        pass.away += held.iter().filter(|held| !pass.damaged.contains(&held.body)).count();
        journey.homed.messages += messages;
        journey.homed.octets += moved;
        journey.add(moved);
        self.pack(&places, journey).await
    }

    /// Reads bodies and places them for the mailbox. Those that are gone meanwhile, or damaged, are left out.
    async fn place(
        &self,
        mailbox: MailboxId,
        wanted: Vec<BodyId>,
        now: Timestamp,
        places: &mut Vec<(BodyId, BodyPlace)>,
        damaged: &mut BTreeSet<BodyId>,
    ) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let read =
            self.bodies.database().read(|conn| Box::pin(async move { locate_all(conn, &wanted).await }));
        let located: Vec<(BodyId, Location)> = read.await?;
        let found: Vec<BodyId> = located.iter().map(|(body, _)| *body).collect();
        for (body, bytes) in found.into_iter().zip(self.bodies.read_located(located).await) {
            match bytes {
                Ok(bytes) => places.push((body, self.bodies.place(bytes, &[mailbox], now).await?)),
                Err(StorageError::Gone(_)) => {}
                Err(error @ StorageError::Corrupt(_)) => {
                    tracing::error!(%error, %body, %mailbox, "a damaged body cannot move");
                    damaged.insert(body);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn repoint(&self, mailbox: MailboxId, batch: Arc<Batch>, now: Timestamp) -> Result<(u64, u64)> {
        let write = self.bodies.database().write(Priority::Background, move |conn| {
            let batch = Arc::clone(&batch);
            Box::pin(async move { home::repoint(conn, mailbox, &batch, now).await })
        });
        write.await
    }

    /// Packs what was put into the database, when that gets much.
    async fn pack(&self, places: &[(BodyId, BodyPlace)], journey: &mut Journey<'_>) -> Result<()> {
        for (_, place) in places {
            if let BodyPlace::Fresh(packed) = place {
                journey.fresh_octets = journey.fresh_octets.saturating_add(packed.data.len() as u64);
            }
        }
        match &self.packer {
            Some(packer) if journey.fresh_octets >= FRESH_OCTETS_MAX => {
                journey.fresh_octets = 0;
                packer.pack_now(journey.now).await.map(drop)
            }
            _ => Ok(()),
        }
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
