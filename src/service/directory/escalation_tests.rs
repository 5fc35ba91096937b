//! Nobody is raised above those who acted: random sequences of grants, revocations, edits of roles,
//! memberships, ceilings, moves, deletions of administrators, passwords, second factors, tokens, invitations,
//! requests with their approval, and time, by several actors, through the operations as they are. After each change,
//! whoever may more than before, now or later, may no more of it than the actor could pass on; whose
//! credentials were set had nothing that the actor could not pass on; and who accepts an invitation has
//! nothing that who invited could not pass on at that moment.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::base::clock::{Clock, Timestamp};
use crate::base::id::{AdministratorId, CustomerId, ZoneId};
use crate::service::authority::{
    ActiveGrant, PermissionSet, Standing, Tree, ZoneGrant, Zones, activate, delegable, given,
};
use crate::service::context::{Authenticated, Authentication, Identity};
use crate::service::error::ServiceError;
use crate::service::login::Login;
use crate::service::registry::{Management, ManagementOptions, RunOptions, operation};
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::zone::{self, Members};
use crate::storage::metadata::{administrator, grant, second_factor};

mod zones;

use zones::ZONES;

/// Where everything happens.
const PLACES: [&str; 6] = ["/", "a", "a/b", "a/b/c", "a/d", "e"];
/// Roles that are granted, built-in ones and customers' own.
const ROLES: [&str; 7] = ["admin", "manager", "viewer", "auditor", "keeper", "post", "clerk"];
/// Who acts, and is acted on: name, home, role, whether delegable, until when.
const ACTORS: [(&str, &str, &str, bool, Option<&str>); 9] = [
    ("top", "/", "admin", true, None),
    ("ann", "a", "admin", true, None),
    ("kay", "a", "keeper", true, None),
    ("bob", "a/b", "keeper", true, Some("10d")),
    ("may", "a/b", "manager", false, None),
    ("eve", "e", "admin", true, Some("20d")),
    ("cal", "a/b/c", "clerk", true, None),
    ("sam", "/", "system-admin", true, None),
    ("wil", "/", "warden", true, None),
];
/// Permissions that edits and ceilings are about.
const PERMISSIONS: [&str; 10] = [
    "customer.read",
    "mailbox.read",
    "mailbox.create",
    "mailbox.delete",
    "administrator.grant",
    "administrator.read",
    "customer.move",
    "content.read",
    "system.store.update",
    "system.store.pack",
];
/// How long ahead rights are looked at, in days: grants begin and end.
const HORIZONS_DAYS: [u64; 4] = [0, 5, 15, 100];
const DAY: Duration = Duration::from_secs(86_400);

/// What one step tries; the numbers pick among what there is.
#[derive(Clone, Copy, Debug)]
struct Step {
    actor: usize,
    kind: usize,
    picks: [usize; 4],
}

fn step() -> impl Strategy<Value = Step> {
    let picks = prop::array::uniform4(0..1_000_usize);
    (0..ACTORS.len(), 0..32_usize, picks).prop_map(|(actor, kind, picks)| Step { actor, kind, picks })
}

struct World {
    management: Management,
    database: Database,
    clock: Clock,
    system: Authentication,
    actors: Vec<(AdministratorId, String, Authentication)>,
    groups: Vec<String>,
    /// Codes of invitations that may be open, and which actors invited.
    invited: Mutex<Vec<(usize, String)>>,
    accepted: AtomicUsize,
    /// Where each place is at present.
    codes: Vec<String>,
    /// Requests that were made.
    requests: Mutex<Vec<String>>,
    _dir: tempfile::TempDir,
}

/// What everybody may before and after.
struct Snapshot {
    tree: Arc<Tree>,
    /// By horizon, then by administrator.
    grants: Vec<BTreeMap<AdministratorId, Vec<ActiveGrant>>>,
    /// Likewise, in zones.
    zones: Vec<BTreeMap<AdministratorId, Zones>>,
    /// What is in the zones.
    members: BTreeMap<ZoneId, Members>,
}

