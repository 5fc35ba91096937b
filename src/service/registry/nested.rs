//! Running an operation inside the transaction of another: an approved request, or what happens by itself when a date
//! has come. It takes the same way as one that is asked for directly: targets in the caller's scope, authority,
//! meaning, its own audit record.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::management::Inner;
use super::operate::{Need, Operate, Targeted, Tx};
use super::run::{On, allowed, parse, refusal};
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
            refused: Vec::new(),
            standing: Arc::clone(&caller.tree),
        }
    }

    /// The caller as of now: what this transaction has changed so far counts.
    pub async fn caller_now(&mut self) -> Result<Caller> {
        let tree = self.inner.authority.tree(self.conn, TreeLock::None).await?;
        let caller = Caller::read(self.conn, tree, self.context.identity.clone(), self.now).await?;
        Ok(caller.confined(self.context.only()))
    }

    /// The same transaction for a part of the operation, with nothing done yet. What the part does can be undone alone:
    /// in a dry run everything is.
    pub fn part<'p>(&'p mut self, caller: &'p Caller) -> Tx<'p> {
        let standing = Arc::clone(if self.dry_run { &self.standing } else { &caller.tree });
        let dry_run = self.dry_run;
        Tx { dry_run, standing, ..Tx::new(&mut *self.conn, self.inner, caller, self.context, self.now) }
    }
}

/// Runs an operation as a part of this one, as if it had been asked for directly: shape, targets in the caller's scope
/// as they are by now, authority, meaning, audit records. Whoever calls it has the hierarchy locked, and undoes what a
/// part that fails has done.
///
/// # Errors
/// Those of the operation. Refusals are noted in [`Tx::refused`].
pub(in crate::service) async fn within<O: Operate>(tx: &mut Tx<'_>, fields: Value) -> Result<O::Response> {
    let request = O::prepare(tx.inner, parse::<O::Request>(fields)?).await?;
    within_prepared::<O>(tx, request).await
}

/// As [`within`], for a request for which [`Operate::prepare`] has done its work.
///
/// # Errors
/// As [`within`].
pub(in crate::service) async fn within_prepared<O: Operate>(
    tx: &mut Tx<'_>,
    request: O::Request,
) -> Result<O::Response> {
    let caller = tx.caller_now().await?;
    let mut part = tx.part(&caller);
    let mut reached = None;
    let outcome = run_part::<O>(&mut part, request, &mut reached).await;
    let starts_job = part.starts_job;
    tx.starts_job |= starts_job && outcome.is_ok();
    outcome.inspect_err(|error| {
        // The part is undone: a customer that it has made is not there any more.
        let standing = |id: &CustomerId| tx.standing.node(*id).is_some();
        let target = reached.and_then(|on| {
            let mut path = caller.tree.path(on.place).into_iter().rev().map(|node| node.id);
            Some(On { place: path.find(standing)?, recorded: on.recorded, is_in_zone: false })
        });
        let caller = Caller { tree: Arc::clone(&tx.standing), ..caller.clone() };
        tx.refused.extend(refusal::<O>(&caller, tx.context, target, tx.now, error));
    })
}

async fn run_part<O: Operate>(
    part: &mut Tx<'_>,
    request: O::Request,
    reached: &mut Option<Located>,
) -> Result<O::Response> {
    let target = O::target(part, &request).await?;
    let found = located(part, &target);
    *reached = Some(found.clone());
    for need in O::needs(part, &target, &request).await? {
        allowed(part.caller, need)?;
    }
    let response = O::run(part, target, request).await?;
    record::<O>(part, &found).await?;
    Ok(response)
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
