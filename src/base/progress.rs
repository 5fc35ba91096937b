//! How far long work has come, and whether it is to end: what the rooms that do the work are handed, and what the
//! service that runs it looks at. Telling costs a lock and nothing else, so tell as often as you like.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// What work tells of itself.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Standing {
    /// What `done` and `total` count, for instance `octets`.
    pub unit: String,
    /// How much is done.
    pub done: u64,
    /// Of how much, where that is known.
    pub total: Option<u64>,
    /// Where it goes on after a restart; nothing if that was not told since it began.
    pub position: Option<String>,
    /// JSON of what came of it so far; nothing if that was not told since it began.
    pub report: Option<String>,
}

/// The work was asked to end before it was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

struct Shared {
    /// The standing, and whether it has changed since somebody took it.
    standing: Mutex<(Standing, bool)>,
    cancel: watch::Sender<bool>,
}

/// The handle of one piece of work; cheap to clone.
#[derive(Clone)]
pub struct Progress {
    shared: Arc<Shared>,
}

impl Default for Progress {
    /// Of work that nobody watches.
    fn default() -> Self {
        Self::new(Standing::default())
    }
}

impl Progress {
    /// Of work that stands there.
    pub fn new(standing: Standing) -> Self {
        let (cancel, _) = watch::channel(false);
        Self { shared: Arc::new(Shared { standing: Mutex::new((standing, false)), cancel }) }
    }

    fn change(&self, change: impl FnOnce(&mut Standing)) {
        let mut guard = self.shared.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = guard.0.clone();
        change(&mut guard.0);
        guard.1 |= guard.0 != before;
    }

    /// Tells how much is done, of how much. Within one unit `done` never goes back: a smaller one counts for nothing.
    pub fn advance(&self, done: u64, total: Option<u64>, unit: &str) {
        self.change(|standing| {
            if standing.unit == unit {
                standing.done = standing.done.max(done);
            } else {
                (standing.unit, standing.done) = (unit.to_owned(), done);
            }
            standing.total = total;
        });
    }

    /// Tells where the work goes on after a restart. It is written down within a second or so: after a crash the work
    /// begins at this position or at an earlier one.
    pub fn save_position(&self, position: impl Into<String>) {
        let position = position.into();
        self.change(|standing| standing.position = Some(position));
    }

    /// Tells what came of it so far, as JSON.
    pub fn report(&self, report: String) {
        self.change(|standing| standing.report = Some(report));
    }

    /// Whether the work is to end.
    pub fn is_cancelled(&self) -> bool {
        *self.shared.cancel.borrow()
    }

    /// Completes when the work is to end. Cancel-safe.
    pub async fn cancelled(&self) {
        let _ = self.shared.cancel.subscribe().wait_for(|cancelled| *cancelled).await;
    }

    /// Refuses once the work is to end: `progress.go_on()?` between two steps.
    ///
    /// # Errors
    /// [`Interrupted`] then.
    pub fn go_on(&self) -> Result<(), Interrupted> {
        if self.is_cancelled() { Err(Interrupted) } else { Ok(()) }
    }

    /// Asks the work to end.
    pub fn cancel(&self) {
        self.shared.cancel.send_replace(true);
    }

    /// The standing.
    pub fn standing(&self) -> Standing {
        self.shared.standing.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The standing if it has changed since the last call.
    pub fn take_changed(&self) -> Option<Standing> {
        let mut guard = self.shared.standing.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut guard.1).then(|| guard.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_never_goes_back_within_one_unit() {
        let progress = Progress::default();
        assert_eq!(progress.take_changed(), None);
        progress.advance(5, Some(9), "files");
        progress.advance(3, Some(9), "files");
        assert_eq!(progress.take_changed().map(|standing| standing.done), Some(5));
        progress.advance(4, Some(9), "files");
        assert_eq!(progress.take_changed(), None);
        progress.advance(1, None, "octets");
        let standing = progress.standing();
        assert_eq!((standing.done, standing.total, standing.unit.as_str()), (1, None, "octets"));
    }

    #[tokio::test]
    async fn asking_for_the_end_is_seen_everywhere_and_stays() {
        let progress = Progress::default();
        let other = progress.clone();
        assert_eq!(other.go_on(), Ok(()));
        progress.cancel();
        other.cancelled().await;
        other.cancelled().await;
        assert_eq!(other.go_on(), Err(Interrupted));
    }
}
