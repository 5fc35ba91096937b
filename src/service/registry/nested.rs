//! Running an operation inside the transaction of another: an approved request, or what happens by itself when a date
//! has come. It takes the same way as one that is asked for directly: targets in the caller's scope, authority, meaning,
//! its own audit record.

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::management::Inner;
use super::operate::{Need, Operate, Targeted, Tx};
use super::run::{allowed, parse};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, public_id};
use crate::service::audit::{self, Event};
use crate::service::authority::Caller;
use crate::service::context::Context;
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::audit::insert;
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::sql::Conn;

/// What an operation would act on, as the caller finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::service) struct Located {
    /// The customer to which it belongs.
    pub place: CustomerId,
    /// Its name in the audit trail.
    pub recorded: String,
    /// What it is, whatever it is called; never given to anything else.
    pub key: String,
}

/// An operation that can be run inside the transaction of another.
pub(in crate::service) struct Nested {
    /// Its name.
    pub name: &'static str,
    /// Finds what it acts on.
    pub locate: for<'a, 'c> fn(&'a mut Tx<'c>, Value) -> BoxFuture<'a, Result<Located>>,
    /// What the caller would have to hold.
    pub needs: for<'a, 'c> fn(&'a mut Tx<'c>, Value) -> BoxFuture<'a, Result<Vec<Need>>>,
    /// Does it whether the caller may or not, to see what comes of it: whoever calls this undoes it.
    pub attempt: for<'a, 'c> fn(&'a mut Tx<'c>, Value) -> BoxFuture<'a, Result<Value>>,
    /// Does it.
    pub carry_out: for<'a, 'c> fn(&'a mut Tx<'c>, Value, Bound) -> BoxFuture<'a, Result<Value>>,
}

/// What was decided before.
#[derive(Clone, Debug)]
pub(in crate::service) struct Bound {
    /// What it was to act on: it is carried out on nothing else.
    pub on: Located,
    /// Whose wish it is, for the audit trail.
    pub on_behalf: Option<String>,
}

impl Nested {
    /// For `O`.
    pub const fn of<O: Operate>() -> Self {
        Self {
            name: O::NAME,
            locate: locate::<O>,
            needs: needs::<O>,
            attempt: attempt::<O>,
            carry_out: carry_out::<O>,
        }
    }
}

fn located<T: Targeted>(tx: &Tx<'_>, target: &T) -> Located {
    Located { place: target.customer(), recorded: target.recorded(&tx.caller.tree), key: target.key() }
}

fn locate<'a, O: Operate>(tx: &'a mut Tx<'_>, fields: Value) -> BoxFuture<'a, Result<Located>> {
    Box::pin(async move {
        let request = parse::<O::Request>(fields)?;
        let target = O::target(tx, &request).await?;
        Ok(located(tx, &target))
    })
}

fn needs<'a, O: Operate>(tx: &'a mut Tx<'_>, fields: Value) -> BoxFuture<'a, Result<Vec<Need>>> {
    Box::pin(async move {
        let request = parse::<O::Request>(fields)?;
        let target = O::target(tx, &request).await?;
        O::needs(tx, &target, &request).await
    })
}

fn attempt<'a, O: Operate>(tx: &'a mut Tx<'_>, fields: Value) -> BoxFuture<'a, Result<Value>> {
    Box::pin(async move {
        let request = O::prepare(tx.inner, parse::<O::Request>(fields)?).await?;
        let caller = tx.caller;
        let context = Context { on_behalf: Some(caller.name()), ..tx.context.clone() };
        let mut inner = part(tx, caller, &context, true);
        let target = O::target(&mut inner, &request).await?;
        let response = O::run(&mut inner, target, request).await?;
        value(&response)
    })
}

fn carry_out<'a, O: Operate>(
    tx: &'a mut Tx<'_>,
    fields: Value,
    bound: Bound,
) -> BoxFuture<'a, Result<Value>> {
    Box::pin(async move {
        let request = O::prepare(tx.inner, parse::<O::Request>(fields)?).await?;
        let context = Context { on_behalf: bound.on_behalf, idempotency_key: None, ..tx.context.clone() };
        let (caller, dry_run) = (tx.caller, tx.dry_run);
        let mut inner = part(tx, caller, &context, dry_run);
        let target = O::target(&mut inner, &request).await?;
        let found = located(&inner, &target);
        if (found.place, &found.key) != (bound.on.place, &bound.on.key) {
            let message = format!("{} is not what it was when this was asked for", target.label());
            return Err(ServiceError::Conflict { message });
        }
        for need in O::needs(&mut inner, &target, &request).await? {
            allowed(caller, need)?;
        }
        let response = O::run(&mut inner, target, request).await?;
        record::<O>(&mut inner, &found).await?;
        let starts_job = inner.starts_job;
        tx.starts_job |= starts_job;
        value(&response)
    })
}

fn value(response: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(response).map_err(|error| ServiceError::Internal(error.to_string()))
}

/// The same transaction for another operation, with nothing recorded yet.
fn part<'p>(tx: &'p mut Tx<'_>, caller: &'p Caller, context: &'p Context, dry_run: bool) -> Tx<'p> {
    Tx { dry_run, ..Tx::new(&mut *tx.conn, tx.inner, caller, context, tx.now) }
}

impl<'c> Tx<'c> {
    /// A transaction in which nothing was done yet.
    pub fn new(
        conn: &'c mut Conn,
        inner: &'c Inner,
        caller: &'c Caller,
        context: &'c Context,
        now: Timestamp,
    ) -> Self {
        Self {
            conn,
            inner,
            caller,
            context,
            now,
            operation_id: public_id(),
            before: None,
            after: None,
            also: Vec::new(),
            dry_run: false,
            starts_job: false,
        }
    }
}

/// Writes the records of what was done, one for each side.
async fn record<O: Operate>(tx: &mut Tx<'_>, on: &Located) -> Result<()> {
    let kept = |answer: Option<Value>| answer.map(|answer| audit::names::recorded(answer).to_string());
    let (before, after) = (kept(tx.before.take()), kept(tx.after.take()));
    let event = |place| Event {
        at: tx.now,
        operation: O::NAME,
        place: Some(place),
        target: &on.recorded,
        before: before.clone(),
        after: after.clone(),
        outcome: "done",
    };
    let mut records = vec![audit::record(tx.caller, tx.context, event(on.place))];
    if !tx.also.is_empty() {
        // The hierarchy as the change has left it: a customer that was just made is in it.
        let tree = tx.inner.authority.tree(tx.conn, TreeLock::None).await?;
        let after = Caller { tree, ..tx.caller.clone() };
        let others = tx.also.iter().filter(|&&other| other != on.place);
        records.extend(others.map(|&other| audit::record_of_side(&after, tx.context, event(other))));
    }
    insert(tx.conn, &records).await?;
    Ok(())
}
