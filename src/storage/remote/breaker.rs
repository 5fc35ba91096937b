//! The circuit breaker: while a server is away, requests fail at once instead of piling up behind time limits.
//!
//! Closed, it counts failures in a row. Open, it refuses everything for a pause, which doubles with every failed
//! try. Then one request may try; if that succeeds, it closes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open it: two requests that used up their attempts.
const FAILURES_MAX: u32 = 8;
/// The first pause; the server may just be restarting.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// The longest pause: how late a recovery is noticed at worst.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Cheap to clone; clones share their state.
#[derive(Clone, Debug, Default)]
pub(super) struct Breaker(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    /// Nothing is tried before.
    opens_until: Option<Instant>,
    pause: Duration,
    is_trying: bool,
}

/// The permission for one attempt. Dropped without an answer, it counts as none.
#[derive(Debug)]
pub(super) struct Admission {
    breaker: Breaker,
    is_try: bool,
}

impl Breaker {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an attempt begin at `now`.
    ///
    /// # Errors
    /// The time after which it makes sense to ask again.
    pub(super) fn admit(&self, now: Instant) -> Result<Admission, Duration> {
        let mut state = self.state();
        let is_try = match state.opens_until {
            None => false,
            Some(until) if now < until => return Err(until - now),
            Some(_) if state.is_trying => return Err(PAUSE_MIN),
            Some(_) => true,
        };
        state.is_trying |= is_try;
        Ok(Admission { breaker: self.clone(), is_try })
    }

    /// Whether requests are refused, or only tried one by one.
    pub(super) fn is_open(&self) -> bool {
        self.state().opens_until.is_some()
    }
}

impl Admission {
    /// The attempt ended at `now`. Gives the new state when it opened or closed the breaker.
    pub(super) fn report(self, is_failure: bool, now: Instant) -> Option<Change> {
        let mut state = self.breaker.state();
        let was_open = state.opens_until.is_some();
        if !is_failure {
            *state = State { is_trying: state.is_trying, ..State::default() };
            return was_open.then_some(Change::Closed);
        }
        state.failures = state.failures.saturating_add(1);
        // What began before it opened says nothing new.
        if (was_open && !self.is_try) || state.failures < FAILURES_MAX {
            return None;
        }
        state.pause = (state.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        state.opens_until = Some(now + state.pause);
        (!was_open).then_some(Change::Opened)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.is_try {
            self.breaker.state().is_trying = false;
        }
    }
}

/// What an answer did to the breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Requests are refused from now on.
    Opened,
    /// Requests go through again.
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(breaker: &Breaker, now: Instant) {
        for _ in 1..FAILURES_MAX {
            assert_eq!(breaker.admit(now).unwrap().report(true, now), None);
        }
        assert_eq!(breaker.admit(now).unwrap().report(true, now), Some(Change::Opened));
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_success_closes_it() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        open(&breaker, now);
        assert_eq!(breaker.admit(now).unwrap_err(), PAUSE_MIN);
        let later = now + PAUSE_MIN;
        let admission = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_err(), "one at a time");
        assert_eq!(admission.report(false, later), Some(Change::Closed));
        assert!(!breaker.is_open());
        breaker.admit(later).unwrap();
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for round in 0..FAILURES_MAX * 3 {
            breaker.admit(now).unwrap().report(round % FAILURES_MAX != 0, now);
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        open(&breaker, now);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let pause = breaker.admit(now).unwrap_err();
            pauses.push(pause.as_secs());
            now += pause;
            assert_eq!(breaker.admit(now).unwrap().report(true, now), None, "still open");
        }
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_try_that_was_given_up_lets_the_next_one_try() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        open(&breaker, now);
        let later = now + PAUSE_MIN;
        drop(breaker.admit(later).unwrap());
        breaker.admit(later).unwrap();
    }

    #[test]
    fn late_failures_do_not_prolong_the_pause() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let late = breaker.admit(now).unwrap();
        open(&breaker, now);
        late.report(true, now + Duration::from_secs(1));
        breaker.admit(now + PAUSE_MIN).unwrap();
    }
}
