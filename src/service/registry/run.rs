//! The one way an operation is run: JSON shape, targets, authority, meaning; and the audit record.
//!
//! # Consistency
//! All of it happens in one transaction with what it reads. A change writes its audit record there too, so that
//! neither is without the other; refusals are recorded in a transaction of their own, reads in batches.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::RunOptions;
use super::management::{Inner, Management};
use super::operate::{Need, Operate, Targeted, Tx};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::audit::{self, Event};
use crate::service::authority::Caller;
use crate::service::context::{Context, Identity};
use crate::service::error::{Result, ServiceError};
use crate::storage::StorageError;
use crate::storage::metadata::audit::{Record, Replay, insert, keep_replay, replay};
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::sql::Conn;

/// Longest Idempotency-Key in octets.
const IDEMPOTENCY_KEY_OCTETS_MAX: usize = 200;

/// Why the transaction does not commit.
enum Abort {
    Refused(ServiceError),
    /// All checks passed; the change is undone because it was only to be tried. With it, what parts of it refused.
    Tried(Value, Vec<Record>),
}

impl From<StorageError> for Abort {
    fn from(error: StorageError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<ServiceError> for Abort {
    fn from(error: ServiceError) -> Self {
        Self::Refused(error)
    }
}

/// What every attempt of one run shares.
struct Asked<R> {
    inner: Arc<Inner>,
    context: Context,
    request: R,
    /// Hash of the request as it came, for Idempotency-Key.
    hash: Vec<u8>,
    options: RunOptions,
    /// How far the last attempt came, for the record of a refusal.
    reached: Mutex<Option<Reached>>,
}

/// How far a run came.
#[derive(Clone)]
struct Reached {
    caller: Caller,
    target: Option<On>,
}

/// What an operation acts on, for its record.
#[derive(Clone)]
pub(super) struct On {
    /// The customer to which it belongs.
    pub place: CustomerId,
    /// Its name in the audit trail.
    pub recorded: String,
    /// See [`Targeted::is_in_zone`].
    pub is_in_zone: bool,
}

/// Makes the record of an event: at its place if the actor sees that, or reaches the target through a zone.
fn record(caller: &Caller, context: &Context, event: Event<'_>, is_in_zone: bool) -> Record {
    match is_in_zone {
        true => audit::record_of_side(caller, context, event),
        false => audit::record(caller, context, event),
    }
}

/// The record of a refusal at a target, if one was found; nothing for what failed for technical reasons, which is in
/// the log instead.
pub(super) fn refusal<O: Operate>(
    caller: &Caller,
    context: &Context,
    target: Option<On>,
    at: Timestamp,
    error: &ServiceError,
) -> Option<Record> {
    let outcome = error.refusal()?;
    let (place, label, is_in_zone) = match target {
        Some(on) => (Some(on.place), on.recorded, on.is_in_zone),
        None => (None, audit::names::words(caller, &error.to_string()), false),
    };
    let event = Event { at, operation: O::NAME, place, target: &label, before: None, after: None, outcome };
    Some(record(caller, context, event, is_in_zone))
}

impl<R> Asked<R> {
    fn reach(&self, caller: &Caller, target: Option<On>) {
        let reached = Reached { caller: caller.clone(), target };
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(reached);
    }

    fn reached(&self) -> Option<Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs `O`.
pub(super) fn run<O: Operate>(
    management: &Management,
    context: Context,
    request: Value,
    options: RunOptions,
) -> BoxFuture<'static, Result<Value>> {
    let inner = Arc::clone(&management.inner);
    Box::pin(async move {
        // Before any work: who holds a code is nobody yet.
        if matches!(context.identity, Identity::Invited { .. }) != O::BY_CODE {
            return Err(ServiceError::Forbidden { permission: "a one-time code" });
        }
        if context.lacks_second_factor() && !O::SETS_UP_FACTOR {
            return Err(ServiceError::SecondFactorNeeded);
        }
        let hash = blake3::hash(request.to_string().as_bytes()).as_bytes().to_vec();
        without_nul(&request)?;
        let request = O::prepare(&inner, parse::<O::Request>(request)?).await?;
        let asked = Asked { inner, context, request, hash, options, reached: Mutex::new(None) };
        let asked = Arc::new(asked);
        let outcome = if O::MUTATES {
            change::<O>(Arc::clone(&asked)).await
        } else {
            read::<O>(Arc::clone(&asked)).await
        };
        if let Err(error) = &outcome {
            record_refusal::<O>(&asked, error).await?;
        }
        outcome
    })
}

/// Refuses a text with NUL in it: it can be meant nowhere, and PostgreSQL takes none.
fn without_nul(request: &Value) -> Result<()> {
    let mut left = vec![request];
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) if text.contains('\0') => {
                let message = "a text has no NUL in it".to_owned();
                return Err(ServiceError::Invalid { field: "request", message });
            }
            Value::Array(items) => left.extend(items),
            Value::Object(members) => left.extend(members.values()),
            _ => {}
        }
    }
    Ok(())
}

