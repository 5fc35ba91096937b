//! Inherited settings: each key is declared once (`keys.rs`), set at customers, and for some keys at domains and
//! mailboxes. The nearest value wins, but the topmost lock wins over all: what is locked somewhere holds there and
//! below, whatever is set or locked further down.
//!
//! Other rooms read with [`value`] or, for many customers at once, with [`Everywhere`].

mod keys;
mod kinds;
pub(in crate::service) mod operations;
mod resolve;
pub(in crate::service) mod standing;
pub(in crate::service) mod template;
pub(in crate::service) mod template_operations;

pub use keys::{
    ADMINISTRATOR_DEFAULT_ROLES, AUDIT_RETENTION, Authority, CONTENT_PERMANENT_ALLOWED,
    DELIVERY_OVERQUOTA_DEFER_HOURS, Declaration, INVITATION_ANCESTOR_DOMAINS, Key, LOGIN_LOG_RETENTION,
    LOGIN_SECOND_FACTOR, LOGIN_WINDOWS, LOGIN_WINDOWS_ADMINISTRATORS, NOTICE_DO_NOT_DISTURB,
    PASSWORD_LENGTH_MIN, Reach, SERVICE_ADMIN, SERVICE_IMAP, SERVICE_POP3, SERVICE_SMTP, SERVICE_SUBMISSION,
    SUBMISSION_TLS, TIME_ZONE, declarations,
};
pub use kinds::{Demand, Kind, Number, OnOff, ROLES_MAX, RoleNames};
pub use resolve::{Everywhere, value, value_and_place};
