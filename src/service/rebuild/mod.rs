//! Bringing the mail back when the database is lost: from catalogs, dictionaries and packs, into an empty database,
//! while nothing else runs.
//!
//! What is in a pack and in no catalog goes to a mailbox of the provider: a pack does not say certainly whose it is,
//! and mail must not come to somebody else. What was only in the database is told as lost.

mod content;
mod packs;
mod report;

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::error::{Result, ServiceError};
use crate::storage::StorageError;
use crate::storage::bodies::Bodies;
use crate::storage::catalogs::Current;
use crate::storage::catalogs::restore::Remains;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::{Priority, Work};
use crate::storage::metadata::recount::{self, CountedMailbox};
use crate::storage::metadata::scope::Customers;
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::{customer, rebuild};
use crate::storage::volumes::Volume;
pub use report::{Report, StoreReport};

/// What is told while it runs.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// How a store is rebuilt.
pub struct Wanted<'a> {
    /// Only this store; all of them otherwise.
    pub store: Option<String>,
    /// Where copies of objects are put for a while.
    pub scratch: PathBuf,
    /// Now.
    pub now: Timestamp,
    /// Told as it goes.
    pub say: Say<'a>,
}

/// A store with what is left of it.
struct Found {
    volume: Arc<Volume>,
    remains: Remains,
    current: Current,
    report: StoreReport,
}

struct Rebuild<'a> {
    bodies: &'a Bodies,
    wanted: &'a Wanted<'a>,
    report: Report,
}

/// Fills the empty database of `bodies`, which knows the stores, with what is left of them.
///
/// # Errors
/// `Conflict` when the database is not empty, or nothing is left; what the database says. Then the database is marked
/// as unfinished.
pub async fn rebuild(bodies: &Bodies, wanted: &Wanted<'_>) -> Result<Report> {
    let database = bodies.database();
    let read = database.read(|conn| {
        Box::pin(async move {
            Ok::<_, StorageError>((rebuild::is_empty(conn).await?, rebuild::is_unfinished(conn).await?))
        })
    });
    let (is_empty, is_unfinished): (bool, bool) = read.await?;
    if !is_empty {
        let message = if is_unfinished {
            "a rebuild of this database was begun and not finished: remove the database and begin again"
        } else {
            "the database is not empty: a store is rebuilt into a new one"
        };
        return Err(ServiceError::Conflict { message: message.to_owned() });
    }
    let mut own = Rebuild { bodies, wanted, report: Report::default() };
    let mut found = own.find().await?;
    let now = wanted.now;
    write(database, move |conn| {
        Box::pin(async move {
            rebuild::begin(conn).await?;
            customer::ensure_root(conn, now).await
        })
    })
    .await?;
    own.directory(&found).await?;
    for store in &mut found {
        own.mailboxes(store).await?;
    }
    own.holds(&found).await?;
    own.place(&mut found).await?;
    own.count().await?;
    own.finish(&found).await?;
    own.report.stores = found.into_iter().map(|store| store.report).collect();
    Ok(own.report)
}

/// A transaction of this work.
async fn write<T, F>(database: &Database, work: F) -> Result<T>
where
    F: for<'c> Fn(&'c mut Conn) -> Work<'c, T, StorageError> + Send + Sync + 'static,
    T: Send + 'static,
{
    Ok(database.write(Priority::Bulk, work).await?)
}

impl Rebuild<'_> {
    fn database(&self) -> &Database {
        self.bodies.database()
    }

    fn say(&self, what: &str) {
        (self.wanted.say)(what);
    }

    /// The stores, and what is left of each.
    async fn find(&mut self) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        let volumes = self.bodies.volumes();
        for volume in volumes.all().await? {
            if self.wanted.store.as_ref().is_some_and(|wanted| *wanted != volume.name) {
                continue;
            }
            let folder = volumes.folder().join(&volume.store.path);
            let remote = if volume.has_remote() { Some(volume.remote()?.clone()) } else { None };
            let remains = Remains { folder, remote, scratch: self.wanted.scratch.clone() };
            let (current, damaged) = remains.current().await;
            let mut report = StoreReport { name: volume.name.clone(), damaged, ..StoreReport::default() };
            let current = match current {
                Some(current) => Some(current),
                None => remains.without_current()?.inspect(|_| {
                    let what = "no CURRENT can be read: all catalogs on the volume are used, old ones too";
                    report.damaged.push(what.to_owned());
                }),
            };
            let Some(current) = current else {
                self.say(&format!("store {}: nothing is left of its catalogs", volume.name));
                report.damaged.push("there are no catalogs: nothing of this store can be rebuilt".to_owned());
                self.report.stores.push(report);
                continue;
            };
            report.complete_at = Timestamp(current.record.at).to_string();
            report.catalogs = current.catalogs.len() as u64;
            self.say(&format!("store {}: state of {}", volume.name, report.complete_at));
            found.push(Found { volume, remains, current, report });
        }
        if found.is_empty() {
            let message = "there is nothing to rebuild: no catalogs were found in any mail store".to_owned();
            return Err(ServiceError::Conflict { message });
        }
        Ok(found)
    }

    /// Makes counters say what is there.
    async fn count(&mut self) -> Result<()> {
        self.say("counting");
        let database = self.database().clone();
        let read = database.read(|conn| Box::pin(rebuild::customer_keys(conn)));
        let customers: Vec<i64> = read.await?.into_iter().collect();
        let all = Arc::new(Customers::Many(Box::new(|_| true)));
        let mut after = crate::base::id::MailboxId(0);
        loop {
            let all = Arc::clone(&all);
            let read = database.read(|conn| {
                Box::pin(async move {
                    let page = recount::page(conn, &all, after).await?;
                    Ok::<_, StorageError>((recount::mailboxes(conn, &page.keys).await?, page.after))
                })
            });
            let (counted, last): (Vec<CountedMailbox>, Option<i64>) = read.await?;
            let Some(last) = last else { break };
            after = crate::base::id::MailboxId(last);
            for mailbox in counted {
                let sum = mailbox.counted();
                self.report.messages += sum.messages.max(0).cast_unsigned();
                self.report.octets += sum.octets.max(0).cast_unsigned();
                let mailbox = Arc::new(mailbox);
                write(&database, move |conn| {
                    let mailbox = Arc::clone(&mailbox);
                    Box::pin(async move { recount::mailbox_set(conn, &mailbox).await })
                })
                .await?;
            }
        }
        let read = database.read(|conn| Box::pin(rebuild::domain_keys(conn)));
        let domains: Vec<i64> = read.await?;
        for domain in domains {
            write(&database, move |conn| Box::pin(recount::domain_set(conn, domain))).await?;
        }
        for id in customers {
            write(&database, move |conn| Box::pin(recount::customer_set(conn, CustomerId(id)))).await?;
        }
        Ok(())
    }
}
