//! The hierarchy in memory: nodes in depth-first order, so that a subtree is a range and an ancestor test two
//! comparisons. Nothing here recurses, whatever the depth. What ceilings leave is kept with each node, and whether a
//! hold stops grants there, so that asking for them costs the same at any depth.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::ops::Deref;
use std::sync::Arc;

use super::permission::PermissionSet;
use crate::base::id::{CustomerId, KeyHasher};
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::customer::NodeRow;

/// A slug or code; copies share it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(in crate::service) struct Name(Arc<str>);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of customers by key.
pub(super) type ByCustomer<T> = HashMap<CustomerId, T, BuildHasherDefault<KeyHasher>>;

/// A customer in the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::service) struct CustomerNode {
    pub id: CustomerId,
    pub parent: Option<CustomerId>,
    pub slug: Name,
    pub code: Name,
    pub deleted: bool,
    /// Whether it or a customer above it is deleted.
    pub is_gone: bool,
    /// Whether it has a hold on management of its own.
    pub is_held: bool,
    /// Whether it or a customer above it has: then grants there do not count.
    pub is_stopped: bool,
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
    /// The node of a row. What it has from those above, and its place, are found by [`Tree::number`].
    pub(super) fn new(row: NodeRow, depth: usize) -> Self {
        let ceiling = row.ceiling.as_deref().map(PermissionSet::from_names);
        Self {
            id: row.id,
            parent: row.parent,
            slug: row.slug.into(),
            code: row.code.into(),
            deleted: row.deleted,
            is_gone: row.deleted,
            is_held: row.is_held,
            is_stopped: row.is_held,
            allowed: PermissionSet::all(),
            ceiling: ceiling.map(|set| set.union(PermissionSet::ABOVE_CEILINGS)),
            depth,
            enter: 0,
            exit: 0,
        }
    }

    /// Takes over the marks of those above.
    fn inherit(&mut self, above: Option<&Self>) {
        self.is_gone = self.deleted || above.is_some_and(|above| above.is_gone);
        self.is_stopped = self.is_held || above.is_some_and(|above| above.is_stopped);
        let allowed = above.map_or(PermissionSet::all(), |above| above.allowed);
        self.allowed = self.ceiling.map_or(allowed, |ceiling| allowed.intersection(ceiling));
    }

    /// Its code as codes are looked up.
    pub(super) fn folded_code(&self) -> Name {
        if self.code.bytes().any(|octet| octet.is_ascii_uppercase()) {
            return self.code.to_ascii_lowercase().into();
        }
        self.code.clone()
    }
}

/// The hierarchy as one transaction sees it.
#[derive(PartialEq, Eq, Debug, Default)]
pub(in crate::service) struct Tree {
    pub(super) version: String,
    pub(super) nodes: Vec<CustomerNode>,
    pub(super) position: ByCustomer<usize>,
    pub(super) codes: HashMap<Name, CustomerId>,
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
            position: HashMap::with_capacity_and_hasher(count, BuildHasherDefault::default()),
            codes: HashMap::with_capacity(count),
        };
        let roots = children.remove(&None).unwrap_or_default();
        if roots.len() != 1 {
            return Err(ServiceError::Internal(format!("the hierarchy has {} roots", roots.len())));
        }
        // Siblings are pushed in reverse, so that they are taken in order.
        let mut pending: Vec<(usize, NodeRow)> = roots.into_values().map(|row| (0, row)).collect();
        while let Some((depth, row)) = pending.pop() {
            let below = children.remove(&Some(row.id)).unwrap_or_default();
            pending.extend(below.into_values().rev().map(|row| (depth + 1, row)));
            let node = CustomerNode::new(row, depth);
            tree.codes.insert(node.folded_code(), node.id);
            tree.nodes.push(node);
        }
        if tree.nodes.len() != count {
            return Err(ServiceError::Internal("the hierarchy has a cycle".to_owned()));
        }
        tree.number();
        Ok(tree)
    }

    /// Gives the nodes, which stand in depth-first order and know their depths, their places and what they have from
    /// those above.
    pub(super) fn number(&mut self) {
        let mut open: Vec<usize> = Vec::new();
        for enter in 0..self.nodes.len() {
            let depth = self.nodes.get(enter).map_or(0, |node| node.depth);
            self.end(&mut open, depth, enter);
            let above = open.last().copied().unwrap_or(enter);
            let Some((before, rest)) = self.nodes.split_at_mut_checked(enter) else { return };
            let Some(node) = rest.first_mut() else { return };
            node.inherit(before.get(above));
            if node.enter != enter || !self.position.contains_key(&node.id) {
                self.position.insert(node.id, enter);
            }
            node.enter = enter;
            open.push(enter);
        }
        let exit = self.nodes.len();
        self.end(&mut open, 0, exit);
    }

    /// Closes the open nodes from this depth on.
    fn end(&mut self, open: &mut Vec<usize>, depth: usize, exit: usize) {
        for position in open.drain(depth.min(open.len())..) {
            if let Some(node) = self.nodes.get_mut(position) {
                node.exit = exit;
            }
        }
    }

    /// Of which version it is.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How many customers there are, deleted ones too.
    pub fn len(&self) -> usize {
        self.nodes.len()
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

    /// Where a node stands in [`Self::subtree`] of the root, and where what is below it ends: two ends of a range.
    pub fn range(&self, id: CustomerId) -> std::ops::Range<usize> {
        self.node(id).map_or(0..0, |node| node.enter..node.exit)
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
        self.codes.get(code.to_ascii_lowercase().as_str()).copied()
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
