//! Verifies passwords without letting their cost starve the server: as many at a time as there are cores, a bounded
//! queue behind them, and a short-lived memory of what has been verified, so that a client with many connections
//! costs one verification.
//!
//! The cache holds keyed hashes of (whose, stored hash, password) under a random key of this process, never
//! passwords; since the stored hash is part of it, a changed password takes effect at once.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::password::{self, PasswordHash};
use crate::base::clock::{Clock, Timestamp};
use crate::base::id::{AdministratorId, MailboxId, random_bytes};

/// How long a verified password is remembered.
const CACHE_LIFE: Duration = Duration::from_secs(120);
/// Most passwords remembered.
const CACHE_ENTRIES_MAX: u64 = 100_000;
/// Verifications that may wait for a core, per core: about 5 s of argon2.
const WAITING_PER_CORE_MAX: usize = 64;

/// Whose password it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Subject {
    Mailbox(MailboxId),
    Administrator(AdministratorId),
}

/// Too many verifications are waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Overloaded;

pub(super) struct Verifier {
    clock: Clock,
    key: [u8; blake3::KEY_LEN],
    verified: Cache<[u8; blake3::OUT_LEN], Timestamp>,
    running: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Verifier {
    pub(super) fn new(clock: Clock) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut key = [0; blake3::KEY_LEN];
        key.copy_from_slice(&random_bytes(blake3::KEY_LEN));
        Self {
            clock,
            key,
            verified: Cache::builder().max_capacity(CACHE_ENTRIES_MAX).time_to_live(CACHE_LIFE).build(),
            running: Arc::new(Semaphore::new(cores)),
            waiting: Semaphore::new(cores * WAITING_PER_CORE_MAX),
        }
    }

