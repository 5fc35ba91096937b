//! What the sections of catalogs hold. Lists of things that administrators make are JSON, so that later versions can
//! add to them; messages, of which there are many, are binary.
//!
//! No password, token, or hash of such is ever part of it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::format::{PLAIN_OCTETS_MAX, corrupt};
use crate::storage::Result;

/// Types of sections.
pub mod section {
    /// [`super::CustomerRecord`]s.
    pub const CUSTOMERS: u8 = 1;
    /// [`super::DomainRecord`]s.
    pub const DOMAINS: u8 = 2;
    /// [`super::AliasRecord`]s.
    pub const ALIASES: u8 = 3;
    /// [`super::HoldRecord`]s.
    pub const HOLDS: u8 = 4;
    /// A [`super::MailboxRecord`]: what follows belongs to it.
    pub const MAILBOX: u8 = 10;
    /// [`super::FolderRecord`]s.
    pub const FOLDERS: u8 = 11;
    /// Names of subscribed folders.
    pub const SUBSCRIPTIONS: u8 = 12;
    /// Messages of one folder.
    pub const MESSAGES: u8 = 13;
    /// The UIDs that one folder has.
    pub const PRESENT: u8 = 14;
    /// Expunged messages that can come back.
    pub const TOMBSTONES: u8 = 15;
    /// A [`super::CurrentRecord`].
    pub const CURRENT: u8 = 20;
    /// [`super::PackRecord`]s.
    pub const PACKS: u8 = 21;
    /// A [`super::CatalogRecord`].
    pub const CATALOG: u8 = 22;
    /// The bytes of a dictionary.
    pub const DICTIONARY: u8 = 30;
    /// A [`super::DictionaryRecord`].
    pub const DICTIONARY_OWNER: u8 = 31;
}

/// Most rows of a JSON section.
pub const ROWS_MAX: usize = 1_000;
/// A section of messages is closed when it is so long.
pub const MESSAGES_OCTETS: usize = 512 << 10;

/// A customer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns of table customer")]
pub struct CustomerRecord {
    pub id: i64,
    pub public_id: String,
    pub parent: Option<i64>,
    pub slug: String,
    pub name: String,
    pub kind: String,
    pub code: String,
    pub contact: Option<String>,
    /// Octets, messages, mailboxes, aliases, domains, customers, administrators.
    pub limits: [Option<i64>; 7],
    /// Guarantees of octets and mailboxes, then how far the limits of the customers below may go beyond its own, in
    /// percent of that: on octets, on mailboxes. Older catalogs have none.
    #[serde(default)]
    pub shares: [Option<i64>; 4],
    pub created_at: i64,
    pub deleted_at: Option<i64>,
    pub deleted_by: Option<String>,
}

/// A domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns of table domain")]
pub struct DomainRecord {
    pub id: i64,
    pub public_id: String,
    pub customer: i64,
    pub name: String,
    pub state: String,
    pub alias_of: Option<i64>,
    pub catch_all: Option<String>,
    /// Octets, messages, octets of new mailboxes.
    pub limits: [Option<i64>; 3],
    pub created_at: i64,
    pub deleted_at: Option<i64>,
    pub deleted_by: Option<String>,
}

/// An alias.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns of table alias")]
pub struct AliasRecord {
    pub id: i64,
    pub public_id: String,
    pub domain: i64,
    pub local_part: String,
    pub targets: Vec<String>,
    pub created_at: i64,
}

/// A hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns of table hold")]
pub struct HoldRecord {
    pub id: i64,
    pub public_id: String,
    pub customer: Option<i64>,
    pub domain: Option<i64>,
    pub mailbox: Option<i64>,
    pub switch: String,
    pub reason: String,
    pub actor: String,
    pub authority: i64,
    pub created_at: i64,
}

/// A mailbox, and how its entry is to be read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns of table mailbox")]
pub struct MailboxRecord {
    pub id: i64,
    /// Entries of a mailbox are applied in this order.
    pub sequence: u64,
    /// Whether the entry begins anew; else it changes what those before it say.
    pub is_whole: bool,
    pub public_id: String,
    pub local_part: String,
    pub domain: i64,
    pub domain_name: String,
    /// Keys of the customers from the root down to that of the domain, and their slugs.
    pub path: Vec<(i64, String)>,
    pub name: String,
    pub bytes_max: Option<i64>,
    pub messages_max: Option<i64>,
    pub uid_validity_next: i64,
    pub created_at: i64,
    pub deleted_at: Option<i64>,
    pub deleted_by: Option<String>,
    /// When it was read.
    pub at: i64,
}

