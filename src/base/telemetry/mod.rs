//! What the daemon tells about itself: its log on standard error, and numbers for Prometheus.
//!
//! Neither holds secrets or contents of messages, and the numbers carry no label that names a customer, domain or
//! mailbox: whoever watches the server is not thereby allowed to watch its customers.

pub mod metrics;
pub mod process;

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

use crate::base::config::{Log, LogFormat};

/// The running log; its level can be changed.
#[derive(Clone)]
pub struct LogHandle(reload::Handle<Targets, Registry>);

/// Starts writing the log to standard error. To be called once in a process.
///
/// # Errors
/// When the process has a log already.
pub fn start(log: &Log) -> Result<LogHandle, TryInitError> {
    let (level, handle) = reload::Layer::new(targets(log));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Human => lines.with_ansi(is_coloured()).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(level)).try_init()?;
    Ok(LogHandle(handle))
}

impl LogHandle {
    /// Takes the level of `log`; its format stays as it was at the start.
    pub fn reload(&self, log: &Log) {
        if let Err(error) = self.0.reload(targets(log)) {
            tracing::warn!(%error, "the log level stays as it was");
        }
    }
}

/// Understands `info`, or `info,posthouse::imap=debug`.
pub fn filter(level: &str) -> Option<Targets> {
    // A lone word that is no level would be taken for a module of which everything is wanted.
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let is_clear = |part: &str| part.contains('=') || is_level(part);
    if level.split(',').all(|part| is_clear(part.trim())) { level.parse().ok() } else { None }
}

fn targets(log: &Log) -> Targets {
    filter(&log.level).unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

/// Colours are for terminals, and not for people who do not want them (<https://no-color.org>).
fn is_coloured() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_and_modules_with_levels() {
        for right in ["info", "INFO", "off", "warn,posthouse::imap=debug", "posthouse=trace"] {
            assert!(filter(right).is_some(), "{right}");
        }
        for wrong in ["", "loud", "info,", "info,posthouse", "posthouse=loud"] {
            assert!(filter(wrong).is_none(), "{wrong}");
        }
    }
}
