//! Spending limits: what happens when a customer has spent what it may in a month.
//!
//! A limit is an amount for each month (in UTC), in minor units of one currency. What is spent is what
//! metering has counted of the month so far for the customer and all below it, at the prices that hold for
//! the customer itself. At 80, 95 and 100 % the customer is told, once for each; at 100 % the steps follow
//! that were chosen, as with an expiry date: switching login off, switching receiving off, deleting, each
//! with its delay. They are taken back, the last first, when a new month begins, and when the limit is raised
//! or taken away.
//!
//! # Clocks
//! What should stand follows from what is billed for the present month. A clock that goes back a little at
//! the beginning of a month begins no other month.
//!
//! # Authority
//! A limit constrains the customer: it is set above it, by who may set limits there and do what its steps do.
//! The holds belong to that authority, which alone, or one above, changes the limit again.

mod operations;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::authority::Caller;
use crate::service::context::{Context, Identity};
use crate::service::error::{Result, ServiceError};
use crate::service::expiry::{Step, Undo, carry_out, keep, kept, record, revert, subject};
use crate::service::metering::Month;
use crate::service::notices::{self, Kind};
use crate::service::registry::{Inner, Management, Operate as _, Tx};
use crate::service::reports::bill;
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::expiry::Expiring;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::metering;
use crate::storage::metadata::spending::{self, SpendingRow};

pub(in crate::service) use operations::{Spending, SpendingList, SpendingSet, shown};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// How far a clock may go back without a month that has begun being taken for a mistake.
const TOLERANCE: Duration = Duration::from_secs(60 * 60);
/// Until a limit that could not be followed is looked at again.
const RETRY_AFTER: Duration = Duration::from_secs(10 * 60);
/// Percentages of a limit at which is warned.
const WARNED_AT: [i64; 3] = [80, 95, 100];
/// By so many points what is spent must have fallen below a percentage before it is warned of again.
const HYSTERESIS: i64 = 5;
/// The reason of the holds.
const REASON: &str = "spending-limit";

/// Looks at spending limits, in the background.
pub struct SpendingPass {
    inner: Arc<Inner>,
    /// Limits that could not be followed, such as when what was deleted cannot come back yet, and when to try again.
    later: Mutex<HashMap<CustomerId, Timestamp>>,
}

/// What was found out about a limit before its transaction.
#[derive(Clone, Copy)]
struct Seen {
    month: Month,
    spent: i64,
    counted_until: i64,
}

impl SpendingPass {
    /// For the limits of this management.
    pub fn new(management: &Management) -> Self {
        Self { inner: Arc::clone(&management.inner), later: Mutex::default() }
    }

    fn later<T>(&self, act: impl FnOnce(&mut HashMap<CustomerId, Timestamp>) -> T) -> T {
        act(&mut self.later.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at regular intervals; never ends by itself and may be dropped at any time.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.pass().await {
                tracing::warn!(%error, "spending limits could not be looked at; it is tried again");
            }
        }
    }

    /// Does everything that is due; answers how many limits were looked at. Several nodes may look at once.
    ///
    /// # Errors
    /// When the database fails; what was done before stays so.
    pub async fn pass(&self) -> Result<u64> {
        let (now, mut after, mut looked) = (self.inner.clock.now(), CustomerId(0), 0);
        let month = Month::of_hour(hour(now));
        // A clock that went back must not put off what is waiting.
        self.later(|later| later.retain(|_, at| *at > now && *at <= now.plus(RETRY_AFTER)));
        loop {
            let due = self.inner.database.read(move |conn| {
                Box::pin(async move {
                    let until = counted_until(conn).await?;
                    Ok::<_, ServiceError>(spending::due(conn, after, (month.number(), until), now).await?)
                })
            });
            let due = due.await?;
            let Some(last) = due.last() else { return Ok(looked) };
            after = last.customer;
            for row in due {
                if self.later(|later| later.contains_key(&row.customer)) {
                    continue;
                }
                match self.one(&row, now).await {
                    Ok(()) => looked += 1,
                    Err(error) => {
                        self.later(|later| later.insert(row.customer, now.plus(RETRY_AFTER)));
                        tracing::warn!(%error, customer = %row.customer, "a spending limit could not be followed");
                    }
                }
            }
        }
    }

