//! The audit trail: rows are only ever added.

use super::sql::{Conn, Row, Value};
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
}

/// Adds records.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, records: &[Record]) -> Result<()> {
    let rows = records.iter().map(|one| {
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
            &one.request_id
        ]
    });
    let head = "INSERT INTO audit (public_id, at, node_path, customer_path, actor_id, actor, actor_path,
                                   authenticated, source, operation, target, before, after, outcome, request_id)";
    conn.insert_rows(head, 15, rows.collect()).await
}

/// What to search for; what is empty does not restrict.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Beginnings of `node_path` of which one must match; none matches nothing.
    pub node_paths: Vec<String>,
    /// Only records of actors who are at home at one of these paths or below.
    pub actor_paths: Option<Vec<String>>,
    /// Only records of this administrator.
    pub actor_id: Option<i64>,
    /// Only records with this in the actor's name.
    pub actor: Option<String>,
    /// Only this operation, or those that begin with it when it ends in a dot.
    pub operation: Option<String>,
    /// Only with this in the target.
    pub target: Option<String>,
    /// Only with this in target, before or after.
    pub text: Option<String>,
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

/// `%text%` with LIKE's own signs taken literally.
fn containing(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.to_lowercase().chars() {
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
    /// Conditions for everything at one of the paths and below.
    fn ranges(&mut self, column: &str, paths: &[String]) -> Vec<String> {
        let mut ranges = Vec::with_capacity(paths.len());
        for path in paths {
            // '0' follows '/' in ASCII, so this is the range of the path and what is below.
            let end = format!("{}0", path.trim_end_matches('/'));
            self.params.push(path.into());
            self.params.push(end.into());
            let count = self.params.len();
            ranges.push(format!("({column} >= ${} AND {column} < ${count})", count - 1));
        }
        ranges
    }

    /// Adds a condition in which `?` stands for the parameter.
    fn and(&mut self, condition: &str, param: impl Into<Value>) {
        self.params.push(param.into());
        self.text.push_str(" AND ");
        self.text.push_str(&condition.replace('?', &format!("${}", self.params.len())));
    }
}

/// Records that match, newest first.
///
/// # Errors
/// When the database fails.
pub async fn search(conn: &mut Conn, search: &Search) -> Result<Vec<Record>> {
    let mut filter = Filter::default();
    let places = filter.ranges("node_path", &search.node_paths);
    if places.is_empty() && search.actor_id.is_none() {
        return Ok(Vec::new());
    }
    if !places.is_empty() {
        filter.text = format!(" AND ({})", places.join(" OR "));
    }
    if let Some(paths) = &search.actor_paths {
        let homes = filter.ranges("actor_path", paths);
        let homes = if homes.is_empty() { "1 = 0".to_owned() } else { homes.join(" OR ") };
        filter.text.push_str(&format!(" AND ({homes})"));
    }
    if let Some(id) = search.actor_id {
        filter.and("actor_id = ?", id);
    }
    if let Some(actor) = &search.actor {
        filter.and("lower(actor) LIKE ? ESCAPE '\\'", containing(actor));
    }
    if let Some(operation) = &search.operation {
        if operation.ends_with('.') {
            filter.and("operation LIKE ? ESCAPE '\\'", containing(operation).trim_start_matches('%'));
        } else {
            filter.and("operation = ?", operation);
        }
    }
    if let Some(target) = &search.target {
        filter.and("lower(target) LIKE ? ESCAPE '\\'", containing(target));
    }
    if let Some(text) = &search.text {
        let anywhere =
            "lower(target || ' ' || coalesce(before, '') || ' ' || coalesce(after, '')) LIKE ? ESCAPE '\\'";
        filter.and(anywhere, containing(text));
    }
    match search.outcome.as_deref() {
        Some("refused") => filter.and("outcome <> ?", "done"),
        Some(outcome) => filter.and("outcome = ?", outcome),
        None => {}
    }
    if let Some(since) = search.since {
        filter.and("at >= ?", since);
    }
    if let Some(until) = search.until {
        filter.and("at < ?", until);
    }
    if let Some(id) = search.before_id {
        filter.and("id < ?", id);
    }
    filter.params.push(search.limit.into());
    let text = format!(
        "SELECT id, public_id, at, node_path, customer_path, actor_id, actor, actor_path, authenticated, source,
                operation, target, before, after, outcome, request_id
         FROM audit WHERE 1 = 1{} ORDER BY id DESC LIMIT ${}",
        filter.text,
        filter.params.len()
    );
    conn.rows(text, filter.params).await?.iter().map(from_row).collect()
}

fn from_row(row: &Row) -> Result<Record> {
    Ok(Record {
        id: row.int(0)?,
        public_id: row.text(1)?,
        at: Timestamp(row.int(2)?),
        node_path: row.text(3)?,
        customer_path: row.text(4)?,
        actor_id: row.int_opt(5)?,
        actor: row.text(6)?,
        actor_path: row.text(7)?,
        authenticated: row.text(8)?,
        source: row.text(9)?,
        operation: row.text(10)?,
        target: row.text(11)?,
        before: row.text_opt(12)?,
        after: row.text_opt(13)?,
        outcome: row.text(14)?,
        request_id: row.text(15)?,
    })
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
