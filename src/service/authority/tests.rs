//! The tree and the evaluator against naive oracles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::caller::{CONTENT_LASTS_MAX, Standing, activate, effective};
use super::tree::Tree;
use super::{Caller, Permission, PermissionSet, Role, ZoneGrant, Zones};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, GrantId, GroupId, RoleId, StoreId, ZoneId};
use crate::service::context::Identity;
use crate::storage::metadata::customer::NodeRow;
use crate::storage::metadata::grant::{GrantRow, GrantedRole, GrantedZone, Holder};
use crate::storage::metadata::tree_change::TreeChanges;
use crate::storage::metadata::zone::Members;

/// A hierarchy: node 0 is the root, node n hangs below a node with a smaller number.
fn rows(parents: &[usize]) -> Vec<NodeRow> {
    let row = |index: usize, parent: Option<usize>| NodeRow {
        id: CustomerId(index as i64),
        parent: parent.map(|parent| CustomerId(parent as i64)),
        slug: format!("n{index}"),
        code: format!("c{index}"),
        deleted: false,
        ceiling: None,
        is_held: false,
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
        home: CustomerId(0),
        customer: CustomerId(customer as i64),
        zone: None,
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
    zoned_caller(tree, grants, standing, BTreeMap::new(), now)
}

fn zoned_caller(
    tree: Tree,
    grants: &[GrantRow],
    standing: &Standing,
    members: BTreeMap<ZoneId, Members>,
    now: Timestamp,
) -> Caller {
    let in_zones = grants.iter().filter_map(|row| ZoneGrant::of(&tree, row, now)).collect();
    let grants = grants.iter().filter_map(|row| activate(&tree, row, standing, now)).collect();
    let zones = Zones::new(in_zones, members);
    Caller { identity: Identity::System, grants, zones, tree: Arc::new(tree) }
}

/// Something that happens to a customer.
#[derive(Clone, Debug)]
enum Edit {
    Insert { above: usize, slug: u8 },
    Rename { which: usize, slug: u8 },
    Move { which: usize, to: usize },
    Mark { which: usize, deleted: bool, held: bool, ceiling: Option<u128> },
    Purge { which: usize },
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<usize>;
    prop_oneof![
        3 => (place(), 0..8_u8).prop_map(|(above, slug)| Edit::Insert { above, slug }),
        1 => (place(), 0..8_u8).prop_map(|(which, slug)| Edit::Rename { which, slug }),
        3 => (place(), place()).prop_map(|(which, to)| Edit::Move { which, to }),
        2 => (place(), any::<bool>(), any::<bool>(), prop::option::of(any::<u128>()))
            .prop_map(|(which, deleted, held, ceiling)| Edit::Mark { which, deleted, held, ceiling }),
        2 => place().prop_map(|which| Edit::Purge { which }),
    ]
}

impl Edit {
    /// Changes the rows; answers whom it changed. Two siblings may have one slug: one of them would be deleted.
    fn carry_out(self, rows: &mut Vec<NodeRow>) -> Option<CustomerId> {
        let at = |which: usize, rows: &[NodeRow]| which % rows.len();
        match self {
            Self::Insert { above, slug } => {
                let id = CustomerId(rows.iter().map(|row| row.id.0).max().unwrap() + 1);
                let parent = Some(rows[at(above, rows)].id);
                let (slug, code) = (format!("s{slug}"), format!("C{id}"));
                let (deleted, ceiling, is_held) = (false, None, false);
                rows.push(NodeRow { id, parent, slug, code, deleted, ceiling, is_held });
                Some(id)
            }
            Self::Rename { which, slug } => {
                let at = at(which, rows);
                rows[at].slug = format!("s{slug}");
                Some(rows[at].id)
            }
            Self::Move { which, to } => {
                let (at, to) = (at(which, rows), rows[at(to, rows)].id);
                let id = rows[at].id;
                if rows[at].parent.is_none() || covers_naively(rows, id, to) {
                    return None;
                }
                rows[at].parent = Some(to);
                Some(id)
            }
            Self::Mark { which, deleted, held, ceiling } => {
                let at = at(which, rows);
                (rows[at].deleted, rows[at].is_held) = (deleted, held);
                rows[at].ceiling = ceiling.map(names);
                Some(rows[at].id)
            }
            Self::Purge { which } => {
                let id = rows[at(which, rows)].id;
                let has_children = rows.iter().any(|row| row.parent == Some(id));
                let is_root = rows.iter().any(|row| row.id == id && row.parent.is_none());
                if has_children || is_root {
                    return None;
                }
                rows.retain(|row| row.id != id);
                Some(id)
            }
        }
    }
}

/// Zones and mail stores of these tests.
const ZONES: i64 = 3;
const STORES: i64 = 4;
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
    /// The zone in which it counts.
    zone: Option<i64>,
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
    let zone = prop_oneof![2 => Just(None), 1 => (0..ZONES).prop_map(Some)];
    (any::<usize>(), 0..Role::ALL.len(), custom, group, zone, any::<bool>(), begins, ends).prop_map(
        |(at, role, custom, group, zone, delegable, begins, ends)| Pick {
            at,
            role,
            custom,
            group,
            zone,
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
            home: self.group.map_or(CustomerId(0), place),
            zone: self.zone.map(|zone| GrantedZone { id: ZoneId(zone), name: format!("z{zone}") }),
            custom: self.custom.map(|(owner, bits)| GrantedRole {
                id: RoleId(1),
                customer: place(owner),
                base: role.name().to_owned(),
                permissions: names(bits),
            }),
            not_before: self.begins.map(Timestamp),
            expires_at: self.ends.map(Timestamp),
            // One in a zone is at the root.
            ..grant(index, self.zone.map_or(self.at % count, |_| 0), role, self.delegable, None)
        }
    }
}

