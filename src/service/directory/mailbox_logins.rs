//! Who logged in to a mailbox, or tried to.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Cursors, Page, limit};
use super::scope::moment;
use super::targets::OneMailbox;
use crate::base::clock::Timestamp;
use crate::service::authority::Permission;
use crate::service::error::Result;
use crate::service::login::log::{hour_of, start_of};
use crate::service::registry::{Operate, Tx, declare};
use crate::storage::metadata::login_log::{self, LoginLine};

/// How far back it goes unless something is said.
const SINCE_DEFAULT: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

/// Which mailbox, and since when.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MailboxLoginsRequest {
    /// Its address.
    address: String,
    /// From the hour of this time on: RFC 3339, or relative such as `6h`; default `7d`.
    since: Option<String>,
    /// Most lines, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// Logins over one service from one source within an hour.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct MailboxLoginLine {
    /// When the hour began.
    #[schema(value_type = String)]
    hour: Timestamp,
    /// `imap`, `pop3` or `submission`.
    service: String,
    /// The client's address; `unix` for a Unix socket, `other` for what came from further ones in that hour.
    source: String,
    /// Logins.
    successes: i64,
    /// Attempts that were refused.
    failures: i64,
    /// The last of both.
    #[schema(value_type = String)]
    last_at: Timestamp,
}

/// `mailbox.logins`.
pub(in crate::service) struct MailboxLogins;

impl Operate for MailboxLogins {
    declare! { "mailbox.logins", Get, "/v1/mailboxes/{address}/logins", SessionRead, reads,
    "How often somebody logged in to a mailbox, or tried to, by service, source and hour; newest first" }
    type Request = MailboxLoginsRequest;
    type Response = Page<MailboxLoginLine>;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxLoginsRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneMailbox(row): OneMailbox,
        request: MailboxLoginsRequest,
    ) -> Result<Page<MailboxLoginLine>> {
        let limit = limit(request.limit)?;
        let cursors = Cursors::new(tx, &(row.id, &request.since));
        let before = cursors.read(request.cursor.as_deref())?;
        let since = moment("since", request.since.as_deref(), tx.now)?.unwrap_or(tx.now.minus(SINCE_DEFAULT));
        let hour = hour_of(since);
        // What was done while the mailbox belonged to somebody else is for those who were above it then.
        let mut customers = login_log::customers(tx.conn, row.id, hour).await?;
        customers.retain(|&customer| tx.caller.may(Some(customer), Permission::SessionRead));
        let rows = login_log::page(tx.conn, (row.id, &customers), hour, before, limit + 1).await?;
        let position = |row: &LoginLine| (row.hour, row.service.clone(), row.source.clone(), row.customer.0);
        Page::cut(rows, limit, &cursors, position, shown)
    }
}

fn shown(line: LoginLine) -> MailboxLoginLine {
    MailboxLoginLine {
        hour: start_of(line.hour),
        service: line.service,
        source: line.source,
        successes: line.successes,
        failures: line.failures,
        last_at: line.last_at,
    }
}
