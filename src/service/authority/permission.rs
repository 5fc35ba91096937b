//! The permissions.

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// What a grant can allow.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Permission { $($(#[$doc])* $name,)+ }

        impl Permission {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name, as in answers and documents.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

permissions! {
    /// Nothing: what everybody may who is authenticated, about themselves.
    Own = "own",
    /// See customers.
    CustomerRead = "customer.read",
    /// Create child customers.
    CustomerCreate = "customer.create",
    /// Change name, kind, contact.
    CustomerUpdate = "customer.update",
    /// Move customers, at the lowest common ancestor.
    CustomerMove = "customer.move",
    /// Delete and undelete customers, at the parent.
    CustomerDelete = "customer.delete",
    /// Set and release holds.
    CustomerHold = "customer.hold",
    /// Set and release legal holds, on customers at the parent.
    LegalHold = "customer.legal-hold",
    /// Set limits, at the parent.
    CustomerLimit = "customer.limit",
    /// Say which mail stores customers have, at the parent.
    CustomerStore = "customer.store",
    /// Set and lock settings.
    CustomerSettings = "customer.settings",
    /// Set and clear ceilings, at the parent.
    CustomerCeiling = "customer.ceiling",
    /// See domains.
    DomainRead = "domain.read",
    /// Create domains.
    DomainCreate = "domain.create",
    /// Change catch-all and the default limit of mailboxes.
    DomainUpdate = "domain.update",
    /// Delete and undelete domains.
    DomainDelete = "domain.delete",
    /// Offer domains to other customers, and accept theirs.
    DomainMove = "domain.move",
    /// See mailboxes.
    MailboxRead = "mailbox.read",
    /// Create mailboxes.
    MailboxCreate = "mailbox.create",
    /// Change the display name.
    MailboxUpdate = "mailbox.update",
    /// Set passwords.
    MailboxPassword = "mailbox.password",
    /// Set limits of mailboxes and domains.
    MailboxQuota = "mailbox.quota",
    /// Suspend and resume mailboxes.
    MailboxHold = "mailbox.hold",
    /// Delete and undelete mailboxes, and undelete what their owners deleted in them.
    MailboxDelete = "mailbox.delete",
    /// See aliases.
    AliasRead = "alias.read",
    /// Create and change aliases.
    AliasCreate = "alias.create",
    /// Delete aliases.
    AliasDelete = "alias.delete",
    /// See administrators, grants and tokens.
    AdministratorRead = "administrator.read",
    /// Create administrators.
    AdministratorCreate = "administrator.create",
    /// Enable and disable administrators, make and revoke their tokens.
    AdministratorUpdate = "administrator.update",
    /// Delete administrators.
    AdministratorDelete = "administrator.delete",
    /// Grant and revoke roles.
    AdministratorGrant = "administrator.grant",
    /// Create roles.
    RoleCreate = "role.create",
    /// Change what roles allow, wherever they are granted.
    RoleUpdate = "role.update",
    /// Delete roles.
    RoleDelete = "role.delete",
    /// Create groups of administrators.
    GroupCreate = "group.create",
    /// Add and remove members of groups.
    GroupUpdate = "group.update",
    /// Delete groups.
    GroupDelete = "group.delete",
    /// Read what stands in mailboxes. No built-in role has it.
    ContentRead = "content.read",
    /// Change what stands in mailboxes. No built-in role has it.
    ContentWrite = "content.write",
    /// Ask for what others have to approve, and see what is asked for.
    RequestCreate = "request.create",
    /// Say who must approve requests.
    ProcessUpdate = "process.update",
    /// See who is logged in to mailboxes.
    SessionRead = "session.read",
    /// Close sessions.
    SessionClose = "session.close",
    /// See where mail went.
    TraceRead = "trace.read",
    /// Search the audit trail.
    AuditRead = "audit.read",
    /// Follow what is changed.
    EventRead = "event.read",
    /// Have what is changed sent to other systems.
    WebhookManage = "webhook.manage",
    /// Reports on use.
    ReportRead = "report.read",
    /// Read bills and price lists.
    BillRead = "bill.read",
    /// Set price lists, at the parent.
    PriceUpdate = "price.update",
    /// Recount and repair quotas.
    QuotaVerify = "quota.verify",
    /// See jobs.
    JobRead = "job.read",
    /// Cancel jobs.
    JobCancel = "job.cancel",
    /// Confirm domains without proof.
    SystemDomainConfirm = "system.domain.confirm",
    /// See mail stores.
    SystemStoreRead = "system.store.read",
    /// Create mail stores, change their settings, stop and start them.
    SystemStoreUpdate = "system.store.update",
    /// Pack, offload, compact and verify on request.
    SystemStorePack = "system.store.pack",
    /// Move mailboxes between mail stores.
    SystemStoreMove = "system.store.move",
    /// Take backups.
    SystemBackup = "system.backup",
    /// See servers.
    SystemServerRead = "system.server.read",
    /// Restart and stop servers.
    SystemServerControl = "system.server.control",
    /// See zones.
    SystemZoneRead = "system.zone.read",
    /// Create and delete zones, say which mail stores and servers are in them.
    SystemZoneUpdate = "system.zone.update",
    /// What constrains the root itself.
    SystemRoot = "system.root",
}

impl Permission {
    /// The permission of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|permission| permission.name() == name)
    }

    /// Whether it concerns the servers: only a grant at the root gives it, or one in a zone for what is there.
    pub fn is_system(self) -> bool {
        PermissionSet::SYSTEM.has(self)
    }
}

