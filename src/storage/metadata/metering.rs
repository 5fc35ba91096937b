//! What domains use over time, by hour.
//!
//! # Consistency
//! A line says what a domain used in an hour, or in some hours of one day that were folded together, and what it has
//! from then on until its next line. So the sum over a period is made of the lines in it and of what the last one
//! before it, and each of them, left; all are integers, and nothing is counted twice. The hour in which a domain, or
//! a customer above it, is moved belongs to the new place.
//!
//! # Cost
//! Deliveries write nothing here. Once an hour somebody reads what mailboxes are recorded to use, and the delivery
//! trace of that hour, and writes a line for each domain that changed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::packed;
use super::sql::{Conn, Row, Value, ids};
use super::trace;
use crate::base::clock::Timestamp;
use crate::params;
use crate::storage::{Result, StorageError};

/// Domains of one page of samples.
const PAGE_DOMAINS: i64 = 500;
/// Domains whose lines are read at a time.
pub const CHUNK_DOMAINS: usize = 500;
/// So many places are named in a statement.
const FEW_PATHS: usize = 1_000;
/// Lines that one transaction writes at most.
pub const SLICE_LINES: usize = 128;
/// Keys of the delivery trace that one statement passes over.
const STEP_KEYS: i64 = 20_000;
/// The key under which the last hour that was closed is kept, and the last month that was frozen.
const HOUR: &str = "metered_hour";
const MONTH: &str = "metered_month";

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counted {
    /// Octets of mail times hours.
    pub byte_hours: i64,
    /// Mailboxes times hours.
    pub mailbox_hours: i64,
    /// Messages received.
    pub messages_in: i64,
    /// Their octets.
    pub octets_in: i64,
}

impl Counted {
    /// The sum with another; nothing when no number holds it.
    pub fn plus(&self, other: &Self) -> Option<Self> {
        Some(Self {
            byte_hours: self.byte_hours.checked_add(other.byte_hours)?,
            mailbox_hours: self.mailbox_hours.checked_add(other.mailbox_hours)?,
            messages_in: self.messages_in.checked_add(other.messages_in)?,
            octets_in: self.octets_in.checked_add(other.octets_in)?,
        })
    }
}

/// What a domain has at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Level {
    /// Octets that are charged.
    pub bytes: i64,
    /// Mailboxes that are not deleted.
    pub mailboxes: i64,
}

impl Level {
    /// What it comes to in so many hours; nothing when no number holds it.
    pub fn over(&self, hours: i64) -> Option<Counted> {
        Some(Counted {
            byte_hours: self.bytes.checked_mul(hours)?,
            mailbox_hours: self.mailboxes.checked_mul(hours)?,
            ..Counted::default()
        })
    }
}

/// What a domain used in some hours, and what it has after them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// The domain.
    pub domain: i64,
    /// The first hour, since 1970.
    pub start: i64,
    /// How many hours.
    pub hours: i64,
    /// Where it belonged: the key of a path.
    pub path: i64,
    /// What was used.
    pub counted: Counted,
    /// What holds from then on.
    pub after: Level,
}

const LINE: &str =
    "l.domain_id, l.start_hour, l.hours, l.path_id, l.byte_hours, l.mailbox_hours, l.messages_in,
                    l.octets_in, l.bytes_after, l.mailboxes_after";
/// The same, one by one.
const COLUMNS: [&str; 10] = [
    "l.domain_id",
    "l.start_hour",
    "l.hours",
    "l.path_id",
    "l.byte_hours",
    "l.mailbox_hours",
    "l.messages_in",
    "l.octets_in",
    "l.bytes_after",
    "l.mailboxes_after",
];

fn line(row: &Row) -> Result<Line> {
    Ok(Line {
        domain: row.int(0)?,
        start: row.int(1)?,
        hours: row.int(2)?,
        path: row.int(3)?,
        counted: counted(row, 4)?,
        after: Level { bytes: row.int(8)?, mailboxes: row.int(9)? },
    })
}

