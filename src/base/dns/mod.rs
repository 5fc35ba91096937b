//! Asking the DNS for TXT records, and nothing else of it: a stub (RFC 1034 section 5.3.1) that asks a recursive
//! resolver, over UDP and, where the answer is cut off, over TCP.
//!
//! The resolver crates bring ten others along, and all that domain verification needs is one kind of question.
//! Whether answers are genuine is the resolver's business: name one that validates DNSSEC, near enough that nobody
//! can write to the way there.

mod message;
mod resolver;

pub use message::{Answer, MessageError, parse, query};
pub use resolver::{DnsError, Resolver};