impl Snapshot {
    /// What somebody has at a node at a horizon before ceilings, and what ceilings leave of it.
    fn rights(&self, horizon: usize, who: AdministratorId, node: CustomerId) -> [PermissionSet; 2] {
        let grants = self.grants[horizon].get(&who).map(Vec::as_slice).unwrap_or_default();
        let raw = given(&self.tree, grants, node);
        let allowed = self.tree.node(node).map(|node| node.allowed).unwrap_or_default();
        [raw, raw.intersection(allowed)]
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
        let database = Database::open(&url).await.unwrap();
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let options = ManagementOptions { system_uids: vec![0], ..ManagementOptions::default() };
        let management = Management::open(database.clone(), clock.clone(), options).await.unwrap();
        let system = management.authenticate_peer(0).await.unwrap().unwrap();
        management.attach_login(Login::new(database.clone(), clock.clone()));
        let (actors, groups, codes, requests) = (Vec::new(), Vec::new(), Vec::new(), Mutex::default());
        let mut world = Self {
            management,
            database,
            clock,
            system,
            actors,
            groups,
            invited: Mutex::default(),
            accepted: AtomicUsize::new(0),
            codes,
            requests,
            _dir: dir,
        };
        world.people().await;
        world.zones().await;
        world
    }

    async fn people(&mut self) {
        for place in PLACES.iter().skip(1) {
            self.must("customer.create", json!({ "path": place })).await;
        }
        for place in PLACES {
            let shown = self.must("customer.show", json!({ "path": place })).await;
            let code = text(&shown["code"]);
            let domain = json!({ "domain": format!("{code}.example").to_lowercase(), "customer": place });
            self.must("domain.create", domain).await;
            self.codes.push(code);
        }
        let acting = [
            "customer.read",
            "administrator.read",
            "administrator.create",
            "administrator.update",
            "administrator.grant",
            "administrator.delete",
        ];
        let keeping = ["role.update", "group.update", "customer.ceiling", "customer.move", "mailbox.read"];
        let keeper: Vec<&str> = acting.into_iter().chain(keeping).collect();
        let clerk: Vec<&str> = acting.into_iter().chain(["content.read", "mailbox.create"]).collect();
        let post = vec!["customer.read", "mailbox.read", "mailbox.create"];
        let tender = vec!["system.store.read", "system.store.update", "system.server.read"];
        // May say what is in zones, and pass on little of what is granted in them.
        let servers = ["system.zone.update", "system.zone.read", "system.store.read", "role.update"];
        let warden: Vec<&str> = acting.into_iter().chain(servers).collect();
        for (name, at, base, permissions) in [
            ("keeper", "/", "admin", keeper),
            ("post", "a", "admin", post),
            ("clerk", "a/b", "admin", clerk),
            ("tender", "/", "system-admin", tender),
            ("warden", "/", "system-admin", warden),
        ] {
            let asked = json!({ "name": name, "customer": at, "base": base, "permissions": permissions });
            self.must("role.create", asked).await;
        }
        let lasting = json!({ "path": "a/b", "key": "content.permanent_allowed", "value": "on" });
        self.must("setting.set", lasting).await;
        for (name, home, role, delegable, expires_at) in ACTORS {
            let asked = json!({ "name": name, "customer": home, "role": role, "delegable": delegable,
                "expires_at": expires_at });
            let made = self.must("administrator.create", asked).await;
            let login =
                self.management.authenticate_token(&text(&made["token"]), None).await.unwrap().unwrap();
            let Identity::Administrator { id, .. } = login.identity().clone() else { panic!("the system") };
            // Not by token: that ends when the administrator is deleted for a while.
            let identity = login.identity().clone();
            let login = Authentication { identity, authenticated: Authenticated::Peer { uid: 1 } };
            self.actors.push((id, text(&made["name"]), login));
            self.set_up_second_factor(id).await;
        }
        for (name, home, role) in [("ops", "a", "manager"), ("low", "a/b", "post"), ("out", "e", "viewer")] {
            let made = self.must("group.create", json!({ "name": name, "customer": home })).await;
            self.must("group.grant", json!({ "name": made["name"], "role": role, "customer": home })).await;
            self.groups.push(text(&made["name"]));
        }
    }

