//! The login log: how often somebody logged in to a mailbox, or tried to, by service, source and hour.
//!
//! # Cost
//! A login adds to a line in memory; lines are written together every few seconds, and what cannot be written is kept
//! for the next time.
//!
//! # Bounds
//! In memory a mailbox has 16 sources for each service and hour, and all mailboxes together 65,536; further sources are
//! counted in one line of that mailbox, service and hour, `other`. When there are as many of those too, as may happen
//! after hours in which nothing could be written, counts are lost, and the log file says how many.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, MailboxId};
use crate::service::authority::Authority;
use crate::service::context::{Service, Source};
use crate::service::error::Result;
use crate::service::settings::{Everywhere, LOGIN_LOG_RETENTION};
use crate::storage::StorageError;
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::login_log::{self, LoginLine, OTHER, PRUNED_ROWS, SLICE_LINES, SOURCES_MAX};
use crate::storage::metadata::sql::Conn;

/// Lines in memory beyond which further sources are counted together.
const LINES_MAX: usize = 65_536;
/// Lines in memory beyond which nothing is counted.
const LINES_OTHER_MAX: usize = 2 * LINES_MAX;
const HOUR_SECS: i64 = 3_600;
const DAY: Duration = Duration::from_secs(86_400);

/// The hour since 1970 in which a moment lies.
pub(in crate::service) fn hour_of(at: Timestamp) -> i64 {
    at.secs().div_euclid(HOUR_SECS)
}

/// When an hour began.
pub(in crate::service) fn start_of(hour: i64) -> Timestamp {
    Timestamp::from_secs(hour.saturating_mul(HOUR_SECS))
}

/// What came of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Success,
    Failure,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Whose {
    mailbox: MailboxId,
    customer: CustomerId,
    service: Service,
    hour: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    Unix,
    Address(IpAddr),
    Other,
}

#[derive(Clone, Copy)]
struct Count {
    successes: i64,
    failures: i64,
    last_at: Timestamp,
}

#[derive(Default)]
struct Pending {
    lines: HashMap<Whose, HashMap<Origin, Count>>,
    count: usize,
    lost: i64,
}

impl Pending {
    fn add(&mut self, whose: Whose, from: Origin, more: Count) {
        let known = self.lines.get(&whose);
        let has = |from: &Origin| known.is_some_and(|lines| lines.contains_key(from));
        let is_full = self.count >= LINES_MAX || known.is_some_and(|lines| lines.len() >= SOURCES_MAX);
        let from = if is_full && !has(&from) { Origin::Other } else { from };
        if !has(&from) {
            if self.count >= LINES_OTHER_MAX {
                self.lost = self.lost.saturating_add(more.successes).saturating_add(more.failures);
                return;
            }
            self.count += 1;
        }
        let empty = Count { successes: 0, failures: 0, last_at: more.last_at };
        let line = self.lines.entry(whose).or_default().entry(from).or_insert(empty);
        line.successes = line.successes.saturating_add(more.successes);
        line.failures = line.failures.saturating_add(more.failures);
        line.last_at = line.last_at.max(more.last_at);
    }
}

/// What is not written yet.
#[derive(Default)]
pub(super) struct LoginLog(Mutex<Pending>);

impl LoginLog {
    fn with<T>(&self, act: impl FnOnce(&mut Pending) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts an attempt at a mailbox that there is.
    pub(super) fn note(
        &self,
        (mailbox, customer): (MailboxId, CustomerId),
        service: Service,
        source: Source,
        at: Timestamp,
        outcome: Outcome,
    ) {
        let whose = Whose { mailbox, customer, service, hour: hour_of(at) };
        let is_success = outcome == Outcome::Success;
        let more = Count { successes: i64::from(is_success), failures: i64::from(!is_success), last_at: at };
        self.with(|pending| pending.add(whose, source.map_or(Origin::Unix, Origin::Address), more));
    }

    /// Writes what was counted. A slice that fails is kept for the next time.
    pub(super) async fn flush(&self, database: &Database) {
        let pending = self.with(std::mem::take);
        if pending.lost > 0 {
            tracing::warn!(logins = pending.lost, "the login log was full: some are not counted");
        }
        let of = |(whose, lines): (Whose, HashMap<Origin, Count>)| {
            lines.into_iter().map(move |(from, count)| (line(whose, from, count), (whose, from, count)))
        };
        let mut lines: Vec<_> = pending.lines.into_iter().flat_map(of).collect();
        lines.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for slice in lines.chunks(SLICE_LINES) {
            let rows: Arc<[LoginLine]> = slice.iter().map(|(line, _)| line.clone()).collect();
            let written: std::result::Result<(), StorageError> = database
                .write(Priority::Background, move |conn| {
                    let rows = Arc::clone(&rows);
                    Box::pin(async move { login_log::add(conn, &rows).await })
                })
                .await;
            if let Err(error) = written {
                tracing::warn!(%error, "the login log is not written yet");
                self.with(|pending| {
                    slice.iter().for_each(|(_, (whose, from, count))| pending.add(*whose, *from, *count));
                });
            }
        }
    }
}

fn line(whose: Whose, from: Origin, count: Count) -> LoginLine {
    LoginLine {
        mailbox: whose.mailbox,
        hour: whose.hour,
        service: whose.service.name().to_owned(),
        source: match from {
            Origin::Unix => "unix".to_owned(),
            Origin::Address(address) => address.to_string(),
            Origin::Other => OTHER.to_owned(),
        },
        customer: whose.customer,
        successes: count.successes,
        failures: count.failures,
        last_at: count.last_at,
    }
}

/// How far [`sweep`] came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::service) struct Swept {
    /// Lines that went.
    pub removed: u64,
    /// What belongs to customers up to this one is done; nothing when all is.
    pub until: Option<CustomerId>,
}

/// Removes lines whose time is over, of customers behind `after`: one slice.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub(in crate::service) async fn sweep(
    conn: &mut Conn,
    authority: &Authority,
    after: CustomerId,
    now: Timestamp,
) -> Result<Swept> {
    let oldest = login_log::oldest(conn, after).await?;
    if oldest.is_empty() {
        return Ok(Swept { removed: 0, until: None });
    }
    let kept = Everywhere::read(conn, &LOGIN_LOG_RETENTION).await?;
    let tree = authority.tree(conn, TreeLock::None).await?;
    let (mut removed, mut until) = (0, after);
    for (customer, first) in oldest {
        let days = kept.at(tree.path(customer).iter().map(|node| node.id))?;
        let before = hour_of(now.minus(DAY.saturating_mul(days.0)));
        let room = PRUNED_ROWS.saturating_sub(i64::try_from(removed).unwrap_or(i64::MAX));
        if first < before {
            removed += login_log::prune(conn, customer, before, room).await?;
            if i64::try_from(removed).is_ok_and(|removed| removed >= PRUNED_ROWS) {
                return Ok(Swept { removed, until: Some(until) });
            }
        }
        until = customer;
    }
    Ok(Swept { removed, until: Some(until) })
}
