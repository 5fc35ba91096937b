//! A customer.

use serde::Deserialize;
use utoipa::ToSchema;

use super::compare::{Differences, Fields, created, found, readable};
use super::{Done, Options};
use crate::service::authority::Permission;
use crate::service::directory::customer_limits::{CustomerLimit, given};
use crate::service::directory::customers::{CustomerCreate, CustomerRename, row};
use crate::service::directory::scope::{address, plain_text};
use crate::service::directory::targets::OneCustomer;
use crate::service::error::Result;
use crate::service::registry::{Tx, within};

/// A customer, with its own limits; null is no limit.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct CustomerEntry {
    /// Its path; the customer above must be there.
    path: String,
    /// Display name; default: the last part of the path.
    name: Option<String>,
    /// Free label such as `department`.
    kind: Option<String>,
    /// Address for people; null for none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    contact: Option<Option<String>>,
    /// When it is created: the mail store for its new mailboxes.
    store: Option<String>,
    /// Octets.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    bytes: Option<Option<i64>>,
    /// Messages.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    messages: Option<Option<i64>>,
    /// Mailboxes.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    mailboxes: Option<Option<i64>>,
    /// Aliases.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    aliases: Option<Option<i64>>,
    /// Domains.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    domains: Option<Option<i64>>,
    /// Customers below.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    customers: Option<Option<i64>>,
    /// Administrators.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    administrators: Option<Option<i64>>,
    /// Octets that are reserved for it.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    bytes_guarantee: Option<Option<i64>>,
    /// Mailboxes that are reserved for it.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    mailboxes_guarantee: Option<Option<i64>>,
    /// What the limits on octets of the customers right below may add up to, in percent of its own.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    bytes_overcommit_percent: Option<Option<i64>>,
    /// As that, of mailboxes.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    mailboxes_overcommit_percent: Option<Option<i64>>,
}

impl CustomerEntry {
    /// Makes it, or brings it to what is said.
    pub(super) async fn carry_out(&self, tx: &mut Tx<'_>, options: &Options) -> Result<Done> {
        let path = options.path(&self.path);
        match found(OneCustomer::find(tx, &path))? {
            Some(there) => self.change(tx, &path, there).await,
            None => self.create(tx, &path).await,
        }
    }

    fn limits(&self) -> [(&'static str, Option<Option<i64>>); 11] {
        [
            ("bytes", self.bytes),
            ("messages", self.messages),
            ("mailboxes", self.mailboxes),
            ("aliases", self.aliases),
            ("domains", self.domains),
            ("customers", self.customers),
            ("administrators", self.administrators),
            ("bytes_guarantee", self.bytes_guarantee),
            ("mailboxes_guarantee", self.mailboxes_guarantee),
            ("bytes_overcommit_percent", self.bytes_overcommit_percent),
            ("mailboxes_overcommit_percent", self.mailboxes_overcommit_percent),
        ]
    }

    async fn create(&self, tx: &mut Tx<'_>, path: &str) -> Result<Done> {
        let mut fields = Fields::naming([("path", path.into())]);
        fields.maybe("name", self.name.clone());
        fields.maybe("kind", self.kind.clone());
        fields.maybe("contact", self.contact.clone().flatten());
        fields.maybe("store", self.store.clone());
        // Where the customer above has an overcommit, there is none without these.
        fields.maybe("bytes", self.bytes.flatten());
        fields.maybe("mailboxes", self.mailboxes.flatten());
        within::<CustomerCreate>(tx, fields.all()).await?;
        let mut limits = Fields::naming([("path", path.into())]);
        let others = self.limits().into_iter().filter(|(name, _)| !matches!(*name, "bytes" | "mailboxes"));
        for (name, limit) in others {
            limits.maybe(name, limit.flatten());
        }
        if let Some(fields) = limits.if_any() {
            within::<CustomerLimit>(tx, fields).await?;
        }
        Ok(created())
    }

    async fn change(&self, tx: &mut Tx<'_>, path: &str, there: OneCustomer) -> Result<Done> {
        readable(tx, there.id, Permission::CustomerRead)?;
        let present = row(tx, there.id).await?;
        let text =
            |field, text: &Option<String>| text.as_deref().map(|text| plain_text(field, text)).transpose();
        let contact = match &self.contact {
            Some(Some(text)) => Some(Some(address("contact", text)?.to_string())),
            other => other.clone(),
        };
        let mut differences = Differences::default();
        let mut update = Fields::naming([("path", path.into())]);
        differences.set(&mut update, "name", present.name, text("name", &self.name)?);
        differences.set(&mut update, "kind", present.kind, text("kind", &self.kind)?);
        differences.set(&mut update, "contact", present.contact, contact);
        if let Some(mut fields) = update.if_any() {
            // The operation takes the empty text for none.
            if let Some(contact) = fields.get_mut("contact").filter(|contact| contact.is_null()) {
                *contact = "".into();
            }
            within::<CustomerRename>(tx, fields).await?;
        }
        let limits = present.limits;
        let present = [
            limits.bytes,
            limits.messages,
            limits.mailboxes,
            limits.aliases,
            limits.domains,
            limits.customers,
            limits.administrators,
            limits.bytes_guarantee,
            limits.mailboxes_guarantee,
            limits.bytes_overcommit_percent,
            limits.mailboxes_overcommit_percent,
        ];
        let mut update = Fields::naming([("path", path.into())]);
        for ((name, wanted), present) in self.limits().into_iter().zip(present) {
            differences.set(&mut update, name, present, wanted);
        }
        if let Some(fields) = update.if_any() {
            within::<CustomerLimit>(tx, fields).await?;
        }
        Ok(differences.done())
    }
}
