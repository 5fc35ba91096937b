//! Holds, and suspending and resuming as the usual way to set and release them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::scope::plain_text;
use super::targets::{OneCustomer, OneDomain, OneMailbox, absent};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::authority::{Permission, Tree};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::service::settings::standing;
use crate::storage::metadata::hold::{self, HoldOn, HoldRow};
use crate::storage::metadata::legal_hold::PURGE;
use crate::storage::metadata::setting::At;
use crate::storage::metadata::{domain, mailbox};

/// What a hold can switch off.
const SWITCHES: [&str; 9] =
    ["login", "receive", "send", "manage", "imap", "pop3", "smtp", "submission", "admin"];
/// What suspending switches off unless told otherwise.
const SUSPENDED: [&str; 3] = ["login", "receive", "send"];
/// The reason of holds set by suspending.
const REASON: &str = "suspended";

/// A hold.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Hold {
    /// Random id, to release it by.
    id: String,
    switch: String,
    reason: String,
    /// Who set it; `provider` when above what the caller sees.
    actor: String,
    /// Path of the customer whose authority set it and must release it; `provider` when above.
    authority: String,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

/// Who set a hold, and by whose authority, as the caller may know.
pub(super) fn holder(tx: &Tx<'_>, row: &HoldRow) -> (String, String) {
    let authority = tx.caller.path_of(row.authority);
    let home = row.actor.rsplit_once('@').and_then(|(_, code)| tx.caller.tree.by_code(code));
    let is_visible = home.is_some_and(|home| tx.caller.sees(home)) || tx.caller.name() == row.actor;
    let provider = || "provider".to_owned();
    let actor = if authority.is_some() && is_visible { row.actor.clone() } else { provider() };
    (actor, authority.unwrap_or_else(provider))
}

fn show(tx: &Tx<'_>, row: HoldRow) -> Hold {
    let (actor, authority) = holder(tx, &row);
    let HoldRow { public_id: id, switch, reason, created_at, .. } = row;
    Hold { id, switch, reason, actor, authority, created_at }
}

/// What holds are on.
pub(in crate::service) enum Holdable {
    Customer(OneCustomer),
    Domain(OneDomain),
    Mailbox(OneMailbox),
}

impl Holdable {
    /// The visible one that is named; exactly one name must be given.
    pub async fn find(
        tx: &mut Tx<'_>,
        customer: Option<&str>,
        domain: Option<&str>,
        mailbox: Option<&str>,
    ) -> Result<Self> {
        match (customer, domain, mailbox) {
            (Some(path), None, None) => Ok(Self::Customer(OneCustomer::find(tx, path)?)),
            (None, Some(name), None) => Ok(Self::Domain(OneDomain::find(tx, name, None).await?)),
            (None, None, Some(address)) => Ok(Self::Mailbox(OneMailbox::find(tx, address).await?)),
            _ => Err(ServiceError::Invalid {
                field: "path",
                message: "give exactly one of path, domain and mailbox".to_owned(),
            }),
        }
    }

    /// What a hold on it is on.
    pub fn on(&self) -> HoldOn {
        match self {
            Self::Customer(one) => HoldOn::Customer(one.id),
            Self::Domain(one) => HoldOn::Domain(one.0.id),
            Self::Mailbox(one) => HoldOn::Mailbox(one.0.id),
        }
    }

    fn permission(&self) -> Permission {
        permission(self.on())
    }

    /// Switching management off is for those above, so that nobody locks themselves out.
    fn need(&self, tx: &Tx<'_>, switches: &[String]) -> Need {
        let above = switches.iter().any(|switch| switch == "manage" || switch == "admin");
        match self {
            Self::Customer(one) if above => Need::above(tx, one.id, self.permission()),
            _ => Need::at(self.customer(), self.permission()),
        }
    }

    async fn switches_off(&self, tx: &mut Tx<'_>) -> Result<Vec<String>> {
        let at = match self {
            Self::Customer(one) => At::customer(one.id),
            Self::Domain(OneDomain(row)) => At::domain(row.id, row.customer),
            Self::Mailbox(OneMailbox(row)) => At::mailbox(row.id, row.domain, row.customer),
        };
        let off = standing::switches_off(tx.conn, at).await?;
        Ok(off.into_iter().collect())
    }
}

