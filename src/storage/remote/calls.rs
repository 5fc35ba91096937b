//! One request with everything around it: the breaker, the limit of requests at a time, time limits, retries, numbers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::StreamExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::Health;
use super::breaker::{Breaker, Change};
use super::error::{RemoteError, Result};
use super::settings::RemoteSettings;
use super::store::{Answer, Attempt};
use crate::base::id::random_bytes;
use crate::base::telemetry::metrics::Metrics;

/// Most attempts of one request.
const ATTEMPTS_MAX: u32 = 5;
/// The first pause between attempts is at most this long, and each next one at most twice as long as the one before.
const PAUSE_MAX_FIRST: Duration = Duration::from_millis(100);
/// The same for a server that asks to slow down.
const PAUSE_MAX_FIRST_THROTTLED: Duration = Duration::from_millis(500);
/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The slowest transfer that is waited for, besides the total time: 5 GiB in a day.
const OCTETS_PER_SEC_MIN: u64 = 64 * 1024;
/// Requests that wait for a free connection, for each connection; more of them fail at once.
const WAITING_PER_CONNECTION: usize = 64;

/// What a request is; S3 has different prices for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// An upload of a whole object or a part.
    Put,
    /// Beginning and completing an upload in parts.
    Post,
    /// A read.
    Get,
    /// A look at what is there.
    Head,
    /// A deletion, or giving up an upload.
    Delete,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Post => "post",
            Self::Get => "get",
            Self::Head => "head",
            Self::Delete => "delete",
        }
    }
}

/// Bounds of requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallLimits {
    /// Requests at a time.
    pub connections_max: u32,
    /// After this time no attempt begins.
    pub total: Duration,
    /// How long octets of an answer may fail to come.
    pub idle: Duration,
    /// The slowest upload that is waited for, in octets per second.
    pub upload_octets_per_sec_min: u64,
}

impl CallLimits {
    pub(super) fn of(settings: &RemoteSettings) -> Self {
        // All connections together keep the limit of uploads, so that each may have a small share of it.
        let share =
            settings.upload_octets_per_sec.unwrap_or(u64::MAX) / u64::from(settings.connections_max).max(1);
        Self {
            connections_max: settings.connections_max,
            total: Duration::from_secs(settings.total_timeout_secs.into()),
            idle: settings.response_timeout(),
            upload_octets_per_sec_min: OCTETS_PER_SEC_MIN.min(share / 2).max(1),
        }
    }

    /// How long one attempt that moves `octets` may take.
    fn attempt(&self, kind: Kind, octets: u64) -> Duration {
        let slowest = if kind == Kind::Put { self.upload_octets_per_sec_min } else { OCTETS_PER_SEC_MIN };
        self.total + Duration::from_secs(octets / slowest.max(1))
    }
}

/// Makes the requests of one place.
pub(super) struct Calls {
    place: String,
    limits: CallLimits,
    metrics: Metrics,
    breaker: Breaker,
    is_refusing: AtomicBool,
    requests: Semaphore,
    /// Uploads need one of these as well, so that they never keep readers waiting.
    uploads: Semaphore,
    waiting: Semaphore,
}

impl Calls {
    pub(super) fn new(place: String, limits: CallLimits, metrics: Metrics) -> Self {
        let connections = usize::try_from(limits.connections_max).unwrap_or(usize::MAX).max(1);
        Self {
            place,
            limits,
            metrics,
            breaker: Breaker::default(),
            is_refusing: AtomicBool::new(false),
            requests: Semaphore::new(connections),
            uploads: Semaphore::new(connections.div_ceil(2)),
            waiting: Semaphore::new(connections.saturating_mul(WAITING_PER_CONNECTION)),
        }
    }

    pub(super) fn health(&self) -> Health {
        if self.breaker.is_open() {
            Health::Away
        } else if self.is_refusing.load(Ordering::Relaxed) {
            Health::Refusing
        } else {
            Health::Good
        }
    }

