//! Moving a mailbox to another mail store while it is in use.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Moved, homing, octets_of};
use crate::base::id::MailboxId;
use crate::service::audit::names;
use crate::service::authority::Permission;
use crate::service::directory::targets::OneMailbox;
use crate::service::error::Result;
use crate::service::jobs::{Job, JobContext, Outcome, Work, enqueue};
use crate::service::placement::Stores;
use crate::service::registry::{Operate, Targeted as _, Tx, declare};
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

    /// New mail goes to the new store from this transaction on.
    async fn run(tx: &mut Tx<'_>, target: OneMailbox, request: MailboxMoveRequest) -> Result<Job> {
        let row = &target.0;
        let stores = Stores::of(tx, row.customer).await?;
        let store = stores.open(&request.store)?;
        // Names of stores are for those who see what the caller sees.
        let name = |name: &String| names::words(tx.caller, name);
        let (before, after) = (stores.name_of(row.store).as_ref().map(name), name(&request.store));
        home::set_store(tx.conn, &[row.id], store, tx.now).await?;
        let asked = MovingRequest { mailbox: row.id.0 };
        let job = enqueue::<Moving>(tx, row.customer, &target.label(), &asked).await?;
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
