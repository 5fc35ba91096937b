//! Webhooks: where customers have their events sent, and how far that is.
//!
//! # Consistency
//! Whoever sends holds the hook for a while (`leased_by`, `leased_until`); what somebody writes whose time is over
//! counts for nothing, so that a position never goes back.

use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// A webhook.
#[derive(Clone, Debug)]
pub struct WebhookRow {
    /// Key.
    pub id: i64,
    /// Random public id.
    pub public_id: String,
    /// Whose.
    pub customer: CustomerId,
    /// Where to send.
    pub url: String,
    /// Kinds of events that are sent, as JSON; an empty list means all.
    pub kinds: String,
    /// What signs what is sent.
    pub secret: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether anything is sent.
    pub enabled: bool,
    /// Key of the last audit record that was sent or passed over.
    pub position: i64,
    /// How many events were taken.
    pub delivered: i64,
    /// When the last one was.
    pub delivered_at: Option<Timestamp>,
    /// How often the present event was refused.
    pub attempts: i64,
    /// Since when.
    pub failing_since: Option<Timestamp>,
    /// What the last attempt came to; empty before the first.
    pub outcome: String,
    /// When the next attempt is made, if there was one that failed.
    pub next_at: Timestamp,
}

const COLUMNS: &str =
    "w.id, w.public_id, w.customer_id, w.url, w.kinds, w.secret, w.created_at, w.enabled, w.position,
    w.delivered, w.delivered_at, w.attempts, w.failing_since, w.outcome, w.next_at";

fn from_row(row: &Row) -> Result<WebhookRow> {
    Ok(WebhookRow {
        id: row.int(0)?,
        public_id: row.text(1)?,
        customer: CustomerId(row.int(2)?),
        url: row.text(3)?,
        kinds: row.text(4)?,
        secret: row.text(5)?,
        created_at: Timestamp(row.int(6)?),
        enabled: row.int(7)? != 0,
        position: row.int(8)?,
        delivered: row.int(9)?,
        delivered_at: row.int_opt(10)?.map(Timestamp),
        attempts: row.int(11)?,
        failing_since: row.int_opt(12)?.map(Timestamp),
        outcome: row.text(13)?,
        next_at: Timestamp(row.int(14)?),
    })
}

/// A webhook that is made.
#[derive(Clone, Debug)]
pub struct NewWebhook {
    /// Whose.
    pub customer: CustomerId,
    /// Where to send.
    pub url: String,
    /// As [`WebhookRow::kinds`].
    pub kinds: String,
    /// As [`WebhookRow::secret`].
    pub secret: String,
    /// As [`WebhookRow::position`].
    pub position: i64,
}

/// Makes a webhook and answers its public id.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, new: NewWebhook, now: Timestamp) -> Result<String> {
    let public_id = public_id();
    let text = "INSERT INTO webhook (public_id, customer_id, url, kinds, secret, created_at, position)
                VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let NewWebhook { customer, url, kinds, secret, position } = new;
    conn.execute(text, params![&public_id, customer, url, kinds, secret, now, position]).await?;
    Ok(public_id)
}

/// How many a customer has.
///
/// # Errors
/// When the database fails.
pub async fn count(conn: &mut Conn, customer: CustomerId) -> Result<i64> {
    let row = conn.row("SELECT count(*) FROM webhook WHERE customer_id = $1", params![customer]).await?;
    row.ok_or(StorageError::Gone("a count"))?.int(0)
}

/// The webhooks of these customers behind `after`, oldest first.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut Conn,
    customers: impl IntoIterator<Item = i64>,
    after: i64,
    limit: i64,
) -> Result<Vec<WebhookRow>> {
    let text = format!(
        "SELECT {COLUMNS} FROM webhook w WHERE w.customer_id IN IDS($1) AND w.id > $2 ORDER BY w.id LIMIT $3"
    );
    conn.rows(text, params![ids(customers), after, limit]).await?.iter().map(from_row).collect()
}