fn permission(on: HoldOn) -> Permission {
    if matches!(on, HoldOn::Mailbox(_)) { Permission::MailboxHold } else { Permission::CustomerHold }
}

impl Targeted for Holdable {
    fn customer(&self) -> CustomerId {
        match self {
            Self::Customer(one) => one.customer(),
            Self::Domain(one) => one.customer(),
            Self::Mailbox(one) => one.customer(),
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Customer(one) => one.label(),
            Self::Domain(one) => one.label(),
            Self::Mailbox(one) => one.label(),
        }
    }

    fn recorded(&self, tree: &Tree) -> String {
        match self {
            Self::Customer(one) => one.recorded(tree),
            Self::Domain(one) => one.recorded(tree),
            Self::Mailbox(one) => one.recorded(tree),
        }
    }
}

fn switch(text: &str) -> Result<String> {
    if SWITCHES.contains(&text) {
        return Ok(text.to_owned());
    }
    let message = format!("expected one of {}", SWITCHES.join(", "));
    Err(ServiceError::Invalid { field: "switch", message })
}

/// The topmost customer where the caller holds the permission that covers `place`: its authority sets the hold.
pub(in crate::service) fn authority(tx: &Tx<'_>, place: CustomerId, permission: Permission) -> CustomerId {
    let path = tx.caller.tree.path(place);
    let highest = path.iter().find(|node| tx.caller.effective(node.id).has(permission));
    highest.map_or(place, |node| node.id)
}

async fn set(tx: &mut Tx<'_>, target: &Holdable, switch: &str, reason: &str) -> Result<HoldRow> {
    let authority = authority(tx, target.customer(), target.permission());
    let actor = tx.caller.name();
    let id = hold::insert(tx.conn, target.on(), (switch, reason), (&actor, authority), tx.now).await?;
    let gone = || ServiceError::Internal("a hold vanished inside a transaction".to_owned());
    hold::by_public_id(tx.conn, &id).await?.ok_or_else(gone)
}

/// A hold to set.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct HoldAddRequest {
    /// On this customer and everything below.
    path: Option<String>,
    /// Or on this domain.
    domain: Option<String>,
    /// Or on this mailbox.
    mailbox: Option<String>,
    /// `login`, `receive`, `send`, `manage`, `imap`, `pop3`, `smtp`, `submission` or `admin`.
    switch: String,
    /// Why.
    reason: String,
}

/// `hold.add`.
pub(in crate::service) struct HoldAdd;

impl Operate for HoldAdd {
    declare! { "hold.add", Post, "/v1/holds", CustomerHold, changes,
    "Switch something off for a customer, domain or mailbox, with a reason" }
    type Request = HoldAddRequest;
    type Response = Hold;
    type Target = Holdable;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a HoldAddRequest) -> Result<Holdable> {
        let HoldAddRequest { path, domain, mailbox, .. } = request;
        Holdable::find(tx, path.as_deref(), domain.as_deref(), mailbox.as_deref()).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a Holdable,
        request: &'a HoldAddRequest,
    ) -> Result<Vec<Need>> {
        Ok(vec![target.need(tx, std::slice::from_ref(&request.switch))])
    }

    async fn run(tx: &mut Tx<'_>, target: Holdable, request: HoldAddRequest) -> Result<Hold> {
        let reason = plain_text("reason", &request.reason)?;
        let row = set(tx, &target, &switch(&request.switch)?, &reason).await?;
        let made = show(tx, row);
        tx.after = serde_json::to_value(&made).ok();
        Ok(made)
    }
}

/// What to look at.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct HoldListRequest {
    /// On this customer itself.
    path: Option<String>,
    /// Or on this domain itself.
    domain: Option<String>,
    /// Or on this mailbox itself.
    mailbox: Option<String>,
}

/// The holds on something.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Holds {
    /// Those on it itself, oldest first.
    items: Vec<Hold>,
    /// All switches that are off there, by holds on it or above or by a service that is switched off.
    switches_off: Vec<String>,
}

/// `hold.list`.
pub(in crate::service) struct HoldList;

