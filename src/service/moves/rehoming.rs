//! Brings the bodies of mailboxes that came to another customer home by itself, one mailbox after the other.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::progress::Progress;
use crate::service::error::{Result, ServiceError};
use crate::storage::bodies::Bodies;
use crate::storage::homing::{Homing, Journey};
use crate::storage::metadata::database::Database;
use crate::storage::metadata::home;
use crate::storage::metadata::lane::Priority;
use crate::storage::packer::Packer;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// A mailbox that could not be brought home is tried again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(10 * 60);

/// Does it.
pub struct Rehoming {
    database: Database,
    homing: Homing,
    clock: Clock,
}

impl Rehoming {
    /// With the bodies of all mail stores.
    pub fn new(database: Database, bodies: Bodies, packer: Arc<Packer>, clock: Clock) -> Self {
        Self { database, homing: Homing::new(bodies, Some(packer)), clock }
    }

    /// Looks at regular intervals; never ends by itself and may be dropped at any time.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "mail that came to another customer could not follow; it is tried again");
            }
        }
    }

    /// Brings home all whose turn it is; answers how many mailboxes were tried.
    ///
    /// # Errors
    /// When the database fails. What goes wrong with one mailbox is logged, and it is tried again later.
    pub async fn look(&self) -> Result<u64> {
        let mut tried = 0;
        loop {
            let now = self.clock.now();
            let before = now.minus(RETRY_AFTER);
            let take = self.database.write(Priority::Background, move |conn| {
                Box::pin(async move { Ok::<_, ServiceError>(home::take_turn(conn, before, now).await?) })
            });
            let Some(mailbox) = take.await? else { return Ok(tried) };
            tried += 1;
            let progress = Progress::default();
            if let Err(error) = self.homing.bring(mailbox, &mut Journey::new(&progress, 0, now)).await {
                tracing::warn!(%error, %mailbox, "the mail of a mailbox could not follow; it is tried again");
            }
        }
    }
}
