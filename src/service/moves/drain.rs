//! Emptying a mail store: it takes no new mailboxes, and those that it has go elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{homing, octets_of};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, MailboxId, StoreId};
use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::jobs::{Job, JobContext, Outcome, Work, enqueue_about};
use crate::service::placement::no_store;
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::service::stores::show::OneStore;
use crate::storage::StorageError;
use crate::storage::homing::Journey;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::store::StoreState;
use crate::storage::metadata::{home, mailbox, placement, store, volume};

/// Rounds through the mailboxes before a store counts as one that cannot be emptied.
const ROUNDS_MAX: usize = 8;

/// Which mail store to empty.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StoreDrainRequest {
    /// Its name.
    name: String,
    /// Where its mailboxes go; default: where new mailboxes of their customers go.
    to: Option<String>,
}

/// A mail store that is emptied, and where its mailboxes go if that is said.
pub(in crate::service) struct Emptied {
    store: OneStore,
    to: Option<OneStore>,
}

impl Targeted for Emptied {
    fn customer(&self) -> CustomerId {
        self.store.customer()
    }

    fn label(&self) -> String {
        self.store.label()
    }

    fn is_in_zone(&self) -> bool {
        self.store.is_in_zone()
    }
}

/// What a job is asked.
#[derive(Clone, Serialize, Deserialize)]
pub(in crate::service) struct DrainingRequest {
    store: i64,
    to: Option<i64>,
}

/// What came of it.
#[derive(Default, Serialize)]
pub(in crate::service) struct Drained {
    /// Mailboxes that went elsewhere, deleted ones that can come back too.
    mailboxes: u64,
    /// Messages, expunged ones that can come back too.
    messages: u64,
    /// Octets of their bodies.
    octets: u64,
    /// Bodies that are left in the store, since they are damaged.
    left: u64,
}

/// `store.drain`.
pub(in crate::service) struct StoreDrain;

impl Operate for StoreDrain {
    declare! { "store.drain", Post, "/v1/stores/{name}/drain", SystemStoreMove, changes,
    "Move all mailboxes of a mail store elsewhere, so that it can be stopped" }
    const STARTS_JOB: bool = true;
    type Request = StoreDrainRequest;
    type Response = Job;
    type Target = Emptied;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a StoreDrainRequest) -> Result<Emptied> {
        let store = OneStore::find(tx, &request.name, Self::PERMISSION).await?;
        let to = match &request.to {
            Some(to) => Some(OneStore::find(tx, to, Self::PERMISSION).await?),
            None => None,
        };
        Ok(Emptied { store, to })
    }

    /// Without a place that is named, mail goes where the customers' own placement lets it.
    async fn needs<'a>(
        _: &'a mut Tx<'_>,
        target: &'a Emptied,
        _: &'a StoreDrainRequest,
    ) -> Result<Vec<Need>> {
        let stores = [Some(&target.store), target.to.as_ref()];
        Ok(stores.into_iter().flatten().flat_map(|store| store.needs(Self::PERMISSION)).collect())
    }

    async fn run(tx: &mut Tx<'_>, target: Emptied, _: StoreDrainRequest) -> Result<Job> {
        let stores = store::list(tx.conn).await?;
        let conflict = |message: String| Err(ServiceError::Conflict { message });
        let drained = target.store.row()?;
        if !drained.state.is_writable() {
            return conflict(format!("store {} is {}; start it first", drained.name, drained.state.name()));
        }
        let to = target.to.as_ref().map(OneStore::row).transpose()?;
        if let Some(to) = to
            && (to.id == drained.id || !to.state.takes_mailboxes())
        {
            return conflict(format!("store {} is {}: it takes no mailboxes", to.name, to.state.name()));
        }
        if !stores.iter().any(|store| store.id != drained.id && store.state.takes_mailboxes()) {
            return conflict("no other mail store is online; create one first".to_owned());
        }
        tx.before = Some(serde_json::json!({ "state": drained.state.name() }));
        store::set_state(tx.conn, drained.id, StoreState::Draining).await?;
        let asked = DrainingRequest { store: drained.id.0, to: to.map(|to| to.id.0) };
        enqueue_about::<Draining>(tx, drained.id, &target.store, &asked).await
    }
}