impl Operate for HoldList {
    declare! { "hold.list", Get, "/v1/holds", CustomerRead, reads, "List the holds on something" }
    type Request = HoldListRequest;
    type Response = Holds;
    type Target = Holdable;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a HoldListRequest) -> Result<Holdable> {
        let HoldListRequest { path, domain, mailbox } = request;
        Holdable::find(tx, path.as_deref(), domain.as_deref(), mailbox.as_deref()).await
    }

    async fn run(tx: &mut Tx<'_>, target: Holdable, _: HoldListRequest) -> Result<Holds> {
        holds(tx, &target).await
    }
}

async fn holds(tx: &mut Tx<'_>, target: &Holdable) -> Result<Holds> {
    let rows = hold::on(tx.conn, target.on()).await?;
    let switches_off = target.switches_off(tx).await?;
    Ok(Holds { items: rows.into_iter().map(|row| show(tx, row)).collect(), switches_off })
}

/// Which hold.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct HoldReleaseRequest {
    /// Its id.
    id: String,
    /// The customer it is on, to be sure.
    path: Option<String>,
}

/// A hold, and the customer of what it is on.
pub(in crate::service) struct OneHold {
    row: HoldRow,
    customer: CustomerId,
}

impl Targeted for OneHold {
    fn customer(&self) -> CustomerId {
        self.customer
    }

    fn label(&self) -> String {
        format!("hold {}", self.row.public_id)
    }
}

/// The customer of what a hold is on.
pub(super) async fn customer_of(tx: &mut Tx<'_>, on: HoldOn) -> Result<Option<CustomerId>> {
    Ok(match on {
        HoldOn::Customer(id) => Some(id),
        HoldOn::Domain(id) => domain::by_id(tx.conn, id).await?.map(|row| row.customer),
        HoldOn::Mailbox(id) => mailbox::by_id(tx.conn, id).await?.map(|row| row.customer),
    })
}

/// `hold.release`: needs authority where it was set, or above.
pub(in crate::service) struct HoldRelease;

impl Operate for HoldRelease {
    declare! { "hold.release", Delete, "/v1/holds/{id}", CustomerHold, changes,
    "Release a hold; what others hold stays off" }
    type Request = HoldReleaseRequest;
    type Response = Hold;
    type Target = OneHold;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a HoldReleaseRequest) -> Result<OneHold> {
        let on = request.path.as_deref().map(|path| OneCustomer::find(tx, path)).transpose()?;
        let row = hold::by_public_id(tx.conn, &request.id).await?;
        // Legal holds have a permission and an operation of their own.
        let row = row.filter(|row| row.switch != PURGE);
        let row = row.filter(|row| on.as_ref().is_none_or(|on| row.on == HoldOn::Customer(on.id)));
        let customer = match &row {
            Some(row) => customer_of(tx, row.on).await?,
            None => None,
        };
        match (row, customer.filter(|&customer| tx.caller.sees(customer))) {
            (Some(row), Some(customer)) => Ok(OneHold { row, customer }),
            _ => Err(absent("hold", &request.id)),
        }
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneHold,
        _: &'a HoldReleaseRequest,
    ) -> Result<Vec<Need>> {
        Ok(vec![need_to_release(tx, &target.row, target.customer)])
    }

    async fn run(tx: &mut Tx<'_>, target: OneHold, _: HoldReleaseRequest) -> Result<Hold> {
        hold::delete(tx.conn, &target.row).await?;
        let before = show(tx, target.row);
        tx.before = serde_json::to_value(&before).ok();
        Ok(before)
    }
}

/// Authority at the node that set the hold; one that is no longer on the path counts where its object is.
fn need_to_release(tx: &Tx<'_>, row: &HoldRow, customer: CustomerId) -> Need {
    let on_path = tx.caller.tree.covers(row.authority, customer);
    Need::at(if on_path { row.authority } else { customer }, permission(row.on))
}

async fn suspend(
    tx: &mut Tx<'_>,
    target: &Holdable,
    switches: Option<Vec<String>>,
    reason: Option<String>,
) -> Result<Holds> {
    let reason = plain_text("reason", reason.as_deref().unwrap_or(REASON))?;
    let switches = switches.unwrap_or_else(|| SUSPENDED.map(str::to_owned).to_vec());
    let wanted: BTreeSet<String> = switches.iter().map(|text| switch(text)).collect::<Result<_>>()?;
    let present = hold::on(tx.conn, target.on()).await?;
    for name in wanted {
        // Suspending twice for the same reason is once.
        if !present.iter().any(|row| row.switch == name && row.reason == reason) {
            set(tx, target, &name, &reason).await?;
        }
    }
    let after = holds(tx, target).await?;
    tx.after = serde_json::to_value(&after).ok();
    Ok(after)
}