/// The webhook with this public id.
///
/// # Errors
/// When the database fails.
pub async fn by_public_id(conn: &mut Conn, public_id: &str) -> Result<Option<WebhookRow>> {
    let text = format!("SELECT {COLUMNS} FROM webhook w WHERE w.public_id = $1");
    conn.row(text, params![public_id]).await?.as_ref().map(from_row).transpose()
}

/// Removes a webhook.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn delete(conn: &mut Conn, id: i64) -> Result<()> {
    let removed = conn.execute("DELETE FROM webhook WHERE id = $1", params![id]).await?;
    if removed == 0 { Err(StorageError::Gone("webhook")) } else { Ok(()) }
}

/// Lets a webhook send again, from its position or from another one on.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn enable(conn: &mut Conn, id: i64, position: Option<i64>) -> Result<()> {
    let text =
        "UPDATE webhook SET enabled = 1, position = CASE WHEN $2 < 0 THEN position ELSE $2 END, attempts = 0,
                       failing_since = NULL, next_at = 0, leased_until = 0
                WHERE id = $1";
    let changed = conn.execute(text, params![id, position.unwrap_or(-1)]).await?;
    if changed == 0 { Err(StorageError::Gone("webhook")) } else { Ok(()) }
}

/// Enabled webhooks whose next attempt is due and that nobody holds, by key.
///
/// # Errors
/// When the database fails.
pub async fn due(conn: &mut Conn, now: Timestamp, after: i64, limit: i64) -> Result<Vec<WebhookRow>> {
    let text = format!(
        "SELECT {COLUMNS} FROM webhook w JOIN customer c ON c.id = w.customer_id
         WHERE w.enabled = 1 AND w.next_at <= $1 AND w.leased_until <= $1 AND w.id > $2 AND c.deleted_at IS NULL
         ORDER BY w.id LIMIT $3"
    );
    conn.rows(text, params![now, after, limit]).await?.iter().map(from_row).collect()
}

/// Takes hold of a webhook until a moment; false when somebody else has or it has been changed.
///
/// # Errors
/// When the database fails.
pub async fn lease(
    conn: &mut Conn,
    hook: &WebhookRow,
    node: &str,
    now: Timestamp,
    until: Timestamp,
) -> Result<bool> {
    let text = "UPDATE webhook SET leased_by = $2, leased_until = $3
                WHERE id = $1 AND enabled = 1 AND leased_until <= $4 AND position = $5 AND next_at <= $4";
    Ok(conn.execute(text, params![hook.id, node, until, now, hook.position]).await? == 1)
}

/// What came of sending.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Key of the last record that was taken or passed over.
    pub position: i64,
    /// How many were taken.
    pub delivered: i64,
    /// What the last attempt came to.
    pub outcome: String,
    /// When it failed: when the next one is made; nothing: none any more.
    pub failed: Option<Option<Timestamp>>,
}

/// Notes what came of sending, and lets the webhook go. False when it was another's by then.
///
/// # Errors
/// When the database fails.
pub async fn sent(conn: &mut Conn, id: i64, node: &str, sent: &Sent, now: Timestamp) -> Result<bool> {
    let text = "UPDATE webhook SET position = $3, delivered = delivered + $4,
                       delivered_at = CASE WHEN $4 > 0 THEN $5 ELSE delivered_at END,
                       outcome = CASE WHEN $6 = '' THEN outcome ELSE $6 END,
                       attempts = CASE WHEN $7 = 0 THEN 0 WHEN $4 > 0 THEN 1 ELSE attempts + 1 END,
                       failing_since = CASE WHEN $7 = 0 THEN NULL WHEN $4 > 0 THEN $5
                                            ELSE coalesce(failing_since, $5) END,
                       enabled = CASE WHEN $7 = 1 AND $8 < 0 THEN 0 ELSE enabled END,
                       next_at = CASE WHEN $8 < 0 THEN 0 ELSE $8 END, leased_until = 0
                WHERE id = $1 AND leased_by = $2 AND leased_until > 0";
    let next = sent.failed.flatten().map_or(-1, |at| at.0);
    let next = if sent.failed.is_none() { 0 } else { next };
    let params =
        params![id, node, sent.position, sent.delivered, now, &sent.outcome, sent.failed.is_some(), next];
    Ok(conn.execute(text, params).await? == 1)
}
