//! What templates give, who may say so, and giving it.
//!
//! A template belongs to a customer and is used there and below. Whoever makes or changes it needs, at that customer,
//! every right to give what it gives; whoever uses it needs only the right to create: what comes with it was allowed
//! further up. Nothing follows a template afterwards.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::keys::{Authority, Declaration, Reach, declarations};
use crate::base::id::{CustomerId, MailboxId, StoreId};
use crate::service::authority::Permission;
use crate::service::directory::targets::absent;
use crate::service::error::{Result, ServiceError};
use crate::service::placement::Stores;
use crate::service::registry::{Need, Tx};
use crate::storage::metadata::customer::CustomerLimits;
use crate::storage::metadata::hold::HoldOn;
use crate::storage::metadata::setting::{self, Mark};
use crate::storage::metadata::template::{self, TemplateRow};
use crate::storage::metadata::{placement, store};

/// Most settings that a template gives.
const SETTINGS_MAX: usize = 100;
/// The limits that a mailbox has.
const MAILBOX_HAS: [&str; 2] = ["bytes", "messages"];

/// What a template is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::service) enum TemplateKind {
    /// New customers.
    Customer,
    /// New mailboxes.
    Mailbox,
}

impl TemplateKind {
    /// The name as stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Mailbox => "mailbox",
        }
    }

    /// What a template is for.
    pub fn of(row: &TemplateRow) -> Self {
        if row.kind == Self::Mailbox.name() { Self::Mailbox } else { Self::Customer }
    }
}

/// A setting that a template gives.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct GivenSetting {
    key: String,
    value: String,
    /// Whether it is locked there, by the authority of the template's customer.
    #[serde(default)]
    locked: bool,
}

/// What a template gives; what is absent stays as it would be without it. Of the limits a mailbox has those on octets
/// and messages.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::service) struct Gives {
    /// Limit on octets.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<i64>,
    /// Limit on messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<i64>,
    /// Limit on mailboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    mailboxes: Option<i64>,
    /// Limit on aliases.
    #[serde(skip_serializing_if = "Option::is_none")]
    aliases: Option<i64>,
    /// Limit on domains.
    #[serde(skip_serializing_if = "Option::is_none")]
    domains: Option<i64>,
    /// Limit on customers below.
    #[serde(skip_serializing_if = "Option::is_none")]
    customers: Option<i64>,
    /// Limit on administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    administrators: Option<i64>,
    /// The mail store: where new mailboxes of the customer go, or where the mailbox does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Settings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    settings: Vec<GivenSetting>,
}

fn declared(key: &str) -> Result<&'static Declaration> {
    declarations().into_iter().find(|one| one.name == key).ok_or_else(|| absent("setting", key))
}

impl Gives {
    /// What is kept of a template.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(row: &TemplateRow) -> Result<Self> {
        let damaged = |error| ServiceError::Internal(format!("template {}: {error}", row.public_id));
        serde_json::from_str(&row.content).map_err(damaged)
    }

    /// As it is kept.
    ///
    /// # Errors
    /// Never, as far as is known.
    pub fn text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| ServiceError::Internal(error.to_string()))
    }

    fn limits(&self) -> [(&'static str, Option<i64>); 7] {
        [
            ("bytes", self.bytes),
            ("messages", self.messages),
            ("mailboxes", self.mailboxes),
            ("aliases", self.aliases),
            ("domains", self.domains),
            ("customers", self.customers),
            ("administrators", self.administrators),
        ]
    }

    /// The rights to give this, at the template's customer.
    pub fn needs(&self, at: CustomerId, kind: TemplateKind) -> Vec<Need> {
        let mut needs = vec![Need::at(at, Permission::CustomerSettings)];
        let is_customer = kind == TemplateKind::Customer;
        if self.limits().iter().any(|(_, limit)| limit.is_some()) {
            let permission = if is_customer { Permission::CustomerLimit } else { Permission::MailboxQuota };
            needs.push(Need::at(at, permission));
        }
        if self.store.is_some() {
            let permission = if is_customer { Permission::CustomerStore } else { Permission::MailboxCreate };
            needs.push(Need::at(at, permission));
        }
        for declaration in self.settings.iter().filter_map(|given| declared(&given.key).ok()) {
            needs.push(match declaration.authority {
                Authority::Root => Need {
                    at: None,
                    permission: Permission::SystemRoot,
                    delegable: false,
                    until: None,
                    zone: None,
                },
                Authority::Own if !is_customer => Need::at(at, Permission::MailboxUpdate),
                Authority::Own | Authority::Above => Need::at(at, Permission::CustomerSettings),
            });
        }
        needs
    }

    /// Checks it and brings values into their one form.
    ///
    /// # Errors
    /// `Invalid` and `NotFound`, with what is wrong.
    pub async fn checked(mut self, tx: &mut Tx<'_>, at: CustomerId, kind: TemplateKind) -> Result<Self> {
        let wrong = |field, message: String| Err(ServiceError::Invalid { field, message });
        for (field, limit) in self.limits() {
            if limit.is_some_and(|limit| limit < 0) {
                return wrong(field, "a limit is not negative".to_owned());
            }
            if limit.is_some() && kind == TemplateKind::Mailbox && !MAILBOX_HAS.contains(&field) {
                return wrong(field, "a mailbox has limits on octets and messages".to_owned());
            }
        }
        if let Some(name) = &self.store {
            Stores::of(tx, at).await?.named(name)?;
        }
        if self.settings.len() > SETTINGS_MAX {
            return wrong("settings", format!("expected at most {SETTINGS_MAX}"));
        }
        let mut seen = Vec::new();
        for given in &mut self.settings {
            let declaration = declared(&given.key)?;
            if seen.contains(&declaration.name) {
                return wrong("settings", format!("{} is given twice", declaration.name));
            }
            seen.push(declaration.name);
            if kind == TemplateKind::Mailbox && declaration.reach == Reach::Customers {
                return wrong("settings", format!("{} is set for customers", declaration.name));
            }
            match (declaration.canonical)(&given.value) {
                Ok(value) => given.value = value,
                Err(expected) => return wrong("settings", format!("{}: {expected}", declaration.name)),
            }
        }
        Ok(self)
    }
}

