//! Who is asking. Values of these types are made only by [`crate::service::login`] and the authority, so holding
//! one is the proof that somebody was authenticated.

use std::net::IpAddr;

use crate::base::address::Address;
use crate::base::id::{CustomerId, DomainId, MailboxId};

/// A way in or out that can be switched per customer, domain and mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Reading over IMAP.
    Imap,
    /// Fetching over POP3.
    Pop3,
    /// Mail arriving over SMTP or LMTP.
    Smtp,
    /// Sending through the provider's MTA.
    Submission,
    /// Administration.
    Admin,
}

impl Service {
    /// The name as stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::Smtp => "smtp",
            Self::Submission => "submission",
            Self::Admin => "admin",
        }
    }
}

/// Where a connection comes from: an address, or nothing for a Unix socket.
pub type Source = Option<IpAddr>;

/// The authenticated owner of one mailbox.
#[derive(Clone, Debug)]
pub struct Owner {
    pub(in crate::service) mailbox: MailboxId,
    pub(in crate::service) domain: DomainId,
    pub(in crate::service) customer: CustomerId,
    pub(in crate::service) address: Address,
}

impl Owner {
    /// The mailbox.
    pub fn mailbox(&self) -> MailboxId {
        self.mailbox
    }

    /// Its domain.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// The customer its domain belongs to.
    pub fn customer(&self) -> CustomerId {
        self.customer
    }

    /// Its address.
    pub fn address(&self) -> &Address {
        &self.address
    }
}
