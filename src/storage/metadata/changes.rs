//! Who must hear of a committed change: sessions with the folder open, and caches of the hierarchy.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::base::id::{FolderId, MailboxId};

/// What a transaction changed, as far as running sessions or caches care.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Touched {
    /// Messages, flags or keywords of a folder, or the folder itself.
    Folder(FolderId),
    /// Credentials, holds or existence of a mailbox: its sessions must check whether they may go on.
    Mailbox(MailboxId),
    /// The hierarchy, holds, grants, domains: everything derived from them must be read again.
    Directory,
    /// State or settings of a mail store.
    Stores,
}

/// Tells watchers of committed changes, this node's and others'. A watcher that was away sees one tick, not each.
#[derive(Clone, Default)]
pub struct Changes(Arc<Mutex<HashMap<Touched, watch::Sender<u64>>>>);

impl Changes {
    /// A receiver that is marked changed whenever `touched` is published.
    pub fn watch(&self, touched: Touched) -> watch::Receiver<u64> {
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Entries nobody watches any more are dropped when the map has doubled, so it stays within twice its use.
        if watchers.len() >= 64 && watchers.len().is_power_of_two() {
            watchers.retain(|_, sender| sender.receiver_count() > 0);
        }
        watchers.entry(touched).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Tells the watchers.
    pub fn publish(&self, touched: &[Touched]) {
        if touched.is_empty() {
            return;
        }
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for one in touched {
            let Some(sender) = watchers.get(one) else { continue };
            if sender.receiver_count() == 0 {
                watchers.remove(one);
            } else {
                sender.send_modify(|tick| *tick = tick.wrapping_add(1));
            }
        }
    }

    /// Tells every watcher to look: the connection that brings other nodes' changes was away.
    pub fn publish_all(&self) {
        let watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in watchers.values() {
            sender.send_modify(|tick| *tick = tick.wrapping_add(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watcher_sees_its_own_folder_only_and_unwatched_entries_go() {
        let changes = Changes::default();
        let mut one = changes.watch(Touched::Folder(FolderId(1)));
        changes.publish(&[Touched::Folder(FolderId(2))]);
        assert!(!one.has_changed().unwrap());
        changes.publish(&[Touched::Folder(FolderId(1))]);
        assert!(one.has_changed().unwrap());
        one.mark_unchanged();
        drop(one);
        changes.publish(&[Touched::Folder(FolderId(1))]);
        assert!(changes.0.lock().unwrap().is_empty());
    }
}