/// Whether a grant counts at present, and its role says the permission, as the design says it.
fn says_naively(rows: &[NodeRow], grant: &GrantRow, permission: Permission) -> bool {
    let covers = |upper, lower| covers_naively(rows, upper, lower);
    let is_gone = |id| rows.iter().any(|row| row.deleted && covers(row.id, id));
    let counts = grant.not_before.is_none_or(|start| start.0 <= NOW)
        && grant.expires_at.is_none_or(|end| end.0 > NOW)
        && !rows.iter().any(|row| row.is_held && covers(row.id, grant.customer))
        && !is_gone(grant.customer)
        && !(grant.holder == Holder::Group(GroupId(1)) && is_gone(grant.home));
    let is_content = permission.name().starts_with("content.");
    let built_in = |name: &str| Role::by_name(name).unwrap().permissions().has(permission);
    let says = match &grant.custom {
        None => built_in(&grant.role),
        Some(role) => {
            covers(role.customer, grant.customer)
                && role.permissions.split(' ').any(|name| name == permission.name())
                && (is_content || built_in(&role.base))
        }
    };
    counts && says
}

/// Whether a grant gives a permission at a node, as the design says it, before ceilings.
fn gives_naively(
    rows: &[NodeRow],
    standing: &Standing,
    grant: &GrantRow,
    node: CustomerId,
    permission: Permission,
) -> bool {
    let is_content = permission.name().starts_with("content.");
    let is_system = permission.name().starts_with("system.");
    let begins = grant.not_before.map_or(0, |start| start.0).max(grant.created_at.0);
    let is_brief = grant.expires_at.is_some_and(|end| end.0 - begins <= CONTENT_LASTS_MAX.as_micros() as i64);
    grant.zone.is_none()
        && says_naively(rows, grant, permission)
        && covers_naively(rows, grant.customer, node)
        && (!is_system || grant.customer.0 == 0)
        && (!is_content || is_brief || standing.content_permanent.contains(&grant.customer))
}

