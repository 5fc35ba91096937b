//! The same for what is granted in zones.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{DAY, HORIZONS_DAYS, Snapshot, Step, World};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, StoreId};
use crate::base::store_settings::StoreSettings;
use crate::service::authority::{PermissionSet, delegable};
use crate::service::error::ServiceError;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::store;

/// Roles that are granted in zones.
const ZONE_ROLES: [&str; 3] = ["tender", "warden", "system-admin"];
pub(super) const ZONES: [&str; 2] = ["east", "west"];
const STORES: [&str; 3] = ["one", "two", "three"];
/// What is granted in zones at first: to whom, the role, the zone, whether delegable, until when.
const ZONE_GRANTS: [(&str, &str, &str, bool, Option<&str>); 3] = [
    ("ann", "tender", "east", true, None),
    ("eve", "system-admin", "west", true, Some("15d")),
    ("bob", "tender", "west", false, None),
];

impl Snapshot {
    /// What somebody has over a mail store at a horizon, at the root or by zones.
    fn over(&self, horizon: usize, who: AdministratorId, store: StoreId) -> PermissionSet {
        let root = self.tree.root().expect("a root").id;
        let at_root = self.rights(horizon, who, root)[0].intersection(PermissionSet::ZONED);
        let Some(zones) = self.zones[horizon].get(&who) else { return at_root };
        let zoned = PermissionSet::ZONED.iter().filter(|&one| zones.of_store(store, one).is_some());
        zoned.fold(at_root, PermissionSet::with)
    }

    /// What somebody may pass on now over a mail store until `until`.
    fn passes_over(&self, who: AdministratorId, store: StoreId, until: Timestamp) -> PermissionSet {
        let root = self.tree.root().expect("a root").id;
        let grants = self.grants[0].get(&who).map(Vec::as_slice).unwrap_or_default();
        let at_root = delegable(&self.tree, grants, root, Some(until));
        let there = self.members.iter().filter(|(_, members)| members.stores.contains(&store));
        let in_zones =
            there.filter_map(|(zone, _)| Some(self.zones[0].get(&who)?.delegable(*zone, Some(until))));
        in_zones.fold(at_root, PermissionSet::union)
    }
}

impl World {
    /// Makes mail stores and zones, and grants something in these.
    pub(super) async fn zones(&self) {
        let now = self.clock.now();
        let write = self.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move {
                for name in STORES {
                    store::insert(conn, name, &format!("/nowhere/{name}"), &StoreSettings::default(), now)
                        .await?;
                }
                Ok::<_, ServiceError>(())
            })
        });
        write.await.unwrap();
        for (zone, stores) in ZONES.iter().zip([["one"], ["two"]]) {
            self.must("zone.create", json!({ "name": zone, "stores": stores })).await;
        }
        for (name, role, zone, delegable, expires_at) in ZONE_GRANTS {
            let asked = json!({ "name": name, "role": role, "zone": zone, "delegable": delegable,
                "expires_at": expires_at });
            self.must("administrator.grant", asked).await;
        }
    }

    /// What a step tries in zones.
    pub(super) fn attempt_in_zones(
        &self,
        step: Step,
        (from, until): (Option<&str>, Option<&str>),
    ) -> (&'static str, Value) {
        let [one, two, three, four] = step.picks;
        let person = self.actors[two % self.actors.len()].1.clone();
        let group = self.groups[two % self.groups.len()].clone();
        let (zone, store) = (ZONES[one % ZONES.len()], STORES[two % STORES.len()]);
        let role = ZONE_ROLES[three % ZONE_ROLES.len()];
        let granted = |name: String| {
            json!({ "name": name, "role": role, "zone": zone, "delegable": four % 2 == 0,
                "not_before": from, "expires_at": until })
        };
        match step.kind {
            26 | 27 => ("administrator.grant", granted(person)),
            28 => ("group.grant", granted(group)),
            29 => {
                let asked = json!({ "name": person, "role": role, "zone": zone, "cascade": four % 2 == 0 });
                ("administrator.revoke", asked)
            }
            30 => ("zone.update", json!({ "name": zone, "add_stores": [store] })),
            _ => ("zone.update", json!({ "name": zone, "remove_stores": [store] })),
        }
    }

    /// As for customers: whoever sets somebody's credentials could pass on all that one has over mail stores.
    pub(super) fn is_stronger_in_zones(
        &self,
        actor: AdministratorId,
        who: AdministratorId,
        before: &Snapshot,
    ) -> Result<(), TestCaseError> {
        for (store, until, horizon) in self.stores_and_times() {
            let more = before.over(horizon, who, store).without(before.passes_over(actor, store, until));
            let more = more.names();
            prop_assert!(more.is_empty(), "who has {more:?} over {store} at {} was taken over", until.0);
        }
        Ok(())
    }

    /// As for customers: nobody has more over a mail store than before, but for what the actor could pass on.
    pub(super) fn raises_nobody_in_zones(
        &self,
        actor: usize,
        (before, after): (&Snapshot, &Snapshot),
        done: &str,
    ) -> Result<(), TestCaseError> {
        let (actor, by, _) = &self.actors[actor];
        for (who, other, _) in &self.actors {
            for (store, until, horizon) in self.stores_and_times() {
                let raised = after.over(horizon, *who, store).without(before.over(horizon, *who, store));
                let raised = raised.without(before.passes_over(*actor, store, until)).names();
                let at = until.0;
                prop_assert!(
                    raised.is_empty(),
                    "{by} by {done} raised {other} over {store} at {at} by {raised:?}"
                );
            }
        }
        Ok(())
    }

    /// Each mail store at each horizon.
    fn stores_and_times(&self) -> impl Iterator<Item = (StoreId, Timestamp, usize)> {
        let now = self.clock.now();
        let times = HORIZONS_DAYS.iter().enumerate();
        let times =
            times.map(move |(horizon, days)| (horizon, now.plus(DAY * u32::try_from(*days).unwrap())));
        times.flat_map(|(horizon, until)| {
            (1..).take(STORES.len()).map(move |store| (StoreId(store), until, horizon))
        })
    }
}
