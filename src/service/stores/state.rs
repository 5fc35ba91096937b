//! Stopping mail stores and making them read-only. The state is the database's: transactions that add mail look at it,
//! and every node follows it within seconds.

use super::show::{OneStore, Store, StoreRequest, set_up};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::storage::metadata::store::{self, StoreState};

/// `store.stop`.
pub(in crate::service) struct StoreStop;

impl Operate for StoreStop {
    declare! { "store.stop", Post, "/v1/stores/{name}/stop", SystemStoreUpdate, changes,
    "Stop a mail store: its mail is deferred, its bodies are unavailable, its files are closed" }
    type Request = StoreRequest;
    type Response = Store;
    type Target = OneStore;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a StoreRequest) -> Result<OneStore> {
        OneStore::find(tx, &request.name, Self::PERMISSION).await
    }

    async fn needs<'a>(_: &'a mut Tx<'_>, target: &'a OneStore, _: &'a StoreRequest) -> Result<Vec<Need>> {
        Ok(target.needs(Self::PERMISSION))
    }

    async fn etag<'a>(_: &'a mut Tx<'_>, target: &'a OneStore) -> Result<Option<String>> {
        target.etag()
    }

    async fn run(tx: &mut Tx<'_>, target: OneStore, _: StoreRequest) -> Result<Store> {
        change(tx, &target, StoreState::Stopped).await
    }
}

/// `store.read-only`.
pub(in crate::service) struct StoreReadOnly;

impl Operate for StoreReadOnly {
    declare! { "store.read-only", Post, "/v1/stores/{name}/read-only", SystemStoreUpdate, changes,
    "Make a mail store read-only: its mail is deferred, nothing in its folder is changed" }
    type Request = StoreRequest;
    type Response = Store;
    type Target = OneStore;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a StoreRequest) -> Result<OneStore> {
        OneStore::find(tx, &request.name, Self::PERMISSION).await
    }

    async fn needs<'a>(_: &'a mut Tx<'_>, target: &'a OneStore, _: &'a StoreRequest) -> Result<Vec<Need>> {
        Ok(target.needs(Self::PERMISSION))
    }

    async fn etag<'a>(_: &'a mut Tx<'_>, target: &'a OneStore) -> Result<Option<String>> {
        target.etag()
    }

    async fn run(tx: &mut Tx<'_>, target: OneStore, _: StoreRequest) -> Result<Store> {
        let row = target.row()?;
        if row.state == StoreState::Stopped {
            let name = &row.name;
            let message = format!(
                "store {name} is stopped: posthouse store start {name} --read-only looks at it first"
            );
            return Err(ServiceError::Conflict { message });
        }
        change(tx, &target, StoreState::ReadOnly).await
    }
}

/// Changes the state; one that it has already is as well.
async fn change(tx: &mut Tx<'_>, target: &OneStore, state: StoreState) -> Result<Store> {
    let mut row = target.row()?.clone();
    tx.before = Some(serde_json::json!({ "state": row.state.name() }));
    if row.state != state {
        store::set_state(tx.conn, row.id, state).await?;
        row.state = state;
    }
    tx.after = Some(serde_json::json!({ "state": state.name() }));
    Ok(set_up(&row))
}
