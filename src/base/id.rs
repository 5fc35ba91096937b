//! Identifiers. Internal ids are integers that never leave the daemon; public ids are random and reveal nothing.

use std::fmt;

/// Declares a newtype over the integer key of a table.
macro_rules! table_key {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

table_key!(
    /// A customer: a node of the hierarchy.
    CustomerId,
    /// An e-mail domain of a customer.
    DomainId,
    /// A mailbox `localpart@domain`.
    MailboxId,
    /// A folder of a mailbox.
    FolderId,
    /// The immutable bytes of a message, shared by all messages of one customer that refer to them.
    BodyId,
    /// A pack file.
    PackId,
    /// A mail store (volume).
    StoreId,
    /// An administrator.
    AdministratorId,
    /// A grant of a role to an administrator or a group at a customer.
    GrantId,
    /// A role that a customer made itself.
    RoleId,
    /// A group of administrators.
    GroupId,
    /// A zone: mail stores and servers.
    ZoneId,
    /// A bearer token of an administrator.
    TokenId,
);

/// Hashes keys. The database gives them and nobody chooses them, so one multiplication spreads them well enough.
#[derive(Clone, Default, Debug)]
pub struct KeyHasher(u64);

impl std::hash::Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        octets.iter().for_each(|octet| self.write_i64(i64::from(*octet)));
    }

    fn write_i64(&mut self, key: i64) {
        // 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, section 6.4).
        let mixed = (self.0 ^ key.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// IMAP unique identifier (RFC 3501 section 2.3.1.1); never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Uid(pub u32);

/// Value that changes when a folder's UIDs lose their meaning (RFC 3501 section 2.3.1.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UidValidity(pub u32);

/// Modification sequence (RFC 7162 section 3.1); at most 63 bits.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct ModSeq(pub u64);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for UidValidity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ModSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Letters of public ids: Crockford's base 32 in lower case, no letters that are read as digits.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// `length` random characters of 5 bits each, from the operating system's generator.
///
/// # Panics
/// When the operating system has no randomness to give, which leaves nothing safe to do.
pub fn random_text(length: usize) -> String {
    let letter = |byte: &u8| ALPHABET.get(usize::from(byte & 31)).map_or('0', |&letter| char::from(letter));
    random_bytes(length).iter().map(letter).collect()
}

/// `length` random bytes from the operating system's generator.
///
/// # Panics
/// When the operating system has no randomness to give, which leaves nothing safe to do.
#[allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "the one place that asks the system for randomness"
)]
pub fn random_bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}

/// A random public id (80 bits) such as `0k3v9t2m7x1q8r4z`.
pub fn public_id() -> String {
    random_text(16)
}
