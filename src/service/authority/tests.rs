//! The tree and the evaluator against naive oracles.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::caller::{CONTENT_LASTS_MAX, Standing, activate, effective};
use super::tree::Tree;
use super::{Caller, Permission, PermissionSet, Role};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, GrantId, GroupId, RoleId};
use crate::service::context::Identity;
use crate::storage::metadata::customer::NodeRow;
use crate::storage::metadata::grant::{GrantRow, GrantedRole, Holder};

/// A hierarchy: node 0 is the root, node n hangs below a node with a smaller number.
fn rows(parents: &[usize]) -> Vec<NodeRow> {
    let row = |index: usize, parent: Option<usize>| NodeRow {
        id: CustomerId(index as i64),
        parent: parent.map(|parent| CustomerId(parent as i64)),
        slug: format!("n{index}"),
        code: format!("c{index}"),
        deleted: false,
        ceiling: None,
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
        holder: Holder::Administrator(AdministratorId(1)),
        group_home: None,
        customer: CustomerId(customer as i64),
        role: role.name().to_owned(),
        custom: None,
        not_before: None,
        expires_at: end.map(Timestamp),
        delegable,
        made_by: String::new(),
        grantor: None,
        created_at: Timestamp(0),
    }
}

fn caller(tree: Tree, grants: &[GrantRow], standing: &Standing, now: Timestamp) -> Caller {
    let grants = grants.iter().filter_map(|row| activate(&tree, row, standing, now)).collect();
    Caller { identity: Identity::System, grants, tree: Arc::new(tree) }
}

/// The present of these tests.
const NOW: i64 = 1_000_000;

/// A grant to make up.
#[derive(Clone, Debug)]
struct Pick {
    at: usize,
    role: usize,
    /// Owner and permissions of a customer's role with that base.
    custom: Option<(usize, u128)>,
    /// The home of the group that holds it.
    group: Option<usize>,
    delegable: bool,
    begins: Option<i64>,
    ends: Option<i64>,
}

fn picks() -> impl Strategy<Value = Pick> {
    let month = CONTENT_LASTS_MAX.as_micros() as i64;
    let near = -20..20_i64;
    let begins = prop::option::of(near.prop_map(|offset| NOW + offset));
    // Around the present, and around the longest that access to content may last.
    let ends = prop_oneof![
        Just(None),
        (-20..20_i64).prop_map(|offset| Some(NOW + offset)),
        (-20..20_i64).prop_map(move |offset| Some(NOW + month + offset)),
    ];
    let custom = prop::option::of((any::<usize>(), any::<u128>()));
    let group = prop::option::of(any::<usize>());
    (any::<usize>(), 0..Role::ALL.len(), custom, group, any::<bool>(), begins, ends).prop_map(
        |(at, role, custom, group, delegable, begins, ends)| Pick {
            at,
            role,
            custom,
            group,
            delegable,
            begins,
            ends,
        },
    )
}

/// Names of some permissions, and one that this program does not know.
fn names(bits: u128) -> String {
    let some = Permission::ALL.iter().enumerate().filter(|(index, _)| bits >> (index % 128) & 1 == 1);
    let names: Vec<&str> = some.map(|(_, permission)| permission.name()).collect();
    format!("{} future.thing", names.join(" "))
}

impl Pick {
    fn grant(&self, index: usize, count: usize) -> GrantRow {
        let place = |pick: usize| CustomerId((pick % count) as i64);
        let role = Role::ALL[self.role];
        GrantRow {
            holder: match self.group {
                Some(_) => Holder::Group(GroupId(1)),
                None => Holder::Administrator(AdministratorId(1)),
            },
            group_home: self.group.map(place),
            custom: self.custom.map(|(owner, bits)| GrantedRole {
                id: RoleId(1),
                customer: place(owner),
                base: role.name().to_owned(),
                permissions: names(bits),
            }),
            not_before: self.begins.map(Timestamp),
            expires_at: self.ends.map(Timestamp),
            ..grant(index, self.at % count, role, self.delegable, None)
        }
    }
}

