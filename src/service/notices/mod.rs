//! Notices: telling people what happened to what is theirs.
//!
//! A notice is given ([`give`]) in the transaction of what caused it, so that neither is without the other. It is told
//! to administrators by `notice list` and `whoami`, and a copy comes as mail into mailboxes that are hosted here:
//! always into that of a mailbox's owner, else to the contact addresses of those whom it is for.
//!
//! # Consistency
//! [`Sender`] makes the copies in the background, at least once; a copy's row goes in the transaction that stores its
//! message, so that a mailbox gets each notice once. A copy that cannot be stored (no room, store stopped) is tried
//! again until the notice is pruned; nothing is ever bounced, since the reverse path is empty.
//!
//! # What must not happen
//! Subject and text are read by people of different scopes. Whoever gives a notice names customers and administrators
//! by references ([`names`](crate::service::audit::names)), which each reader is told in their own view, and puts
//! nothing else into it that the one whom it is for may not see.

mod message;
mod operations;
mod send;

use std::collections::BTreeSet;

use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, MailboxId};
use crate::service::error::Result;
use crate::storage::metadata::administrator::{self, AdministratorRow};
use crate::storage::metadata::customer;
use crate::storage::metadata::grant::{self, GrantRow, Holder};
use crate::storage::metadata::notice::{self, NoticeFor};
use crate::storage::metadata::sql::Conn;

pub(in crate::service) use operations::{NoticeList, NoticeRead, Unread, unread};
pub use send::{Sender, Sent};

/// Most administrators of a customer whom one notice is told.
const READERS_MAX: usize = 100;
/// Longest subject and longest text in characters; what is longer is cut.
const SUBJECT_CHARACTERS_MAX: usize = 300;
const TEXT_CHARACTERS_MAX: usize = 8_000;

/// What a notice is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::service) enum Kind {
    /// Use comes near a limit.
    QuotaWarning,
    /// The expiry date comes near.
    ExpiryWarning,
    /// A step that was chosen for the time after the expiry date was taken, or taken back.
    Expiry,
    /// What may be spent in a month comes to its end.
    SpendingWarning,
    /// A step that was chosen for when all is spent was taken.
    Spending,
    /// A request waits for somebody's approval.
    RequestWaiting,
    /// A request was approved, rejected, or ended by itself.
    RequestDecided,
    /// An administrator has set the password of a mailbox.
    PasswordReset,
    /// An administrator has looked into a mailbox.
    ContentAccess,
    /// The second factor of an administrator was taken away, or one of its recovery codes was used.
    SecondFactor,
    /// Somebody may become an administrator.
    Invitation,
    /// A webhook is sent nothing any more.
    WebhookOff,
}

impl Kind {
    /// The name, as stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QuotaWarning => "quota-warning",
            Self::ExpiryWarning => "expiry-warning",
            Self::Expiry => "expiry",
            Self::SpendingWarning => "spending-warning",
            Self::Spending => "spending",
            Self::RequestWaiting => "request-waiting",
            Self::RequestDecided => "request-decided",
            Self::PasswordReset => "password-reset",
            Self::ContentAccess => "content-access",
            Self::SecondFactor => "second-factor",
            Self::Invitation => "invitation",
            Self::WebhookOff => "webhook-off",
        }
    }
}

/// Whom a notice is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::service) enum To {
    /// The owner of a mailbox: told in the mailbox, and nowhere else.
    Mailbox(MailboxId),
    /// An administrator.
    Administrator(AdministratorId),
    /// Who holds the role of this name by a grant at the customer itself.
    Role(CustomerId, String),
    /// A customer: its contact, and who has a grant at the customer itself. At the root the system is told too.
    Customer(CustomerId),
}

/// Gives a notice, in the transaction of what caused it. The subject is one line; the text may have several. Both may
/// hold references and must name nothing that the one whom it is for may not see.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub(in crate::service) async fn give(
    conn: &mut Conn,
    to: To,
    kind: Kind,
    (subject, text): (&str, &str),
    now: Timestamp,
) -> Result<()> {
    let readers = readers(conn, &to, now).await?;
    let subject: String =
        subject.chars().filter(|&c| c != '\r' && c != '\n').take(SUBJECT_CHARACTERS_MAX).collect();
    let text: String = text.chars().filter(|&c| c != '\r').take(TEXT_CHARACTERS_MAX).collect();
    let to = match to {
        To::Mailbox(id) => NoticeFor::Mailbox(id),
        To::Administrator(id) => NoticeFor::Administrator(id),
        To::Role(customer, role) => NoticeFor::Role(customer, role),
        To::Customer(id) => NoticeFor::Customer(id),
    };
    notice::insert(conn, (&to, kind.name()), (&subject, &text), &readers, now).await?;
    Ok(())
}

/// The administrators who are told, 0 for the system.
async fn readers(conn: &mut Conn, to: &To, now: Timestamp) -> Result<Vec<i64>> {
    Ok(match to {
        To::Mailbox(_) => Vec::new(),
        To::Administrator(id) => vec![id.0],
        To::Role(customer, role) => {
            holders(conn, *customer, Some(role), now).await?.iter().map(|row| row.id.0).collect()
        }
        To::Customer(customer) => {
            let mut readers: Vec<i64> =
                holders(conn, *customer, None, now).await?.iter().map(|row| row.id.0).collect();
            if customer::root(conn).await? == Some(*customer) {
                readers.push(0);
            }
            readers
        }
    })
}

/// The enabled administrators who hold a grant, or this role, at the customer itself now, themselves or as members of
/// a group; at most 100.
pub(in crate::service) async fn holders(
    conn: &mut Conn,
    customer: CustomerId,
    role: Option<&str>,
    now: Timestamp,
) -> Result<Vec<AdministratorRow>> {
    holders_of(conn, customer, now, |grant| role.is_none_or(|role| role == grant.role)).await
}

/// As [`holders`], of the grants that are wanted.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn holders_of(
    conn: &mut Conn,
    customer: CustomerId,
    now: Timestamp,
    is_wanted: impl Fn(&GrantRow) -> bool + Send,
) -> Result<Vec<AdministratorRow>> {
    let mut ids = BTreeSet::new();
    for grant in grant::at(conn, &[customer.0]).await? {
        let in_time =
            grant.not_before.is_none_or(|start| start <= now) && grant.expires_at.is_none_or(|end| now < end);
        if !in_time || !is_wanted(&grant) {
            continue;
        }
        match grant.holder {
            Holder::Administrator(id) => drop(ids.insert(id)),
            Holder::Group(id) => {
                ids.extend(administrator::members(conn, id).await?.iter().map(|row| row.id));
            }
        }
    }
    let mut found = Vec::new();
    for id in ids.into_iter().take(READERS_MAX) {
        found.extend(administrator::by_id(conn, id).await?.filter(|row| row.enabled));
    }
    Ok(found)
}
