//! What the system asks of the process.

use std::pin::pin;

use tokio::signal::unix::{SignalKind, signal};

use super::DaemonError;
use crate::service::server::orders::Order;

/// The signals of an end and of a reload.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, DaemonError> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| DaemonError::Io { what: "cannot listen for signals".to_owned(), error })
        };
        // A file that may not grow any more (RLIMIT_FSIZE) is an error to tell, like a full disk, not the end of the
        // process: once the signal has a handler, the write fails with EFBIG.
        drop(listen(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for an order, or for SIGTERM or SIGINT; calls `reload` on SIGHUP.
    pub(super) async fn wait(
        &mut self,
        reload: impl Fn(),
        order: impl Future<Output = Order>,
    ) -> Option<Order> {
        self.until_ended(reload, order).await
    }

    /// Waits for `work`; nothing when SIGTERM or SIGINT came before its end. A reload can wait, it is not heard.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        self.until_ended(|| {}, work).await
    }

    /// Tells the service manager's watchdog meanwhile that all is well.
    async fn until_ended<T>(&mut self, reload: impl Fn(), work: impl Future<Output = T>) -> Option<T> {
        let watchdog = sd_notify::watchdog_enabled().map(|timeout| timeout / 2);
        let mut work = pin!(work);
        loop {
            let beat = async {
                match watchdog {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = &mut work => return Some(done),
                _ = self.terminate.recv() => return None,
                _ = self.interrupt.recv() => return None,
                _ = self.hangup.recv() => reload(),
                () = beat => {
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                }
            }
        }
    }
}
