//! The maildrop of a session: the INBOX as it was at login, held by one session at a time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::base::id::{MailboxId, Uid, UidValidity};
use crate::service::context::{Service, Source};
use crate::service::error::{Result, ServiceError};
use crate::service::login::{Login, LoginError, MailSession};
use crate::service::mailstore::MailStore;
use crate::service::mailstore::types::{Access, FlagBits, FlagMode, FlagSet, FolderName};
use crate::service::mailstore::view::{FolderView, MessageSummary};
use crate::wire::sasl::Credentials;

use super::text;

/// A message at login.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// UID.
    pub uid: Uid,
    /// Size in octets.
    pub octets: u32,
}

/// Why a maildrop is not opened.
#[derive(Debug)]
pub enum Refused {
    /// The login failed.
    Login(LoginError),
    /// Another session holds it.
    InUse,
    /// The INBOX could not be opened.
    Service(ServiceError),
}

/// Opens maildrops; tests put their own in its place.
pub trait Maildrops: Send + Sync + 'static {
    /// What is opened.
    type Maildrop: Maildrop;

    /// Verifies the credentials and opens the maildrop.
    fn open(
        &self,
        credentials: &Credentials,
        source: Source,
    ) -> impl Future<Output = std::result::Result<Self::Maildrop, Refused>> + Send;
}

/// An open maildrop.
pub trait Maildrop: Send + Sync {
    /// UIDVALIDITY of the INBOX.
    fn uid_validity(&self) -> UidValidity;

    /// In order of arrival; the first is message number 1.
    fn entries(&self) -> &[Entry];

    /// The whole message.
    fn message(&self, uid: Uid) -> impl Future<Output = Result<Bytes>> + Send;

    /// Header, blank line and `lines` lines of the body.
    fn top(&self, uid: Uid, lines: u64) -> impl Future<Output = Result<Bytes>> + Send;

    /// Removes messages; ones that are gone already count as removed.
    fn delete(&mut self, uids: &[Uid]) -> impl Future<Output = Result<()>> + Send;

    /// Completes when the session must end.
    fn ended(&self) -> impl Future<Output = ()> + Send;
}

/// Which mailboxes have a session.
#[derive(Clone, Default)]
struct Claims(Arc<Mutex<HashSet<MailboxId>>>);

struct Claim {
    claims: Claims,
    mailbox: MailboxId,
}

impl Claims {
    fn claim(&self, mailbox: MailboxId) -> Option<Claim> {
        let fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(mailbox);
        fresh.then(|| Claim { claims: self.clone(), mailbox })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.mailbox);
    }
}

/// The mailboxes of the mail store.
pub struct Mailboxes {
    login: Login,
    store: MailStore,
    claims: Claims,
}

impl Mailboxes {
    /// All mailboxes that `login` lets in.
    pub fn new(login: Login, store: MailStore) -> Self {
        Self { login, store, claims: Claims::default() }
    }
}

impl Maildrops for Mailboxes {
    type Maildrop = Inbox;

    async fn open(
        &self,
        credentials: &Credentials,
        source: Source,
    ) -> std::result::Result<Self::Maildrop, Refused> {
        let session = self
            .login
            .password(Service::Pop3, &credentials.username, &credentials.password, source)
            .await
            .map_err(Refused::Login)?;
        let claim = self.claims.claim(session.owner().mailbox()).ok_or(Refused::InUse)?;
        // Read-only, so that messages fetched here stay recent for IMAP.
        let view = self
            .store
            .folder_open(session.owner(), &FolderName::inbox(), Access::ReadOnly)
            .await
            .map_err(Refused::Service)?;
        let states = view.states(view.uids());
        let entries = states.iter().map(|state| Entry { uid: state.uid, octets: state.octets }).collect();
        Ok(Inbox { session, store: self.store.clone(), view, entries, _claim: claim })
    }
}

/// An open INBOX.
pub struct Inbox {
    session: MailSession,
    store: MailStore,
    view: FolderView,
    entries: Vec<Entry>,
    _claim: Claim,
}

impl Inbox {
    async fn summary(&self, uid: Uid) -> Result<MessageSummary> {
        let gone = || ServiceError::NotFound { what: "message".to_owned() };
        self.view.summaries(&[uid]).await?.into_iter().next().ok_or_else(gone)
    }
}

impl Maildrop for Inbox {
    fn uid_validity(&self) -> UidValidity {
        self.view.folder().uid_validity
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    async fn message(&self, uid: Uid) -> Result<Bytes> {
        self.view.message(uid).await
    }

    async fn top(&self, uid: Uid, lines: u64) -> Result<Bytes> {
        let MessageSummary { prefix, summary, .. } = self.summary(uid).await?;
        if let (0, Some(header)) = (lines, &summary.header) {
            let mut top = BytesMut::with_capacity(prefix.len() + header.len());
            top.extend_from_slice(&prefix);
            top.extend_from_slice(header);
            return Ok(top.freeze());
        }
        let message = self.view.message(uid).await?;
        let header_octets = prefix.len() + usize::try_from(summary.header_octets).unwrap_or(usize::MAX);
        let octets = text::top_octets(&message, header_octets, lines);
        Ok(message.slice(..octets))
    }

    async fn delete(&mut self, uids: &[Uid]) -> Result<()> {
        let inbox = FolderName::inbox();
        let mut view = self.store.folder_open(self.session.owner(), &inbox, Access::ReadWrite).await?;
        // Another session may have expunged some; UIDs of a folder that was replaced mean other messages.
        if view.folder().uid_validity != self.uid_validity() {
            return Ok(());
        }
        let present: Vec<Uid> =
            uids.iter().copied().filter(|uid| view.uids().binary_search(uid).is_ok()).collect();
        let deleted = FlagSet { system: FlagBits::DELETED, keywords: Vec::new() };
        view.flags_store(&present, FlagMode::Add, &deleted, None, true).await?;
        view.expunge(Some(&present)).await
    }

    async fn ended(&self) {
        self.session.ended().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailbox_is_claimed_once_until_the_claim_ends() {
        let claims = Claims::default();
        let claim = claims.claim(MailboxId(1));
        assert!(claim.is_some());
        assert!(claims.claim(MailboxId(1)).is_none());
        assert!(claims.claim(MailboxId(2)).is_some());
        drop(claim);
        assert!(claims.claim(MailboxId(1)).is_some());
    }
}