/// A folder, or a deleted one whose messages can come back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns of table folder")]
pub struct FolderRecord {
    pub id: i64,
    pub name: String,
    pub special_use: Option<String>,
    pub is_selectable: bool,
    pub uid_validity: i64,
    pub uid_next: i64,
    pub mod_seq: i64,
    pub recent_uid: i64,
    pub created_at: i64,
    /// Number and name of its keywords.
    pub keywords: Vec<(i64, String)>,
    /// When it was deleted, if it was.
    pub deleted_at: Option<i64>,
}

/// What stands at the beginning of the state of a store.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CurrentRecord {
    /// Grows with each state that is written: the highest is the newest.
    pub number: u64,
    /// Name of the mail store.
    pub store: String,
    /// What the catalogs say is complete up to then.
    pub at: i64,
    /// The last number of a body or of trace lines that was given.
    pub object_last: i64,
    /// Numbers of the dictionaries that lie beside the packs.
    pub dictionaries: Vec<u32>,
}

/// A pack of a store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PackRecord {
    /// Its name, 32 hexadecimal digits.
    pub name: String,
    /// Its length.
    pub octets: u64,
    /// Whether its file is on the volume.
    pub is_local: bool,
    /// Whether it is in object storage.
    pub is_remote: bool,
    /// Whether the catalogs know all that lives in it: other bodies in it are dead.
    pub is_covered: bool,
}

/// A catalog of a store, or a piece of what is to be known of it: several of one name belong together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CatalogRecord {
    /// Its name, 32 hexadecimal digits.
    pub name: String,
    /// Whether it is the directory; else it has mailboxes.
    pub is_directory: bool,
    /// Its length.
    pub octets: u64,
    /// Which of its entries belong to the present state: mailbox and sequence.
    pub entries: Vec<(i64, u64)>,
}

/// Whose mail a dictionary was trained from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns of table dictionary")]
pub struct DictionaryRecord {
    pub customer: i64,
    pub created_at: i64,
}

/// A JSON section.
///
/// # Errors
/// `Corrupt` when it would be too long.
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let text = serde_json::to_vec(value).map_err(|error| corrupt(error.to_string()))?;
    if text.len() > PLAIN_OCTETS_MAX {
        return Err(corrupt("a record of a catalog is too long"));
    }
    Ok(text)
}

/// Reads a JSON section.
///
/// # Errors
/// `Corrupt`.
pub fn from_json<T: DeserializeOwned>(plain: &[u8]) -> Result<T> {
    serde_json::from_slice(plain).map_err(|error| corrupt(format!("a record of a catalog: {error}")))
}

/// A message, or a tombstone.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct MessageRecord {
    /// Its UID.
    pub uid: i64,
    /// Its flags as stored.
    pub flags: u64,
    /// INTERNALDATE in microseconds.
    pub internal_date: i64,
    /// Its body.
    pub body: i64,
    /// Number of its trace lines; 0 for none.
    pub prefix_id: i64,
    /// Length of body and trace lines.
    pub octets: i64,
    /// Its trace lines.
    pub prefix: Vec<u8>,
    /// Of a tombstone: the folder, and when it was expunged; else both are 0.
    pub grave: (i64, i64),
}

/// Rows on their way into a section; differences to the row before, so that they compress.
#[derive(Default)]
pub struct Rows {
    bytes: Vec<u8>,
    last: MessageRecord,
    count: u64,
}

