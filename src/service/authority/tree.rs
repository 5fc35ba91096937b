//! The hierarchy in memory: nodes in depth-first order, so that a subtree is a range and an ancestor test two
//! comparisons. Nothing here recurses, whatever the depth. What ceilings leave is kept with each node, so that asking
//! for it costs the same at any depth.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::permission::PermissionSet;
use crate::base::id::CustomerId;
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::customer::{self, NodeRow};
use crate::storage::metadata::sql::Conn;

/// A customer in the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::service) struct CustomerNode {
    pub id: CustomerId,
    pub parent: Option<CustomerId>,
    pub slug: String,
    pub code: String,
    pub deleted: bool,
    /// Whether it or a customer above it is deleted.
    pub is_gone: bool,
    /// What the ceilings on its path leave of any grant.
    pub allowed: PermissionSet,
    /// The ceiling of its own.
    pub ceiling: Option<PermissionSet>,
    /// The root has 0.
    pub depth: usize,
    /// Position in depth-first order.
    pub(super) enter: usize,
    /// One past the position of its last descendant.
    pub(super) exit: usize,
}

impl CustomerNode {
    /// The node of a row below its parent, whose marks it inherits.
    fn below(above: Option<&Self>, row: NodeRow, depth: usize, enter: usize) -> Self {
        let ceiling = row.ceiling.as_deref().map(PermissionSet::from_names);
        let ceiling = ceiling.map(|set| set.union(PermissionSet::ABOVE_CEILINGS));
        let allowed = above.map_or(PermissionSet::all(), |above| above.allowed);
        Self {
            id: row.id,
            parent: row.parent,
            slug: row.slug,
            code: row.code,
            deleted: row.deleted,
            is_gone: row.deleted || above.is_some_and(|above| above.is_gone),
            allowed: ceiling.map_or(allowed, |ceiling| allowed.intersection(ceiling)),
            ceiling,
            depth,
            enter,
            exit: 0,
        }
    }
}

/// The hierarchy as one transaction sees it.
#[derive(PartialEq, Eq, Debug, Default)]
pub(in crate::service) struct Tree {
    version: String,
    nodes: Vec<CustomerNode>,
    position: HashMap<CustomerId, usize>,
    codes: HashMap<String, CustomerId>,
}

impl Tree {
    /// Builds the tree from its rows, in any order; parents are the truth.
    ///
    /// # Errors
    /// When there is not exactly one root, or a row is not below it.
    pub fn build(version: String, rows: Vec<NodeRow>) -> Result<Self> {
        let count = rows.len();
        let mut children: HashMap<Option<CustomerId>, BTreeMap<(String, CustomerId), NodeRow>> =
            HashMap::new();
        for row in rows {
            children.entry(row.parent).or_default().insert((row.slug.clone(), row.id), row);
        }
        let mut tree = Self {
            version,
            nodes: Vec::with_capacity(count),
            position: HashMap::with_capacity(count),
            codes: HashMap::new(),
        };
        let roots = children.remove(&None).unwrap_or_default();
        if roots.len() != 1 {
            return Err(ServiceError::Internal(format!("the hierarchy has {} roots", roots.len())));
        }
        // Siblings are pushed in reverse, so that they are taken in order; `depth` tells which nodes have ended.
        let mut pending: Vec<(usize, NodeRow)> = roots.into_values().map(|row| (0, row)).collect();
        let mut open: Vec<usize> = Vec::new();
        while let Some((depth, row)) = pending.pop() {
            tree.end(&mut open, depth);
            let below = children.remove(&Some(row.id)).unwrap_or_default();
            pending.extend(below.into_values().rev().map(|row| (depth + 1, row)));
            let above = open.last().and_then(|&above| tree.nodes.get(above));
            let (id, code, enter) = (row.id, row.code.to_ascii_lowercase(), tree.nodes.len());
            let node = CustomerNode::below(above, row, depth, enter);
            open.push(enter);
            tree.position.insert(id, enter);
            tree.codes.insert(code, id);
            tree.nodes.push(node);
        }
        tree.end(&mut open, 0);
        if tree.nodes.len() != count {
            return Err(ServiceError::Internal("the hierarchy has a cycle".to_owned()));
        }
        Ok(tree)
    }

