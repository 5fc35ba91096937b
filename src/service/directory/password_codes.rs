//! Codes with which owners of mailboxes set their password (see `codes.rs`). One mailbox has one at a time; any new
//! password ends it. Whoever makes one could set the password too, and so read the mail: the trail says so.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codes;
use super::invitation_accept::Hashed;
use super::mailboxes::MailboxRequest;
use super::targets::OneMailbox;
use crate::base::clock::Timestamp;
use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::notices::{self, To};
use crate::service::registry::{Inner, Need, Operate, Tx, declare};
use crate::storage::metadata::invitation::{self, InvitationRow};
use crate::storage::metadata::mailbox;

/// A code for a mailbox.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct MailboxInvited {
    /// The mailbox.
    pub address: String,
    /// The code, to hand over to the owner; shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// When it ends.
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
}

/// `mailbox.invite`: a password of before counts until the code is used.
pub(in crate::service) struct MailboxInvite;

impl Operate for MailboxInvite {
    declare! { "mailbox.invite", Post, "/v1/mailboxes/{address}/invite", MailboxPassword, changes,
    "Make a one-time code with which the owner of a mailbox sets its password; the code of before ends" }
    type Request = MailboxRequest;
    type Response = MailboxInvited;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    async fn run(tx: &mut Tx<'_>, OneMailbox(of): OneMailbox, _: MailboxRequest) -> Result<MailboxInvited> {
        let blank = codes::blank(tx, (of.customer, of.domain), of.address());
        let (row, secret) = codes::make(tx, InvitationRow { mailbox: Some(of.id), ..blank }).await?;
        tx.after = Some(serde_json::json!({ "expires_at": row.expires_at, "content_capable": true }));
        Ok(MailboxInvited { address: row.address, secret, expires_at: row.expires_at })
    }
}

/// A code that was taken back.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct MailboxUninvited {
    /// The mailbox.
    address: String,
}

/// `mailbox.uninvite`.
pub(in crate::service) struct MailboxUninvite;

impl Operate for MailboxUninvite {
    declare! { "mailbox.uninvite", Delete, "/v1/mailboxes/{address}/invite", MailboxPassword, changes,
    "Take back the code with which the owner of a mailbox could set its password" }
    type Request = MailboxRequest;
    type Response = MailboxUninvited;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    async fn run(tx: &mut Tx<'_>, OneMailbox(of): OneMailbox, _: MailboxRequest) -> Result<MailboxUninvited> {
        let address = of.address();
        if !invitation::delete_of_mailbox(tx.conn, of.id).await? {
            let message = format!("there is no code for {address}");
            return Err(ServiceError::Conflict { message });
        }
        Ok(MailboxUninvited { address })
    }
}

/// The owner's password.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MailboxSetPasswordRequest {
    /// The password.
    password: String,
    /// What was made of it.
    #[serde(skip)]
    #[schema(ignore)]
    hashed: Option<Hashed>,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct MailboxPasswordSet {
    /// The mailbox, which is also the name to log in with.
    address: String,
}

/// `mailbox.set-password`: asked for with the code in place of a token.
pub(in crate::service) struct MailboxSetPassword;

impl Operate for MailboxSetPassword {
    declare! { "mailbox.set-password", Post, "/v1/mailboxes/set-password", Own, changes,
    "Set the password of the mailbox for whose owner a one-time code was made; running sessions end" }
    const BY_CODE: bool = true;
    type Request = MailboxSetPasswordRequest;
    type Response = MailboxPasswordSet;
    type Target = OneMailbox;

    async fn prepare(_: &Inner, mut request: MailboxSetPasswordRequest) -> Result<MailboxSetPasswordRequest> {
        request.hashed = Some(Hashed::of(std::mem::take(&mut request.password)).await?);
        Ok(request)
    }

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a MailboxSetPasswordRequest) -> Result<OneMailbox> {
        let row = codes::held(tx).await?;
        let found = match row.mailbox {
            Some(id) => mailbox::by_id(tx.conn, id).await?,
            None => None,
        };
        let living = found.filter(|found| found.deleted_at.is_none() && found.customer == row.customer);
        let living = living.ok_or_else(codes::not_valid)?;
        let maker = codes::maker(tx, &row).await?;
        codes::still_given(&maker, &[Need::at(row.customer, Permission::MailboxPassword)])?;
        Ok(OneMailbox(living))
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneMailbox(row): OneMailbox,
        request: MailboxSetPasswordRequest,
    ) -> Result<MailboxPasswordSet> {
        let hash = Hashed::admitted(request.hashed, tx, row.customer).await?;
        let maker = match invitation::of_mailbox(tx.conn, row.id, tx.now).await? {
            Some(code) => codes::maker(tx, &code).await?,
            None => return Err(codes::not_valid()),
        };
        // With the new password the code ends.
        mailbox::set_password(tx.conn, row.id, &hash).await?;
        if !tx.dry_run {
            tx.inner.login.get().map(|login| login.mailbox_close(row.id));
        }
        let address = row.address();
        let text = format!(
            "The password of this mailbox, {address}, was set with a one-time code that an administrator had made. \
             Its sessions have ended.\n\nIf it was not you who has used the code, ask your administrators: whoever \
             knows the new password can read the mail in it. Who made the code is in their audit trail."
        );
        let subject = "The password of this mailbox was set with a one-time code";
        let to = To::Mailbox(row.id);
        notices::give(tx.conn, to, notices::Kind::PasswordReset, (subject, &text), tx.now).await?;
        tx.after = Some(serde_json::json!({ "invited_by": codes::made_by(&maker) }));
        Ok(MailboxPasswordSet { address })
    }
}
