//! The audit trail: rows are only ever added, and pruned by age.
//!
//! `audit_scope` has a row for every customer on a record's path, so that a search within a customer reads one range
//! of its key and never another customer's records.

use std::collections::{BTreeMap, HashMap};

use super::sql::{Conn, Row, Value, ids, values_placeholders};
use crate::base::clock::Timestamp;
use crate::params;
use crate::storage::Result;

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Key; 0 until it is stored.
    pub id: i64,
    /// Random public id.
    pub public_id: String,
    /// When.
    pub at: Timestamp,
    /// Keys of the customers from the root down to the one it belongs to, as they were then: `/1/7/23/`.
    pub node_path: String,
    /// Their slugs, in the same order.
    pub customer_path: String,
    /// The administrator, if it was one.
    pub actor_id: Option<i64>,
    /// Who.
    pub actor: String,
    /// Keys from the root down to the actor's home.
    pub actor_path: String,
    /// How authenticated.
    pub authenticated: String,
    /// From where.
    pub source: String,
    /// Name of the operation.
    pub operation: String,
    /// What it acted on.
    pub target: String,
    /// JSON of what stood there before, without secrets.
    pub before: Option<String>,
    /// JSON of what stands there after.
    pub after: Option<String>,
    /// `done`, or why it was refused.
    pub outcome: String,
    /// The request's id.
    pub request_id: String,
    /// Whose wish it was, if somebody else carried it out.
    pub on_behalf: Option<String>,
    /// Whether one that is added is to be chained; false in one that is read.
    pub is_chained: bool,
}

/// Keys of the customers on a path such as `/1/7/23/`.
pub fn path_ids(path: &str) -> impl Iterator<Item = i64> {
    path.split('/').filter_map(|id| id.parse().ok())
}

/// The columns of a record of `audit a`, as [`record_opt`] reads them.
pub(super) const COLUMNS_OF_RECORD: &str = "a.id, a.public_id, a.at, a.node_path, a.customer_path, a.actor_id, a.actor,
    a.actor_path, a.authenticated, a.source, a.operation, a.target, a.before, a.after, a.outcome, a.request_id,
    a.on_behalf";

/// PostgreSQL's lock that keeps changes in order; any number that nothing else locks.
pub(super) const ORDER_LOCK: i64 = 0x0061_7564_6974;

/// Columns of a record that is added.
const COLUMNS: usize = 16;

/// Adds records, each to the scope of every customer on its path.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, records: &[Record]) -> Result<()> {
    in_order(conn, records).await?;
    let (mut scope, mut chained, mut added) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = records;
    while !rest.is_empty() {
        // Powers of two keep the number of distinct statements small.
        let size = [64, 16, 4, 1].into_iter().find(|&size| size <= rest.len()).unwrap_or(1);
        let Some((chunk, others)) = rest.split_at_checked(size) else { break };
        rest = others;
        let text = format!(
            "INSERT INTO audit (public_id, at, node_path, customer_path, actor_id, actor, actor_path, authenticated,
                                source, operation, target, before, after, outcome, request_id, on_behalf)
             VALUES {} RETURNING id, public_id",
            values_placeholders(chunk.len(), COLUMNS, false)
        );
        // The rows come back in any order.
        let mut by_id: HashMap<&str, &Record> =
            chunk.iter().map(|one| (one.public_id.as_str(), one)).collect();
        for row in conn.rows(text, chunk.iter().flat_map(values).collect()).await? {
            let (id, public_id) = (row.int(0)?, row.text(1)?);
            let Some(record) = by_id.remove(public_id.as_str()) else { continue };
            scope.extend(path_ids(&record.node_path).map(|customer| params![customer, id]));
            added.push(params![id]);
            if record.is_chained {
                chained.push(params![id]);
            }
        }
    }
    conn.insert_rows("INSERT INTO audit_unsealed (audit_id)", 1, chained).await?;
    conn.insert_rows("INSERT INTO audit_unindexed (audit_id)", 1, added).await?;
    conn.insert_rows("INSERT INTO audit_scope (customer_id, audit_id)", 2, scope).await
}

/// Makes changes get their keys in the order of their commits, so that whoever follows them misses none: on PostgreSQL
/// each waits until the one before has ended. SQLite has one writer.
async fn in_order(conn: &mut Conn, records: &[Record]) -> Result<()> {
    if conn.is_postgres() && records.iter().any(|record| record.is_chained && record.outcome == "done") {
        conn.rows("SELECT 1 FROM pg_advisory_xact_lock($1)", params![ORDER_LOCK]).await?;
    }
    Ok(())
}

