//! Times of the last logins, gathered in memory and written in batches.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::base::clock::Timestamp;
use crate::base::id::MailboxId;
use crate::storage::StorageError;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::mailbox;

/// Rows written by one transaction: a slice of background work.
const SLICE: usize = 256;

/// What is not written yet: at most one time for each mailbox.
#[derive(Default)]
pub(super) struct LastLogins(Mutex<HashMap<MailboxId, Timestamp>>);

impl LastLogins {
    /// Notes a login.
    pub(super) fn note(&self, mailbox: MailboxId, at: Timestamp) {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = pending.entry(mailbox).or_insert(at);
        *last = at.max(*last);
    }

    /// Writes what was noted. A slice that fails is kept for the next time.
    pub(super) async fn flush(&self, database: &Database) {
        let pending = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut logins: Vec<(MailboxId, Timestamp)> = pending.into_iter().collect();
        logins.sort_unstable();
        for slice in logins.chunks(SLICE) {
            let rows = slice.to_vec();
            let written: Result<(), StorageError> = database
                .write(Priority::Background, move |conn| {
                    let rows = rows.clone();
                    Box::pin(async move { mailbox::last_logins_set(conn, &rows).await })
                })
                .await;
            if let Err(error) = written {
                tracing::warn!(%error, "times of logins are not written yet");
                slice.iter().for_each(|(mailbox, at)| self.note(*mailbox, *at));
            }
        }
    }
}