fn counted(row: &Row, first: usize) -> Result<Counted> {
    Ok(Counted {
        byte_hours: row.int(first)?,
        mailbox_hours: row.int(first + 1)?,
        messages_in: row.int(first + 2)?,
        octets_in: row.int(first + 3)?,
    })
}

async fn progress(conn: &mut Conn, key: &'static str) -> Result<Option<i64>> {
    let row = conn.row("SELECT value FROM instance WHERE key = $1", params![key]).await?;
    Ok(row.map(|row| row.text(0)).transpose()?.and_then(|text| text.parse().ok()))
}

async fn set_progress(conn: &mut Conn, key: &'static str, value: i64) -> Result<()> {
    // Several nodes look, and the slowest must not turn it back.
    let text = "INSERT INTO instance (key, value) VALUES ($1, $2)
                ON CONFLICT (key) DO UPDATE SET value = excluded.value
                WHERE CAST(instance.value AS BIGINT) < CAST(excluded.value AS BIGINT)";
    conn.execute(text, params![key, value.to_string()]).await.map(drop)
}

/// The last hour that was closed, if any.
///
/// # Errors
/// When the database fails.
pub async fn closed_hour(conn: &mut Conn) -> Result<Option<i64>> {
    progress(conn, HOUR).await
}

/// Says that an hour is closed.
///
/// # Errors
/// When the database fails.
pub async fn close_hour(conn: &mut Conn, hour: i64) -> Result<()> {
    set_progress(conn, HOUR, hour).await
}

/// The last month that was frozen, if any, as in 202611.
///
/// # Errors
/// When the database fails.
pub async fn frozen_month(conn: &mut Conn) -> Result<Option<i64>> {
    progress(conn, MONTH).await
}

/// Says that a month is frozen.
///
/// # Errors
/// When the database fails.
pub async fn freeze_month(conn: &mut Conn, month: i64) -> Result<()> {
    set_progress(conn, MONTH, month).await
}

/// What a domain has now, and its last line.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The domain.
    pub domain: i64,
    /// Its customer; nothing when the domain was purged.
    pub customer: Option<i64>,
    /// What it has.
    pub level: Level,
    /// Its last line.
    pub last: Option<Line>,
}

/// The domains behind `after` that are there, or were when something of them was last counted; at most 500, ascending.
///
/// # Errors
/// When the database fails.
pub async fn samples(conn: &mut Conn, after: i64) -> Result<Vec<Sample>> {
    let text = format!(
        "WITH page AS (
             SELECT id FROM (
                 SELECT id FROM (SELECT id FROM domain WHERE id > $1 ORDER BY id LIMIT {PAGE_DOMAINS}) AS there
                 UNION
                 SELECT id FROM (SELECT domain_id AS id FROM usage_place WHERE domain_id > $1 AND is_open = 1
                                 GROUP BY domain_id ORDER BY domain_id LIMIT {PAGE_DOMAINS}) AS known) AS either
             ORDER BY id LIMIT {PAGE_DOMAINS})
         SELECT {LINE}, p.id, d.customer_id, coalesce(s.bytes, 0), coalesce(s.mailboxes, 0)
         FROM page p LEFT JOIN domain d ON d.id = p.id
              LEFT JOIN (SELECT domain_id, CAST(sum(bytes_used) AS BIGINT) AS bytes,
                                CAST(sum(CASE WHEN deleted_at IS NULL THEN 1 ELSE 0 END) AS BIGINT) AS mailboxes
                         FROM mailbox WHERE domain_id IN (SELECT id FROM page) GROUP BY domain_id) AS s
                   ON s.domain_id = p.id
              LEFT JOIN usage_line l ON l.domain_id = p.id
                   AND l.start_hour = (SELECT max(start_hour) FROM usage_line WHERE domain_id = p.id)
         ORDER BY p.id"
    );
    let sample = |row: &Row| {
        Ok(Sample {
            domain: row.int(10)?,
            customer: row.int_opt(11)?,
            level: Level { bytes: row.int(12)?, mailboxes: row.int(13)? },
            last: row.int_opt(0)?.map(|_| line(row)).transpose()?,
        })
    };
    conn.rows(text, params![after]).await?.iter().map(sample).collect()
}

