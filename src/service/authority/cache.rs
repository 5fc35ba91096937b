//! The trees that were used last. One is used only in transactions that see the same version of it: versions are
//! random, so that one which was never committed is never mistaken for another.

use std::sync::{Arc, Mutex, PoisonError};

use super::tree::Tree;
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::{customer, tree_change};

/// Trees that are kept: what is committed, what is about to be, and what somebody who reads may still see.
const TREES_MAX: usize = 3;
/// How often all customers are read while others change them.
const ATTEMPTS_MAX: usize = 8;
/// In builds for tests each tree of at most so many customers that was brought up to date is compared with one that is
/// read anew.
const COMPARED_CUSTOMERS_MAX: usize = 100;

/// Keeps trees.
#[derive(Default)]
pub(in crate::service) struct Authority {
    /// The one used last is the first.
    cached: Mutex<Vec<Arc<Tree>>>,
    /// Held by whoever reads all customers, so that several who need them read them once.
    reading: tokio::sync::Mutex<()>,
}

impl Authority {
    /// The tree as this transaction sees it. `lock` keeps others from changing it until the transaction ends.
    ///
    /// # Errors
    /// When the database fails or the hierarchy is damaged.
    pub async fn tree(&self, conn: &mut Conn, lock: customer::TreeLock) -> Result<Arc<Tree>> {
        let version = customer::tree_version(conn, lock).await?;
        if let Some(tree) = self.cached(&version) {
            return Ok(tree);
        }
        if let Some(tree) = self.updated(conn).await? {
            return Ok(tree);
        }
        let _reading = self.reading.lock().await;
        for _ in 0..ATTEMPTS_MAX {
            let version = customer::tree_version(conn, customer::TreeLock::None).await?;
            if let Some(tree) = self.cached(&version) {
                return Ok(tree);
            }
            let rows = customer::nodes(conn).await?;
            // Reading is no transaction: what was read is of this version only if it is still there.
            if customer::tree_version(conn, customer::TreeLock::None).await? == version {
                return Ok(self.keep(Tree::build(version, rows)?));
            }
        }
        Err(ServiceError::Unavailable("the hierarchy changes all the time".to_owned()))
    }

    fn trees(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Tree>>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree of this version, if it is kept; it was used last then.
    fn cached(&self, version: &str) -> Option<Arc<Tree>> {
        let mut trees = self.trees();
        let place = trees.iter().position(|tree| tree.version() == version)?;
        trees.get_mut(..=place)?.rotate_right(1);
        trees.first().cloned()
    }

    fn keep(&self, tree: Tree) -> Arc<Tree> {
        let tree = Arc::new(tree);
        let mut trees = self.trees();
        trees.insert(0, Arc::clone(&tree));
        let kept = TREES_MAX.min(trees.len());
        let superfluous = trees.split_off(kept);
        drop(trees);
        drop(superfluous);
        tree
    }

    /// Brings one of the trees up to date; nothing when none can be.
    async fn updated(&self, conn: &mut Conn) -> Result<Option<Arc<Tree>>> {
        let known: Vec<Arc<Tree>> = self.trees().clone();
        if known.is_empty() {
            return Ok(None);
        }
        let has = |version: &str| known.iter().any(|tree| tree.version() == version);
        let Some(changes) = tree_change::since(conn, has).await? else { return Ok(None) };
        let Some(from) = known.iter().find(|tree| tree.version() == changes.from) else { return Ok(None) };
        if changes.version == changes.from {
            return Ok(Some(Arc::clone(from)));
        }
        let tree = match from.after(changes) {
            Ok(tree) => tree,
            Err(error) => {
                tracing::error!(%error, "the hierarchy is read anew");
                return Ok(None);
            }
        };
        if cfg!(debug_assertions) && tree.len() <= COMPARED_CUSTOMERS_MAX {
            compare(conn, &tree).await?;
        }
        Ok(Some(self.keep(tree)))
    }
}

/// Refuses a tree that is not what is in the database.
async fn compare(conn: &mut Conn, tree: &Tree) -> Result<()> {
    let rows = customer::nodes(conn).await?;
    let version = customer::tree_version(conn, customer::TreeLock::None).await?;
    // Changed meanwhile: then there is nothing to compare with.
    if version == tree.version() && Tree::build(version, rows)? != *tree {
        return Err(ServiceError::Internal("the hierarchy was not brought up to date rightly".to_owned()));
    }
    Ok(())
}
