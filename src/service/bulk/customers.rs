//! A customer.

use serde::Deserialize;
use utoipa::ToSchema;

use super::compare::{Differences, Fields, created, found, readable};
use super::{Done, Options};
use crate::service::authority::Permission;
use crate::service::directory::customer_limits::{CustomerLimit, given, saying_limits};
use crate::service::directory::customers::{CustomerCreate, CustomerRename, row};
use crate::service::directory::scope::{address, plain_text};
use crate::service::directory::targets::OneCustomer;
use crate::service::error::Result;
use crate::service::registry::{Tx, within};
use crate::storage::metadata::customer::CustomerLimits;

saying_limits! {
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
    }
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
        let mut none = CustomerLimits::default();
        let all = self.limits(&mut none).into_iter();
        for (name, _, said) in all.filter(|(name, ..)| !matches!(*name, "bytes" | "mailboxes")) {
            limits.maybe(name, said.flatten());
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
        let mut limits = present.limits;
        let mut update = Fields::naming([("path", path.into())]);
        for (name, present, wanted) in self.limits(&mut limits) {
            differences.set(&mut update, name, *present, wanted);
        }
        if let Some(fields) = update.if_any() {
            within::<CustomerLimit>(tx, fields).await?;
        }
        Ok(differences.done())
    }
}
