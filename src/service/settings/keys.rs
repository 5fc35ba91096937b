//! The table of settings: every key, declared once.

use super::kinds::{Demand, Kind, Number, OnOff, RoleNames};
use crate::base::civil::{Hours, Schedule, Zone};

/// Who may set a key for a customer. For domains and mailboxes it is always somebody of their customer or above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authority {
    /// The customer's own administrators.
    Own,
    /// Those of the customer above: it constrains the customer.
    Above,
    /// The system administrators.
    Root,
}

/// What a key can be set for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Customers alone.
    Customers,
    /// Customers, domains and mailboxes.
    Mailboxes,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    /// Its name.
    pub name: &'static str,
    /// What holds where nothing is set.
    pub default: &'static str,
    /// What a number counts; empty where there is nothing to count.
    pub unit: &'static str,
    /// Who may set it.
    pub authority: Authority,
    /// What it can be set for.
    pub reach: Reach,
    /// One line of help.
    pub help: &'static str,
    /// What its values are called in documents.
    pub values: fn() -> String,
    /// The one form of a value, or what was expected.
    pub(super) canonical: fn(&str) -> Result<String, String>,
}

/// A key with the type of its values.
#[derive(Debug)]
pub struct Key<T> {
    /// What is known of it.
    pub declaration: Declaration,
    pub(super) read: fn(&str) -> Result<T, String>,
}

fn canonical<T: Kind>(text: &str) -> Result<String, String> {
    T::read(text.trim()).map(|value| value.text())
}

macro_rules! keys {
    ($(#[doc = $help:literal] $id:ident: $kind:ty = $name:literal, $default:literal $unit:literal, $authority:ident,
       $reach:ident;)+) => {
        $(
            #[doc = $help]
            pub static $id: Key<$kind> = Key {
                declaration: Declaration {
                    name: $name,
                    default: $default,
                    unit: $unit,
                    authority: Authority::$authority,
                    reach: Reach::$reach,
                    help: $help.trim_ascii_start(),
                    values: <$kind as Kind>::describe,
                    canonical: canonical::<$kind>,
                },
                read: <$kind as Kind>::read,
            };
        )+

        /// All keys, by name.
        pub fn declarations() -> Vec<&'static Declaration> {
            let mut all = vec![$(&$id.declaration),+];
            all.sort_unstable_by_key(|declaration| declaration.name);
            all
        }
    };
}

keys! {
    /// What invited administrators are at the customer unless something else is said.
    ADMINISTRATOR_DEFAULT_ROLES: RoleNames = "administrator.default_roles", "viewer" "", Own, Customers;
    /// How long audit records of changes and refusals are kept.
    AUDIT_RETENTION: Number<90, 36_525> = "audit.retention", "3653" "days", Above, Customers;
    /// Whether content permissions may be granted without an end.
    CONTENT_PERMANENT_ALLOWED: OnOff = "content.permanent_allowed", "off" "", Root, Customers;
    /// How long mail for a full mailbox is deferred before it is refused.
    DELIVERY_OVERQUOTA_DEFER_HOURS: Number<0, 8_760> =
        "delivery.overquota_defer_hours", "120" "hours", Own, Customers;
    /// Whether people with addresses in verified domains of customers above may be invited to administrate.
    INVITATION_ANCESTOR_DOMAINS: OnOff = "invitation.ancestor_domains", "off" "", Above, Customers;
    /// Whether administrators at home there must have a second factor to log in with their password.
    LOGIN_SECOND_FACTOR: Demand = "login.second_factor", "off" "", Own, Customers;
    /// When owners of mailboxes may log in, in the customer's time zone.
    LOGIN_WINDOWS: Schedule = "login.windows", "always" "", Above, Mailboxes;
    /// When administrators at home there may log in, in the customer's time zone.
    LOGIN_WINDOWS_ADMINISTRATORS: Schedule = "login.windows_administrators", "always" "", Above, Customers;
    /// How long counts of logins to mailboxes are kept.
    LOGIN_LOG_RETENTION: Number<1, 3_653> = "login_log.retention", "90" "days", Above, Customers;
    /// When notices to the customer wait until later, in its time zone.
    NOTICE_DO_NOT_DISTURB: Option<Hours> = "notice.do_not_disturb", "none" "", Own, Customers;
    /// Shortest password that is taken.
    PASSWORD_LENGTH_MIN: Number<8, 128> = "password.length_min", "8" "characters", Own, Customers;
    /// Whether administrators at home there may log in.
    SERVICE_ADMIN: OnOff = "service.admin", "on" "", Above, Customers;
    /// Whether mail may be read over IMAP.
    SERVICE_IMAP: OnOff = "service.imap", "on" "", Own, Mailboxes;
    /// Whether mail may be fetched over POP3.
    SERVICE_POP3: OnOff = "service.pop3", "on" "", Own, Mailboxes;
    /// Whether mail is taken in; while it is not, it is deferred.
    SERVICE_SMTP: OnOff = "service.smtp", "on" "", Own, Mailboxes;
    /// Whether mail may be submitted through the provider's MTA.
    SERVICE_SUBMISSION: OnOff = "service.submission", "on" "", Own, Mailboxes;
    /// Whether passwords for submission are taken only from clients that have come to the MTA under TLS.
    SUBMISSION_TLS: Demand = "submission.tls", "off" "", Own, Mailboxes;
    /// The customer's time zone.
    TIME_ZONE: Zone = "time_zone", "UTC" "", Own, Customers;
}
