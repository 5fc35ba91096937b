//! Moving a mailbox to another mail store while it is in use.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Moved, homing, octets_of};
use crate::base::id::{CustomerId, MailboxId};
use crate::service::audit::names;
use crate::service::authority::Permission;
use crate::service::directory::targets::OneMailbox;
use crate::service::error::Result;
use crate::service::jobs::{Job, JobContext, Outcome, Work, enqueue, enqueue_about};
use crate::service::placement::Stores;
use crate::service::registry::{Need, Operate, Targeted as _, Tx, declare};
use crate::storage::homing::Journey;
use crate::storage::metadata::home;

/// Which mailbox goes where.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MailboxMoveRequest {
    /// Its address.
    address: String,
    /// The mail store; the one where it is placed already: a move that was cut off goes on.
    store: String,
}

/// What a job is asked.
#[derive(Clone, Serialize, Deserialize)]
pub(in crate::service) struct MovingRequest {
    mailbox: i64,
}

/// The mail stores that the caller may name to move mailboxes of a customer to.
async fn stores(tx: &mut Tx<'_>, customer: CustomerId) -> Result<Stores> {
    let zoned = tx.caller.zones.stores(MailboxMove::PERMISSION);
    Ok(Stores::of(tx, customer).await?.knowing(zoned))
}

/// `mailbox.move`.
pub(in crate::service) struct MailboxMove;

impl Operate for MailboxMove {
    declare! { "mailbox.move", Post, "/v1/mailboxes/{address}/move", SystemStoreMove, changes,
    "Move a mailbox to another mail store while it is in use" }
    const STARTS_JOB: bool = true;
    type Request = MailboxMoveRequest;
    type Response = Job;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxMoveRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    /// In zones, over both mail stores. One that the caller may not know is as one that does not exist, which is told
    /// to whoever may move from where the mailbox is.
    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneMailbox,
        request: &'a MailboxMoveRequest,
    ) -> Result<Vec<Need>> {
        let (row, permission) = (&target.0, Self::PERMISSION);
        let stores = stores(tx, row.customer).await?;
        let zones = &tx.caller.zones;
        let to = match stores.named(&request.store) {
            Ok(store) => zones.of_store(store.id, permission),
            Err(_) => zones.any(permission),
        };
        let from = zones.of_store(row.store, permission);
        Ok([from, to].map(|zone| Need::in_zone(row.customer, permission, zone)).to_vec())
    }

    /// New mail goes to the new store from this transaction on.
    async fn run(tx: &mut Tx<'_>, target: OneMailbox, request: MailboxMoveRequest) -> Result<Job> {
        let row = &target.0;
        let stores = stores(tx, row.customer).await?;
        let store = stores.open(&request.store)?;
        // Names of stores are for those who see what the caller sees.
        let name = |name: &String| names::words(tx.caller, name);
        let (before, after) = (stores.name_of(row.store).as_ref().map(name), name(&request.store));
        home::set_store(tx.conn, &[row.id], store, tx.now).await?;
        let asked = MovingRequest { mailbox: row.id.0 };
        let job = match tx.caller.may(Some(row.customer), Self::PERMISSION) {
            true => enqueue::<Moving>(tx, row.customer, &target.label(), &asked).await?,
            // The right to it is held over the store.
            false => enqueue_about::<Moving>(tx, store, &target, &asked).await?,
        };
        tx.before = Some(serde_json::json!({ "store": before }));
        tx.after = Some(serde_json::json!({ "store": after }));
        Ok(job)
    }
}

/// The work of `mailbox.move`. It goes by what is not where it belongs, so it needs no position.
pub(in crate::service) struct Moving;

impl Work for Moving {
    const KIND: &'static str = MailboxMove::NAME;
    const PERMISSION: Permission = MailboxMove::PERMISSION;
    type Request = MovingRequest;
    type Report = Moved;

    async fn run(context: JobContext, request: MovingRequest, _: String) -> Outcome<Moved> {
        let mailbox = MailboxId(request.mailbox);
        let homing = homing(&context)?;
        let total = octets_of(&context, vec![mailbox]).await?;
        let mut journey = Journey::new(&context, total, context.now());
        homing.bring(mailbox, &mut journey).await?;
        Ok(journey.homed.into())
    }
}