/// The work of `store.drain`. It goes by what is still there, so its position is only how many mailboxes went before.
pub(in crate::service) struct Draining;

impl Work for Draining {
    const KIND: &'static str = StoreDrain::NAME;
    const PERMISSION: Permission = StoreDrain::PERMISSION;
    type Request = DrainingRequest;
    type Report = Drained;

    async fn run(context: JobContext, request: DrainingRequest, position: String) -> Outcome<Drained> {
        let (store, to) = (StoreId(request.store), request.to.map(StoreId));
        let mut drained = Drained { mailboxes: position.parse().unwrap_or(0), ..Drained::default() };
        // What arrives goes elsewhere first, then what is there follows.
        while let Some(count) = place_slice(&context, store, to, drained.mailboxes).await? {
            drained.mailboxes += count;
            context.go_on()?;
        }
        let homing = homing(&context)?;
        let all = mailboxes(&context).await?;
        let total = octets_of(&context, all).await?;
        let mut journey = Journey::new(&context, total, context.now());
        for _ in 0..ROUNDS_MAX {
            for mailbox in mailboxes(&context).await? {
                homing.bring(mailbox, &mut journey).await?;
            }
            drained.left = left(&context, store).await?;
            if drained.left == 0 || journey.homed.damaged > 0 {
                break;
            }
            // A mailbox that was undeleted or made while the store was still online.
            while let Some(count) = place_slice(&context, store, to, drained.mailboxes).await? {
                drained.mailboxes += count;
            }
        }
        let homed = journey.homed;
        (drained.messages, drained.octets) = (homed.messages, homed.octets);
        Ok(drained)
    }
}

/// Gives a slice of the store's mailboxes another store; nothing when it has none. The position is written with it.
async fn place_slice(
    context: &JobContext,
    store: StoreId,
    to: Option<StoreId>,
    before: u64,
) -> Result<Option<u64>> {
    let own = context.clone();
    let write = context.inner.database.write(Priority::Bulk, move |conn| {
        let own = own.clone();
        Box::pin(async move {
            let count = place_all(conn, store, to, own.now()).await?;
            own.save_position_in(conn, &(before + count).to_string()).await?;
            Ok::<_, ServiceError>((count > 0).then_some(count))
        })
    });
    write.await
}

async fn place_all(conn: &mut Conn, store: StoreId, to: Option<StoreId>, now: Timestamp) -> Result<u64> {
    let stores = store::list(conn).await?;
    let found = home::placed_on(conn, store).await?;
    let mut targets: BTreeMap<StoreId, Vec<MailboxId>> = BTreeMap::new();
    let mut chosen: BTreeMap<CustomerId, StoreId> = BTreeMap::new();
    for (mailbox, customer) in &found {
        let target = match to.or_else(|| chosen.get(customer).copied()) {
            Some(target) => target,
            None => {
                let placement = placement::of(conn, *customer).await?;
                placement.choose(&stores, Some(store)).ok_or_else(no_store)?
            }
        };
        chosen.insert(*customer, target);
        targets.entry(target).or_default().push(*mailbox);
    }
    // In the order in which others lock mailboxes.
    mailbox::lock_rows(conn, found.iter().map(|(mailbox, _)| mailbox.0)).await?;
    for (target, mailboxes) in targets {
        home::set_store(conn, &mailboxes, target, now).await?;
    }
    Ok(found.len() as u64)
}

/// All mailboxes that may have bodies elsewhere than at home.
async fn mailboxes(context: &JobContext) -> Result<Vec<MailboxId>> {
    let mut all = Vec::new();
    loop {
        let after = all.last().copied().unwrap_or(MailboxId(0));
        let read =
            context.inner.database.read(|conn| Box::pin(async move { home::homing(conn, after).await }));
        let page: Vec<MailboxId> = read.await.map_err(|error: StorageError| ServiceError::from(error))?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// Bodies that are in the store.
async fn left(context: &JobContext, store: StoreId) -> Result<u64> {
    let read =
        context.inner.database.read(|conn| Box::pin(async move { volume::bodies_of(conn, store).await }));
    read.await.map_err(|error: StorageError| ServiceError::from(error))
}