    /// Whether `password` is the one that `stored` is the hash of. Without anybody it does the same work and
    /// answers no. A wrong password for a hash of another kind costs that work on top of the hash's own.
    pub(super) async fn verify(
        &self,
        subject: Option<(Subject, &str)>,
        password: &SecretString,
    ) -> Result<bool, Overloaded> {
        let cache_key = subject.map(|(subject, stored)| self.cache_key(subject, stored, password));
        if self.is_remembered(cache_key.as_ref()) {
            return Ok(true);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| Overloaded)?;
        let permit = Arc::clone(&self.running).acquire_owned().await.map_err(|_| Overloaded)?;
        // Another connection of the same client may have been first.
        if self.is_remembered(cache_key.as_ref()) {
            return Ok(true);
        }
        // Without a password there is the empty hash, which none matches.
        let has_password = subject.filter(|(_, stored)| !stored.is_empty());
        let hash = has_password.and_then(|(subject, stored)| {
            PasswordHash::parse(stored)
                .inspect_err(|error| tracing::warn!(?subject, %error, "stored password hash cannot be used"))
                .ok()
        });
        let password = password.clone();
        let verification = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            matches(hash.as_ref(), &password, password::verify_nothing)
        });
        let verified = verification.await.unwrap_or(false);
        if let (true, Some(cache_key)) = (verified, cache_key) {
            self.verified.insert(cache_key, self.clock.now());
        }
        Ok(verified)
    }

    /// A hash for `password` of the kind that new ones have, when `stored` is of another kind; it is remembered as
    /// verified. Nothing when it is good as it is, or cannot be made now: the next login will do.
    pub(super) async fn renewed(
        &self,
        mailbox: MailboxId,
        stored: &str,
        password: &SecretString,
    ) -> Option<PasswordHash> {
        if PasswordHash::parse(stored).ok()?.is_current() {
            return None;
        }
        let _waiting = self.waiting.try_acquire().ok()?;
        let permit = Arc::clone(&self.running).acquire_owned().await.ok()?;
        let hidden = password.clone();
        let hashing = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            PasswordHash::new(&hidden)
        });
        let hash = hashing.await.ok()?.ok()?;
        let cache_key = self.cache_key(Subject::Mailbox(mailbox), hash.as_str(), password);
        self.verified.insert(cache_key, self.clock.now());
        Some(hash)
    }

    fn is_remembered(&self, cache_key: Option<&[u8; blake3::OUT_LEN]>) -> bool {
        let since = cache_key.and_then(|cache_key| self.verified.get(cache_key));
        since.is_some_and(|since| since.plus(CACHE_LIFE) > self.clock.now())
    }

    fn cache_key(&self, subject: Subject, stored: &str, password: &SecretString) -> [u8; blake3::OUT_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        let (kind, id) = match subject {
            Subject::Mailbox(id) => (0, id.0),
            Subject::Administrator(id) => (1, id.0),
        };
        hasher.update(&[kind]).update(&id.to_le_bytes());
        // The length keeps the two texts apart.
        hasher.update(&(stored.len() as u64).to_le_bytes());
        hasher.update(stored.as_bytes());
        hasher.update(password.expose_secret().as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// Whether the password is that of the hash. What fails has cost one argon2id at least, by the hash itself or by
/// `nothing`: time must not tell whether there is a mailbox, or where its hash came from.
fn matches(
    hash: Option<&PasswordHash>,
    password: &SecretString,
    nothing: impl FnOnce(&SecretString),
) -> bool {
    let verified = hash.is_some_and(|hash| hash.verify(password));
    if !verified && !hash.is_some_and(PasswordHash::is_current) {
        nothing(password);
    }
    verified
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_has_cost_one_argon2id_whatever_is_stored() {
        let (right, wrong) = (SecretString::from("correct horse"), SecretString::from("wrong"));
        let own = PasswordHash::new(&right).unwrap();
        let imported = PasswordHash::parse(SSHA).unwrap();
        let cheap = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA";
        let cheap = PasswordHash::parse(cheap).unwrap();
        let dummies = |hash: Option<&PasswordHash>, password, verified| {
            let mut count = 0;
            assert_eq!(matches(hash, password, |_| count += 1), verified);
            count
        };
        assert_eq!(dummies(None, &wrong, false), 1);
        assert_eq!(dummies(Some(&imported), &wrong, false), 1);
        assert_eq!(dummies(Some(&cheap), &wrong, false), 1);
        // Its own work is the work.
        assert_eq!(dummies(Some(&own), &wrong, false), 0);
        assert_eq!(dummies(Some(&own), &right, true), 0);
        assert_eq!(dummies(Some(&imported), &right, true), 0);
    }

    const SSHA: &str = "{SSHA}LhKrkM9Fy+zlstjdD7Kv2s6QvhBzYWx0";

    #[tokio::test]
    async fn verified_passwords_are_remembered_for_a_while_and_for_this_hash_alone() {
        let clock = Clock::manual(Timestamp::from_secs(1_000_000));
        let verifier = Verifier::new(clock.clone());
        let password = SecretString::from("correct horse");
        let mailbox = Some((Subject::Mailbox(MailboxId(1)), SSHA));
        assert_eq!(verifier.verify(mailbox, &SecretString::from("wrong")).await, Ok(false));
        assert_eq!(verifier.verify(mailbox, &password).await, Ok(true));
        let key = |mailbox, stored, password: &SecretString| {
            verifier.cache_key(Subject::Mailbox(mailbox), stored, password)
        };
        assert!(verifier.is_remembered(Some(&key(MailboxId(1), SSHA, &password))));
        assert!(!verifier.is_remembered(Some(&key(MailboxId(2), SSHA, &password))));
        let other = verifier.cache_key(Subject::Administrator(AdministratorId(1)), SSHA, &password);
        assert!(!verifier.is_remembered(Some(&other)));
        assert!(!verifier.is_remembered(Some(&key(MailboxId(1), "{SSHA}x", &password))));
        assert!(!verifier.is_remembered(Some(&key(MailboxId(1), SSHA, &SecretString::from("wrong")))));
        // With no core free, only a remembered password gets an answer.
        let cores = verifier.running.available_permits();
        let busy = verifier.running.acquire_many(u32::try_from(cores).unwrap()).await.unwrap();
        assert_eq!(verifier.verify(mailbox, &password).await, Ok(true));
        drop(busy);
        clock.advance(CACHE_LIFE);
        assert!(!verifier.is_remembered(Some(&key(MailboxId(1), SSHA, &password))));
    }

    #[tokio::test]
    async fn unknown_names_and_unusable_hashes_never_match() {
        let verifier = Verifier::new(Clock::system());
        let password = SecretString::from("correct horse");
        assert_eq!(verifier.verify(None, &password).await, Ok(false));
        assert_eq!(
            verifier.verify(Some((Subject::Mailbox(MailboxId(1)), "!locked")), &password).await,
            Ok(false)
        );
    }

    #[tokio::test]
    async fn queue_is_bounded() {
        let verifier = Verifier::new(Clock::system());
        let waiting = verifier.waiting.available_permits();
        let _all = verifier.waiting.acquire_many(u32::try_from(waiting).unwrap()).await.unwrap();
        assert_eq!(verifier.verify(None, &SecretString::from("x")).await, Err(Overloaded));
    }
}