/// Whether a grant gives a permission at a node, as the design says it, before ceilings.
fn gives_naively(
    rows: &[NodeRow],
    standing: &Standing,
    grant: &GrantRow,
    node: CustomerId,
    permission: Permission,
) -> bool {
    let covers = |upper, lower| covers_naively(rows, upper, lower);
    let is_gone = |id| rows.iter().any(|row| row.deleted && covers(row.id, id));
    let counts = grant.not_before.is_none_or(|start| start.0 <= NOW)
        && grant.expires_at.is_none_or(|end| end.0 > NOW)
        && !standing.held.iter().any(|&hold| covers(hold, grant.customer))
        && !is_gone(grant.customer)
        && !grant.group_home.is_some_and(is_gone);
    let is_content = permission.name().starts_with("content.");
    let is_system = permission.name().starts_with("system.");
    let built_in = |name: &str| Role::by_name(name).unwrap().permissions().has(permission);
    let says = match &grant.custom {
        None => built_in(&grant.role),
        Some(role) => {
            covers(role.customer, grant.customer)
                && role.permissions.split(' ').any(|name| name == permission.name())
                && (is_content || built_in(&role.base))
        }
    };
    let begins = grant.not_before.map_or(0, |start| start.0).max(grant.created_at.0);
    let is_brief = grant.expires_at.is_some_and(|end| end.0 - begins <= CONTENT_LASTS_MAX.as_micros() as i64);
    counts
        && says
        && covers(grant.customer, node)
        && (!is_system || grant.customer.0 == 0)
        && (!is_content || is_brief || standing.content_permanent.contains(&grant.customer))
}

/// Whether the ceilings on the path to a node leave a permission.
fn left_naively(rows: &[NodeRow], node: CustomerId, permission: Permission) -> bool {
    let above_all = permission == Permission::Own || permission.name().starts_with("system.");
    above_all
        || rows.iter().filter(|row| covers_naively(rows, row.id, node)).all(|row| {
            let ceiling = row.ceiling.as_deref();
            ceiling.is_none_or(|ceiling| ceiling.split(' ').any(|name| name == permission.name()))
        })
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
        picks in prop::collection::vec(picks(), 0..6),
        holds in prop::collection::vec(any::<usize>(), 0..3),
        ceilings in prop::collection::vec((any::<usize>(), any::<u128>()), 0..4),
        permanent in prop::collection::vec(any::<usize>(), 0..2),
        gone in prop::option::of(1_usize..20),
    ) {
        let mut rows = rows(&parents);
        let count = rows.len();
        let at = |pick: usize| CustomerId((pick % count) as i64);
        for &(place, bits) in &ceilings {
            rows[place % count].ceiling = Some(names(bits));
        }
        if let Some(gone) = gone.filter(|&gone| gone < count) {
            rows[gone].deleted = true;
        }
        let now = Timestamp(NOW);
        let standing = Standing {
            held: holds.iter().map(|&hold| at(hold)).collect(),
            content_permanent: permanent.iter().map(|&place| at(place)).collect(),
        };
        let mut grants: Vec<GrantRow> =
            picks.iter().enumerate().map(|(index, pick)| pick.grant(index, count)).collect();
        let tree = Tree::build(String::new(), rows.clone()).unwrap();
        let one = caller(tree, &grants, &standing, now);
        grants.reverse();
        let other = caller(Tree::build(String::new(), rows.clone()).unwrap(), &grants, &standing, now);
        let free: Vec<_> = rows.iter().cloned().map(|row| NodeRow { ceiling: None, ..row }).collect();
        let unlimited = caller(Tree::build(String::new(), free).unwrap(), &grants, &standing, now);
        for row in &rows {
            for &permission in Permission::ALL {
                let given = grants.iter().any(|grant| gives_naively(&rows, &standing, grant, row.id, permission));
                let naive = given && left_naively(&rows, row.id, permission);
                prop_assert_eq!(one.effective(row.id).has(permission), naive, "{} at {}", permission.name(), row.id);
                prop_assert_eq!(unlimited.effective(row.id).has(permission), given);
            }
            prop_assert_eq!(one.effective(row.id), other.effective(row.id));
            // A ceiling never adds, here or below; without any, nothing is taken away.
            prop_assert!(one.effective(row.id).without(unlimited.effective(row.id)).is_empty());
            // What may be passed on is held but for ceilings and access to content, and nothing for longer than it is.
            let passed = one.delegable(row.id, Some(Timestamp(NOW + 5)));
            let held = unlimited.effective(row.id).union(PermissionSet::CONTENT);
            prop_assert!(passed.without(held).is_empty());
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
        let caller = caller(tree, &grants, &Standing::default(), Timestamp(0));
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
        let system = PermissionSet::SYSTEM;
        assert!(
            role.permissions().intersection(PermissionSet::CONTENT).is_empty(),
            "content is never implied"
        );
        let reaches = !role.permissions().intersection(system).is_empty();
        assert_eq!(reaches, role == Role::SystemAdmin, "{}", role.name());
        let row = grant(0, 1, role, true, None);
        let below: Vec<_> = activate(&tree, &row, &Standing::default(), Timestamp(0)).into_iter().collect();
        assert!(effective(&tree, &below, CustomerId(1)).intersection(system).is_empty());
    }
}