    /// Tries until it succeeds, cannot succeed, or the bounds are reached. `octets` move at most.
    ///
    /// # Errors
    /// That of the last attempt.
    pub(super) async fn call<'a, T>(
        &self,
        kind: Kind,
        octets: u64,
        attempt: impl Fn() -> Attempt<'a, T>,
    ) -> Result<T> {
        let deadline = Instant::now() + self.limits.total;
        let mut pauses = 0;
        loop {
            let error = match self.once(kind, octets, deadline, attempt()).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let pause = jitter(&error, pauses);
            pauses += 1;
            let is_last = pauses >= ATTEMPTS_MAX || Instant::now() + pause >= deadline;
            if !error.is_worth_retrying() || is_last || self.breaker.is_open() {
                return Err(error);
            }
            tracing::debug!(%error, request = kind.name(), "object storage: another attempt");
            tokio::time::sleep(pause).await;
        }
    }

    /// One attempt.
    async fn once<T>(
        &self,
        kind: Kind,
        octets: u64,
        deadline: Instant,
        attempt: Attempt<'_, T>,
    ) -> Result<T> {
        let _places =
            tokio::time::timeout_at(deadline, self.places(kind)).await.map_err(|_| self.busy())??;
        let admission = self.breaker.admit(Instant::now()).map_err(|pause| {
            let message = format!("{} is away, the next try is in {} s", self.place, pause.as_secs() + 1);
            RemoteError::Unavailable(message)
        })?;
        let start = Instant::now();
        let limit = self.limits.attempt(kind, octets);
        let done = tokio::time::timeout(limit, attempt).await;
        let done = done.unwrap_or_else(|_| Err(RemoteError::timeout(kind.name(), limit)));
        let class = done.as_ref().map_or_else(RemoteError::class, |_| "ok");
        self.metrics.remote_request(kind.name(), class, start.elapsed());
        let change = admission.report(done.as_ref().is_err_and(RemoteError::is_outage), Instant::now());
        self.note(change, done.as_ref().err());
        done
    }

    /// Waits for a free connection.
    async fn places(&self, kind: Kind) -> Result<[Option<SemaphorePermit<'_>>; 2]> {
        let _waiting = self.waiting.try_acquire().map_err(|_| self.busy())?;
        let is_upload = kind == Kind::Put;
        let upload =
            if is_upload { Some(self.uploads.acquire().await.map_err(|_| self.busy())?) } else { None };
        let request = self.requests.acquire().await.map_err(|_| self.busy())?;
        Ok([upload, Some(request)])
    }

    fn busy(&self) -> RemoteError {
        RemoteError::Unavailable(format!("too many requests to {} are waiting", self.place))
    }

    /// Tells the operator once of each change.
    fn note(&self, change: Option<Change>, error: Option<&RemoteError>) {
        let place = &self.place;
        match (change, error) {
            (Some(Change::Opened), Some(error)) => {
                self.metrics.remote_away(true);
                tracing::error!(%place, %error, "object storage is away; what needs it is deferred");
            }
            (Some(Change::Closed), _) => {
                self.metrics.remote_away(false);
                tracing::info!(%place, "object storage is back");
            }
            _ => {}
        }
        match error {
            Some(error) if error.is_permanent() => {
                if !self.is_refusing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%place, %error, "object storage refuses");
                }
            }
            Some(RemoteError::NotFound(_)) | None => {
                if self.is_refusing.swap(false, Ordering::Relaxed) {
                    tracing::info!(%place, "object storage does not refuse any more");
                }
            }
            Some(_) => {}
        }
    }

    /// The next piece of an answer's content.
    ///
    /// # Errors
    /// `Unavailable` when it does not come in time, or the content broke off.
    pub(super) async fn next_piece(&self, answer: &mut Answer) -> Result<Option<Bytes>> {
        let idle = self.limits.idle;
        let piece = tokio::time::timeout(idle, answer.content.next()).await;
        piece.map_err(|_| RemoteError::timeout("the content of an answer", idle))?.transpose()
    }

    /// Counts octets that arrived or were stored.
    pub(super) fn count(&self, kind: Kind, octets: u64) {
        self.metrics.remote_octets(kind.name(), octets);
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        if self.breaker.is_open() {
            self.metrics.remote_away(false);
        }
    }
}

/// A random part of a pause that doubles each time: clients that failed together do not come back together.
fn jitter(error: &RemoteError, pauses: u32) -> Duration {
    let first = match error {
        RemoteError::Throttled(_) => PAUSE_MAX_FIRST_THROTTLED,
        _ => PAUSE_MAX_FIRST,
    };
    let longest = first.saturating_mul(1 << pauses.min(16)).min(PAUSE_MAX);
    let random = random_bytes(2).iter().fold(0, |number: u32, byte| number << 8 | u32::from(*byte));
    longest.saturating_mul(random) / (1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_at_random_within_a_bound() {
        let away = RemoteError::Unavailable(String::new());
        let slow = RemoteError::Throttled(String::new());
        for pauses in 0..40 {
            let longest = PAUSE_MAX_FIRST.saturating_mul(1 << pauses.min(16)).min(PAUSE_MAX);
            assert!(jitter(&away, pauses) < longest, "{pauses}");
            assert!(jitter(&slow, pauses) < PAUSE_MAX);
        }
        let some: std::collections::BTreeSet<Duration> = (0..20).map(|_| jitter(&away, 6)).collect();
        assert!(some.len() > 1, "not at random");
    }
}