    async fn set_up_second_factor(&self, whose: AdministratorId) {
        let now = self.clock.now();
        let set_up = self.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move {
                assert!(second_factor::begin(conn, whose, b"secret", now).await?);
                second_factor::confirm(conn, whose, now).await
            })
        });
        set_up.await.unwrap();
    }

    async fn run(&self, who: &Authentication, name: &str, asked: Value) -> Result<Value, ServiceError> {
        let operation = operation(name).unwrap_or_else(|| panic!("no operation {name}"));
        let context = who.context(None, "request".to_owned(), None);
        (operation.run)(&self.management, context, asked, RunOptions::default()).await
    }

    async fn must(&self, name: &str, asked: Value) -> Value {
        let shown = asked.to_string();
        self.run(&self.system, name, asked).await.unwrap_or_else(|error| panic!("{name} {shown}: {error:?}"))
    }

    async fn snapshot(&self) -> Snapshot {
        self.snapshot_of(self.actors.iter().map(|(id, ..)| *id).collect()).await
    }

    async fn snapshot_of(&self, ids: Vec<AdministratorId>) -> Snapshot {
        let inner = Arc::clone(&self.management.inner);
        let now = self.clock.now();
        let read = self.database.read(move |conn| {
            Box::pin(async move {
                let tree = inner.authority.tree(conn, TreeLock::None).await?;
                let mut grants = vec![BTreeMap::new(); HORIZONS_DAYS.len()];
                let mut zones = vec![BTreeMap::new(); HORIZONS_DAYS.len()];
                let mut keys = Vec::new();
                for name in ZONES {
                    keys.extend(zone::by_name(conn, name).await?.map(|row| row.id));
                }
                let members = zone::members(conn, &keys).await?;
                for id in ids {
                    if administrator::by_id(conn, id).await?.is_none() {
                        continue;
                    }
                    let rows = grant::held_by(conn, id).await?;
                    let standing = Standing::of(conn, &tree, &rows).await?;
                    for (horizon, days) in HORIZONS_DAYS.iter().enumerate() {
                        let then = now.plus(DAY * u32::try_from(*days).unwrap());
                        let active = rows.iter().filter_map(|row| activate(&tree, row, &standing, then));
                        grants[horizon].insert(id, active.collect());
                        let in_zones = rows.iter().filter_map(|row| ZoneGrant::of(&tree, row, then));
                        zones[horizon].insert(id, Zones::new(in_zones.collect(), members.clone()));
                    }
                }
                Ok::<_, ServiceError>(Snapshot { tree, grants, zones, members })
            })
        });
        read.await.unwrap()
    }

    /// The operation that a step tries, with its request; nothing for a step in time.
    fn attempt(&self, step: Step) -> Option<(&'static str, Value)> {
        let [one, two, three, four] = step.picks;
        let code = |pick: usize| self.codes[pick % self.codes.len()].clone();
        let person = |pick: usize| self.actors[pick % self.actors.len()].1.clone();
        let group = self.groups[two % self.groups.len()].clone();
        let role = ROLES[three % ROLES.len()];
        let custom = ["keeper", "post", "clerk", "tender"][two % 4];
        let permission = PERMISSIONS[three % PERMISSIONS.len()];
        let until = [None, Some("3d"), Some("12d"), Some("60d")][four % 4];
        let from = [None, None, Some("2d"), Some("8d")][four / 4 % 4];
        let granted = |name: String| {
            json!({ "name": name, "role": role, "customer": code(one), "delegable": four % 2 == 0,
                "not_before": from, "expires_at": until })
        };
        Some(match step.kind {
            26.. => self.attempt_in_zones(step, (from, until)),
            0..=2 => ("administrator.grant", granted(person(two))),
            3 => ("group.grant", granted(group)),
            4 => {
                let (name, cascade) = (person(two), four % 2 == 0);
                let asked = json!({ "name": name, "role": role, "customer": code(one), "cascade": cascade });
                ("administrator.revoke", asked)
            }
            5 => ("group.revoke", json!({ "name": group, "role": role, "customer": code(one) })),
            6 | 7 => ("role.update", json!({ "name": custom, "add": [permission] })),
            8 => ("role.update", json!({ "name": custom, "remove": [permission] })),
            9 | 10 => ("group.add", json!({ "name": group, "administrator": person(one) })),
            11 => ("group.remove", json!({ "name": group, "administrator": person(one) })),
            12 => {
                let some: Vec<&str> = PERMISSIONS
                    .into_iter()
                    .enumerate()
                    .filter(|(at, _)| two >> at & 1 == 1)
                    .map(|(_, it)| it)
                    .collect();
                let some = if some.is_empty() { vec!["customer.read"] } else { some };
                ("ceiling.set", json!({ "path": code(one), "permissions": some }))
            }
            13 => ("ceiling.clear", json!({ "path": code(one) })),
            14 => ("customer.move", json!({ "path": code(one), "to": code(two) })),
            16 | 17 => credential(person(two), four),
            18 => {
                let operation = if four % 2 == 0 { "administrator.disable" } else { "administrator.enable" };
                (operation, json!({ "name": person(two) }))
            }
            19 => {
                let fields = json!({ "path": code(two), "messages": 1_000_000 + one });
                ("request.create", json!({ "operation": "customer.limit", "fields": fields }))
            }
            20 | 21 => {
                let requests = self.requests.lock().unwrap();
                let id = requests.get(one % requests.len().max(1)).cloned();
                ("request.approve", json!({ "id": id? }))
            }
            _ if four % 3 == 0 => return None,
            _ if four % 3 == 1 => ("administrator.delete", json!({ "name": person(one) })),
            _ => ("administrator.undelete", json!({ "name": person(one) })),
        })
    }

    /// Whoever sets somebody's credentials may then be that one: it must be able to pass on all that one has,
    /// now and later.
    fn is_stronger(
        &self,
        actor: AdministratorId,
        before: &Snapshot,
        asked: &Value,
    ) -> Result<(), TestCaseError> {
        let named = self.actors.iter().find(|(_, name, _)| asked["name"] == name.as_str());
        let Some((who, other, _)) = named.filter(|(id, ..)| *id != actor) else { return Ok(()) };
        for node in before.tree.root().map(|root| before.tree.subtree(root.id)).unwrap_or_default() {
            for (horizon, days) in HORIZONS_DAYS.iter().enumerate() {
                let until = self.clock.now().plus(DAY * u32::try_from(*days).unwrap());
                let passed = delegable(&before.tree, &before.grants[0][&actor], node.id, Some(until));
                let [raw, _] = before.rights(horizon, *who, node.id);
                let more = raw.without(passed).without(PermissionSet::from_names("own"));
                prop_assert!(
                    more.is_empty(),
                    "credentials of {other} were set by who lacks {:?} at {} in {days} days",
                    more.names(),
                    node.code
                );
            }
        }
        self.is_stronger_in_zones(actor, *who, before)?;
        Ok(())
    }

    /// Tries to invite somebody.
    async fn invite(&self, step: Step) -> Result<bool, TestCaseError> {
        let [one, two, three, four] = step.picks;
        let code = &self.codes[one % self.codes.len()];
        let name = format!("new{}{two}", self.accepted.load(Ordering::Relaxed));
        let until = [None, Some("9d"), Some("60d")][four % 3];
        let asked = json!({ "address": format!("{name}@{code}.example"), "customer": code,
            "roles": [ROLES[three % ROLES.len()]], "delegable": four % 2 == 0, "expires_at": until });
        let (actor, _, login) = &self.actors[step.actor];
        if !self.snapshot().await.grants[0].contains_key(actor) {
            return Ok(false);
        }
        match self.run(login, "invitation.create", asked.clone()).await {
            Ok(made) => self.invited.lock().unwrap().push((step.actor, text(&made["secret"]))),
            Err(error) => prop_assert!(error.refusal().is_some(), "{asked}: {error:?}"),
        }
        Ok(false)
    }

    /// Tries to accept an invitation and checks what it gives.
    async fn accept(&self, step: Step) -> Result<bool, TestCaseError> {
        let (inviter, code) = {
            let mut invited = self.invited.lock().unwrap();
            if invited.is_empty() {
                return Ok(false);
            }
            let at = step.picks[0] % invited.len();
            invited.swap_remove(at)
        };
        let before = self.snapshot().await;
        let Ok(holder) = self.management.authenticate_code(&code, None, None).await else { return Ok(false) };
        let asked = json!({ "password": "correct horse battery" });
        let made = match self.run(&holder, "invitation.accept", asked).await {
            Ok(made) => text(&made["name"]).to_lowercase(),
            Err(error) => {
                prop_assert!(error.refusal().is_some(), "{error:?}");
                return Ok(false);
            }
        };
        let (name, home) = made.split_once('@').unwrap();
        let (name, home) = (name.to_owned(), home.to_owned());
        let row = self.database.read(|conn| {
            Box::pin(
                async move { administrator::by_login(conn, &name, &home).await.map_err(ServiceError::from) },
            )
        });
        let who = row.await.unwrap().expect("who has accepted").id;
        let after = self.snapshot_of(vec![who]).await;
        let (inviter, login, _) = &self.actors[inviter];
        let theirs = before.grants[0].get(inviter).map(Vec::as_slice).unwrap_or_default();
        for node in after.tree.root().map(|root| after.tree.subtree(root.id)).unwrap_or_default() {
            for (horizon, days) in HORIZONS_DAYS.iter().enumerate() {
                let until = self.clock.now().plus(DAY * u32::try_from(*days).unwrap());
                let passed = delegable(&before.tree, theirs, node.id, Some(until));
                let [raw, _] = after.rights(horizon, who, node.id);
                let more = raw.without(passed).without(PermissionSet::from_names("own"));
                prop_assert!(
                    more.is_empty(),
                    "{made}, invited by {login}, has at {} in {days} days {:?} besides",
                    node.code,
                    more.names()
                );
            }
        }
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Tries a step and checks what came of it. Answers whether it was done.
    async fn take(&self, step: Step) -> Result<bool, TestCaseError> {
        match step.kind {
            22 | 23 => return self.invite(step).await,
            24 | 25 => return self.accept(step).await,
            _ => {}
        }
        let Some((name, asked)) = self.attempt(step) else {
            self.clock.advance(DAY * 3);
            return Ok(false);
        };
        let (actor, _, login) = &self.actors[step.actor];
        let before = self.snapshot().await;
        if !before.grants[0].contains_key(actor) {
            return Ok(false);
        }
        let outcome = self.run(login, name, asked.clone()).await;
        if let Err(error) = &outcome {
            prop_assert!(error.refusal().is_some(), "{name} {asked}: {error:?}");
            return Ok(false);
        }
        if let ("request.create", Ok(made)) = (name, &outcome) {
            self.requests.lock().unwrap().push(text(&made["id"]));
        }
        if ["administrator.password", "second-factor.reset", "token.create", "administrator.enable"]
            .contains(&name)
        {
            self.is_stronger(*actor, &before, &asked)?;
        }
        if name == "second-factor.reset" {
            let whose = self.actors.iter().find(|(_, name, _)| asked["name"] == name.as_str());
            self.set_up_second_factor(whose.expect("an actor").0).await;
        }
        let after = self.snapshot().await;
        let place = |field: &str| before.tree.by_code(asked[field].as_str().unwrap()).unwrap();
        self.raises_nobody_in_zones(step.actor, (&before, &after), &format!("{name} {asked}"))?;
        let moved = (name == "customer.move").then(|| (place("path"), place("to")));
        for (who, other, _) in &self.actors {
            for node in after.tree.root().map(|root| after.tree.subtree(root.id)).unwrap_or_default() {
                for (horizon, days) in HORIZONS_DAYS.iter().enumerate() {
                    let until = self.clock.now().plus(DAY * u32::try_from(*days).unwrap());
                    let passed = delegable(&before.tree, &before.grants[0][actor], node.id, Some(until));
                    let [raw_before, left_before] = before.rights(horizon, *who, node.id);
                    let [raw_after, left_after] = after.rights(horizon, *who, node.id);
                    // What moves comes under those above its new place, as far as they reach there; and permanent
                    // access to content, where that is not allowed on the way, rests.
                    let moved = moved.filter(|(path, _)| before.tree.covers(*path, node.id));
                    let place = moved.map_or([PermissionSet::EMPTY; 2], |(_, to)| {
                        before.rights(horizon, *who, to).map(|set| set.union(PermissionSet::CONTENT))
                    });
                    let own = PermissionSet::from_names("own");
                    let raw = raw_after.without(raw_before).without(passed).without(place[0]).without(own);
                    prop_assert!(
                        raw.is_empty(),
                        "{} by {name} {asked} raised {other} at {} in {days} days by {:?}",
                        self.actors[step.actor].1,
                        node.code,
                        raw.names()
                    );
                    // What somebody above has of content elsewhere, others decide on.
                    let left = left_after.without(left_before).without(passed).without(place[1]).without(own);
                    let left = left.without(PermissionSet::CONTENT);
                    prop_assert!(
                        left.is_empty(),
                        "{} by {name} {asked} let {other} at {} in {days} days have {:?}",
                        self.actors[step.actor].1,
                        node.code,
                        left.names()
                    );
                }
            }
        }
        Ok(true)
    }
}

/// New credentials for somebody, or the second factor taken away.
fn credential(name: String, pick: usize) -> (&'static str, Value) {
    match pick % 3 {
        0 => ("token.create", json!({ "name": name })),
        1 => ("second-factor.reset", json!({ "name": name })),
        _ => {
            let hash = "{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0";
            ("administrator.password", json!({ "name": name, "password_hash": hash }))
        }
    }
}

#[test]
fn nobody_is_raised_above_those_who_acted() {
    let cases = if std::env::var_os("POSTHOUSE_TEST_FULL").is_some() { 400 } else { 20 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let (done, accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let steps = prop::collection::vec(step(), 10..60);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        runtime.block_on(async {
            let world = World::new().await;
            for step in steps {
                if world.take(step).await? {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
            accepted.fetch_add(world.accepted.into_inner(), Ordering::Relaxed);
            Ok(())
        })
    });
    outcome.unwrap();
    let done = done.into_inner();
    assert!(done > usize::try_from(cases).unwrap(), "only {done} changes were made in {cases} worlds");
    assert!(accepted.into_inner() > 0, "nobody has accepted an invitation");
}
