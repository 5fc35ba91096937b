//! What the provider's MTA asks: look-ups as a Postfix socketmap, and passwords in the Dovecot auth protocol, so that
//! Postfix does submission with the mailboxes' credentials, switches and addresses (`docs/postfix.md`).
//!
//! Both tell more than a stranger may know: who exists, and whether a password is right. They belong on a Unix socket
//! or a loopback address.

#[cfg(any(test, feature = "fuzzing"))]
mod fake;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod sasl;
pub mod socketmap;
