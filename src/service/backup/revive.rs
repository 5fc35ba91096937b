//! Making a restored database fit to serve: what was purged for good stays so, nothing of the life before goes on, and
//! no UID is given twice.

use crate::base::clock::{Clock, Timestamp};
use crate::base::id::FolderId;
use crate::service::directory::scope::moment;
use crate::service::error::{Result, ServiceError};
use crate::service::mailstore::{MailStore, MailStoreLimits};
use crate::storage::bodies::Bodies;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::erasure::{self, Erased};
use crate::storage::metadata::lane::{Priority, Work};
use crate::storage::metadata::pack::Node;
use crate::storage::metadata::purge::{self, Kind};
use crate::storage::metadata::restore;
use crate::storage::metadata::sql::Conn;
use crate::storage::pack::{Codec, LEVEL_DEFAULT};
use crate::storage::volumes::Volumes;

/// Entries of the ledger that one transaction applies.
const ERASED_ROWS: usize = 256;

/// What was done to a restored database.
#[derive(Clone, Debug, Default)]
pub struct Revived {
    /// Mailboxes and customers that had been purged for good since, and were purged again.
    pub erased: u64,
    /// Customers that were purged since and stay, because they hold mailboxes that were not: their public ids.
    pub kept: Vec<String>,
}

/// Makes a restored database fit to serve. `ledger` is what was purged for good, as the newest backup knows. It may be
/// called again after it was cut off, on a fresh copy.
///
/// # Errors
/// When the database fails.
pub async fn revive(database: &Database, clock: &Clock, ledger: Vec<Erased>) -> Result<Revived> {
    let now = clock.now();
    write(database, move |conn| Box::pin(async move { Ok(restore::forget_life(conn, now).await?) })).await?;
    let volumes = Volumes::new(database.clone(), std::path::PathBuf::new(), Default::default());
    let node = Node { id: "restore".to_owned(), epoch: 0 };
    let bodies = Bodies::new(volumes, Codec::new(LEVEL_DEFAULT), node);
    let store = MailStore::new(database.clone(), clock.clone(), bodies, MailStoreLimits::default());
    // Sets that were on their way into folders, and what deleted folders have left.
    while store.purge_slice().await? {}
    let revived = erase(database, now, ledger).await?;
    write(database, |conn| Box::pin(async move { Ok(restore::packs_are_local(conn).await?) })).await?;
    write(database, |conn| Box::pin(async move { Ok(restore::continue_mailboxes(conn).await?) })).await?;
    let mut after = FolderId(0);
    loop {
        let step = write(database, move |conn| {
            Box::pin(async move {
                let mut through = after;
                let more = restore::continue_folders(conn, &mut through).await?;
                Ok(more.then_some(through))
            })
        });
        match step.await? {
            Some(through) => after = through,
            None => return Ok(revived),
        }
    }
}

/// Applies the ledger, and purges what it names.
async fn erase(database: &Database, now: Timestamp, mut ledger: Vec<Erased>) -> Result<Revived> {
    // Mailboxes come before the customers that held them.
    ledger.sort_by(|one, other| (other.kind.as_str(), &other.id).cmp(&(one.kind.as_str(), &one.id)));
    let mut revived = Revived::default();
    for some in ledger.chunks(ERASED_ROWS) {
        let some = some.to_vec();
        revived.erased += write(database, move |conn| {
            let some = some.clone();
            Box::pin(async move { Ok(erasure::apply(conn, &some).await?) })
        })
        .await?;
    }
    for kind in [Kind::Mailbox, Kind::Domain, Kind::Administrator, Kind::Customer] {
        loop {
            let find = database.read(move |conn| {
                Box::pin(async move { Ok::<_, ServiceError>(purge::due(conn, kind, erasure::MARKED).await?) })
            });
            let keys = find.await?;
            if keys.is_empty() {
                break;
            }
            for key in keys {
                while write(database, move |conn| {
                    Box::pin(async move { Ok(purge::slice(conn, kind, key, erasure::MARKED, now).await?) })
                })
                .await?
                {}
            }
        }
    }
    revived.kept =
        write(database, |conn| Box::pin(async move { Ok(erasure::release_kept(conn).await?) })).await?;
    Ok(revived)
}

async fn write<T, F>(database: &Database, work: F) -> Result<T>
where
    F: for<'c> Fn(&'c mut Conn) -> Work<'c, T, ServiceError> + Send + Sync + 'static,
    T: Send + 'static,
{
    database.write(Priority::Bulk, work).await
}

/// A moment that somebody named: RFC 3339, or relative to `now` such as `2d`.
///
/// # Errors
/// `Invalid` when it is neither.
pub fn moment_of(text: &str, now: Timestamp) -> Result<Timestamp> {
    Ok(moment("at", Some(text), now)?.unwrap_or(now))
}