fn values(one: &Record) -> Vec<Value> {
    params![
        &one.public_id,
        one.at,
        &one.node_path,
        &one.customer_path,
        one.actor_id,
        &one.actor,
        &one.actor_path,
        &one.authenticated,
        &one.source,
        &one.operation,
        &one.target,
        one.before.clone(),
        one.after.clone(),
        &one.outcome,
        &one.request_id,
        one.on_behalf.clone()
    ]
}

/// Removes records, given by key and `node_path`.
///
/// # Errors
/// When the database fails.
pub(super) async fn delete(conn: &mut Conn, gone: &[(i64, String)]) -> Result<()> {
    let mut scope: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for (id, path) in gone {
        path_ids(path).for_each(|customer| scope.entry(customer).or_default().push(*id));
    }
    for (customer, records) in scope {
        let text = "DELETE FROM audit_scope WHERE customer_id = $1 AND audit_id IN IDS($2)";
        conn.execute(text, vec![customer.into(), ids(records)]).await?;
    }
    let records = ids(gone.iter().map(|(id, _)| *id));
    conn.execute("DELETE FROM audit_unindexed WHERE audit_id IN IDS($1)", vec![records.clone()]).await?;
    conn.execute("DELETE FROM audit WHERE id IN IDS($1)", vec![records]).await.map(drop)
}

/// Whose records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Actor {
    /// This administrator's.
    Administrator(i64),
    /// The system's own.
    System,
}

/// What to search for; what is empty does not restrict.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Customers of which one must have been on the record's path; without any, `actor` must be an administrator.
    pub places: Vec<i64>,
    /// Only this actor's.
    pub actor: Option<Actor>,
    /// Only this operation, or those that begin with it when it ends in a dot.
    pub operation: Option<String>,
    /// Only this outcome; `refused` means all but `done`.
    pub outcome: Option<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// Only records with a smaller key.
    pub before_id: Option<i64>,
    /// Most rows.
    pub limit: i64,
}

