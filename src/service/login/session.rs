//! Running sessions of mailbox owners: a register of this node's, and what ends them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, watch};

use super::{Standing, standing};
use crate::base::clock::{Clock, Timestamp};
use crate::base::id::{CustomerId, DomainId, MailboxId, public_id};
use crate::service::content_access::Visit;
use crate::service::context::{Owner, Service, Source};
use crate::service::settings::standing::LoginWindows;
use crate::storage::metadata::database::Database;

/// A running session as an administrator sees it.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Random public id.
    pub id: String,
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Its domain.
    pub domain: DomainId,
    /// The customer of the domain.
    pub customer: CustomerId,
    /// The address.
    pub address: String,
    /// How it came in.
    pub service: Service,
    /// Where it came from.
    pub source: Source,
    /// Since when.
    pub since: Timestamp,
    /// The administrator who is there in the owner's place: where at home, and `name@CODE`.
    pub administrator: Option<(CustomerId, String)>,
}

struct Entry {
    owner: Owner,
    service: Service,
    source: Source,
    since: Timestamp,
    close: watch::Sender<bool>,
    password_hash: Arc<Mutex<Arc<str>>>,
    windows: Arc<Mutex<Option<LoginWindows>>>,
}

/// The sessions of this node by id.
#[derive(Default)]
pub(super) struct Registry(Mutex<HashMap<String, Entry>>);

impl Registry {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, Entry>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn list(&self) -> Vec<SessionInfo> {
        let mut sessions: Vec<SessionInfo> = self.with(|entries| {
            let info = |(id, entry): (&String, &Entry)| SessionInfo {
                id: id.clone(),
                mailbox: entry.owner.mailbox,
                domain: entry.owner.domain,
                customer: entry.owner.customer,
                address: entry.owner.address.to_string(),
                service: entry.service,
                source: entry.source,
                since: entry.since,
                administrator: administrator(&entry.owner),
            };
            entries.iter().map(info).collect()
        });
        sessions.sort_by(|one, other| (one.since, &one.id).cmp(&(other.since, &other.id)));
        sessions
    }

    pub(super) fn close(&self, id: &str) -> bool {
        self.with(|entries| entries.get(id).map(|entry| entry.close.send_replace(true)).is_some())
    }

    /// The sessions of administrators in mailboxes, by id.
    pub(super) fn visits(&self) -> Vec<(String, Arc<Visit>)> {
        self.with(|entries| {
            let visit =
                |(id, entry): (&String, &Entry)| Some((id.clone(), Arc::clone(entry.owner.visit.as_ref()?)));
            entries.iter().filter_map(visit).collect()
        })
    }

    /// Ends the sessions that may not go on at this time.
    pub(super) fn close_outside_windows(&self, now: Timestamp) {
        self.with(|entries| {
            for entry in entries.values() {
                let windows = entry.windows.lock().unwrap_or_else(PoisonError::into_inner);
                if windows.as_ref().is_some_and(|windows| !windows.allow(now)) {
                    entry.close.send_replace(true);
                }
            }
        });
    }

    /// Sessions that began under `from` go on under `to`, another hash of the same password.
    pub(super) fn password_rehashed(&self, mailbox: MailboxId, from: &str, to: &str) {
        self.with(|entries| {
            for entry in entries.values().filter(|entry| entry.owner.mailbox == mailbox) {
                let mut hash = entry.password_hash.lock().unwrap_or_else(PoisonError::into_inner);
                if **hash == *from {
                    *hash = to.into();
                }
            }
        });
    }

    pub(super) fn close_mailbox(&self, mailbox: MailboxId) -> usize {
        self.with(|entries| {
            let mut closed = 0;
            for entry in entries.values().filter(|entry| entry.owner.mailbox == mailbox) {
                entry.close.send_replace(true);
                closed += 1;
            }
            closed
        })
    }
}

fn administrator(owner: &Owner) -> Option<(CustomerId, String)> {
    let (home, name) = owner.visit.as_ref()?.who()?;
    Some((home, name.to_owned()))
}