fn put_unsigned(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_signed(bytes: &mut Vec<u8>, number: i64) {
    put_unsigned(bytes, (number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned());
}

impl Rows {
    /// Rows that belong to this folder, or, for tombstones, to 0.
    pub fn of(folder: i64) -> Self {
        let mut bytes = Vec::new();
        put_signed(&mut bytes, folder);
        Self { bytes, ..Self::default() }
    }

    /// Appends a row.
    pub fn push(&mut self, row: MessageRecord) {
        let (bytes, last) = (&mut self.bytes, &self.last);
        put_signed(bytes, row.uid.wrapping_sub(last.uid));
        put_unsigned(bytes, row.flags);
        put_signed(bytes, row.internal_date.wrapping_sub(last.internal_date));
        put_signed(bytes, row.body.wrapping_sub(last.body));
        put_signed(bytes, row.prefix_id.wrapping_sub(last.prefix_id));
        put_signed(bytes, row.octets);
        put_signed(bytes, row.grave.0.wrapping_sub(last.grave.0));
        put_signed(bytes, row.grave.1.wrapping_sub(last.grave.1));
        put_unsigned(bytes, row.prefix.len() as u64);
        bytes.extend_from_slice(&row.prefix);
        self.last = row;
        self.count += 1;
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Octets so far.
    pub fn octets(&self) -> usize {
        self.bytes.len()
    }

    /// The section.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads numbers off the front of a section.
pub struct Numbers<'a>(&'a [u8]);

impl<'a> Numbers<'a> {
    fn unsigned(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or_else(|| corrupt("a number is cut off"))?;
            self.0 = rest;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(corrupt("a number is too large"))
    }

    fn signed(&mut self) -> Result<i64> {
        let number = self.unsigned()?;
        Ok((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
    }

    fn bytes(&mut self, count: u64) -> Result<&'a [u8]> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let (bytes, rest) = self.0.split_at_checked(count).ok_or_else(|| corrupt("a row is cut off"))?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// Reads a section of messages or tombstones: folder and rows.
///
/// # Errors
/// `Corrupt`.
pub fn rows(plain: &[u8]) -> Result<(i64, Vec<MessageRecord>)> {
    let mut numbers = Numbers(plain);
    let folder = numbers.signed()?;
    let (mut rows, mut last) = (Vec::new(), MessageRecord::default());
    while !numbers.0.is_empty() {
        let uid = last.uid.wrapping_add(numbers.signed()?);
        let flags = numbers.unsigned()?;
        let internal_date = last.internal_date.wrapping_add(numbers.signed()?);
        let body = last.body.wrapping_add(numbers.signed()?);
        let prefix_id = last.prefix_id.wrapping_add(numbers.signed()?);
        let octets = numbers.signed()?;
        let grave =
            (last.grave.0.wrapping_add(numbers.signed()?), last.grave.1.wrapping_add(numbers.signed()?));
        let length = numbers.unsigned()?;
        let prefix = numbers.bytes(length)?.to_vec();
        last =
            MessageRecord { uid, flags, internal_date, body, prefix_id, octets, grave, prefix: Vec::new() };
        rows.push(MessageRecord { prefix, ..last.clone() });
    }
    Ok((folder, rows))
}

/// UIDs of a folder as ranges, for a section.
pub struct Present {
    bytes: Vec<u8>,
    last: i64,
    open: Option<(i64, i64)>,
}

impl Present {
    /// Of this folder.
    pub fn of(folder: i64) -> Self {
        let mut bytes = Vec::new();
        put_signed(&mut bytes, folder);
        Self { bytes, last: 0, open: None }
    }

    /// The next UID, ascending.
    pub fn push(&mut self, uid: i64) {
        match &mut self.open {
            Some((_, last)) if last.checked_add(1) == Some(uid) => *last = uid,
            _ => {
                self.close();
                self.open = Some((uid, uid));
            }
        }
    }

    fn close(&mut self) {
        if let Some((first, last)) = self.open.take() {
            put_signed(&mut self.bytes, first.wrapping_sub(self.last));
            put_signed(&mut self.bytes, last.wrapping_sub(first));
            self.last = last;
        }
    }

    /// Octets so far.
    pub fn octets(&self) -> usize {
        self.bytes.len()
    }

    /// The section.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.close();
        self.bytes
    }
}

/// Reads a section of UIDs: folder and ranges, ascending.
///
/// # Errors
/// `Corrupt`.
pub fn present(plain: &[u8]) -> Result<(i64, Vec<(i64, i64)>)> {
    let mut numbers = Numbers(plain);
    let folder = numbers.signed()?;
    let (mut ranges, mut after) = (Vec::new(), 0_i64);
    while !numbers.0.is_empty() {
        let first = after.checked_add(numbers.signed()?);
        let last = first.zip(Some(numbers.signed()?)).and_then(|(first, more)| first.checked_add(more));
        let (Some(first), Some(last)) = (first, last) else { return Err(corrupt("a UID is too large")) };
        if first <= after || last < first {
            return Err(corrupt("UIDs are not in order"));
        }
        ranges.push((first, last));
        after = last;
    }
    Ok((folder, ranges))
}