/// The template of this name nearest to a customer, on itself or above.
///
/// # Errors
/// `NotFound`.
pub(super) async fn nearest(tx: &mut Tx<'_>, at: CustomerId, name: &str) -> Result<TemplateRow> {
    let path: Vec<i64> = tx.caller.tree.path(at).iter().map(|node| node.id.0).collect();
    let rows = template::named(tx.conn, &path, name).await?;
    let depth = |row: &TemplateRow| path.iter().position(|&id| id == row.customer.0);
    rows.into_iter().max_by_key(depth).ok_or_else(|| absent("template", name))
}

/// A template in use.
pub(in crate::service) struct InUse {
    owner: CustomerId,
    name: String,
    gives: Gives,
}

impl InUse {
    /// The template that something new at a customer gets, if one is named.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is for something else.
    pub async fn find(
        tx: &mut Tx<'_>,
        at: CustomerId,
        name: Option<&str>,
        kind: TemplateKind,
    ) -> Result<Option<Self>> {
        let Some(name) = name else { return Ok(None) };
        let row = nearest(tx, at, name).await?;
        let has = TemplateKind::of(&row);
        if has != kind {
            let message = format!("template {name} is for a {}, not for a {}", has.name(), kind.name());
            return Err(ServiceError::Conflict { message });
        }
        Ok(Some(Self { owner: row.customer, gives: Gives::of(&row)?, name: row.name }))
    }

    /// Octets and messages that a mailbox may have.
    pub fn mailbox_limits(&self) -> (Option<i64>, Option<i64>) {
        (self.gives.bytes, self.gives.messages)
    }

    /// Fills in the limits of a customer.
    pub fn fill(&self, limits: &mut CustomerLimits) {
        let Gives { bytes, messages, mailboxes, aliases, domains, customers, administrators, .. } =
            self.gives;
        for (slot, given) in [
            (&mut limits.bytes, bytes),
            (&mut limits.messages, messages),
            (&mut limits.mailboxes, mailboxes),
            (&mut limits.aliases, aliases),
            (&mut limits.domains, domains),
            (&mut limits.customers, customers),
            (&mut limits.administrators, administrators),
        ] {
            *slot = given.or(*slot);
        }
    }

    /// The mail store that it gives, whether or not who uses the template may know it.
    ///
    /// # Errors
    /// `Conflict` when the store takes no mailboxes now.
    pub async fn store(&self, tx: &mut Tx<'_>) -> Result<Option<StoreId>> {
        let Some(name) = &self.gives.store else { return Ok(None) };
        let found = store::list(tx.conn).await?.into_iter().find(|store| store.name == *name);
        let open = found.filter(|store| store.state.takes_mailboxes()).map(|store| store.id);
        let message = format!("the mail store of template {} takes no mailboxes now", self.name);
        open.map(Some).ok_or(ServiceError::Conflict { message })
    }

    /// Gives a new customer its mail store and settings.
    ///
    /// # Errors
    /// As [`Self::store`].
    pub async fn furnish_customer(&self, tx: &mut Tx<'_>, id: CustomerId) -> Result<()> {
        if let Some(store) = self.store(tx).await? {
            placement::set_default(tx.conn, id, Some(store)).await?;
        }
        self.furnish(tx, HoldOn::Customer(id)).await
    }

    /// Gives a new mailbox its settings.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn furnish_mailbox(&self, tx: &mut Tx<'_>, id: MailboxId) -> Result<()> {
        self.furnish(tx, HoldOn::Mailbox(id)).await
    }

    async fn furnish(&self, tx: &mut Tx<'_>, on: HoldOn) -> Result<()> {
        for GivenSetting { key, value, locked } in &self.gives.settings {
            let lock = locked.then_some(self.owner);
            let mark = Mark { on, key: key.clone(), value: Some(value.clone()), lock };
            setting::put(tx.conn, &mark, tx.now).await?;
        }
        Ok(())
    }
}
