//! What mail takes: as received, once for each body, compressed, and where; of customers with all below them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::LINES_MAX;
use super::subtotals::{Own, shown};
use crate::base::id::{CustomerId, StoreId};
use crate::service::authority::Permission;
use crate::service::directory::scope::Place;
use crate::service::error::Result;
use crate::service::registry::{Operate, Tx, declare};
use crate::storage::metadata::scope_usage::{self, Held, Kept};
use crate::storage::metadata::store;

/// A customer with all below it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StorageReportRequest {
    /// Report on this customer and all below it; absent: on all that the caller may report on.
    customer: Option<String>,
}

/// What mail takes.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct StorageLine {
    /// Path of the customer; everything below it is in the sums.
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    /// Name of the mail store.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    /// Mailboxes that are not deleted.
    mailboxes: i64,
    /// Their messages.
    messages: i64,
    /// Octets of these as received; a body that several messages share counts for each.
    octets: i64,
    /// Octets of what can still come back: expunged messages, with 1,024 for each, and deleted mailboxes.
    undelete_octets: i64,
    /// Bodies: what several messages share counts once, what can still come back too.
    bodies: i64,
    /// Octets of the bodies as received.
    body_octets: i64,
    /// Octets of the bodies as kept.
    stored_octets: i64,
    /// Of these in the database, until they are packed.
    database_octets: i64,
    /// Of these on volumes.
    local_octets: i64,
    /// Of these in object storage; what is in both places counts in both.
    remote_octets: i64,
    /// By how much less is kept than messages, and what can come back of them, would take.
    saved_octets: i64,
    /// In percent of that; absent where there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    saved_percent: Option<i64>,
}

/// The report.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct StorageReport {
    /// The customers that hold anything, and those that were asked for, in the order of the tree. Where there are more
    /// than 10,000, those highest up.
    customers: Vec<StorageLine>,
    /// How many customers have no line, where there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    customers_left_out: Option<i64>,
    /// What of it is in which mail store, for whoever may see mail stores: mailboxes by where they are at home, bodies
    /// by where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    stores: Option<Vec<StorageLine>>,
}

/// What is held and what it takes.
#[derive(Clone, Copy, Default)]
struct Sums {
    held: Held,
    kept: Kept,
}

impl Sums {
    fn is_nothing(&self) -> bool {
        self.held == Held::default() && self.kept == Kept::default()
    }

    fn numbers(&self) -> [i64; 10] {
        let Self { held, kept } = self;
        [
            held.mailboxes,
            held.messages,
            held.octets,
            held.undelete_octets,
            kept.bodies,
            kept.octets,
            kept.stored_octets,
            kept.database_octets,
            kept.local_octets,
            kept.remote_octets,
        ]
    }

    fn of_numbers(numbers: [i64; 10]) -> Self {
        let [
            mailboxes,
            messages,
            octets,
            undelete_octets,
            bodies,
            body_octets,
            stored,
            database,
            local,
            remote,
        ] = numbers;
        Self {
            held: Held { mailboxes, messages, octets, undelete_octets },
            kept: Kept {
                bodies,
                octets: body_octets,
                stored_octets: stored,
                database_octets: database,
                local_octets: local,
                remote_octets: remote,
            },
        }
    }

    fn line(self, customer: Option<String>, store: Option<String>) -> StorageLine {
        let Self { held, kept } = self;
        let logical = held.octets.saturating_add(held.undelete_octets);
        let saved = logical.saturating_sub(kept.stored_octets);
        let percent = |whole: i64| i64::try_from(i128::from(saved) * 100 / i128::from(whole)).ok();
        StorageLine {
            customer,
            store,
            mailboxes: held.mailboxes,
            messages: held.messages,
            octets: held.octets,
            undelete_octets: held.undelete_octets,
            bodies: kept.bodies,
            body_octets: kept.octets,
            stored_octets: kept.stored_octets,
            database_octets: kept.database_octets,
            local_octets: kept.local_octets,
            remote_octets: kept.remote_octets,
            saved_octets: saved,
            saved_percent: if logical > 0 { percent(logical) } else { None },
        }
    }
}

/// `report.storage`.
pub(in crate::service) struct StorageReportRun;

impl Operate for StorageReportRun {
    declare! {
        "report.storage", Get, "/v1/reports/storage", ReportRead, reads,
        "What the mail of a customer and all below it takes: as received, as kept, where, and what is saved",
    }
    type Request = StorageReportRequest;
    type Response = StorageReport;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a StorageReportRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Permission::ReportRead)
    }

    async fn run(tx: &mut Tx<'_>, place: Place, _: StorageReportRequest) -> Result<StorageReport> {
        let meant = place.customers(tx);
        let tree = &tx.caller.tree;
        let mut own = Own::new(tree);
        let mut stores: BTreeMap<StoreId, Sums> = BTreeMap::new();
        for ((customer, store), kept) in scope_usage::kept(tx.conn, &meant).await? {
            own.add(customer, Sums { kept, ..Sums::default() }.numbers());
            stores.entry(store).or_default().kept.add(&kept);
        }
        for ((customer, store), held) in scope_usage::held(tx.conn, &meant).await? {
            own.add(customer, Sums { held, ..Sums::default() }.numbers());
            stores.entry(store).or_default().held.add(&held);
        }
        let sums = own.add_up();
        let of = |id: CustomerId| Sums::of_numbers(sums.of(id));
        let covered = place.customer_ids(tx).into_iter().map(CustomerId);
        let listed = covered.filter(|id| !of(*id).is_nothing() || place.tops.contains(id)).collect();
        let (listed, customers_left_out) = shown(tree, listed, LINES_MAX);
        let line = |id: CustomerId| of(id).line(Some(tx.caller.path_of(id).unwrap_or_default()), None);
        let lines = listed.into_iter().map(line).collect();
        let root = tx.caller.tree.root().map(|root| root.id);
        let mut of_stores = None;
        if tx.caller.may(root, Permission::SystemStoreRead) {
            let named = store::list(tx.conn).await?.into_iter();
            let named = named.filter_map(|store| Some((stores.get(&store.id)?, store.name)));
            of_stores = Some(named.map(|(sums, name)| sums.line(None, Some(name))).collect());
        }
        Ok(StorageReport { customers: lines, customers_left_out, stores: of_stores })
    }
}