/// The messages that domains received from the hour `from` on and before `until`, with their octets, by domain and
/// hour. Reads the delivery trace in steps.
///
/// # Errors
/// When the database fails.
pub async fn received(conn: &mut Conn, from: i64, until: i64) -> Result<BTreeMap<(i64, i64), (i64, i64)>> {
    let (first, last) = (hour_start(from), hour_start(until));
    let mut lower = trace::first_key(conn, first.minus(trace::DISORDER)).await?;
    let upper = trace::first_key(conn, last.plus(trace::DISORDER)).await?;
    let mut sums: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
    while lower < upper {
        let end = upper.min(lower.saturating_add(STEP_KEYS));
        let text =
            "SELECT domain_id, at / 3600000000, count(*), CAST(sum(octets) AS BIGINT) FROM delivery_trace
                    WHERE id >= $1 AND id < $2 AND at >= $3 AND at < $4 AND outcome = 'stored'
                      AND domain_id IS NOT NULL
                    GROUP BY domain_id, at / 3600000000";
        for row in conn.rows(text, params![lower, end, first, last]).await? {
            let sum = sums.entry((row.int(0)?, row.int(1)?)).or_default();
            sum.0 = sum.0.saturating_add(row.int(2)?);
            sum.1 = sum.1.saturating_add(row.int(3)?);
        }
        lower = end;
    }
    Ok(sums)
}

/// When an hour begins.
pub fn hour_start(hour: i64) -> Timestamp {
    Timestamp::from_secs(hour.saturating_mul(3_600))
}

/// The key of a path; made when it is new.
///
/// # Errors
/// When the database fails.
pub async fn path_key(conn: &mut Conn, path: &str, names: &str) -> Result<i64> {
    let found = "SELECT id FROM usage_path WHERE path = $1";
    if let Some(row) = conn.row(found, params![path]).await? {
        return row.int(0);
    }
    let text = "INSERT INTO usage_path (path, names) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    conn.execute(text, params![path, names]).await?;
    conn.row(found, params![path]).await?.ok_or(StorageError::Gone("the path"))?.int(0)
}

/// A place where domains belong, or belonged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    /// Keys of the customers, from the root down: `/1/7/23/`.
    pub ids: String,
    /// Their names then: `provider/gov/health`.
    pub names: String,
}

impl Path {
    /// Keys of the customers, from the root down.
    pub fn customers(&self) -> impl DoubleEndedIterator<Item = i64> {
        self.ids.split('/').filter_map(|id| id.parse().ok())
    }
}

/// The places at or below a customer, by key. A customer that was moved had several.
///
/// # Errors
/// When the database fails.
pub async fn paths(conn: &mut Conn, customer: i64) -> Result<BTreeMap<i64, Path>> {
    // In one text: see `packed`. There is neither a space nor a semicolon in keys and slugs.
    let text = "SELECT string_agg(CAST(id AS TEXT) || ' ' || path || ' ' || names, ';') FROM usage_path
                WHERE path LIKE $1";
    let row = conn.row(text, params![format!("%/{customer}/%")]).await?;
    let texts = row.ok_or(StorageError::Gone("an aggregate"))?.text_opt(0)?.unwrap_or_default();
    let corrupt = || StorageError::Corrupt("a path".to_owned());
    let path = |text: &str| {
        let (key, path) = text.split_once(' ')?;
        let (ids, names) = path.split_once(' ')?;
        Some((key.parse().ok()?, Path { ids: ids.to_owned(), names: names.to_owned() }))
    };
    texts.split_terminator(';').map(|text| path(text).ok_or_else(corrupt)).collect()
}

/// Notes where domains are, as (domain, place), before their lines come.
///
/// # Errors
/// When the database fails.
pub async fn insert_places(conn: &mut Conn, places: &[(i64, i64)]) -> Result<()> {
    for (domain, path) in places {
        let text =
            "INSERT INTO usage_place (domain_id, path_id, is_open) VALUES ($1, $2, 1) ON CONFLICT DO NOTHING";
        conn.execute(text, params![*domain, *path]).await?;
    }
    Ok(())
}

