//! The sealer: chains records of changes and refusals within seconds of their commit, and publishes the roots.
//!
//! # Consistency
//! A batch is one transaction: places in the chains, heads and the signed root, and that its records wait no longer.
//! On several nodes the lock on the first root lets one of them at a time.
//!
//! # Crash Consistency
//! Batches are appended to the file of roots after their commit. What is missing there after a crash is appended at
//! the next pass; a line that was cut off is no batch.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::chain::{self, Published};
use crate::base::clock::{Clock, Timestamp};
use crate::base::id::public_id;
use crate::base::proof::LEAVES_MAX;
use crate::base::signing::SigningKey;
use crate::service::error::{Result, ServiceError};
use crate::storage::ledger;
use crate::storage::metadata::audit::{Record, path_ids};
use crate::storage::metadata::database::Database;
use crate::storage::metadata::instance;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::seal::{self, Head, Link, Root};
use crate::storage::metadata::sql::Conn;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// Most records of a batch: each is a leaf of its tree.
const BATCH_RECORDS: i64 = LEAVES_MAX as i64;
/// Batches that are published with one sync.
const PUBLISHED_TOGETHER: i64 = 4;

/// Chains records and publishes the roots.
pub struct Sealer {
    database: Database,
    clock: Clock,
    key: Arc<SigningKey>,
    file: PathBuf,
    /// The last batch in the file, once it has been looked at.
    published: Mutex<Option<i64>>,
}

impl Sealer {
    /// A sealer that signs with `key` and publishes in `file`.
    pub fn new(database: Database, clock: Clock, key: SigningKey, file: PathBuf) -> Self {
        Self { database, clock, key: Arc::new(key), file, published: Mutex::new(None) }
    }

    /// Where roots are published.
    pub(super) fn file(&self) -> &std::path::Path {
        &self.file
    }

    /// Looks at regular intervals; never ends by itself.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.pass().await {
                tracing::error!(%error, "the audit trail could not be sealed; it is tried again");
            }
        }
    }

    /// Chains all records that wait, and publishes what is not published.
    ///
    /// # Errors
    /// When the database or the file cannot be written; nothing is half done.
    pub async fn pass(&self) -> Result<()> {
        let published = self.published().await?;
        while self.batch(published).await? {}
        self.publish(published).await
    }

    async fn published(&self) -> Result<i64> {
        if let Some(known) = *self.published.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(known);
        }
        let parsed = |line: &String| serde_json::from_str::<Published>(line).ok();
        let last = ledger::tail(&self.file).await?.iter().rev().find_map(parsed).map_or(0, |last| last.batch);
        self.remember(last);
        Ok(last)
    }

    fn remember(&self, batch: i64) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(batch);
    }

    /// Seals one batch; false when nothing waits.
    async fn batch(&self, published: i64) -> Result<bool> {
        let (now, key) = (self.clock.now(), Arc::clone(&self.key));
        let write = self.database.write(Priority::Background, move |conn| {
            let key = Arc::clone(&key);
            Box::pin(async move { seal_batch(conn, &key, now, published).await })
        });
        write.await
    }

    async fn publish(&self, mut published: i64) -> Result<()> {
        loop {
            let read = self.database.read(move |conn| {
                Box::pin(async move {
                    let roots = seal::roots_after(conn, published, PUBLISHED_TOGETHER).await?;
                    let links = match (roots.first(), roots.last()) {
                        (Some(first), Some(last)) => seal::links(conn, first.batch, last.batch).await?,
                        _ => Vec::new(),
                    };
                    Ok::<_, ServiceError>((roots, links))
                })
            });
            let (roots, links) = read.await?;
            let Some(last) = roots.last().map(|root| root.batch) else { return Ok(()) };
            let mut records: BTreeMap<i64, Vec<(String, String)>> = BTreeMap::new();
            for (link, record) in links {
                // Removed since it was sealed: its place shows that, the roots do.
                let id = record.map(|record| record.public_id).unwrap_or_default();
                records.entry(link.batch).or_default().push((id, chain::hex(&link.digest)));
            }
            let lines = roots.into_iter().map(|root| {
                let published = Published {
                    batch: root.batch,
                    at: root.at,
                    root: chain::hex(&root.root),
                    key: chain::hex(&root.key),
                    signature: chain::hex(&root.signature),
                    records: records.remove(&root.batch).unwrap_or_default(),
                };
                serde_json::to_string(&published).map_err(|error| ServiceError::Internal(error.to_string()))
            });
            ledger::append(&self.file, lines.collect::<Result<_>>()?).await?;
            published = last;
            self.remember(last);
        }
    }
}

/// Whose chain a record belongs to.
pub(super) fn customer_of(record: &Record) -> i64 {
    path_ids(&record.node_path).last().unwrap_or(0)
}

/// Numbers go on behind what is published, even if the database is older than that: a restored one does not make
/// batches anew that somebody may have seen.
async fn seal_batch(conn: &mut Conn, key: &SigningKey, now: Timestamp, published: i64) -> Result<bool> {
    let before = seal::newest_locked(conn).await?;
    let waiting = seal::waiting(conn, BATCH_RECORDS).await?;
    if waiting.is_empty() {
        return Ok(false);
    }
    seal::waited(conn, waiting.iter().map(|(id, _)| *id)).await?;
    let secret = instance::secret(conn, chain::SECRET).await?;
    let made = (chain::KIND_HIDING, &secret);
    let batch = before.batch.max(published) + 1;
    let customers = waiting.iter().filter_map(|(_, record)| record.as_ref().map(customer_of));
    let known = seal::heads(conn, customers).await?;
    let (mut heads, mut links): (BTreeMap<i64, Head>, Vec<Link>) = (BTreeMap::new(), Vec::new());
    let mut leaves = Vec::new();
    for (audit, record) in waiting {
        let Some(record) = record else {
            tracing::error!(audit, "an audit record was removed before it was sealed");
            continue;
        };
        let customer = customer_of(&record);
        let head = heads.entry(customer).or_insert_with(|| {
            let new = || Head { customer, chain: public_id(), seq: 0, head: vec![0; 32] };
            known.get(&customer).cloned().unwrap_or_else(new)
        });
        let digest = chain::record_digest(&record, made.0, made.1);
        head.seq += 1;
        head.head = chain::head(&head.head, &digest).to_vec();
        leaves.push(chain::leaf(&head.chain, head.seq, &head.head));
        links.push(Link {
            audit,
            customer,
            seq: head.seq,
            batch,
            at: record.at,
            digest: digest.to_vec(),
            head: Some(head.head.clone()),
        });
    }
    if links.is_empty() {
        return Ok(true);
    }
    let heads: Vec<Head> = heads.into_values().collect();
    let (tree, _) = chain::hiding_tree(&secret, batch, &leaves, 0);
    let root = chain::root(made, &before.root, batch, now, &tree).to_vec();
    let signature = key.sign(&root);
    let root = Root { batch, at: now, root, key: key.public(), signature, kind: made.0 };
    seal::write(conn, &links, &heads, &root).await?;
    Ok(true)
}
