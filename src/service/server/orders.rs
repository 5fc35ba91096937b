//! Restarting and stopping nodes: the operations leave an order in the node's row, the node looks for it every second
//! and tells there what became of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::OneNode;
use super::nodes::standing;
use crate::base::clock::Clock;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::storage::StorageError;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::{Priority, Work};
use crate::storage::metadata::node;
pub use crate::storage::metadata::node::Order;
use crate::storage::metadata::pack::Node;
use crate::storage::metadata::sql::Conn;

/// How often a node looks for orders.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the end of a node waits to be written down: a database that is away must not hold it up.
const NOTE_PATIENCE: Duration = Duration::from_secs(2);

/// Which node.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct OrderRequest {
    /// Its name; absent: the node that is asked.
    node: Option<String>,
}

/// What was asked of a node.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct OrderAnswer {
    /// The node's name.
    node: String,
    /// Its machine.
    host: String,
    /// `restart` or `stop`.
    wanted: String,
    /// Which start of the node.
    epoch: i64,
    /// Number of its process; a restart is over when another one serves.
    pid: i64,
}

async fn give(tx: &mut Tx<'_>, target: OneNode, order: Order) -> Result<OrderAnswer> {
    let row = target.row()?;
    let state = standing(tx, &row);
    if state != "serving" {
        let message = format!("server {} is {state}", row.id);
        return Err(ServiceError::Conflict { message });
    }
    node::ask(tx.conn, &row.id, order).await?;
    tx.after = Some(serde_json::json!({ "wanted": order.name(), "epoch": row.epoch }));
    let wanted = order.name().to_owned();
    Ok(OrderAnswer { node: row.id, host: row.host, wanted, epoch: row.epoch, pid: row.pid })
}

/// `server.restart`.
pub(in crate::service) struct ServerRestart;

impl Operate for ServerRestart {
    declare! {
        "server.restart", Post, "/v1/server/restart", SystemServerControl, changes,
        "Have a server hand over to a new process of its program; no connection is refused meanwhile",
    }
    type Request = OrderRequest;
    type Response = OrderAnswer;
    type Target = OneNode;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a OrderRequest) -> Result<OneNode> {
        OneNode::find(tx, request.node.as_deref(), Self::PERMISSION).await
    }

    async fn needs<'a>(_: &'a mut Tx<'_>, target: &'a OneNode, _: &'a OrderRequest) -> Result<Vec<Need>> {
        Ok(target.needs(Self::PERMISSION))
    }

    async fn run(tx: &mut Tx<'_>, target: OneNode, _: OrderRequest) -> Result<OrderAnswer> {
        give(tx, target, Order::Restart).await
    }
}

/// `server.stop`.
pub(in crate::service) struct ServerStop;

impl Operate for ServerStop {
    declare! {
        "server.stop", Post, "/v1/server/stop", SystemServerControl, changes,
        "Have a server finish what runs, and end; whatever starts services starts it again",
    }
    type Request = OrderRequest;
    type Response = OrderAnswer;
    type Target = OneNode;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a OrderRequest) -> Result<OneNode> {
        OneNode::find(tx, request.node.as_deref(), Self::PERMISSION).await
    }

    async fn needs<'a>(_: &'a mut Tx<'_>, target: &'a OneNode, _: &'a OrderRequest) -> Result<Vec<Need>> {
        Ok(target.needs(Self::PERMISSION))
    }

    async fn run(tx: &mut Tx<'_>, target: OneNode, _: OrderRequest) -> Result<OrderAnswer> {
        give(tx, target, Order::Stop).await
    }
}

/// A node's side of it.
pub struct Orders {
    database: Database,
    clock: Clock,
    node: Node,
}

impl Orders {
    /// For this node.
    pub fn new(database: Database, clock: Clock, node: Node) -> Self {
        Self { database, clock, node }
    }

    /// Waits until something is asked of the node. The order stands until [`Self::entered`] or [`Self::failed`].
    pub async fn next(&self) -> Order {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let node = self.node.id.clone();
            let read = self.database.read(|conn| Box::pin(async move { node::wanted(conn, &node).await }));
            match read.await.map_err(|error: StorageError| error) {
                Ok(Some(order)) => return order,
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "orders could not be looked for"),
            }
        }
    }

    /// Tells that the node is `draining` or `stopped` from now on.
    pub async fn entered(&self, state: &'static str) {
        let (node, now) = (self.node.clone(), self.clock.now());
        self.note(move |conn| {
            let node = node.clone();
            Box::pin(async move { node::set_state(conn, &node.id, node.epoch, state, now).await })
        })
        .await;
    }

    /// Tells why a restart did not come about; the node serves on.
    pub async fn failed(&self, why: &str) {
        let (node, why, now) = (self.node.id.clone(), why.to_owned(), self.clock.now());
        self.note(move |conn| {
            let (node, why) = (node.clone(), why.clone());
            Box::pin(async move { node::restart_failed(conn, &node, &why, now).await })
        })
        .await;
    }

    async fn note<F>(&self, work: F)
    where
        F: for<'c> Fn(&'c mut Conn) -> Work<'c, (), StorageError> + Send + Sync + 'static,
    {
        let write = self.database.write(Priority::Interactive, work);
        match tokio::time::timeout(NOTE_PATIENCE, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what the node does could not be written down"),
            Err(_) => tracing::warn!("what the node does could not be written down in time"),
        }
    }
}
