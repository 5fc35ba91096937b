//! An administrator in somebody's mailbox, as long as the session lasts.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{READ, WRITE, label};
use crate::base::id::{CustomerId, MailboxId};
use crate::service::audit::{self, Event};
use crate::service::authority::{Caller, Permission};
use crate::service::context::{Authentication, Context, Identity, Owner, Service};
use crate::service::error::{Result, ServiceError};
use crate::service::login;
use crate::service::mailstore::types::{Access, FolderName};
use crate::service::registry::Management;
use crate::storage::metadata::audit::insert;
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::mailbox;
use crate::storage::metadata::sql::Conn;

/// Folders that a session remembers to have recorded; beyond them it records some again.
const ENTERED_MAX: usize = 10_000;

/// An administrator's access to one mailbox in one session.
pub(in crate::service) struct Visit {
    management: Management,
    authentication: Authentication,
    context: Arc<Context>,
    mailbox: MailboxId,
    customer: CustomerId,
    service: Service,
    /// `name@CODE`.
    name: String,
    writes: bool,
    /// Folders that were recorded, and whether for changing.
    entered: Mutex<HashSet<(FolderName, bool)>>,
    /// Whether it was recorded that a change was refused.
    refused: AtomicBool,
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, mailbox, writes, .. } = self;
        write!(f, "Visit of {name} to {mailbox}, writes: {writes}")
    }
}

impl Visit {
    pub(super) fn new(
        management: Management,
        (authentication, context): (Authentication, Arc<Context>),
        ((mailbox, customer), service): ((MailboxId, CustomerId), Service),
        (name, writes): (String, bool),
    ) -> Self {
        let (entered, refused) = (Mutex::default(), AtomicBool::new(false));
        Self {
            management,
            authentication,
            context,
            mailbox,
            customer,
            service,
            name,
            writes,
            entered,
            refused,
        }
    }

    /// Who it is: where at home, and `name@CODE`.
    pub fn who(&self) -> Option<(CustomerId, &str)> {
        match self.authentication.identity {
            Identity::Administrator { home, .. } => Some((home, &self.name)),
            Identity::System | Identity::Invited { .. } => None,
        }
    }

    /// Whether it could begin now as it did. While the database cannot be asked it goes on, as everything
    /// else does.
    pub async fn may_go_on(&self) -> bool {
        match self.stands().await {
            Ok(stands) => stands,
            Err(error) => {
                tracing::warn!(%error, "whether an access to a mailbox may go on cannot be told now");
                true
            }
        }
    }

    async fn stands(&self) -> Result<bool> {
        if !self.management.is_still_admitted(&self.authentication).await? {
            return Ok(false);
        }
        let inner = Arc::clone(&self.management.inner);
        let (context, whose, service) =
            (Arc::clone(&self.context), (self.mailbox, self.customer), self.service);
        let writes = self.writes;
        let look = self.management.inner.database.read(move |conn| {
            Box::pin(async move {
                let tree = inner.authority.tree(conn, TreeLock::None).await?;
                let caller = Caller::read(conn, tree, context.identity.clone(), inner.clock.now()).await?;
                let caller = caller.confined(context.only());
                Ok(may(&caller, whose.1, writes) && login::is_open(conn, whose, service).await?)
            })
        });
        look.await
    }

