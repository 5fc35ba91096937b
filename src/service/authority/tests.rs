//! The tree and the evaluator against naive oracles.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::caller::{activate, effective};
use super::tree::Tree;
use super::{Caller, Permission, PermissionSet, Role};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, GrantId};
use crate::service::context::Identity;
use crate::storage::metadata::administrator::GrantRow;
use crate::storage::metadata::customer::NodeRow;

/// A hierarchy: node 0 is the root, node n hangs below a node with a smaller number.
fn rows(parents: &[usize]) -> Vec<NodeRow> {
    let row = |index: usize, parent: Option<usize>| NodeRow {
        id: CustomerId(index as i64),
        parent: parent.map(|parent| CustomerId(parent as i64)),
        slug: format!("n{index}"),
        code: format!("c{index}"),
        deleted: false,
    };
    let below = parents.iter().enumerate().map(|(index, &pick)| row(index + 1, Some(pick % (index + 1))));
    std::iter::once(row(0, None)).chain(below).collect()
}

/// Whether `upper` is `lower` or above it, by walking the parents.
fn covers_naively(rows: &[NodeRow], upper: CustomerId, lower: CustomerId) -> bool {
    let mut next = Some(lower);
    while let Some(id) = next {
        if id == upper {
            return true;
        }
        next = rows.iter().find(|row| row.id == id).and_then(|row| row.parent);
    }
    false
}

fn grant(index: usize, customer: usize, role: Role, delegable: bool, end: Option<i64>) -> GrantRow {
    GrantRow {
        id: GrantId(index as i64),
        public_id: String::new(),
        administrator: AdministratorId(1),
        customer: CustomerId(customer as i64),
        role: role.name().to_owned(),
        not_before: None,
        expires_at: end.map(Timestamp),
        delegable,
        made_by: String::new(),
        created_at: Timestamp(0),
    }
}

fn caller(tree: Tree, grants: &[GrantRow], held: &[CustomerId], now: Timestamp) -> Caller {
    let grants = grants.iter().filter_map(|row| activate(&tree, row, held, now)).collect();
    Caller { identity: Identity::System, grants, tree: Arc::new(tree) }
}

