//! Threads for work that nobody waits for: packing, compaction, offload. On Linux they yield the processor to whoever
//! serves a client, and take what is left.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::{Result, StorageError};

/// Threads at most: what is done in the background is mostly one thing after the other.
const THREADS_MAX: usize = 4;
/// Their niceness: a tenth of the weight of threads with the usual one, where both want the same processor.
const NICENESS: i32 = 10;

/// One runtime for its threads alone: nothing asynchronous runs on it. It ends with the process, which work in the
/// background must survive anyway.
static THREADS: OnceLock<Option<Runtime>> = OnceLock::new();

/// Runs `work` on a thread where blocking is allowed, behind whatever serves a client.
///
/// # Errors
/// Those of `work`; `Busy` when it was interrupted.
pub(super) async fn background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = spawn(work).await;
    done.unwrap_or(Err(StorageError::Busy("work in the background was interrupted")))
}

/// As [`background`], for work with errors of its own.
pub(super) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let threads = THREADS.get_or_init(|| {
        let mut builder = Builder::new_current_thread();
        builder.max_blocking_threads(THREADS_MAX).thread_name("background").on_thread_start(step_back);
        builder.build().ok()
    });
    match threads {
        Some(threads) => threads.spawn_blocking(work),
        None => tokio::task::spawn_blocking(work),
    }
}

/// Lowers the priority of this thread alone; for good, since raising it again is a privilege.
#[cfg(target_os = "linux")]
fn step_back() {
    // For Linux a thread is what others call a process (setpriority(2), "C library/kernel differences").
    let niceness = rustix::process::getpriority_process(None).unwrap_or(0).max(NICENESS);
    if let Err(error) = rustix::process::setpriority_process(None, niceness) {
        tracing::debug!(%error, "work in the background keeps the usual priority");
    }
}

#[cfg(not(target_os = "linux"))]
fn step_back() {
    let _ = NICENESS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn background_work_steps_back_and_nobody_else_does() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        let inside = background(move || Ok(niceness())).await.unwrap();
        if cfg!(target_os = "linux") {
            assert_eq!(inside, before.max(NICENESS));
        }
        assert_eq!(niceness(), before);
    }

    #[tokio::test]
    async fn panic_in_the_background_is_an_error_and_the_next_work_runs() {
        let interrupted: Result<()> = background(|| panic!("as wanted")).await;
        assert!(matches!(interrupted, Err(StorageError::Busy(_))));
        assert_eq!(background(|| Ok(1)).await.unwrap(), 1);
    }
}
