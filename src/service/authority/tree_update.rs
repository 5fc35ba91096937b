//! Bringing a tree up to date with the few customers that changed. What did not change is copied, in whole ranges where
//! nothing below did; then all nodes are numbered anew, which takes no look at the database.

use super::tree::{ByCustomer, CustomerNode, Tree};
use crate::base::id::CustomerId;
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::customer::NodeRow;
use crate::storage::metadata::tree_change::TreeChanges;

/// What changes, ready for the walk.
struct Update<'t> {
    old: &'t Tree,
    /// What is there now of what changed; nothing for what is gone.
    changed: ByCustomer<Option<NodeRow>>,
    /// Those that changed, by the customer above them now.
    joining: ByCustomer<Vec<CustomerId>>,
    /// Places in the old tree, ascending, of all that changed, and of those above them before and now: ranges without
    /// any are copied as they are.
    marked: Vec<usize>,
}

impl<'t> Update<'t> {
    fn new(old: &'t Tree, changes: Vec<(CustomerId, Option<NodeRow>)>) -> Self {
        let mut update =
            Self { old, changed: ByCustomer::default(), joining: ByCustomer::default(), marked: Vec::new() };
        for (id, row) in changes {
            let before = old.node(id).and_then(|node| node.parent);
            let above = row.as_ref().and_then(|row| row.parent);
            let places = [Some(id), before, above].into_iter().flatten();
            update.marked.extend(places.filter_map(|id| old.position.get(&id)));
            // One that changed several times comes several times, as it is now.
            if update.changed.insert(id, row).is_none()
                && let Some(above) = above
            {
                update.joining.entry(above).or_default().push(id);
            }
        }
        update.marked.sort_unstable();
        update
    }

    /// Whether nothing in this part of the old tree changed.
    fn is_same(&self, node: &CustomerNode) -> bool {
        let next = self.marked.partition_point(|&place| place < node.enter);
        self.marked.get(next).is_none_or(|&place| place >= node.exit)
    }

    /// The children now, in order.
    fn children(&self, id: CustomerId) -> Vec<CustomerId> {
        let staying = self.old.children(id).filter(|node| !self.changed.contains_key(&node.id));
        let Some(joining) = self.joining.get(&id) else { return staying.map(|node| node.id).collect() };
        let mut all: Vec<(&str, CustomerId)> = staying.map(|node| (node.slug.as_str(), node.id)).collect();
        let rows = joining.iter().filter_map(|id| self.changed.get(id)?.as_ref());
        all.extend(rows.map(|row| (row.slug.as_str(), row.id)));
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// The nodes in depth-first order; many more than `count` are no tree, and it ends there.
    fn nodes(&self, root: CustomerId, count: usize) -> Vec<CustomerNode> {
        let mut nodes = Vec::with_capacity(count);
        let mut pending = vec![(root, 0)];
        while let Some((id, depth)) = pending.pop().filter(|_| nodes.len() <= count) {
            let before = self.old.node(id);
            match (self.changed.get(&id), before) {
                (Some(Some(row)), _) => nodes.push(CustomerNode::new(row.clone(), depth)),
                (None, Some(node)) if self.is_same(node) => {
                    let same = self.old.subtree(id).iter();
                    nodes.extend(same.map(|below| CustomerNode {
                        depth: depth + (below.depth - node.depth),
                        ..below.clone()
                    }));
                    continue;
                }
                (None, Some(node)) => nodes.push(CustomerNode { depth, ..node.clone() }),
                (Some(None), _) | (None, None) => continue,
            }
            pending.extend(self.children(id).into_iter().rev().map(|child| (child, depth + 1)));
        }
        nodes
    }
}

impl Tree {
    /// The tree after some changes.
    ///
    /// # Errors
    /// When they do not fit: then all is to be read anew.
    pub fn after(&self, changes: TreeChanges) -> Result<Self> {
        let misfit = || ServiceError::Internal("a change does not fit the hierarchy".to_owned());
        let update = Update::new(self, changes.customers);
        let gone = update.changed.iter().filter(|(id, row)| row.is_none() && self.node(**id).is_some());
        let new = update.changed.iter().filter(|(id, row)| row.is_some() && self.node(**id).is_none());
        let count = (self.len() + new.count()).checked_sub(gone.count()).ok_or_else(misfit)?;
        let root = self.root().map(|root| root.id).ok_or_else(misfit)?;
        let nodes = update.nodes(root, count);
        // Some are missing below one that is gone, in a circle, without anything above; some come again below a root
        // that is not one.
        if nodes.len() != count || nodes.first().is_none_or(|root| root.parent.is_some()) {
            return Err(misfit());
        }
        let (mut position, mut codes) = (self.position.clone(), self.codes.clone());
        for (id, row) in &update.changed {
            if let Some(before) = self.node(*id) {
                codes.remove(&before.folded_code());
            }
            if row.is_none() {
                position.remove(id);
            }
        }
        for row in update.changed.into_values().flatten() {
            let node = CustomerNode::new(row, 0);
            // Its place may have been another's.
            position.remove(&node.id);
            codes.insert(node.folded_code(), node.id);
        }
        let mut tree = Self { version: changes.version, nodes, position, codes };
        tree.number();
        Ok(tree)
    }
}