/// A set of permissions.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PermissionSet(u128);

impl PermissionSet {
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    /// What concerns the servers.
    pub const SYSTEM: Self = Self::class("system.");

    /// Access to what stands in mailboxes.
    pub const CONTENT: Self = Self::class("content.");

    /// What is about single mail stores and servers, and so can be granted for a zone.
    pub const ZONED: Self = Self::of(&[
        Permission::SystemStoreRead,
        Permission::SystemStoreUpdate,
        Permission::SystemStorePack,
        Permission::SystemStoreMove,
        Permission::SystemServerRead,
        Permission::SystemServerControl,
        Permission::SystemZoneRead,
    ]);

    /// What no ceiling takes away: the servers are no customer's, and everybody may ask about themselves.
    pub const ABOVE_CEILINGS: Self = Self::SYSTEM.union(Self::of(&[Permission::Own]));

    /// All whose names begin so.
    const fn class(prefix: &str) -> Self {
        let mut bits = 0;
        let mut rest = Permission::ALL;
        while let [first, others @ ..] = rest {
            if begins(first.name().as_bytes(), prefix.as_bytes()) {
                bits |= 1 << *first as u128;
            }
            rest = others;
        }
        Self(bits)
    }

    /// The set of these names, with spaces between. Names that this program does not know say nothing to it.
    pub fn from_names(names: &str) -> Self {
        Self::named(names.split_ascii_whitespace())
    }

    /// The names of its members.
    pub fn names(self) -> Vec<String> {
        self.iter().map(|permission| permission.name().to_owned()).collect()
    }

    /// The set and this one.
    #[must_use]
    pub const fn with(self, permission: Permission) -> Self {
        Self(self.0 | 1 << permission as u128)
    }

    /// The set of all.
    pub const fn all() -> Self {
        Self((1 << Permission::ALL.len()) - 1)
    }

    /// The set of these.
    pub const fn of(permissions: &[Permission]) -> Self {
        let mut bits = 0;
        let mut rest = permissions;
        while let [first, others @ ..] = rest {
            bits |= 1 << *first as u128;
            rest = others;
        }
        Self(bits)
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is here and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether it has this one.
    pub const fn has(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u128) != 0
    }

    /// Whether it has nothing.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The permissions of these names; what is the name of none is left out.
    pub fn named<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        names.filter_map(Permission::by_name).fold(Self::EMPTY, |set, one| set.union(Self::of(&[one])))
    }

    /// Its members.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.iter().copied().filter(move |&permission| self.has(permission))
    }
}

/// Whether `text` begins with `prefix`.
const fn begins(mut text: &[u8], mut prefix: &[u8]) -> bool {
    loop {
        match (text, prefix) {
            (_, []) => return true,
            ([one, text_rest @ ..], [other, prefix_rest @ ..]) if *one == *other => {
                (text, prefix) = (text_rest, prefix_rest);
            }
            _ => return false,
        }
    }
}

const _: () = assert!(Permission::ALL.len() < 128, "a set is one u128");