    /// Looks at one limit, and does what is due.
    async fn one(&self, row: &SpendingRow, now: Timestamp) -> Result<()> {
        let (id, currency, month) = (row.customer, row.currency.clone(), month_of(row, now));
        let services = Arc::clone(&self.inner);
        let seen = self.inner.database.read(move |conn| {
            Box::pin(async move {
                let counted_until = counted_until(conn).await?;
                let spent = bill::owed(conn, &services.open_month, id, month)
                    .await?
                    .get(&currency)
                    .copied()
                    .unwrap_or(0);
                Ok::<_, ServiceError>(Seen { month, spent, counted_until })
            })
        });
        let (seen, inner, shared) = (seen.await?, Arc::clone(&self.inner), Arc::new(row.clone()));
        let write = self.inner.database.write(Priority::Background, move |conn| {
            let (inner, before) = (Arc::clone(&inner), Arc::clone(&shared));
            Box::pin(async move {
                let tree = inner.authority.tree(conn, TreeLock::Exclusive).await?;
                // Somebody else may have been first, or have changed the limit.
                let found = spending::of(conn, id).await?.filter(|row| *row == *before);
                let Some(mut row) = found else { return Ok(()) };
                let caller = Caller::read(conn, tree, Identity::System, now).await?;
                let context = Context::of_schedule();
                let mut tx = Tx::new(conn, &inner, &caller, &context, now);
                follow(&mut tx, &mut row, seen).await
            })
        });
        write.await
    }
}

fn hour(now: Timestamp) -> i64 {
    now.secs().div_euclid(3_600)
}

/// The hour before which everything is counted.
async fn counted_until(conn: &mut crate::storage::metadata::sql::Conn) -> Result<i64> {
    Ok(metering::closed_hour(conn).await?.map_or(0, |closed| closed + 1))
}

/// The month that a limit is about now: the present one, unless the clock has just gone back over the
/// beginning of one.
fn month_of(row: &SpendingRow, now: Timestamp) -> Month {
    let (begun, present) = (Month::of_number(row.month), Month::of_hour(hour(now)));
    let soon = Month::of_hour(hour(now.plus(TOLERANCE)));
    if present < begun && soon >= begun { begun } else { present }
}

/// How much of a limit is spent, in percent, rounded down. Of nothing everything is.
fn percent(spent: i64, limit: i64) -> i64 {
    match limit {
        1.. => i64::try_from(i128::from(spent) * 100 / i128::from(limit)).unwrap_or(i64::MAX),
        _ => 100,
    }
}

/// The percentage that was warned of after a look, and the one to warn of, if any.
fn warned(before: i64, percent: i64) -> (i64, Option<i64>) {
    let reached = |percent: i64| WARNED_AT.into_iter().filter(|&step| percent >= step).max().unwrap_or(0);
    let now = reached(percent);
    if now > before {
        return (now, Some(now));
    }
    (before.min(reached(percent.saturating_add(HYSTERESIS))), None)
}

/// Brings a limit to what was seen.
async fn follow(tx: &mut Tx<'_>, row: &mut SpendingRow, seen: Seen) -> Result<()> {
    let is_new = row.month != seen.month.number();
    (row.month, row.spent, row.counted_until) = (seen.month.number(), seen.spent, seen.counted_until);
    let is_reached = row.spent >= row.amount_max;
    if is_new || !is_reached {
        take_all_back(tx, row).await?;
        row.reached_at = None;
    }
    if is_new {
        row.percent = 0;
    }
    let mut taken = 0;
    if is_reached {
        let reached_at = *row.reached_at.get_or_insert(tx.now);
        while let Some(step) = next(row)?.filter(|step| reached_at.plus(step.delay()) <= tx.now) {
            if !take(tx, row, step).await? {
                return Ok(spending::remove(tx.conn, row.customer).await?);
            }
            taken += 1;
        }
    }
    let (marked, to_tell) = warned(row.percent, percent(row.spent, row.amount_max));
    row.percent = marked;
    // What is told of a step says that all is spent.
    if let Some(percent) = to_tell.filter(|_| taken == 0) {
        warn(tx, row, percent).await?;
    }
    row.next_at = match row.reached_at {
        Some(at) => next(row)?.map(|step| at.plus(step.delay())),
        None => None,
    };
    Ok(spending::put(tx.conn, row).await?)
}

/// The step that comes next.
fn next(row: &SpendingRow) -> Result<Option<Step>> {
    Ok(kept::<Vec<Step>>(&row.steps)?.get(row.done).copied())
}

