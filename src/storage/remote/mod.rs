//! Object storage for packs: an S3 bucket, or a directory with the same contract.
//!
//! Objects are immutable: a key is random or otherwise unique and is never written again with other content. Nothing
//! here lists a bucket or relies on conditional requests, which some servers ignore: the database is the truth.
//!
//! # Consistency
//! An upload that was answered with [`Uploaded`] was looked at again: its size, and its digest where the server tells
//! one, else its first and last octets. A read gives exactly the octets that were asked for, or an error; that they
//! are the right ones is shown by the checksums of the pack.
//!
//! # Retries
//! What may pass (no answer, 5xx, too many requests, wrong bytes) is tried again a few times, with pauses that grow
//! at random (full jitter), within the total time of the settings. After failures in a row everything fails at once
//! for a while ([`breaker`]). Requests at a time, and the speed of uploads, are bounded.
//!
//! # Cancellation
//! Every call may be dropped. A part of a file that is dropped halfway leaves nothing; an upload in parts is aborted
//! in the background. After a kill its parts remain: a life-cycle rule of the bucket (`AbortIncompleteMultipartUpload`)
//! removes them, since nobody lists the bucket.
//!
//! # Crash Consistency
//! Nothing of its own: who uploads names the key in a committed intent first.

mod answer;
mod breaker;
mod calls;
mod directory;
mod error;
mod key;
mod outgoing;
mod s3;
mod settings;
mod store;
#[cfg(test)]
pub(crate) mod tests;
mod throttle;
mod transfer;
mod upload;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use error::{RemoteError, Result};
pub use key::ObjectKey;
pub use settings::RemoteSettings;
pub use store::ObjectHead;

use crate::base::telemetry::metrics::Metrics;
use calls::{CallLimits, Calls};
use store::ObjectStore;
use throttle::Throttle;

/// A place for objects. Cheap to clone; clones share connections, limits and the breaker. Costs nothing until it is
/// first used, and no more than idle memory afterwards.
#[derive(Clone)]
pub struct Remote {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    calls: Calls,
    throttle: Option<Arc<Throttle>>,
}

/// An object that is stored, and was looked at again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uploaded {
    /// Its size.
    pub octets: u64,
    /// BLAKE3 of its content.
    pub blake3: [u8; 32],
    /// How its content was compared.
    pub verified: Verified,
}

/// How an upload was compared with what was sent. Its size and the server's check of the MD5 that was sent along come
/// on top of either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verified {
    /// By the digest that the server tells.
    Digest,
    /// By reading back its first and last octets.
    Sample,
}

/// How a place for objects does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Nothing speaks against it.
    Good,
    /// It cannot be reached; requests fail at once until a try succeeds.
    Away,
    /// It refuses the keys, or is set up wrongly; nothing was answered rightly since.
    Refusing,
}

impl Remote {
    /// A bucket. Nothing is connected before the first use, and secrets are read then.
    ///
    /// # Errors
    /// `Invalid` when the settings are [wrong](RemoteSettings::check).
    pub fn s3(settings: RemoteSettings, metrics: Metrics) -> Result<Self> {
        settings.check()?;
        let limits = CallLimits::of(&settings);
        let throttle = settings.upload_octets_per_sec.map(Throttle::new).map(Arc::new);
        Ok(Self::over(Arc::new(s3::Bucket::new(settings)), limits, throttle, metrics))
    }

    /// A directory, which must exist whenever it is used: if its volume is not mounted, nothing is written below the
    /// mount point.
    pub fn directory(folder: &Path, metrics: Metrics) -> Self {
        let limits = CallLimits::of(&RemoteSettings::default());
        Self::over(Arc::new(directory::Directory::new(folder)), limits, None, metrics)
    }

    fn over(
        store: Arc<dyn ObjectStore>,
        limits: CallLimits,
        throttle: Option<Arc<Throttle>>,
        metrics: Metrics,
    ) -> Self {
        let calls = Calls::new(store.place(), limits, metrics);
        Self { inner: Arc::new(Inner { store, calls, throttle }) }
    }

    /// How it does, without asking it.
    pub fn health(&self) -> Health {
        self.inner.calls.health()
    }
}

/// Where it is.
impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.store.place())
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({self})")
    }
}
