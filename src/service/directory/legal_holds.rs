//! Legal holds: whatever is deleted under one can still come back, however long it lasts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::holds::{Holdable, authority, customer_of, holder};
use super::page::{Cursors, Page, limit};
use super::scope::{Place, plain_text};
use super::targets::absent;
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::authority::Tree;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::hold::{self, HoldOn, HoldRow};
use crate::storage::metadata::legal_hold::{self, PURGE};
use crate::storage::metadata::{domain, mailbox};

/// A legal hold.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct LegalHold {
    /// Random id, to release it by.
    id: String,
    /// What it is on: a path, a domain or an address; `provider` when above what the caller sees.
    on: String,
    reason: String,
    /// Who set it; `provider` when above what the caller sees.
    actor: String,
    /// Path of the customer whose authority set it and must release it; `provider` when above.
    authority: String,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

async fn show(tx: &mut Tx<'_>, row: HoldRow) -> Result<LegalHold> {
    let on = match row.on {
        HoldOn::Customer(id) => tx.caller.path_of(id),
        HoldOn::Domain(id) => domain::by_id(tx.conn, id).await?.map(|row| row.name),
        HoldOn::Mailbox(id) => mailbox::by_id(tx.conn, id).await?.map(|row| row.address()),
    };
    let (actor, authority) = holder(tx, &row);
    Ok(LegalHold {
        id: row.public_id,
        on: on.unwrap_or_else(|| "provider".to_owned()),
        reason: row.reason,
        actor,
        authority,
        created_at: row.created_at,
    })
}

/// A legal hold to set.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct LegalHoldAddRequest {
    /// On this customer and everything below.
    path: Option<String>,
    /// Or on this domain.
    domain: Option<String>,
    /// Or on this mailbox.
    mailbox: Option<String>,
    /// Why, such as the number of the case.
    reason: String,
}

/// `legal-hold.add`: for a customer the right is held above it.
pub(in crate::service) struct LegalHoldAdd;

impl Operate for LegalHoldAdd {
    declare! { "legal-hold.add", Post, "/v1/legal-holds", LegalHold, changes,
    "Keep everything there from being removed for good, until the hold is released" }
    type Request = LegalHoldAddRequest;
    type Response = LegalHold;
    type Target = Holdable;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a LegalHoldAddRequest) -> Result<Holdable> {
        let LegalHoldAddRequest { path, domain, mailbox, .. } = request;
        Holdable::find(tx, path.as_deref(), domain.as_deref(), mailbox.as_deref()).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a Holdable,
        _: &'a LegalHoldAddRequest,
    ) -> Result<Vec<Need>> {
        Ok(vec![match target {
            Holdable::Customer(one) => Need::above(tx, one.id, Self::PERMISSION),
            Holdable::Domain(_) | Holdable::Mailbox(_) => Need::at(target.customer(), Self::PERMISSION),
        }])
    }

    async fn run(tx: &mut Tx<'_>, target: Holdable, request: LegalHoldAddRequest) -> Result<LegalHold> {
        let reason = plain_text("reason", &request.reason)?;
        if reason.is_empty() {
            let message = "expected a reason".to_owned();
            return Err(ServiceError::Invalid { field: "reason", message });
        }
        let authority = authority(tx, target.customer(), Self::PERMISSION);
        let actor = tx.caller.name();
        let id = hold::insert(tx.conn, target.on(), (PURGE, &reason), (&actor, authority), tx.now).await?;
        let gone = || ServiceError::Internal("a hold vanished inside a transaction".to_owned());
        let row = hold::by_public_id(tx.conn, &id).await?.ok_or_else(gone)?;
        let made = show(tx, row).await?;
        tx.after = serde_json::to_value(&made).ok();
        Ok(made)
    }
}

/// Which legal holds to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct LegalHoldListRequest {
    /// On this customer, above and below it; default: everywhere visible.
    customer: Option<String>,
    /// Most holds, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `legal-hold.list`.
pub(in crate::service) struct LegalHoldList;

impl Operate for LegalHoldList {
    declare! { "legal-hold.list", Get, "/v1/legal-holds", CustomerRead, reads,
    "List legal holds on customers, domains and mailboxes, and those from above that cover them" }
    type Request = LegalHoldListRequest;
    type Response = Page<LegalHold>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a LegalHoldListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Self::PERMISSION)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: LegalHoldListRequest) -> Result<Page<LegalHold>> {
        let limit = limit(request.limit)?;
        let filter = LegalHoldListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after: Option<i64> = cursors.read(request.cursor.as_deref())?;
        let above: Vec<CustomerId> =
            target.tops.iter().flat_map(|&top| tx.caller.tree.path(top)).map(|node| node.id).collect();
        // What was deleted is there still, and that is what a legal hold is about.
        let subtree: Vec<i64> = target.tops.iter().flat_map(|&top| tx.caller.tree.subtree_ids(top)).collect();
        let rows = legal_hold::page(tx.conn, &subtree, &above, after.unwrap_or_default(), limit + 1).await?;
        let page = Page::cut(rows, limit, &cursors, |row| row.id, |row| row)?;
        let mut items = Vec::with_capacity(page.items.len());
        for row in page.items {
            items.push(show(tx, row).await?);
        }
        Ok(Page { items, cursor: page.cursor })
    }
}

/// Which legal hold.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct LegalHoldReleaseRequest {
    /// Its id.
    id: String,
}

/// A legal hold, and the customer of what it is on.
pub(in crate::service) struct OneLegalHold {
    row: HoldRow,
    customer: CustomerId,
}

impl Targeted for OneLegalHold {
    fn customer(&self) -> CustomerId {
        self.customer
    }

    fn label(&self) -> String {
        format!("legal hold {}", self.row.public_id)
    }

    fn recorded(&self, _: &Tree) -> String {
        self.label()
    }
}

/// `legal-hold.release`: needs authority where it was set, or above.
pub(in crate::service) struct LegalHoldRelease;

impl Operate for LegalHoldRelease {
    declare! { "legal-hold.release", Delete, "/v1/legal-holds/{id}", LegalHold, changes,
    "Release a legal hold: what was deleted long enough ago goes then" }
    type Request = LegalHoldReleaseRequest;
    type Response = LegalHold;
    type Target = OneLegalHold;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a LegalHoldReleaseRequest) -> Result<OneLegalHold> {
        let row = hold::by_public_id(tx.conn, &request.id).await?.filter(|row| row.switch == PURGE);
        let customer = match &row {
            Some(row) => customer_of(tx, row.on).await?,
            None => None,
        };
        match (row, customer.filter(|&customer| tx.caller.sees(customer))) {
            (Some(row), Some(customer)) => Ok(OneLegalHold { row, customer }),
            _ => Err(absent("legal hold", &request.id)),
        }
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneLegalHold,
        _: &'a LegalHoldReleaseRequest,
    ) -> Result<Vec<Need>> {
        let on_path = tx.caller.tree.covers(target.row.authority, target.customer);
        let at = if on_path { target.row.authority } else { target.customer };
        Ok(vec![Need::at(at, Self::PERMISSION)])
    }

    async fn run(tx: &mut Tx<'_>, target: OneLegalHold, _: LegalHoldReleaseRequest) -> Result<LegalHold> {
        hold::delete(tx.conn, &target.row).await?;
        let before = show(tx, target.row).await?;
        tx.before = serde_json::to_value(&before).ok();
        Ok(before)
    }
}