proptest! {
    #[test]
    fn tree_covers_what_the_parents_say_also_after_moves(
        parents in prop::collection::vec(any::<usize>(), 0..40),
        moves in prop::collection::vec((any::<usize>(), any::<usize>()), 0..20),
    ) {
        let mut rows = rows(&parents);
        let count = rows.len();
        for (which, to) in moves {
            let (which, to) = (CustomerId((which % count) as i64), CustomerId((to % count) as i64));
            let tree = Tree::build(String::new(), rows.clone()).unwrap();
            // The rule by which moves are refused.
            if which.0 != 0 && !tree.covers(which, to) {
                rows[which.0 as usize].parent = Some(to);
            }
        }
        let mut shuffled = rows.clone();
        shuffled.reverse();
        let tree = Tree::build(String::new(), rows.clone()).unwrap();
        prop_assert_eq!(&tree, &Tree::build(String::new(), shuffled).unwrap());
        for upper in &rows {
            let below: BTreeSet<i64> = tree.subtree_ids(upper.id).into_iter().collect();
            for lower in &rows {
                let naive = covers_naively(&rows, upper.id, lower.id);
                prop_assert_eq!(tree.covers(upper.id, lower.id), naive);
                prop_assert_eq!(below.contains(&lower.id.0), naive);
            }
            let children: BTreeSet<CustomerId> = tree.children(upper.id).map(|node| node.id).collect();
            let naive: BTreeSet<CustomerId> =
                rows.iter().filter(|row| row.parent == Some(upper.id)).map(|row| row.id).collect();
            prop_assert_eq!(children, naive);
            prop_assert_eq!(tree.path(upper.id).len(), tree.node(upper.id).unwrap().depth + 1);
        }
    }

    #[test]
    fn evaluator_equals_a_naive_oracle_whatever_the_order_of_grants(
        parents in prop::collection::vec(any::<usize>(), 0..20),
        picks in prop::collection::vec(
            (any::<usize>(), 0..Role::ALL.len(), any::<bool>(), prop::option::of(0..20_i64)),
            0..6,
        ),
        holds in prop::collection::vec(any::<usize>(), 0..3),
    ) {
        let rows = rows(&parents);
        let count = rows.len();
        let now = Timestamp(10);
        let held: Vec<CustomerId> = holds.iter().map(|hold| CustomerId((hold % count) as i64)).collect();
        let mut grants: Vec<GrantRow> = picks
            .iter()
            .enumerate()
            .map(|(index, &(at, role, delegable, end))| grant(index, at % count, Role::ALL[role], delegable, end))
            .collect();
        let tree = Tree::build(String::new(), rows.clone()).unwrap();
        let one = caller(tree, &grants, &held, now);
        grants.reverse();
        let other = caller(Tree::build(String::new(), rows.clone()).unwrap(), &grants, &held, now);
        for row in &rows {
            for &permission in Permission::ALL {
                let naive = grants.iter().any(|grant| {
                    covers_naively(&rows, grant.customer, row.id)
                        && grant.expires_at.is_none_or(|end| end > now)
                        && !held.iter().any(|&hold| covers_naively(&rows, hold, grant.customer))
                        && Role::by_name(&grant.role).unwrap().permissions().has(permission)
                        && (grant.customer.0 == 0 || !permission.is_system())
                });
                prop_assert_eq!(one.effective(row.id).has(permission), naive, "{} at {}", permission.name(), row.id);
            }
            prop_assert_eq!(one.effective(row.id), other.effective(row.id));
            // What may be passed on is held, and nothing may be passed on for longer than it is held.
            let passed = one.delegable(row.id, Some(Timestamp(15)));
            prop_assert!(passed.without(one.effective(row.id)).is_empty());
            prop_assert!(one.delegable(row.id, None).without(passed).is_empty());
        }
    }

    #[test]
    fn paths_shown_are_the_paths_understood(
        parents in prop::collection::vec(any::<usize>(), 0..20),
        at in any::<usize>(),
    ) {
        let rows = rows(&parents);
        let tree = Tree::build(String::new(), rows.clone()).unwrap();
        let grants = [grant(0, at % rows.len(), Role::Viewer, false, None)];
        let caller = caller(tree, &grants, &[], Timestamp(0));
        for row in &rows {
            match caller.path_of(row.id) {
                Some(path) => prop_assert_eq!(caller.resolve(&path).unwrap().id, row.id, "{}", path),
                None => {
                    prop_assert!(!caller.sees(row.id));
                    prop_assert!(caller.by_code(&row.code).is_none());
                }
            }
        }
    }
}

#[test]
fn hierarchy_with_a_cycle_or_two_roots_is_refused() {
    let mut cyclic = rows(&[0, 1]);
    cyclic[1].parent = Some(CustomerId(2));
    assert!(Tree::build(String::new(), cyclic).is_err());
    let mut two = rows(&[0]);
    two[1].parent = None;
    assert!(Tree::build(String::new(), two).is_err());
    assert!(Tree::build(String::new(), Vec::new()).is_err());
}

#[test]
fn deepest_hierarchy_needs_no_deep_stack() {
    let deep: Vec<usize> = (0..100_000).collect();
    let tree = Tree::build(String::new(), rows(&deep)).unwrap();
    assert!(tree.covers(CustomerId(0), CustomerId(100_000)));
    assert_eq!(tree.height(CustomerId(0)), 100_001);
}

#[test]
fn no_role_but_the_system_administrators_reaches_the_servers() {
    let tree = Tree::build(String::new(), rows(&[0])).unwrap();
    for &role in Role::ALL {
        let system = PermissionSet::of(Permission::ALL).without(Role::Admin.permissions());
        let reaches = !role.permissions().intersection(system).is_empty();
        assert_eq!(reaches, role == Role::SystemAdmin, "{}", role.name());
        let row = grant(0, 1, role, true, None);
        let below: Vec<_> = activate(&tree, &row, &[], Timestamp(0)).into_iter().collect();
        assert!(effective(&tree, &below, CustomerId(1)).intersection(system).is_empty());
    }
}