/// Whether a grant gives a permission over what is in a zone, as the design says it.
fn gives_naively_in(rows: &[NodeRow], grant: &GrantRow, zone: i64, permission: Permission) -> bool {
    let name = permission.name();
    let is_of_targets = ["system.store.", "system.server."].iter().any(|kind| name.starts_with(kind));
    grant.zone.as_ref().is_some_and(|one| one.id.0 == zone)
        && (is_of_targets || name == "system.zone.read")
        && says_naively(rows, grant, permission)
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

    /// Whatever happens to customers between two looks, a tree that is brought up to date is the one read anew.
    #[test]
    fn tree_brought_up_to_date_is_the_tree_read_anew(
        parents in prop::collection::vec(any::<usize>(), 1..30),
        rounds in prop::collection::vec(prop::collection::vec(edit(), 1..8), 1..6),
    ) {
        let mut rows = rows(&parents);
        let mut tree = Tree::build("0".to_owned(), rows.clone()).unwrap();
        for (round, edits) in rounds.into_iter().enumerate() {
            let mut touched = Vec::new();
            for edit in edits {
                touched.extend(edit.carry_out(&mut rows));
            }
            let now = |id: CustomerId| (id, rows.iter().find(|row| row.id == id).cloned());
            let version = (round + 1).to_string();
            let from = tree.version().to_owned();
            let customers = touched.into_iter().map(now).collect();
            tree = tree.after(TreeChanges { from, version: version.clone(), customers }).unwrap();
            prop_assert_eq!(&tree, &Tree::build(version, rows.clone()).unwrap());
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
        for &hold in &holds {
            rows[hold % count].is_held = true;
        }
        let now = Timestamp(NOW);
        let standing = Standing {
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
    fn zones_give_what_a_naive_oracle_says_and_make_nothing_visible(
        parents in prop::collection::vec(any::<usize>(), 0..6),
        picks in prop::collection::vec(picks(), 0..8),
        holds in prop::collection::vec(any::<usize>(), 0..2),
        contents in prop::collection::vec((0..ZONES, 0..STORES), 0..8),
        confined in prop::option::of(any::<u128>()),
    ) {
        let mut rows = rows(&parents);
        let count = rows.len();
        for &hold in &holds {
            rows[hold % count].is_held = true;
        }
        let mut members: BTreeMap<ZoneId, Members> = BTreeMap::new();
        for &(zone, store) in &contents {
            let zone = members.entry(ZoneId(zone)).or_default();
            zone.stores.insert(StoreId(store));
            zone.nodes.insert(format!("node{store}"));
        }
        let only = confined.map(|bits| PermissionSet::from_names(&names(bits)));
        let make = |grants: &[GrantRow]| {
            let tree = Tree::build(String::new(), rows.clone()).unwrap();
            let (standing, now) = (Standing::default(), Timestamp(NOW));
            zoned_caller(tree, grants, &standing, members.clone(), now).confined(only)
        };
        let mut grants: Vec<GrantRow> =
            picks.iter().enumerate().map(|(index, pick)| pick.grant(index, count)).collect();
        let one = make(&grants);
        grants.reverse();
        let other = make(&grants);
        for &permission in Permission::ALL {
            let gives = |zone: i64| {
                only.is_none_or(|only| only.has(permission))
                    && grants.iter().any(|grant| gives_naively_in(&rows, grant, zone, permission))
            };
            for zone in 0..ZONES {
                prop_assert_eq!(one.zones.may(ZoneId(zone), permission), gives(zone));
                let passed = one.zones.delegable(ZoneId(zone), Some(Timestamp(NOW + 5)));
                prop_assert!(!passed.has(permission) || gives(zone));
                prop_assert!(one.zones.delegable(ZoneId(zone), None).without(passed).is_empty());
            }
            for store in 0..STORES {
                let naive = contents.iter().any(|&(zone, there)| there == store && gives(zone));
                for caller in [&one, &other] {
                    let (zones, node) = (&caller.zones, format!("node{store}"));
                    prop_assert_eq!(zones.of_store(StoreId(store), permission).is_some(), naive);
                    prop_assert_eq!(zones.of_node(&node, permission).is_some(), naive);
                    prop_assert_eq!(zones.stores(permission).contains(&StoreId(store)), naive);
                }
            }
            prop_assert_eq!(one.zones.any(permission).is_some(), (0..ZONES).any(gives));
        }
        // Nothing of it counts at customers, or shows one.
        let in_zones: Vec<GrantRow> = grants.into_iter().filter(|grant| grant.zone.is_some()).collect();
        let apart = make(&in_zones);
        for row in &rows {
            prop_assert!(!apart.sees(row.id) && apart.effective(row.id).is_empty());
            prop_assert!(apart.delegable(row.id, None).is_empty());
        }
        prop_assert!(apart.tops().is_empty());
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
fn changes_that_do_not_fit_are_refused() {
    let tree = Tree::build("0".to_owned(), rows(&[0, 1, 2])).unwrap();
    let after = |customers: Vec<(i64, Option<i64>)>| {
        let row = |id: i64, parent: i64| {
            let row = rows(&[0, 1, 2]).into_iter().find(|row| row.id.0 == id);
            NodeRow {
                id: CustomerId(id),
                parent: Some(CustomerId(parent)),
                ..row.unwrap_or(rows(&[]).remove(0))
            }
        };
        let customers =
            customers.into_iter().map(|(id, parent)| (CustomerId(id), parent.map(|parent| row(id, parent))));
        let changes =
            TreeChanges { from: "0".to_owned(), version: "1".to_owned(), customers: customers.collect() };
        tree.after(changes)
    };
    assert!(after(vec![(1, Some(3))]).is_err(), "a circle");
    assert!(after(vec![(1, None)]).is_err(), "one with others below it is gone");
    assert!(after(vec![(9, Some(8))]).is_err(), "below nobody");
    assert!(after(vec![(0, None)]).is_err(), "the root is gone");
    assert!(after(vec![(0, Some(3))]).is_err(), "the root below another");
    assert_eq!(after(vec![(3, None), (2, Some(0)), (2, Some(0))]).unwrap().len(), 3);
    assert_eq!(after(Vec::new()).unwrap().len(), 4);
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
