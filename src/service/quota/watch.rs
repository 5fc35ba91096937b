//! Warnings before limits are reached, and the end of refusing.
//!
//! Somebody looks every few minutes, in the background: a crossing that a delivery noted itself would cost every
//! delivery a look at what was warned of, and those who are warned don't mind the minutes. One pass reads the keys of
//! all mailboxes in steps, and the rows of those that are near a limit.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::size::format_size;
use crate::service::audit::names;
use crate::service::authority::Tree;
use crate::service::error::{Result, ServiceError};
use crate::service::notices::{self, To};
use crate::service::registry::{Inner, Management};
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::quota::QuotaOwner;
use crate::storage::metadata::quota_mark::{self, Kind, Mark, Near};
use crate::storage::metadata::sql::Conn;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Percentages of a limit at which is warned.
const STEPS: [i64; 3] = [80, 95, 100];
/// By so many points what is used must have fallen below a percentage before it is warned of again.
const HYSTERESIS: i64 = 5;
/// Below this percentage nothing is full any more.
const FULL_PERCENT: i64 = 95;

/// What a pass did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Watched {
    /// Warnings that were given.
    pub warnings: u64,
    /// Marks that were lowered or removed, since there is room again.
    pub lowered: u64,
}

/// Looks at limits.
pub struct QuotaWatch {
    inner: Arc<Inner>,
}

impl QuotaWatch {
    /// For the customers of `management`.
    pub fn new(management: &Management) -> Self {
        Self { inner: Arc::clone(&management.inner) }
    }

    /// Looks at regular intervals; never ends by itself.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.pass(self.inner.clock.now()).await {
                tracing::warn!(%error, "limits could not be looked at; it is tried again");
            }
        }
    }

    /// Gives the warnings that are due. Several nodes may look at once: each warning is given once.
    ///
    /// # Errors
    /// When the database fails; warnings given before stay.
    pub async fn pass(&self, now: Timestamp) -> Result<Watched> {
        let mut watched = Watched::default();
        for kind in Kind::ALL {
            let mut after = Some(0);
            while let Some(from) = after {
                let read = self.inner.database.read(|conn| {
                    Box::pin(async move { Ok::<_, ServiceError>(quota_mark::near(conn, kind, from).await?) })
                });
                let (page, next) = read.await?;
                after = next;
                for near in page {
                    self.look(near, now, &mut watched).await?;
                }
            }
        }
        let prune = self.inner.database.write(Priority::Background, |conn| {
            Box::pin(async move { Ok::<_, ServiceError>(quota_mark::prune(conn).await?) })
        });
        prune.await?;
        Ok(watched)
    }

    async fn look(&self, near: Near, now: Timestamp, watched: &mut Watched) -> Result<()> {
        let percent = percent(near.bytes).max(percent(near.messages));
        let (after, warned) = step(near.mark, percent);
        if after == near.mark {
            return Ok(());
        }
        let (inner, shared) = (Arc::clone(&self.inner), Arc::new(near));
        let write = self.inner.database.write(Priority::Background, move |conn| {
            let (inner, near) = (Arc::clone(&inner), Arc::clone(&shared));
            Box::pin(async move {
                if !quota_mark::replace(conn, near.owner, near.mark, after).await? {
                    return Ok(false);
                }
                if let Some(percent) = warned {
                    let tree = inner.authority.tree(conn, TreeLock::None).await?;
                    warn(conn, &tree, &near, percent, now).await?;
                }
                Ok::<_, ServiceError>(true)
            })
        });
        if write.await? {
            match warned {
                Some(_) => watched.warnings += 1,
                None => watched.lowered += 1,
            }
        }
        Ok(())
    }
}

/// How much of a limit is used, in percent, rounded down; 0 without a limit, or where nothing may be there at all.
fn percent((used, limit): (i64, Option<i64>)) -> i64 {
    match limit {
        Some(limit) if limit > 0 => {
            i64::try_from(i128::from(used) * 100 / i128::from(limit)).unwrap_or(i64::MAX)
        }
        _ => 0,
    }
}

