//! What a database was made to do since it was opened: small numbers that tell whether work is bounded as it must be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
struct Counts {
    statements: AtomicU64,
    operation_rows_max: AtomicU64,
}

/// Counts statements and rows. Cheap to clone; clones count together.
#[derive(Clone, Default)]
pub struct Tally(Arc<Counts>);

impl Tally {
    /// Statements run on any connection, those that begin and end transactions included.
    pub fn statements(&self) -> u64 {
        self.0.statements.load(Ordering::Relaxed)
    }

    /// Most rows that one operation of [`super::database::Database::write`] inserted, changed or deleted.
    pub fn operation_rows_max(&self) -> u64 {
        self.0.operation_rows_max.load(Ordering::Relaxed)
    }

    /// Forgets the largest operation so far.
    pub fn operation_rows_reset(&self) {
        self.0.operation_rows_max.store(0, Ordering::Relaxed);
    }

    pub(super) fn statement(&self) {
        self.0.statements.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn operation(&self, rows: u64) {
        self.0.operation_rows_max.fetch_max(rows, Ordering::Relaxed);
    }
}
