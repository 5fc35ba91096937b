//! Maildrops for tests.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use secrecy::ExposeSecret;

use super::{Entry, Maildrop, Maildrops, Refused, text};
use crate::base::id::{Uid, UidValidity};
use crate::service::context::Source;
use crate::service::error::{Result, ServiceError};
use crate::service::login::LoginError;
use crate::wire::sasl::Credentials;

/// Messages with their UIDs; shared, so that a test sees what was deleted.
#[derive(Clone, Default)]
pub(super) struct Fake(pub(super) Arc<Mutex<Vec<(Uid, Bytes)>>>);

/// Its open maildrop.
pub(super) struct FakeDrop {
    fake: Fake,
    entries: Vec<Entry>,
}

impl Maildrops for Fake {
    type Maildrop = FakeDrop;

    async fn open(&self, credentials: &Credentials, _: Source) -> std::result::Result<FakeDrop, Refused> {
        match (credentials.username.as_str(), credentials.password.expose_secret()) {
            ("busy", _) => Err(Refused::InUse),
            ("held", _) => Err(Refused::Login(LoginError::Held)),
            ("tim", "two words ") => {
                let messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let entry = |(uid, bytes): &(Uid, Bytes)| Entry { uid: *uid, octets: bytes.len() as u32 };
                let entries = messages.iter().map(entry).collect();
                Ok(FakeDrop { fake: self.clone(), entries })
            }
            _ => Err(Refused::Login(LoginError::Failed)),
        }
    }
}

impl Maildrop for FakeDrop {
    fn uid_validity(&self) -> UidValidity {
        UidValidity(7)
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    async fn message(&self, uid: Uid) -> Result<Bytes> {
        let messages = self.fake.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = messages.iter().find(|(found, _)| *found == uid).map(|(_, bytes)| bytes.clone());
        found.ok_or_else(|| ServiceError::Unavailable("store stopped".into()))
    }

    async fn top(&self, uid: Uid, lines: u64) -> Result<Bytes> {
        let message = self.message(uid).await?;
        Ok(message.slice(..text::top_octets(&message, 8, lines)))
    }

    async fn delete(&mut self, uids: &[Uid]) -> Result<()> {
        self.fake.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(uid, _)| !uids.contains(uid));
        Ok(())
    }

    async fn ended(&self) {
        std::future::pending().await
    }
}

/// Three messages.
pub(super) fn fake() -> Fake {
    let message = |uid, text: &'static str| (Uid(uid), Bytes::from_static(text.as_bytes()));
    Fake(Arc::new(Mutex::new(vec![
        message(3, "A: b\r\n\r\n.one\r\ntwo\r\n"),
        message(5, "C: d\r\n\r\nno end"),
        message(9, "E: f\r\n\r\n"),
    ])))
}