/// The mark after a look, and the percentage to warn of, if any. What refuses is full, however little is missing.
fn step(mark: Option<Mark>, percent: i64) -> (Option<Mark>, Option<i64>) {
    let before = mark.unwrap_or(Mark { percent: 0, full_since: None });
    let full_since = before.full_since.filter(|_| percent >= FULL_PERCENT);
    let percent = if full_since.is_some() { percent.max(100) } else { percent };
    let reached = STEPS.into_iter().filter(|&step| percent >= step).max().unwrap_or(0);
    let held =
        STEPS.into_iter().filter(|&step| percent.saturating_add(HYSTERESIS) >= step).max().unwrap_or(0);
    let warned = (reached > before.percent).then_some(reached);
    let after = Mark { percent: warned.unwrap_or(before.percent.min(held)), full_since };
    (Some(after).filter(|mark| mark.percent > 0 || mark.full_since.is_some()), warned)
}

/// Gives the notice that so much of a limit is used.
async fn warn(conn: &mut Conn, tree: &Tree, near: &Near, percent: i64, now: Timestamp) -> Result<()> {
    let (to, what) = match near.owner {
        QuotaOwner::Mailbox(id) => (To::Mailbox(id), format!("The mailbox {}", near.name)),
        QuotaOwner::Domain(_) => (To::Customer(near.customer), format!("The domain {}", near.name)),
        QuotaOwner::Customer(id) => (To::Customer(id), format!("Customer {}", names::customer(tree, id))),
    };
    let (subject, consequence) = if percent >= 100 {
        (format!("{what} is full"), "Mail for it is deferred, and refused when that goes on for long.")
    } else {
        (format!("{what} uses {percent} % of what it may"), "When nothing is left, mail for it is deferred.")
    };
    let size = |octets: i64| format_size(u64::try_from(octets).unwrap_or(0));
    let mut text = String::new();
    if let (used, Some(limit)) = near.bytes {
        text.push_str(&format!("It uses {} of {}.\n", size(used), size(limit)));
    }
    if let (used, Some(limit)) = near.messages {
        text.push_str(&format!("It has {used} of {limit} messages.\n"));
    }
    text.push_str(consequence);
    notices::give(conn, to, notices::Kind::QuotaWarning, (&subject, &text), now).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crossing_is_told_once_and_again_only_after_it_went_back() {
        let mut mark = None;
        let mut told = Vec::new();
        for percent in [
            10, 79, 80, 81, 79, 80, 76, 75, 80, 74, 82, 94, 95, 99, 95, 91, 96, 89, 95, 100, 120, 96, 100,
            94, 100, 0,
        ] {
            let (after, warned) = step(mark, percent);
            mark = after;
            told.extend(warned.map(|step| (percent, step)));
        }
        assert_eq!(told, [(80, 80), (82, 80), (95, 95), (95, 95), (100, 100), (100, 100)]);
        assert_eq!(mark, None);
        assert_eq!(step(None, i64::MAX).1, Some(100));
    }

    #[test]
    fn what_refuses_is_full_until_there_is_room() {
        let since = Some(Timestamp(5));
        let full = Mark { percent: 0, full_since: since };
        let (mark, warned) = step(Some(full), 97);
        assert_eq!((mark, warned), (Some(Mark { percent: 100, full_since: since }), Some(100)));
        assert_eq!(step(mark, 98), (mark, None));
        let (mark, warned) = step(mark, 94);
        assert_eq!((mark, warned), (Some(Mark { percent: 95, full_since: None }), None));
        // A message that is larger than what is left is refused, and the mailbox is not full.
        assert_eq!(step(Some(full), 50), (None, None));
    }

    #[test]
    fn percentages_do_not_overflow() {
        assert_eq!(percent((i64::MAX, Some(1))), i64::MAX);
        assert_eq!(percent((i64::MAX, Some(i64::MAX))), 100);
        assert_eq!((percent((5, None)), percent((5, Some(0)))), (0, 0));
    }
}
