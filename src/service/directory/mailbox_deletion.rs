//! Deleting mailboxes. Undeleting stands in `mailboxes.rs`, beside the checks it shares with creating.

use serde::Serialize;
use utoipa::ToSchema;

use super::mailboxes::{Mailbox, MailboxRequest, show};
use super::targets::OneMailbox;
use crate::service::error::{Resource, Result};
use crate::service::quota;
use crate::service::registry::{Operate, Tx, declare};
use crate::storage::metadata::{alias, domain, mailbox};

/// `mailbox.delete`: soft.
pub(in crate::service) struct MailboxDelete;

impl Operate for MailboxDelete {
    declare! { "mailbox.delete", Delete, "/v1/mailboxes/{address}", MailboxDelete, changes,
    "Delete a mailbox; mailbox undelete brings it back" }
    type Request = MailboxRequest;
    type Response = MailboxDeleted;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    async fn run(tx: &mut Tx<'_>, OneMailbox(row): OneMailbox, _: MailboxRequest) -> Result<MailboxDeleted> {
        let mut names = domain::aliases_of(tx.conn, row.domain).await?;
        names.push(row.domain_name.clone());
        let (mut aliases, mut catch_alls) = (Vec::new(), Vec::new());
        for name in names {
            let leads = alias::leading_to(tx.conn, row.customer, &row.local_part, &name).await?;
            aliases.extend(leads.aliases);
            catch_alls.extend(leads.catch_alls);
        }
        for list in [&mut aliases, &mut catch_alls] {
            list.sort_unstable();
            list.dedup();
        }
        mailbox::delete(tx.conn, row.id, tx.now, &tx.operation_id).await?;
        quota::count(tx, row.customer, Resource::Mailboxes, -1).await?;
        let deleted = MailboxDeleted { mailbox: show(tx, row), aliases, catch_alls };
        tx.before = serde_json::to_value(&deleted).ok();
        Ok(deleted)
    }
}

/// What was deleted, or would be.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct MailboxDeleted {
    #[serde(flatten)]
    mailbox: Mailbox,
    /// Aliases that lead here; where they lead to nothing else, their mail is deferred.
    aliases: Vec<String>,
    /// Domains whose catch-all leads here.
    catch_alls: Vec<String>,
}
