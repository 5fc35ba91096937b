//! Slows down guessing: failed logins are counted by source and by name, in memory that is bounded.
//!
//! A name that is being attacked stays usable from where its owner has logged in lately.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use crate::base::clock::{Clock, Timestamp};
use crate::service::context::Source;

/// Failures from one source within [`WINDOW`]; many people may share an address.
const SOURCE_FAILURES_MAX: u32 = 60;
/// Failures for one name within [`WINDOW`].
const NAME_FAILURES_MAX: u32 = 20;
/// How long failures count, from the first of them.
const WINDOW: Duration = Duration::from_secs(5 * 60);
/// How long a source counts as the owner's after a login.
const TRUST: Duration = Duration::from_secs(24 * 60 * 60);
/// Most sources, names, and pairs remembered; the least used are forgotten first.
const ENTRIES_MAX: u64 = 100_000;

/// Counts of failures that began at a time.
#[derive(Clone)]
struct Failures {
    since: Timestamp,
    count: Arc<AtomicU32>,
}

/// The counters.
pub(super) struct Throttle {
    clock: Clock,
    sources: Cache<IpAddr, Failures>,
    names: Cache<String, Failures>,
    trusted: Cache<(IpAddr, String), Timestamp>,
}

impl Throttle {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            sources: Cache::builder().max_capacity(ENTRIES_MAX).time_to_live(WINDOW).build(),
            names: Cache::builder().max_capacity(ENTRIES_MAX).time_to_live(WINDOW).build(),
            trusted: Cache::builder().max_capacity(ENTRIES_MAX).time_to_live(TRUST).build(),
        }
    }

    /// Whether another attempt may be made. A Unix socket has no source and is not slowed down by it.
    pub(super) fn admits(&self, source: Source, name: &str) -> bool {
        let source = source.map(network);
        if let Some(source) = source {
            if self.count(&self.sources, &source) >= SOURCE_FAILURES_MAX {
                return false;
            }
            let trusted = self.trusted.get(&(source, name.to_owned()));
            if trusted.is_some_and(|since| since.plus(TRUST) > self.clock.now()) {
                return true;
            }
        }
        self.count(&self.names, name) < NAME_FAILURES_MAX
    }

    /// An attempt failed.
    pub(super) fn failed(&self, source: Source, name: &str) {
        if let Some(source) = source {
            self.add(&self.sources, network(source));
        }
        self.add(&self.names, name.to_owned());
    }

    /// An attempt succeeded.
    pub(super) fn succeeded(&self, source: Source, name: &str) {
        if let Some(source) = source {
            self.trusted.insert((network(source), name.to_owned()), self.clock.now());
        }
    }

    fn count<K, Q>(&self, cache: &Cache<K, Failures>, key: &Q) -> u32
    where
        K: std::borrow::Borrow<Q> + std::hash::Hash + Eq + Send + Sync + 'static,
        Q: std::hash::Hash + Eq + ?Sized,
    {
        let failures = cache.get(key).filter(|failures| failures.since.plus(WINDOW) > self.clock.now());
        failures.map_or(0, |failures| failures.count.load(Ordering::Relaxed))
    }

    fn add<K: std::hash::Hash + Eq + Send + Sync + 'static>(&self, cache: &Cache<K, Failures>, key: K) {
        let now = self.clock.now();
        let new = || Failures { since: now, count: Arc::default() };
        let entry = cache.entry(key).or_insert_with_if(new, |failures| failures.since.plus(WINDOW) <= now);
        entry.value().count.fetch_add(1, Ordering::Relaxed);
    }
}

/// One household or host: an IPv4 address, or the first 64 bits of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle() -> (Throttle, Clock) {
        let clock = Clock::manual(Timestamp::from_secs(1_000_000));
        (Throttle::new(clock.clone()), clock)
    }

    fn source(text: &str) -> Source {
        Some(text.parse().unwrap())
    }

    #[test]
    fn name_is_blocked_for_strangers_until_the_window_ends() {
        let (throttle, clock) = throttle();
        throttle.succeeded(source("192.0.2.1"), "a@x");
        for n in 0..NAME_FAILURES_MAX {
            assert!(throttle.admits(None, "a@x"));
            throttle.failed(source(&format!("198.51.100.{n}")), "a@x");
        }
        assert!(!throttle.admits(source("203.0.113.9"), "a@x") && !throttle.admits(None, "a@x"));
        assert!(throttle.admits(source("192.0.2.1"), "a@x"));
        assert!(throttle.admits(source("203.0.113.9"), "b@x"));
        clock.advance(WINDOW);
        assert!(throttle.admits(None, "a@x"));
        throttle.failed(None, "a@x");
        assert!(throttle.admits(None, "a@x"));
    }

    #[test]
    fn source_is_blocked_by_its_network() {
        let (throttle, _) = throttle();
        for n in 0..SOURCE_FAILURES_MAX {
            throttle.failed(source(&format!("2001:db8::{n:x}")), &format!("{n}@x"));
        }
        assert!(!throttle.admits(source("2001:db8::ffff"), "new@x"));
        assert!(throttle.admits(source("2001:db8:0:1::1"), "new@x"));
        assert!(throttle.admits(None, "new@x"));
    }
}