    fn end(&mut self, open: &mut Vec<usize>, depth: usize) {
        let exit = self.nodes.len();
        for position in open.drain(depth.min(open.len())..) {
            if let Some(node) = self.nodes.get_mut(position) {
                node.exit = exit;
            }
        }
    }

    /// The node with this key, deleted or not.
    pub fn node(&self, id: CustomerId) -> Option<&CustomerNode> {
        self.nodes.get(*self.position.get(&id)?)
    }

    /// The root.
    pub fn root(&self) -> Option<&CustomerNode> {
        self.nodes.first()
    }

    /// Whether `upper` is `lower` or above it.
    pub fn covers(&self, upper: CustomerId, lower: CustomerId) -> bool {
        match (self.node(upper), self.node(lower)) {
            (Some(upper), Some(lower)) => upper.enter <= lower.enter && lower.enter < upper.exit,
            _ => false,
        }
    }

    /// The node and everything below it, depth first, siblings by slug; deleted ones too.
    pub fn subtree(&self, id: CustomerId) -> &[CustomerNode] {
        let range = self.node(id).and_then(|node| self.nodes.get(node.enter..node.exit));
        range.unwrap_or_default()
    }

    /// Keys of the subtree.
    pub fn subtree_ids(&self, id: CustomerId) -> Vec<i64> {
        self.subtree(id).iter().map(|node| node.id.0).collect()
    }

    /// The node and its ancestors, from the root down.
    pub fn path(&self, id: CustomerId) -> Vec<&CustomerNode> {
        let mut path = Vec::new();
        let mut next = self.node(id);
        while let Some(node) = next {
            path.push(node);
            next = node.parent.and_then(|parent| self.node(parent));
        }
        path.reverse();
        path
    }

    /// Keys of the node and its ancestors, from below up.
    pub fn path_up(&self, id: CustomerId) -> Vec<i64> {
        self.path(id).iter().rev().map(|node| node.id.0).collect()
    }

    /// `/1/7/23/`: the keys from the root down.
    pub fn id_path(&self, id: CustomerId) -> String {
        let mut text = String::from("/");
        for node in self.path(id) {
            text.push_str(&format!("{}/", node.id));
        }
        text
    }

    /// The child with this slug that is not deleted.
    pub fn child(&self, parent: CustomerId, slug: &str) -> Option<&CustomerNode> {
        self.children(parent).find(|node| !node.deleted && node.slug == slug)
    }

    /// The children, by slug; deleted ones too.
    pub fn children(&self, parent: CustomerId) -> impl Iterator<Item = &CustomerNode> {
        let (mut next, end) = self.node(parent).map_or((0, 0), |node| (node.enter + 1, node.exit));
        std::iter::from_fn(move || {
            let node = self.nodes.get(next).filter(|_| next < end)?;
            next = node.exit;
            Some(node)
        })
    }

    /// The customer with this short code, deleted or not; case does not matter.
    pub fn by_code(&self, code: &str) -> Option<CustomerId> {
        self.codes.get(&code.to_ascii_lowercase()).copied()
    }

    /// The lowest node that is above (or is) both.
    pub fn common_ancestor(&self, one: CustomerId, other: CustomerId) -> Option<CustomerId> {
        self.path(one).into_iter().rev().map(|node| node.id).find(|&id| self.covers(id, other))
    }

    /// Levels below the node, itself included.
    pub fn height(&self, id: CustomerId) -> usize {
        let depth = self.node(id).map_or(0, |node| node.depth);
        self.subtree(id).iter().map(|node| node.depth - depth + 1).max().unwrap_or(0)
    }
}

/// Keeps the tree that was read last. It is used only in transactions that see the same version of it: versions are
/// random, so that one which was never committed is never mistaken for another.
#[derive(Default)]
pub(in crate::service) struct Authority {
    cached: Mutex<Option<Arc<Tree>>>,
}

impl Authority {
    /// The tree as this transaction sees it. `lock` keeps others from changing it until the transaction ends.
    ///
    /// # Errors
    /// When the database fails or the hierarchy is damaged.
    pub async fn tree(&self, conn: &mut Conn, lock: customer::TreeLock) -> Result<Arc<Tree>> {
        let version = customer::tree_version(conn, lock).await?;
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(tree) = cached.filter(|tree| tree.version == version) {
            return Ok(tree);
        }
        let tree = Arc::new(Tree::build(version, customer::nodes(conn).await?)?);
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&tree));
        Ok(tree)
    }
}