async fn resume(tx: &mut Tx<'_>, target: &Holdable, reason: Option<String>) -> Result<Holds> {
    let reason = reason.unwrap_or_else(|| REASON.to_owned());
    let before = holds(tx, target).await?;
    tx.before = serde_json::to_value(&before).ok();
    for row in hold::on(tx.conn, target.on()).await? {
        if row.reason != reason || row.switch == PURGE {
            continue;
        }
        let need = need_to_release(tx, &row, target.customer());
        if !tx.caller.may(need.at, need.permission) {
            return Err(ServiceError::Forbidden { permission: need.permission.name() });
        }
        hold::delete(tx.conn, &row).await?;
    }
    let after = holds(tx, target).await?;
    tx.after = serde_json::to_value(&after).ok();
    Ok(after)
}

macro_rules! suspending {
    ($suspend:ident, $resume:ident, $suspend_request:ident, $resume_request:ident, $key:ident, $kind:ident,
     $permission:ident, $suspend_name:literal, $suspend_path:literal, $resume_name:literal, $resume_path:literal,
     |$tx:ident, $text:ident| $find:expr) => {
        /// What to switch off.
        #[derive(Clone, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(in crate::service) struct $suspend_request {
            /// Which.
            $key: String,
            /// Default: login, receive and send.
            switches: Option<Vec<String>>,
            /// Why; default: suspended.
            reason: Option<String>,
        }

        /// What to switch on again.
        #[derive(Clone, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(in crate::service) struct $resume_request {
            /// Which.
            $key: String,
            /// The reason whose holds are released; default: suspended.
            reason: Option<String>,
        }

        /// Suspends.
        pub(in crate::service) struct $suspend;

        impl Operate for $suspend {
            declare! { $suspend_name, Post, $suspend_path, $permission, changes,
            "Switch login, receiving and sending off, or what is named" }
            type Request = $suspend_request;
            type Response = Holds;
            type Target = Holdable;

            async fn target<'a>($tx: &'a mut Tx<'_>, request: &'a $suspend_request) -> Result<Holdable> {
                let $text = &request.$key;
                Ok(Holdable::$kind($find))
            }

            async fn needs<'a>(
                tx: &'a mut Tx<'_>,
                target: &'a Holdable,
                request: &'a $suspend_request,
            ) -> Result<Vec<Need>> {
                Ok(vec![target.need(tx, request.switches.as_deref().unwrap_or_default())])
            }

            async fn run(tx: &mut Tx<'_>, target: Holdable, request: $suspend_request) -> Result<Holds> {
                suspend(tx, &target, request.switches, request.reason).await
            }
        }

        /// Resumes.
        pub(in crate::service) struct $resume;

        impl Operate for $resume {
            declare! { $resume_name, Post, $resume_path, $permission, changes,
            "Release the holds that suspending set; what others hold stays off" }
            type Request = $resume_request;
            type Response = Holds;
            type Target = Holdable;

            async fn target<'a>($tx: &'a mut Tx<'_>, request: &'a $resume_request) -> Result<Holdable> {
                let $text = &request.$key;
                Ok(Holdable::$kind($find))
            }

            async fn run(tx: &mut Tx<'_>, target: Holdable, request: $resume_request) -> Result<Holds> {
                resume(tx, &target, request.reason).await
            }
        }
    };
}

suspending! {
    CustomerSuspend, CustomerResume, CustomerSuspendRequest, CustomerResumeRequest, path, Customer, CustomerHold,
    "customer.suspend", "/v1/customers/{path}/suspend", "customer.resume", "/v1/customers/{path}/resume",
    |tx, path| OneCustomer::find(tx, path)?
}

suspending! {
    MailboxSuspend, MailboxResume, MailboxSuspendRequest, MailboxResumeRequest, address, Mailbox, MailboxHold,
    "mailbox.suspend", "/v1/mailboxes/{address}/suspend", "mailbox.resume", "/v1/mailboxes/{address}/resume",
    |tx, address| OneMailbox::find(tx, address).await?
}
