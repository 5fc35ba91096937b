//! A mailbox.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::compare::{Differences, Fields, created, found, readable};
use super::{Done, Options, Passwords};
use crate::service::authority::Permission;
use crate::service::directory::customer_limits::given;
use crate::service::directory::mailboxes::{
    MailboxCreate, MailboxCreateRequest, MailboxPassword, MailboxPasswordRequest, MailboxQuota, MailboxRename,
};
use crate::service::directory::password_codes::{MailboxInvite, MailboxInvited};
use crate::service::directory::scope::plain_text;
use crate::service::directory::targets::{OneCustomer, OneMailbox};
use crate::service::error::{Result, ServiceError};
use crate::service::login::password::PasswordHash;
use crate::service::registry::{Tx, parse, within, within_prepared};
use crate::storage::metadata::mailbox::MailboxRow;

/// A mailbox.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MailboxEntry {
    /// `localpart@domain`.
    address: String,
    /// The domain's customer, where several have one of this name.
    customer: Option<String>,
    /// Display name.
    name: Option<String>,
    /// Limit on octets; null is no limit; default: the domain's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    quota: Option<Option<i64>>,
    /// Limit on messages.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    messages: Option<Option<i64>>,
    /// When it is created: its mail store.
    store: Option<String>,
    /// Its password; without one and without a hash, nobody can log in to a new mailbox until one is set.
    pub(super) password: Option<String>,
    /// Instead of a password: a hash taken over from elsewhere.
    pub(super) password_hash: Option<String>,
    /// What was made of the password.
    #[serde(skip)]
    #[schema(ignore)]
    pub(super) hashed: Option<Hashed>,
}

/// A password that was hashed before the transaction.
#[derive(Clone)]
pub(super) struct Hashed {
    /// Empty where it was only to be checked.
    pub hash: String,
    /// Characters of the password.
    pub characters: usize,
}

impl MailboxEntry {
    /// Makes it, or brings it to what is said.
    pub(super) async fn carry_out(&self, tx: &mut Tx<'_>, options: &Options) -> Result<Done> {
        let customer = self.customer.as_deref().map(|path| options.path(path));
        let home = customer.as_deref().map(|path| OneCustomer::find(tx, path)).transpose()?;
        match found(OneMailbox::find(tx, &self.address).await)? {
            Some(OneMailbox(there)) => {
                if home.is_some_and(|home| home.id != there.customer) {
                    let whose = tx.caller.path_of(there.customer).unwrap_or_default();
                    let message = format!("{} belongs to customer {whose}", there.address());
                    return Err(ServiceError::Conflict { message });
                }
                self.change(tx, options, there).await
            }
            None => self.create(tx, options, customer).await,
        }
    }

    async fn create(&self, tx: &mut Tx<'_>, options: &Options, customer: Option<String>) -> Result<Done> {
        let mut fields = Fields::naming([("address", self.address.clone().into())]);
        fields.maybe("customer", customer);
        fields.maybe("name", self.name.clone());
        fields.maybe("quota", self.quota);
        fields.maybe("messages", self.messages.flatten());
        fields.maybe("store", self.store.clone());
        fields.maybe("password", self.password.clone());
        fields.maybe("password_hash", self.password_hash.clone());
        if let Some(Hashed { hash, characters }) = self.hashed.clone() {
            let mut request: MailboxCreateRequest = parse(fields.all())?;
            (request.password_hash, request.password_characters) = (Some(hash), Some(characters));
            within_prepared::<MailboxCreate>(tx, request).await?;
        } else {
            within::<MailboxCreate>(tx, fields.all()).await?;
        }
        let has_password = self.hashed.is_some() || self.password.is_some() || self.password_hash.is_some();
        if has_password || !options.codes {
            return Ok(created());
        }
        let fields = Fields::naming([("address", self.address.clone().into())]);
        let MailboxInvited { secret, expires_at, .. } = within::<MailboxInvite>(tx, fields.all()).await?;
        Ok(Done { code: secret.map(|secret| (secret, expires_at)), ..created() })
    }

    async fn change(&self, tx: &mut Tx<'_>, options: &Options, there: MailboxRow) -> Result<Done> {
        readable(tx, there.customer, Permission::MailboxRead)?;
        let naming = || Fields::naming([("address", there.address().into())]);
        let mut differences = Differences::default();
        let mut update = naming();
        let name = self.name.as_deref().map(|name| plain_text("name", name)).transpose()?;
        differences.set(&mut update, "name", there.name.clone(), name);
        if let Some(fields) = update.if_any() {
            within::<MailboxRename>(tx, fields).await?;
        }
        let mut update = naming();
        differences.set(&mut update, "quota", there.bytes_max, self.quota);
        differences.set(&mut update, "messages", there.messages_max, self.messages);
        if let Some(fields) = update.if_any() {
            within::<MailboxQuota>(tx, fields).await?;
        }
        if options.passwords == Passwords::Set
            && self.set_password(tx, naming(), &there.password_hash).await?
        {
            differences.add("password", Value::Null, Value::Null);
        }
        Ok(differences.done())
    }

    /// Sets the password, unless there is none or its hash is the present one. One given in plain is set each time,
    /// since a new hash of it is never the present one.
    async fn set_password(&self, tx: &mut Tx<'_>, mut fields: Fields, present: &str) -> Result<bool> {
        if let Some(Hashed { hash, characters }) = self.hashed.clone() {
            let mut request: MailboxPasswordRequest = parse(fields.all())?;
            (request.password_hash, request.password_characters) = (Some(hash), Some(characters));
            within_prepared::<MailboxPassword>(tx, request).await?;
            return Ok(true);
        }
        let is_same = |hash: &String| PasswordHash::parse(hash).is_ok_and(|hash| hash.as_str() == present);
        fields.maybe("password", self.password.clone());
        fields.maybe("password_hash", self.password_hash.clone().filter(|hash| !is_same(hash)));
        match fields.if_any() {
            Some(fields) => within::<MailboxPassword>(tx, fields).await.map(|_| true),
            None => Ok(false),
        }
    }
}
