//! The one way an operation is run: JSON shape, targets, authority, meaning; and the audit record.
//!
//! # Consistency
//! All of it happens in one transaction with what it reads. A change writes its audit record there too, so that
//! neither is without the other; refusals are recorded in a transaction of their own, reads in batches.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::RunOptions;
use super::management::{Inner, Management};
use super::operate::{Need, Operate, Targeted, Tx};
use crate::base::id::public_id;
use crate::service::authority::Caller;
use crate::service::context::Context;
use crate::service::error::{Result, ServiceError};
use crate::storage::StorageError;
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::sql::Conn;

/// Why the transaction does not commit.
enum Abort {
    Refused(ServiceError),
    /// All checks passed; the change is undone because it was only to be tried.
    Tried(Value),
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
    options: RunOptions,
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
        let request = parse::<O::Request>(request)?;
        let asked = Arc::new(Asked { inner, context, request, options });
        if O::MUTATES { change::<O>(asked).await } else { read::<O>(asked).await }
    })
}

fn parse<R: serde::de::DeserializeOwned>(request: Value) -> Result<R> {
    serde_json::from_value(request)
        .map_err(|error| ServiceError::Invalid { field: "request", message: error.to_string() })
}

async fn change<O: Operate>(asked: Arc<Asked<O::Request>>) -> Result<Value> {
    let database = asked.inner.database.clone();
    let outcome = database
        .write(Priority::Interactive, move |conn| {
            let asked = Arc::clone(&asked);
            Box::pin(async move {
                let value = perform::<O>(conn, &asked, TreeLock::Exclusive).await?;
                if asked.options.dry_run { Err(Abort::Tried(value)) } else { Ok(value) }
            })
        })
        .await;
    match outcome {
        Ok(value) | Err(Abort::Tried(value)) => Ok(value),
        Err(Abort::Refused(error)) => Err(error),
    }
}

async fn read<O: Operate>(asked: Arc<Asked<O::Request>>) -> Result<Value> {
    let database = asked.inner.database.clone();
    database.read(move |conn| Box::pin(async move { perform::<O>(conn, &asked, TreeLock::None).await })).await
}

async fn perform<O: Operate>(conn: &mut Conn, asked: &Asked<O::Request>, lock: TreeLock) -> Result<Value> {
    let now = asked.inner.clock.now();
    let tree = asked.inner.authority.tree(conn, lock).await?;
    let caller = Caller::read(conn, tree, asked.context.identity.clone(), now).await?;
    let mut tx = Tx {
        conn,
        inner: &asked.inner,
        caller: &caller,
        context: &asked.context,
        now,
        operation_id: public_id(),
        before: None,
        after: None,
    };
    let target = O::target(&mut tx, &asked.request).await?;
    for need in O::needs(&mut tx, &target, &asked.request).await? {
        allowed(&caller, need)?;
    }
    let response = O::run(&mut tx, target, asked.request.clone()).await?;
    serde_json::to_value(response).map_err(|error| ServiceError::Internal(error.to_string()))
}

fn allowed(caller: &Caller, need: Need) -> Result<()> {
    let held = match need.at {
        Some(node) if need.delegable => caller.delegable(node, None).has(need.permission),
        at => caller.may(at, need.permission),
    };
    if held { Ok(()) } else { Err(ServiceError::Forbidden { permission: need.permission.name() }) }
}