/// Takes a step; false when the customer is gone for good.
async fn take(tx: &mut Tx<'_>, row: &mut SpendingRow, step: Step) -> Result<bool> {
    let Some(subject) = subject(tx, Expiring::Customer(row.customer)).await? else { return Ok(false) };
    let by = (row.actor.as_str(), row.authority);
    let taken = carry_out(tx, &subject, step.action, REASON, by).await?;
    if taken != Undo::Nothing {
        let name = step.action.name();
        record(tx, SpendingSet::NAME, &subject, json!({ "taken": name, "spent": row.spent })).await?;
        let line = format!("{} has spent what it may this month: {name}", subject.recorded);
        let text = format!(
            "{}\n\nWhat was chosen for this was done: {name}. It is taken back when the next month begins, or when the \
             limit is raised.",
            of(row)
        );
        notices::give(tx.conn, subject.to, Kind::Spending, (&line, &text), tx.now).await?;
    }
    let mut undo: Vec<Undo> = kept(&row.undo)?;
    undo.push(taken);
    (row.undo, row.done) = (keep(&undo)?, undo.len());
    Ok(true)
}

/// Takes back what a limit has led to, the last first.
async fn take_all_back(tx: &mut Tx<'_>, row: &mut SpendingRow) -> Result<()> {
    let steps: Vec<Step> = kept(&row.steps)?;
    let mut undo: Vec<Undo> = kept(&row.undo)?;
    while let Some(taken) = undo.pop() {
        // What a step before has deleted is found anew.
        let Some(subject) = subject(tx, Expiring::Customer(row.customer)).await? else { break };
        revert(tx, &subject, &taken).await?;
        if taken != Undo::Nothing {
            let name = steps.get(undo.len()).map(|step| step.action.name());
            record(tx, SpendingSet::NAME, &subject, json!({ "taken_back": name })).await?;
        }
    }
    (row.undo, row.done, row.next_at) = ("[]".to_owned(), 0, None);
    Ok(())
}

fn of(row: &SpendingRow) -> String {
    let month = Month::of_number(row.month);
    format!("{} of {} minor units of {} are spent in {month}.", row.spent, row.amount_max, row.currency)
}

async fn warn(tx: &mut Tx<'_>, row: &SpendingRow, percent: i64) -> Result<()> {
    let found = subject(tx, Expiring::Customer(row.customer)).await?;
    let Some(subject) = found.filter(|subject| !subject.is_deleted) else { return Ok(()) };
    let line = format!("{} has spent {percent} % of what it may this month", subject.recorded);
    let mut text = of(row);
    let steps: Vec<Step> = kept(&row.steps)?;
    if !steps.is_empty() {
        text.push_str("\n\nWhen all of it is spent:\n\n");
    }
    for step in steps {
        text.push_str(&format!("    {}\n", step.text()));
    }
    notices::give(tx.conn, subject.to, Kind::SpendingWarning, (&line, &text), tx.now).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_percentage_is_told_once_and_again_only_after_it_went_back() {
        let (mut mark, mut told) = (0, Vec::new());
        for percent in [0, 79, 80, 94, 79, 81, 74, 80, 95, 99, 130, 100, 96, 100, 94, 100, 0] {
            let (after, to_tell) = warned(mark, percent);
            mark = after;
            told.extend(to_tell);
        }
        assert_eq!(told, [80, 80, 95, 100, 100]);
        assert_eq!(mark, 0);
    }

    #[test]
    fn percentages_do_not_overflow_and_of_nothing_all_is_spent() {
        assert_eq!((percent(i64::MAX, 1), percent(i64::MAX, i64::MAX)), (i64::MAX, 100));
        assert_eq!((percent(0, 0), percent(99, 100), percent(999, 1_000)), (100, 99, 99));
    }

    #[test]
    fn month_begins_once_although_the_clock_goes_back_a_little() {
        let begin = "2026-12".parse::<Month>().unwrap();
        let at = |secs: i64| Timestamp::from_secs(begin.first_hour() * 3_600 + secs);
        let mut row = SpendingRow {
            customer: CustomerId(1),
            amount_max: 1,
            currency: "EUR".to_owned(),
            steps: "[]".to_owned(),
            actor: "system".to_owned(),
            authority: CustomerId(0),
            month: begin.previous().number(),
            counted_until: 0,
            spent: 0,
            percent: 0,
            reached_at: None,
            done: 0,
            undo: "[]".to_owned(),
            next_at: None,
        };
        assert_eq!(month_of(&row, at(-1)), begin.previous());
        assert_eq!(month_of(&row, at(0)), begin);
        row.month = begin.number();
        assert_eq!(month_of(&row, at(-60)), begin);
        // A clock that was far ahead is corrected.
        assert_eq!(month_of(&row, at(-7_200)), begin.previous());
    }
}