/// Notes that domains were purged and all of them is counted: nobody looks at them any more.
///
/// # Errors
/// When the database fails.
pub async fn close_domains(conn: &mut Conn, domains: &[i64]) -> Result<()> {
    let text = "UPDATE usage_place SET is_open = 0 WHERE domain_id IN IDS($1)";
    conn.execute(text, vec![ids(domains.iter().copied())]).await.map(drop)
}

/// Adds lines; what is there already for a domain and hour stays.
///
/// # Errors
/// When the database fails.
pub async fn insert_lines(conn: &mut Conn, lines: &[Line]) -> Result<()> {
    for line in lines {
        let text = "INSERT INTO usage_line (domain_id, start_hour, hours, path_id, byte_hours, mailbox_hours,
                                            messages_in, octets_in, bytes_after, mailboxes_after)
                    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";
        let Line { domain, start, hours, path, counted: sum, after } = line;
        let mut values = params![*domain, *start, *hours, *path, sum.byte_hours, sum.mailbox_hours];
        values.extend(params![sum.messages_in, sum.octets_in, after.bytes, after.mailboxes]);
        conn.execute(text, values).await?;
    }
    Ok(())
}

/// Puts one line in the place of several of the same domain and day.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub async fn fold(conn: &mut Conn, line: Line) -> Result<()> {
    let text = "DELETE FROM usage_line WHERE domain_id = $1 AND start_hour >= $2 AND start_hour < $3";
    conn.execute(text, params![line.domain, line.start, line.start + line.hours]).await?;
    insert_lines(conn, &[line]).await
}

/// Keys of the domains that ever belonged to one of these places, ascending.
///
/// # Errors
/// When the database fails.
pub async fn domains(conn: &mut Conn, paths: &[i64]) -> Result<Vec<i64>> {
    let (these, values) = these(paths);
    let text = format!("SELECT DISTINCT domain_id, path_id FROM usage_place {these}");
    let text = format!("SELECT {} FROM ({text}) AS p", packed::aggregate(&["p.domain_id", "p.path_id"]));
    let row = conn.row(text, values).await?.ok_or(StorageError::Gone("an aggregate"))?;
    let wanted: HashSet<i64> = paths.iter().copied().collect();
    let mut domains = BTreeSet::new();
    for columns in packed::rows(row.text_opt(0)?.as_deref())? {
        let [domain, path] = columns.map(Option::unwrap_or_default);
        if wanted.contains(&path) {
            domains.insert(domain);
        }
    }
    Ok(domains.into_iter().collect())
}

/// Keys of all domains that were ever counted, ascending.
///
/// # Errors
/// When the database fails.
pub async fn all_domains(conn: &mut Conn) -> Result<Vec<i64>> {
    let text = format!(
        "SELECT {} FROM (SELECT DISTINCT domain_id FROM usage_place) AS p",
        packed::aggregate(&["p.domain_id"])
    );
    let row = conn.row(text, Vec::new()).await?.ok_or(StorageError::Gone("an aggregate"))?;
    let mut domains: Vec<i64> =
        packed::rows(row.text_opt(0)?.as_deref())?.into_iter().flat_map(|[domain]| domain).collect();
    domains.sort_unstable();
    Ok(domains)
}

/// Places are named in the statement while they are few; otherwise whoever reads picks them out.
fn these(paths: &[i64]) -> (&'static str, Vec<Value>) {
    if paths.len() <= FEW_PATHS {
        return ("WHERE path_id IN IDS($1)", vec![ids(paths.iter().copied())]);
    }
    ("", Vec::new())
}

/// The lines of domains that begin in the hours from `from` on and before `until`, by domain and hour.
///
/// # Errors
/// When the database fails.
pub async fn lines_begun(conn: &mut Conn, domains: &[i64], from: i64, until: i64) -> Result<Vec<Line>> {
    let text = format!(
        "SELECT {LINE} FROM usage_line l
         WHERE l.domain_id IN IDS($1) AND l.start_hour >= $2 AND l.start_hour < $3
         ORDER BY l.domain_id, l.start_hour"
    );
    let params = vec![ids(domains.iter().copied()), from.into(), until.into()];
    conn.rows(text, params).await?.iter().map(line).collect()
}