/// A request out of its fields.
pub(in crate::service) fn parse<R: serde::de::DeserializeOwned>(request: Value) -> Result<R> {
    serde_json::from_value(request)
        .map_err(|error| ServiceError::Invalid { field: "request", message: error.to_string() })
}

async fn change<O: Operate>(asked: Arc<Asked<O::Request>>) -> Result<Value> {
    let database = asked.inner.database.clone();
    let shared = Arc::clone(&asked);
    let outcome = database
        .write(O::PRIORITY, move |conn| {
            let asked = Arc::clone(&shared);
            Box::pin(async move {
                // Management changes take turns: what one has checked, none other makes untrue before it commits.
                let performed = perform::<O>(conn, &asked, TreeLock::Exclusive).await?;
                if asked.options.dry_run {
                    Err(Abort::Tried(performed.answer.value()?, performed.refused))
                } else {
                    Ok(performed)
                }
            })
        })
        .await;
    match outcome {
        Ok(performed) => {
            if performed.starts_job {
                asked.inner.jobs.wake();
            }
            keep_refusals(&asked.inner, performed.refused).await?;
            performed.answer.value()
        }
        Err(Abort::Tried(value, refused)) => {
            keep_refusals(&asked.inner, refused).await?;
            Ok(value)
        }
        Err(Abort::Refused(error)) => Err(error),
    }
}

async fn read<O: Operate>(asked: Arc<Asked<O::Request>>) -> Result<Value> {
    let inner = Arc::clone(&asked.inner);
    let repeats = asked.options.repeats;
    let work = inner
        .database
        .read(move |conn| Box::pin(async move { perform::<O>(conn, &asked, TreeLock::None).await }));
    let performed = work.await?;
    if !repeats {
        inner.reads.add(performed.record).await;
    }
    performed.answer.value()
}

/// The answer of a run.
enum Answer<R> {
    /// A new one.
    New(R),
    /// The one given before under the same Idempotency-Key.
    Replayed(Value),
}

impl<R: serde::Serialize> Answer<R> {
    fn value(self) -> Result<Value> {
        match self {
            Self::New(response) => to_value(&response),
            Self::Replayed(value) => Ok(value),
        }
    }
}

/// What a transaction gave.
struct Performed<R> {
    answer: Answer<R>,
    record: Record,
    starts_job: bool,
    /// See [`Tx::refused`].
    refused: Vec<Record>,
}

fn to_value(response: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(response).map_err(|error| ServiceError::Internal(error.to_string()))
}

async fn perform<O: Operate>(
    conn: &mut Conn,
    asked: &Asked<O::Request>,
    lock: TreeLock,
) -> Result<Performed<O::Response>> {
    let now = asked.inner.clock.now();
    let tree = asked.inner.authority.tree(conn, lock).await?;
    let caller = Caller::read(conn, tree, asked.context.identity.clone(), now).await?;
    let caller = caller.confined(asked.context.only());
    asked.reach(&caller, None);
    let dry_run = asked.options.dry_run;
    let mut tx = Tx { dry_run, ..Tx::new(conn, &asked.inner, &caller, &asked.context, now) };
    let target = O::target(&mut tx, &asked.request).await?;
    let (place, label, is_in_zone) = (target.customer(), target.recorded(&caller.tree), target.is_in_zone());
    asked.reach(&caller, Some(On { place, recorded: label.clone(), is_in_zone }));
    for need in O::needs(&mut tx, &target, &asked.request).await? {
        allowed(&caller, need)?;
    }
    let keeps_answer = O::MUTATES && !asked.options.dry_run;
    let key = asked.context.idempotency_key.as_deref().filter(|_| keeps_answer);
    if let Some(answer) = replayed(tx.conn, asked, O::NAME, key).await? {
        let event = event::<O>(&tx, place, &label, None, None, "replayed");
        let record = record(&caller, &asked.context, event, is_in_zone);
        let answer = Answer::Replayed(answer);
        return Ok(Performed { answer, record, starts_job: false, refused: Vec::new() });
    }
    if let Some(wanted) = &asked.options.if_match {
        let current = O::etag(&mut tx, &target).await?;
        if current.as_ref() != Some(wanted) {
            return Err(ServiceError::Changed { what: target.label() });
        }
    }
    let response = O::run(&mut tx, target, asked.request.clone()).await?;
    let kept = |answer: Option<Value>| answer.map(|answer| audit::names::recorded(answer).to_string());
    let (before, after) = (kept(tx.before.take()), kept(tx.after.take()));
    let done = event::<O>(&tx, place, &label, before, after, "done");
    let record = record(&caller, &asked.context, done, is_in_zone);
    if O::MUTATES {
        let mut records = vec![record.clone()];
        if !tx.also.is_empty() {
            // The hierarchy as the change has left it: a customer that was just made is in it.
            let tree = asked.inner.authority.tree(tx.conn, TreeLock::None).await?;
            let after = Caller { tree, ..caller.clone() };
            for other in tx.also.iter().filter(|&&other| other != place) {
                let event =
                    event::<O>(&tx, *other, &label, record.before.clone(), record.after.clone(), "done");
                records.push(audit::record_of_side(&after, &asked.context, event));
            }
        }
        insert(tx.conn, &records).await?;
        let answer = key.map(|_| to_value(&response)).transpose()?;
        keep(tx.conn, asked, O::NAME, key.zip(answer)).await?;
    }
    let (starts_job, refused) = (tx.starts_job, tx.refused);
    Ok(Performed { answer: Answer::New(response), record, starts_job, refused })
}