    /// Records that a folder is opened, or changed; once for each folder.
    async fn enter(&self, folder: &FolderName, access: Access) -> Result<()> {
        let is_change = access == Access::ReadWrite;
        let key = (folder.clone(), is_change);
        if self.with(|entered| entered.contains(&key)) {
            return Ok(());
        }
        let operation = if is_change { WRITE } else { READ };
        self.record(operation, Some(folder.clone()), "done").await?;
        self.with(|entered| {
            if entered.len() >= ENTERED_MAX {
                entered.clear();
            }
            entered.insert(key);
        });
        Ok(())
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashSet<(FolderName, bool)>) -> T) -> T {
        act(&mut self.entered.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn may_change(&self) -> Result<()> {
        if self.writes {
            return Ok(());
        }
        Err(ServiceError::Forbidden { permission: Permission::ContentWrite.name() })
    }

    /// Records that a change was refused, once.
    async fn note_refusal(&self) {
        if self.refused.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.record(WRITE, None, "forbidden").await {
            tracing::warn!(%error, "a refused change of a mailbox was not recorded");
        }
    }

    async fn record(
        &self,
        operation: &'static str,
        folder: Option<FolderName>,
        outcome: &'static str,
    ) -> Result<()> {
        let inner = Arc::clone(&self.management.inner);
        let (context, mailbox, customer) = (Arc::clone(&self.context), self.mailbox, self.customer);
        let (writes, folder) = (self.writes, Arc::new(folder));
        self.management
            .inner
            .database
            .write(Priority::Interactive, move |conn| {
                let (inner, context, folder) =
                    (Arc::clone(&inner), Arc::clone(&context), Arc::clone(&folder));
                Box::pin(async move {
                    let (tree, now) = (inner.authority.tree(conn, TreeLock::None).await?, inner.clock.now());
                    let caller = Caller::read(conn, tree, context.identity.clone(), now).await?;
                    let caller = caller.confined(context.only());
                    if !may(&caller, customer, writes) {
                        return Err(ServiceError::Suspended);
                    }
                    let target = target(conn, mailbox, folder.as_ref().as_ref()).await?;
                    let place = Some(customer);
                    let (before, after) = (None, None);
                    let event = Event { at: now, operation, place, target: &target, before, after, outcome };
                    Ok(insert(conn, &[audit::record(&caller, &context, event)]).await?)
                })
            })
            .await
    }
}

/// A mailbox, and a folder of it, in the audit trail: under the name that it has then.
async fn target(conn: &mut Conn, mailbox: MailboxId, folder: Option<&FolderName>) -> Result<String> {
    let row = mailbox::by_id(conn, mailbox).await?;
    let mailbox = row.map_or_else(|| "mailbox".to_owned(), |row| label(&row.address()));
    Ok(folder.map_or_else(|| mailbox.clone(), |folder| format!("{mailbox} folder {folder}")))
}

fn may(caller: &Caller, customer: CustomerId, writes: bool) -> bool {
    caller.may(Some(customer), Permission::ContentRead)
        && (!writes || caller.may(Some(customer), Permission::ContentWrite))
}

/// Whether what stands in a mailbox may be changed: where no administrator is in the owner's place, always.
///
/// # Errors
/// `Forbidden` for an administrator without `content.write`.
pub(in crate::service) async fn may_change(visit: Option<&Arc<Visit>>) -> Result<()> {
    let Some(visit) = visit else { return Ok(()) };
    let allowed = visit.may_change();
    if allowed.is_err() {
        visit.note_refusal().await;
    }
    allowed
}

/// Must be called before a folder is opened, or changed; where an administrator is in the owner's place it is
/// recorded.
///
/// # Errors
/// As [`may_change`], for changes; when it cannot be recorded, or the right to it has ended.
pub(in crate::service) async fn enter(
    visit: Option<&Arc<Visit>>,
    folder: &FolderName,
    access: Access,
) -> Result<()> {
    let Some(visit) = visit else { return Ok(()) };
    if access == Access::ReadWrite {
        Box::pin(may_change(Some(visit))).await?;
    }
    Box::pin(visit.enter(folder, access)).await
}

impl Owner {
    /// How a folder may be opened at most: an administrator without `content.write` changes nothing.
    pub(in crate::service) fn most(&self, wanted: Access) -> Access {
        match &self.visit {
            Some(visit) if !visit.writes => Access::ReadOnly,
            _ => wanted,
        }
    }

    /// See [`may_change`].
    ///
    /// # Errors
    /// `Forbidden` for an administrator without `content.write`.
    pub async fn may_change(&self) -> Result<()> {
        may_change(self.visit.as_ref()).await
    }

    /// See [`enter`].
    ///
    /// # Errors
    /// As there.
    pub(in crate::service) async fn enter(&self, folder: &FolderName, access: Access) -> Result<()> {
        enter(self.visit.as_ref(), folder, access).await
    }
}