/// The lines of domains that tell of the hours from `from` on and before `until`: those that begin there, and the last
/// before; by domain and hour.
///
/// # Errors
/// When the database fails.
pub async fn lines(conn: &mut Conn, domains: &[i64], from: i64, until: i64) -> Result<Vec<Line>> {
    let packed = packed::aggregate(&COLUMNS);
    let text = format!(
        "WITH page AS (SELECT DISTINCT domain_id AS id FROM usage_place WHERE domain_id IN IDS($1)),
              first AS (SELECT id, coalesce((SELECT max(start_hour) FROM usage_line
                                             WHERE domain_id = page.id AND start_hour < $2), $2) AS hour
                        FROM page)
         SELECT {packed} FROM first f
              JOIN usage_line l ON l.domain_id = f.id AND l.start_hour >= f.hour AND l.start_hour < $3"
    );
    let params = vec![ids(domains.iter().copied()), from.into(), until.into()];
    let row = conn.row(text, params).await?.ok_or(StorageError::Gone("an aggregate"))?;
    let rows = packed::rows(row.text_opt(0)?.as_deref())?.into_iter();
    let mut lines: Vec<Line> = rows
        .map(|columns| {
            let [
                domain,
                start,
                hours,
                path,
                byte_hours,
                mailbox_hours,
                messages_in,
                octets_in,
                bytes,
                mailboxes,
            ] = columns.map(Option::unwrap_or_default);
            let counted = Counted { byte_hours, mailbox_hours, messages_in, octets_in };
            Line { domain, start, hours, path, counted, after: Level { bytes, mailboxes } }
        })
        .collect();
    lines.sort_unstable_by_key(|line| (line.domain, line.start));
    Ok(lines)
}

/// What a frozen month came to in these places, by place.
///
/// # Errors
/// When the database fails, and `Corrupt` when no number holds a sum.
pub async fn month(conn: &mut Conn, month: i64, paths: &[i64]) -> Result<BTreeMap<i64, Counted>> {
    let (these, mut values) = these(paths);
    let these = these.replace("WHERE", "AND");
    values.push(month.into());
    let at = values.len();
    let text = format!(
        "SELECT {} FROM (SELECT path_id, sum(byte_hours) AS bytes, sum(mailbox_hours) AS mailboxes,
                                sum(messages_in) AS messages, sum(octets_in) AS octets
                         FROM usage_month WHERE month = ${at} {these} GROUP BY path_id) AS s",
        packed::aggregate(&["s.path_id", "s.bytes", "s.mailboxes", "s.messages", "s.octets"])
    );
    let row = conn.row(text, values).await?.ok_or(StorageError::Gone("an aggregate"))?;
    let wanted: HashSet<i64> = paths.iter().copied().collect();
    let mut sums = BTreeMap::new();
    for columns in packed::rows(row.text_opt(0)?.as_deref())? {
        let [path, byte_hours, mailbox_hours, messages_in, octets_in] =
            columns.map(Option::unwrap_or_default);
        if wanted.contains(&path) {
            sums.insert(path, Counted { byte_hours, mailbox_hours, messages_in, octets_in });
        }
    }
    Ok(sums)
}

/// Keeps what a month came to for domains in places.
///
/// # Errors
/// When the database fails.
pub async fn insert_month(conn: &mut Conn, month: i64, sums: &[(i64, i64, Counted)]) -> Result<()> {
    for (domain, path, sum) in sums {
        let text =
            "INSERT INTO usage_month (month, domain_id, path_id, byte_hours, mailbox_hours, messages_in,
                                             octets_in)
                    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
        let mut values = params![month, *domain, *path, sum.byte_hours, sum.mailbox_hours];
        values.extend(params![sum.messages_in, sum.octets_in]);
        conn.execute(text, values).await?;
    }
    Ok(())
}