/// What a session watches to learn that it must end.
pub(super) struct Watch {
    pub(super) changes: tokio::sync::Mutex<Receivers>,
    pub(super) database: Database,
    pub(super) checking: Arc<Semaphore>,
    pub(super) clock: Clock,
    /// The hash that the password was verified with: another one is another password.
    pub(super) password_hash: Arc<Mutex<Arc<str>>>,
    /// The times at which the session may go on, as they were when it was last looked at.
    pub(super) windows: Arc<Mutex<Option<LoginWindows>>>,
}

impl Watch {
    pub(super) fn set_windows(&self, windows: Option<LoginWindows>) {
        *self.windows.lock().unwrap_or_else(PoisonError::into_inner) = windows;
    }
}

/// Changes of the mailbox and of the hierarchy above it.
pub(super) struct Receivers {
    pub(super) mailbox: watch::Receiver<u64>,
    pub(super) directory: watch::Receiver<u64>,
}

/// A running session of a mailbox's owner, or of an administrator in their place; its registration ends when
/// it is dropped.
pub struct MailSession {
    id: String,
    owner: Owner,
    service: Service,
    registry: Arc<Registry>,
    closed: watch::Receiver<bool>,
    /// A change was seen and not looked at yet.
    must_check: AtomicBool,
    watch: Watch,
}

impl MailSession {
    pub(super) fn register(
        registry: &Arc<Registry>,
        owner: Owner,
        service: Service,
        source: Source,
        since: Timestamp,
        watch: Watch,
    ) -> Self {
        let id = public_id();
        let (close, closed) = watch::channel(false);
        let entry = Entry {
            owner: owner.clone(),
            service,
            source,
            since,
            close,
            password_hash: Arc::clone(&watch.password_hash),
            windows: Arc::clone(&watch.windows),
        };
        registry.with(|entries| entries.insert(id.clone(), entry));
        Self {
            id,
            owner,
            service,
            registry: Arc::clone(registry),
            closed,
            must_check: AtomicBool::new(false),
            watch,
        }
    }

    /// Whose session it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Its id, as `session list` shows it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Completes when the session must end now (closed by an administrator, held, deleted, password changed,
    /// outside of the times at which login is allowed).
    /// Cancel-safe; may be awaited again and again.
    pub async fn ended(&self) {
        let mut closed = self.closed.clone();
        let mut changes = self.watch.changes.lock().await;
        let Receivers { mailbox, directory } = &mut *changes;
        loop {
            if !self.must_check.load(Ordering::Relaxed) {
                // The senders live as long as this session: the registry's entry and the receivers themselves.
                tokio::select! {
                    _ = closed.wait_for(|closed| *closed) => return,
                    _ = mailbox.changed() => {}
                    _ = directory.changed() => {}
                }
                self.must_check.store(true, Ordering::Relaxed);
            }
            // Boxed: every waiting session carries this future, and hardly any ever looks.
            if *closed.borrow() || !Box::pin(self.may_go_on()).await {
                self.registry.close(&self.id);
                return;
            }
            self.must_check.store(false, Ordering::Relaxed);
        }
    }

    /// Looks at the database again. While it cannot be asked the session goes on, as everything else does.
    pub(super) async fn may_go_on(&self) -> bool {
        let Ok(_turn) = self.watch.checking.acquire().await else { return true };
        if let Some(visit) = &self.owner.visit {
            return visit.may_go_on().await;
        }
        let hash = Arc::clone(&self.watch.password_hash.lock().unwrap_or_else(PoisonError::into_inner));
        let whose = (self.owner.mailbox, self.owner.customer);
        let now = self.watch.clock.now();
        let look = standing(&self.watch.database, whose, &hash, (self.service, true), now);
        match look.await {
            Ok(Standing::Good(windows)) => {
                self.watch.set_windows(windows);
                true
            }
            Ok(Standing::Held | Standing::OutsideWindow | Standing::Clear | Standing::Gone) => false,
            Err(error) => {
                tracing::warn!(%error, "whether a session may go on cannot be told now");
                true
            }
        }
    }
}

impl Drop for MailSession {
    fn drop(&mut self) {
        self.registry.with(|entries| entries.remove(&self.id));
    }
}
