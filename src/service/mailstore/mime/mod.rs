//! Reading of Internet messages: header fields (RFC 5322), MIME structure (RFC 2045, 2046, 2231), addresses, dates,
//! and decoding of text.
//!
//! Everything here is total: any octets give a result, in time linear in their number times a small bound. Nothing
//! is copied that ENVELOPE or BODYSTRUCTURE does not tell.

pub mod address;
pub mod charset;
pub mod content;
pub mod date;
pub mod envelope;
pub mod field;
pub mod structure;
pub mod token;

/// Octets `start..end` of `octets`, as far as they exist.
pub(super) fn cut(octets: &[u8], start: u32, end: u32) -> &[u8] {
    octets.get(start as usize..(end as usize).min(octets.len())).unwrap_or_default()
}
