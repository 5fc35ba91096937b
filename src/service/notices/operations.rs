//! Reading notices.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::audit::names;
use crate::service::authority::{Caller, Permission, Tree};
use crate::service::directory::identity::Myself;
use crate::service::directory::page::{Cursors, Page, limit};
use crate::service::directory::scope::Place;
use crate::service::directory::targets::absent;
use crate::service::error::Result;
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::notice::{self, NoticeFor, NoticeRow};

/// Notices that `whoami` tells.
const TOLD_MAX: i64 = 5;

/// A notice.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Notice {
    /// Random id.
    id: String,
    #[schema(value_type = String)]
    at: Timestamp,
    /// `quota-warning`, `expiry-warning`, `expiry`, `spending-warning`, `spending`, `request-waiting`,
    /// `request-decided`, `password-reset`, `content-access`, `second-factor`, `invitation` or `webhook-off`.
    kind: String,
    /// Whom it is for: `you`, `group`, or the path of a customer, a role before it.
    to: String,
    subject: String,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    read_at: Option<Timestamp>,
}

fn show(caller: &Caller, row: NoticeRow) -> Notice {
    let path = |id: CustomerId| caller.path_of(id).unwrap_or_else(|| "provider".to_owned());
    Notice {
        id: row.public_id,
        at: row.at,
        kind: row.kind,
        to: match row.to {
            NoticeFor::Mailbox(_) => "mailbox".to_owned(),
            NoticeFor::Administrator(_) => "you".to_owned(),
            NoticeFor::Group(_) => "group".to_owned(),
            NoticeFor::Role(id, role) => format!("{role} at {}", path(id)),
            NoticeFor::Customer(id) => path(id),
        },
        subject: names::text(caller, &row.subject, false),
        text: names::text(caller, &row.text, false),
        read_at: row.read_at,
    }
}

/// The caller as a reader; 0 for the system.
fn reader(tx: &Tx<'_>) -> i64 {
    tx.caller.administrator().map_or(0, |id| id.0)
}

/// What the caller has not read.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Unread {
    /// How many notices, at most 1,000.
    count: i64,
    /// The newest of them.
    newest: Vec<Notice>,
}

/// What the caller has not read.
pub(in crate::service) async fn unread(tx: &mut Tx<'_>) -> Result<Unread> {
    let reader = reader(tx);
    let count = notice::unread(tx.conn, reader).await?;
    let rows = notice::of_reader(tx.conn, reader, true, None, TOLD_MAX).await?;
    Ok(Unread { count, newest: rows.into_iter().map(|row| show(tx.caller, row)).collect() })
}

/// Which notices to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct NoticeListRequest {
    /// Those for this customer, those below, and roles there; default: those for the caller.
    customer: Option<String>,
    /// Of those for the caller, only what it has not read.
    #[serde(default)]
    unread: bool,
    /// Most notices, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `notice.list`.
pub(in crate::service) struct NoticeList;

impl Operate for NoticeList {
    declare! { "notice.list", Get, "/v1/notices", Own, reads,
    "List notices for the caller, or for a customer and those below, the newest first" }
    type Request = NoticeListRequest;
    type Response = Page<Notice>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a NoticeListRequest) -> Result<Place> {
        match request.customer.as_deref() {
            Some(path) => Place::find(tx, Some(path), Permission::CustomerRead),
            None => Place::home(tx),
        }
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a Place,
        request: &'a NoticeListRequest,
    ) -> Result<Vec<Need>> {
        let _ = tx;
        let permission = if request.customer.is_some() { Permission::CustomerRead } else { Self::PERMISSION };
        Ok(vec![Need::at(target.customer(), permission)])
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: NoticeListRequest) -> Result<Page<Notice>> {
        let limit = limit(request.limit)?;
        let filter = NoticeListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let before: Option<i64> = cursors.read(request.cursor.as_deref())?;
        let reader = reader(tx);
        let rows = if request.customer.is_some() {
            let customers = target.customers(tx);
            notice::of_customers(tx.conn, &customers, reader, before, limit + 1).await?
        } else {
            notice::of_reader(tx.conn, reader, request.unread, before, limit + 1).await?
        };
        let caller = tx.caller;
        Page::cut(rows, limit, &cursors, |row| row.id, |row| show(caller, row))
    }
}

/// Which notice.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct NoticeReadRequest {
    /// Its id.
    id: String,
}

/// A notice that the caller is told.
pub(in crate::service) struct Told {
    myself: Myself,
    row: NoticeRow,
}

impl Targeted for Told {
    fn customer(&self) -> CustomerId {
        self.myself.customer()
    }

    fn label(&self) -> String {
        format!("notice {}", self.row.public_id)
    }

    fn recorded(&self, _: &Tree) -> String {
        self.label()
    }
}

/// `notice.read`: also marks it as read.
pub(in crate::service) struct NoticeRead;

impl Operate for NoticeRead {
    declare! { "notice.read", Post, "/v1/notices/{id}/read", Own, changes,
    "Show a notice for the caller and mark it as read" }
    type Request = NoticeReadRequest;
    type Response = Notice;
    type Target = Told;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a NoticeReadRequest) -> Result<Told> {
        let row = notice::by_public_id(tx.conn, reader(tx), &request.id).await?;
        let row = row.ok_or_else(|| absent("notice", &request.id))?;
        Ok(Told { myself: Myself::find(tx)?, row })
    }

    async fn run(tx: &mut Tx<'_>, target: Told, _: NoticeReadRequest) -> Result<Notice> {
        let mut row = target.row;
        notice::set_read(tx.conn, reader(tx), row.id, tx.now).await?;
        row.read_at = row.read_at.or(Some(tx.now));
        Ok(show(tx.caller, row))
    }
}
