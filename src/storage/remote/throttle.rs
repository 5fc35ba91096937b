//! The limit of uploads: a bucket of tokens that fills with time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How far uploads may run ahead of the limit after a pause.
const BURST: Duration = Duration::from_millis(500);

/// Spreads octets over time; shared by all uploads to one place.
#[derive(Debug)]
pub(super) struct Throttle {
    octets_per_sec: u64,
    /// When everything promised so far has been sent at the limit.
    busy_until: Mutex<Option<Instant>>,
}

impl Throttle {
    /// At most `octets_per_sec`, which is at least 1.
    pub(super) fn new(octets_per_sec: u64) -> Self {
        Self { octets_per_sec: octets_per_sec.max(1), busy_until: Mutex::default() }
    }

    /// Promises `octets` at `now`; they may be sent after the answer.
    pub(super) fn reserve(&self, octets: u64, now: Instant) -> Duration {
        let nanos = u128::from(octets) * 1_000_000_000 / u128::from(self.octets_per_sec);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = busy_until.map_or(earliest, |until| until.max(earliest));
        let end = start + cost;
        *busy_until = Some(end);
        end.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_spread_over_time() {
        let (throttle, start) = (Throttle::new(1_000), Instant::now());
        assert_eq!(throttle.reserve(500, start), Duration::ZERO, "the burst");
        assert_eq!(throttle.reserve(1_000, start), Duration::from_secs(1));
        assert_eq!(throttle.reserve(1_000, start), Duration::from_secs(2), "behind the others");
        let later = start + Duration::from_secs(100);
        assert_eq!(throttle.reserve(500, later), Duration::ZERO, "no more than the burst is saved up");
        assert_eq!(throttle.reserve(1_000, later), Duration::from_secs(1));
    }
}