fn event<'a, O: Operate>(
    tx: &Tx<'_>,
    place: CustomerId,
    target: &'a str,
    before: Option<String>,
    after: Option<String>,
    outcome: &'a str,
) -> Event<'a> {
    Event { at: tx.now, operation: O::NAME, place: Some(place), target, before, after, outcome }
}

pub(super) fn allowed(caller: &Caller, need: Need) -> Result<()> {
    if need.is_held_by(caller) {
        return Ok(());
    }
    Err(ServiceError::Forbidden { permission: need.permission.name() })
}

/// The answer given before under the same Idempotency-Key; authority has been checked again by now.
async fn replayed<R>(
    conn: &mut Conn,
    asked: &Asked<R>,
    operation: &str,
    key: Option<&str>,
) -> Result<Option<Value>> {
    let Some(key) = key else { return Ok(None) };
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_OCTETS_MAX {
        let message = format!("expected 1 to {IDEMPOTENCY_KEY_OCTETS_MAX} octets");
        return Err(ServiceError::Invalid { field: "Idempotency-Key", message });
    }
    let Some(found) = replay(conn, &asked.context.caller_key(), operation, key).await? else {
        return Ok(None);
    };
    if found.request != asked.hash {
        let message = "this Idempotency-Key was used for another request".to_owned();
        return Err(ServiceError::Conflict { message });
    }
    serde_json::from_str(&found.response).map(Some).map_err(|error| ServiceError::Internal(error.to_string()))
}

async fn keep<R>(
    conn: &mut Conn,
    asked: &Asked<R>,
    operation: &str,
    answer: Option<(&str, Value)>,
) -> Result<()> {
    let Some((key, mut kept)) = answer else { return Ok(()) };
    // A secret is shown once; a replay says so by leaving it out.
    forget_secrets(&mut kept);
    if let Some(Value::Array(results)) = kept.get_mut("results") {
        results.iter_mut().for_each(forget_secrets);
    }
    let replay = Replay { request: asked.hash.clone(), response: kept.to_string() };
    let caller = asked.context.caller_key();
    keep_replay(conn, (&caller, operation, key), replay, asked.inner.clock.now()).await?;
    Ok(())
}

fn forget_secrets(answer: &mut Value) {
    for member in ["token", "secret", "uri", "recovery_codes"] {
        if let Some(secret) = answer.get_mut(member) {
            *secret = Value::Null;
        }
    }
}

/// Records a refusal; what failed for technical reasons is in the log instead.
async fn record_refusal<O: Operate>(asked: &Asked<O::Request>, error: &ServiceError) -> Result<()> {
    let Some(Reached { caller, target }) = asked.reached() else { return Ok(()) };
    let record = refusal::<O>(&caller, &asked.context, target, asked.inner.clock.now(), error);
    keep_refusals(&asked.inner, record.into_iter().collect()).await
}

async fn keep_refusals(inner: &Inner, records: Vec<Record>) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let records = Arc::new(records);
    inner
        .database
        .write(Priority::Interactive, move |conn| {
            let records = Arc::clone(&records);
            Box::pin(async move { insert(conn, &records).await.map_err(ServiceError::from) })
        })
        .await
}
