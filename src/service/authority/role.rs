//! Roles: named sets of permissions. The built-in ones stand here; a customer's own role names one of them as its base
//! and is never more than that, except for access to content, which is no built-in role's and must be said.

use super::permission::{Permission as P, PermissionSet};

/// A built-in role.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything, servers included; at the root only.
    SystemAdmin,
    /// Everything about customers and what they have.
    Admin,
    /// Domains, mailboxes and aliases; no customers, no administrators.
    Manager,
    /// Reads what a manager sees.
    Viewer,
    /// Mailboxes only: find them, reset passwords, unlock, close sessions, trace mail.
    Helpdesk,
    /// Reads everything, the audit trail too.
    Auditor,
    /// Reads reports and bills.
    Billing,
}

/// What only looks.
const READS: PermissionSet = PermissionSet::of(&[
    P::CustomerRead,
    P::DomainRead,
    P::MailboxRead,
    P::AliasRead,
    P::ReportRead,
    P::JobRead,
    P::RequestCreate,
]);

const MANAGER: PermissionSet = PermissionSet::of(&[
    P::DomainUpdate,
    P::MailboxCreate,
    P::MailboxUpdate,
    P::MailboxPassword,
    P::MailboxQuota,
    P::MailboxHold,
    P::MailboxDelete,
    P::AliasCreate,
    P::AliasDelete,
    P::SessionRead,
    P::SessionClose,
    P::TraceRead,
    P::JobCancel,
]);

const HELPDESK: PermissionSet = PermissionSet::of(&[
    P::CustomerRead,
    P::DomainRead,
    P::MailboxRead,
    P::MailboxPassword,
    P::MailboxHold,
    P::AliasRead,
    P::SessionRead,
    P::SessionClose,
    P::TraceRead,
    P::RequestCreate,
]);

impl Role {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::SystemAdmin,
        Self::Admin,
        Self::Manager,
        Self::Viewer,
        Self::Helpdesk,
        Self::Auditor,
        Self::Billing,
    ];

    /// The name, as stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SystemAdmin => "system-admin",
            Self::Admin => "admin",
            Self::Manager => "manager",
            Self::Viewer => "viewer",
            Self::Helpdesk => "helpdesk",
            Self::Auditor => "auditor",
            Self::Billing => "billing",
        }
    }

    /// The role of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.name() == name)
    }

    /// What it allows.
    pub const fn permissions(self) -> PermissionSet {
        match self {
            Self::SystemAdmin => PermissionSet::all().without(PermissionSet::CONTENT),
            Self::Admin => {
                PermissionSet::all().without(PermissionSet::SYSTEM).without(PermissionSet::CONTENT)
            }
            Self::Manager => READS.union(MANAGER),
            Self::Viewer => READS,
            Self::Helpdesk => HELPDESK,
            Self::Auditor => READS.union(PermissionSet::of(&[
                P::AdministratorRead,
                P::SessionRead,
                P::TraceRead,
                P::AuditRead,
                P::BillRead,
                P::EventRead,
            ])),
            Self::Billing => {
                PermissionSet::of(&[P::CustomerRead, P::ReportRead, P::BillRead, P::RequestCreate])
            }
        }
    }
}

/// What a customer's role allows: of what it says, what its base role has at this time, and access to content.
/// Nothing when the base role is none that this program knows.
pub(in crate::service) fn custom_permissions(base: &str, permissions: &str) -> PermissionSet {
    let Some(base) = Role::by_name(base) else { return PermissionSet::EMPTY };
    let most = base.permissions().union(PermissionSet::CONTENT);
    PermissionSet::from_names(permissions).intersection(most)
}
