//! Delivery: which mailbox an address means, whether it takes mail now, and storing a message for its recipients.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::address::Address;
use crate::base::id::{CustomerId, DomainId, FolderId, MailboxId, Uid};
use crate::service::context::Source;

/// Why a recipient, or a message for it, is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeliveryRefusal {
    /// The domain is not hosted here (SMTP: 550 5.7.1, LMTP: 550 5.1.2).
    #[error("relaying denied: the domain is not hosted here")]
    NotLocal,
    /// The domain is hosted, the mailbox does not exist (550 5.1.1).
    #[error("no such mailbox here")]
    UnknownMailbox,
    /// Receiving is held (450 4.2.1).
    #[error("this mailbox does not take mail at present")]
    Suspended,
    /// The mailbox, its domain or a customer above has no room (452 4.2.2).
    #[error("over quota: {0}")]
    OverQuota(String),
    /// Larger than the mailbox or the server takes (552 5.3.4).
    #[error("the message is larger than {octets_max} octets")]
    TooLarge {
        /// The largest size that is taken, in octets.
        octets_max: u64,
    },
    /// More Received lines than the loop limit, or already delivered to this address (554 5.4.6).
    #[error("mail loop: {0}")]
    Loop(String),
    /// The database or mail store cannot take mail now (451 4.3.0).
    #[error("temporarily unavailable")]
    Unavailable,
    /// The disk is full (452 4.3.1).
    #[error("insufficient storage")]
    StorageFull,
    /// SMTP only: another recipient of this message could not be stored, so nothing was (452 4.3.0).
    #[error("another recipient could not take the message; nothing was stored")]
    Sibling,
}

/// How the message reached this server; goes into the Received line and the delivery trace.
#[derive(Clone, Debug)]
pub struct Transmission {
    /// `LMTP`, `ESMTP`, `ESMTPS`, `UTF8SMTP`… (RFC 3848, RFC 6531 section 4.3).
    pub protocol: &'static str,
    /// What the client called itself in LHLO, EHLO or HELO.
    pub greeting: String,
    /// The client's address; nothing for a Unix socket.
    pub source: Source,
    /// TLS version and cipher suite, if any.
    pub tls: Option<String>,
    /// The session's queue-like id, shown in the Received line, the log, and the answer to DATA.
    pub id: String,
}

/// A checked recipient. Several recipients may mean the same mailbox.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// As given in RCPT TO.
    pub address: Address,
    /// The mailboxes it means after aliases, catch-all and subaddressing; an alias may have several.
    pub targets: Vec<Target>,
}

/// A mailbox that a recipient means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Its domain.
    pub domain: DomainId,
    /// The customer that owns the domain.
    pub customer: CustomerId,
    /// Address of the mailbox itself, for Delivered-To.
    pub address: Address,
    /// The detail of a subaddress (`user+detail`), if any.
    pub detail: Option<String>,
}

/// Where a message went.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The folder.
    pub folder: FolderId,
    /// UID of the message there.
    pub uid: Uid,
}

/// What happens to the other recipients when one cannot take the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Atomicity {
    /// Each recipient has its own answer (LMTP).
    PerRecipient,
    /// One answer for all: if one fails nothing is stored (SMTP).
    AllOrNothing,
}

/// Takes mail in.
#[derive(Clone)]
pub struct Delivery {
    #[allow(dead_code)]
    inner: Arc<()>,
}

impl Delivery {
    /// Checks one RCPT TO: is it ours, does it exist, does it take mail, is there room for `octets` (the SIZE
    /// parameter, 0 if unknown). `postmaster` without domain and `postmaster@` any hosted domain always succeed.
    ///
    /// # Errors
    /// The refusal to answer RCPT with; it has been entered into the delivery trace.
    pub async fn recipient(
        &self,
        transmission: &Transmission,
        sender: &str,
        address: &str,
        octets: u64,
    ) -> Result<Recipient, DeliveryRefusal> {
        let _ = (transmission, sender, address, octets);
        todo!("delivery room")
    }

    /// Stores `message` (CRLF lines, dot-unstuffed, as received) for `recipients`, with Return-Path, Delivered-To
    /// and Received in front. Returns one answer per recipient, in order, once everything that succeeded would
    /// survive power loss. `sender` is the reverse path without angle brackets, empty for bounces.
    pub async fn deliver(
        &self,
        transmission: &Transmission,
        sender: &str,
        recipients: &[Recipient],
        message: Bytes,
        atomicity: Atomicity,
    ) -> Vec<Result<Vec<Delivered>, DeliveryRefusal>> {
        let _ = (transmission, sender, recipients, message, atomicity);
        todo!("delivery room")
    }
}