/// `text%` with LIKE's own signs taken literally.
fn beginning_with(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// A WHERE clause that grows together with its parameters.
#[derive(Default)]
struct Filter {
    text: String,
    params: Vec<Value>,
}

impl Filter {
    /// Adds a condition in which `?` stands for the parameter.
    fn and(&mut self, condition: &str, param: impl Into<Value>) {
        self.params.push(param.into());
        self.text.push_str(" AND ");
        self.text.push_str(&condition.replace('?', &format!("${}", self.params.len())));
    }

    /// Adds what a search says of the records themselves.
    fn search(&mut self, search: &Search) {
        match search.actor {
            Some(Actor::Administrator(id)) => self.and("a.actor_id = ?", id),
            Some(Actor::System) => self.and("a.actor_id IS NULL AND a.actor = ?", "system"),
            None => {}
        }
        if let Some(operation) = &search.operation {
            if operation.ends_with('.') {
                self.and("a.operation LIKE ? ESCAPE '\\'", beginning_with(operation));
            } else {
                self.and("a.operation = ?", operation);
            }
        }
        match search.outcome.as_deref() {
            Some("refused") => self.and("a.outcome <> ?", "done"),
            Some(outcome) => self.and("a.outcome = ?", outcome),
            None => {}
        }
        if let Some(since) = search.since {
            self.and("a.at >= ?", since);
        }
        if let Some(until) = search.until {
            self.and("a.at < ?", until);
        }
    }
}

/// Of the records with these keys those that match, newest first; places and limits of the search do not count.
///
/// # Errors
/// When the database fails.
pub async fn matching(conn: &mut Conn, search: &Search, keys: &[i64]) -> Result<Vec<Record>> {
    let mut filter = Filter::default();
    filter.and("a.id IN IDS(?)", ids(keys.iter().copied()));
    filter.search(search);
    let text =
        format!("SELECT {COLUMNS_OF_RECORD} FROM audit a WHERE 1 = 1{} ORDER BY a.id DESC", filter.text);
    let rows = conn.rows(text, filter.params).await?;
    rows.iter().filter_map(|row| record_opt(row, 0).transpose()).collect()
}

/// The statement that finds the newest records of a search within one customer, or without one those of the actor,
/// and its parameters. Either way it walks one range of an index, newest first.
pub fn statement(search: &Search, place: Option<i64>, above_id: i64) -> (String, Vec<Value>) {
    let mut filter = Filter::default();
    let (tables, key) = match place {
        Some(place) => {
            // CROSS JOIN keeps SQLite to this order; to PostgreSQL it is a join like any other.
            filter.and("s.customer_id = ?", place);
            ("audit_scope s CROSS JOIN audit a WHERE a.id = s.audit_id", "s.audit_id")
        }
        None => ("audit a WHERE 1 = 1", "a.id"),
    };
    filter.and(&format!("{key} > ?"), above_id);
    filter.and(&format!("{key} < ?"), search.before_id.unwrap_or(i64::MAX));
    filter.search(search);
    filter.params.push(search.limit.into());
    let text = format!(
        "SELECT {COLUMNS_OF_RECORD} FROM {tables}{} ORDER BY {key} DESC LIMIT ${}",
        filter.text,
        filter.params.len()
    );
    (text, filter.params)
}

/// Records that match, newest first.
///
/// # Errors
/// When the database fails.
pub async fn search(conn: &mut Conn, search: &Search) -> Result<Vec<Record>> {
    let places: Vec<Option<i64>> = match search.actor {
        Some(Actor::Administrator(_)) if search.places.is_empty() => vec![None],
        _ => search.places.iter().copied().map(Some).collect(),
    };
    let limit = usize::try_from(search.limit).unwrap_or(0);
    let mut found: BTreeMap<i64, Record> = BTreeMap::new();
    // What is older than the oldest of a full page is not asked for any more.
    let mut above_id = 0;
    for place in places {
        let (text, params) = statement(search, place, above_id);
        for row in conn.rows(text, params).await? {
            if let Some(record) = record_opt(&row, 0)? {
                found.insert(record.id, record);
            }
        }
        while found.len() > limit {
            found.pop_first();
        }
        if found.len() == limit {
            above_id = found.first_key_value().map_or(above_id, |(id, _)| *id);
        }
    }
    Ok(found.into_values().rev().collect())
}

/// The record with this public id.
///
/// # Errors
/// When the database fails.
pub async fn by_public_id(conn: &mut Conn, public_id: &str) -> Result<Option<Record>> {
    let text = format!("SELECT {COLUMNS_OF_RECORD} FROM audit a WHERE a.public_id = $1");
    conn.row(text, params![public_id]).await?.map_or(Ok(None), |row| record_opt(&row, 0))
}

/// The record in the columns from `first` on ([`COLUMNS_OF_RECORD`]), unless there is none.
pub(super) fn record_opt(row: &Row, first: usize) -> Result<Option<Record>> {
    let Some(id) = row.int_opt(first)? else { return Ok(None) };
    Ok(Some(Record {
        id,
        public_id: row.text(first + 1)?,
        at: Timestamp(row.int(first + 2)?),
        node_path: row.text(first + 3)?,
        customer_path: row.text(first + 4)?,
        actor_id: row.int_opt(first + 5)?,
        actor: row.text(first + 6)?,
        actor_path: row.text(first + 7)?,
        authenticated: row.text(first + 8)?,
        source: row.text(first + 9)?,
        operation: row.text(first + 10)?,
        target: row.text(first + 11)?,
        before: row.text_opt(first + 12)?,
        after: row.text_opt(first + 13)?,
        outcome: row.text(first + 14)?,
        request_id: row.text(first + 15)?,
        on_behalf: row.text_opt(first + 16)?,
        is_chained: false,
    }))
}

/// An answer already given under an Idempotency-Key.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Hash of the request it was given to.
    pub request: Vec<u8>,
    /// The answer, as JSON.
    pub response: String,
}

/// The answer given to this caller, operation and key.
///
/// # Errors
/// When the database fails.
pub async fn replay(conn: &mut Conn, caller: &str, operation: &str, key: &str) -> Result<Option<Replay>> {
    let text = "SELECT request, response FROM idempotency WHERE caller = $1 AND operation = $2 AND key = $3";
    let Some(row) = conn.row(text, params![caller, operation, key]).await? else { return Ok(None) };
    Ok(Some(Replay { request: row.blob(0)?, response: row.text(1)? }))
}

/// Keeps an answer for replays.
///
/// # Errors
/// When the database fails.
pub async fn keep_replay(
    conn: &mut Conn,
    (caller, operation, key): (&str, &str, &str),
    replay: Replay,
    now: Timestamp,
) -> Result<()> {
    let text = "INSERT INTO idempotency (caller, operation, key, request, response, created_at)
                VALUES ($1, $2, $3, $4, $5, $6)";
    conn.execute(text, params![caller, operation, key, replay.request, replay.response, now])
        .await
        .map(|_| ())
}
