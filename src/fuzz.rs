//! Everything that reads what others wrote, from network or disk, as fuzz targets: functions that take any octets
//! and fail only when a promise is broken.
//!
//! `tests/fuzz` runs them under coverage guidance; `cargo test` runs them over the kept corpora and random changes of
//! them. A target lives in the room whose reader it drives, where it can say what must hold.

use crate::{admin, base, imap, mta, pop3, service, smtp, storage, wire};

/// One reader under test.
pub struct Target {
    /// Its name, also of its folder below `tests/fuzz/corpus`.
    pub name: &'static str,
    /// Reads the octets; panics when a promise is broken.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All targets.
pub const TARGETS: [Target; 23] = [
    target("admin-request", admin::fuzz::requests),
    target("catalog", storage::catalogs::fuzz::bytes),
    target("catalog-section", storage::catalogs::fuzz::sections),
    target("configuration", base::fuzz::configuration),
    target("dns-answer", base::fuzz::dns_answers),
    target("imap-answer", imap::fuzz::answers),
    target("imap-command", imap::fuzz::commands),
    target("imap-name", imap::fuzz::names),
    target("imap-sequence", imap::fuzz::sequence),
    target("line", wire::fuzz::lines),
    target("message", service::mailstore::fuzz::message),
    target("mta-sasl", mta::fuzz::authentications),
    target("mta-socketmap", mta::fuzz::lookups),
    target("pack", storage::pack::fuzz::bytes),
    target("pack-frame", storage::pack::fuzz::frames),
    target("pop3-session", pop3::fuzz::sessions),
    target("proxy", wire::fuzz::proxy),
    target("sasl", wire::fuzz::sasl),
    target("search", imap::fuzz::searches),
    target("smtp-content", smtp::fuzz::content),
    target("smtp-session", smtp::fuzz::sessions),
    target("summary", service::mailstore::fuzz::summary),
    target("word", base::fuzz::words),
];

#[cfg(test)]
mod tests;
