//! Mailboxes: create, list, show, password, quota, display name, delete, undelete.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::customer_limits::{given, set_limit};
use super::page::{Cursors, Page, etag, limit};
use super::passwords::{hash, long_enough};
use super::scope::{Place, address, plain_text};
use super::targets::{OneDomain, OneMailbox};
use crate::base::address::{Address, DETAIL_SEPARATOR};
use crate::base::clock::Timestamp;
use crate::base::id::{DomainId, MailboxId};
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::expiry::{self, Expiry};
use crate::service::notices::{self, To};
use crate::service::placement::Stores;
use crate::service::quota;
use crate::service::registry::{Inner, Need, Operate, Targeted, Tx, declare};
use crate::service::settings::standing;
use crate::service::settings::template::{self, TemplateKind};
use crate::storage::metadata::expiry::Expiring;
use crate::storage::metadata::mailbox::{self, MailboxRow, NewMailbox};
use crate::storage::metadata::setting::At;
use crate::storage::metadata::{alias, domain, invitation, quota as counters};

/// A mailbox.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Mailbox {
    /// Random id.
    id: String,
    address: String,
    name: String,
    /// Path of its customer.
    customer: String,
    /// `active`, or `pending` while its domain is.
    state: String,
    /// Limit on octets.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_max: Option<i64>,
    /// Limit on messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages_max: Option<i64>,
    /// Octets of its messages.
    bytes_used: i64,
    /// Number of its messages.
    messages_used: i64,
    #[schema(value_type = Option<String>)]
    last_login_at: Option<Timestamp>,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

/// What changes in a mailbox without anybody changing it.
const VOLATILE: [&str; 3] = ["bytes_used", "messages_used", "last_login_at"];

pub(super) fn show(tx: &Tx<'_>, row: MailboxRow) -> Mailbox {
    Mailbox {
        address: row.address(),
        id: row.public_id,
        name: row.name,
        customer: tx.caller.path_of(row.customer).unwrap_or_default(),
        state: if row.domain_pending { "pending" } else { "active" }.to_owned(),
        bytes_max: row.bytes_max,
        messages_max: row.messages_max,
        bytes_used: row.bytes_used,
        messages_used: row.messages_used,
        last_login_at: row.last_login_at,
        created_at: row.created_at,
    }
}

async fn row(tx: &mut Tx<'_>, id: MailboxId) -> Result<MailboxRow> {
    let gone = || ServiceError::Internal("a mailbox vanished inside a transaction".to_owned());
    mailbox::by_id(tx.conn, id).await?.ok_or_else(gone)
}

/// A mailbox to make.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MailboxCreateRequest {
    /// `localpart@domain`.
    address: String,
    /// Its password; without one, nobody can log in until one is set.
    password: Option<String>,
    /// Instead of a password: a hash taken over from elsewhere (argon2, bcrypt, SHA-512-crypt, SSHA).
    pub password_hash: Option<String>,
    /// Display name.
    name: Option<String>,
    /// Limit on octets; default: the domain's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    quota: Option<Option<i64>>,
    /// Limit on messages.
    messages: Option<i64>,
    /// Mail store, if the caller may name it; default: where the customer's mailboxes go.
    store: Option<String>,
    /// A template of the customer, or of one above; what is said here counts before what it says.
    template: Option<String>,
    /// The domain's customer, where several have one of this name; default: the verified one, or the only one.
    customer: Option<String>,
    /// Characters of the password; counted before it is hashed.
    #[serde(skip)]
    #[schema(ignore)]
    pub password_characters: Option<usize>,
}

/// `mailbox.create`; acts on the domain.
pub(in crate::service) struct MailboxCreate;

impl Operate for MailboxCreate {
    declare! { "mailbox.create", Post, "/v1/mailboxes", MailboxCreate, changes, "Create a mailbox" }
    type Request = MailboxCreateRequest;
    type Response = Mailbox;
    type Target = OneDomain;

    async fn prepare(_: &Inner, mut request: MailboxCreateRequest) -> Result<MailboxCreateRequest> {
        if request.password.is_some() || request.password_hash.is_some() {
            let imported = request.password_hash.take();
            let (hash, characters) = hash(request.password.take(), imported).await?;
            (request.password_hash, request.password_characters) = (Some(hash), characters);
        }
        Ok(request)
    }

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxCreateRequest) -> Result<OneDomain> {
        let wanted = address("address", &request.address)?;
        OneDomain::find(tx, wanted.domain().as_str(), request.customer.as_deref()).await
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneDomain(home): OneDomain,
        request: MailboxCreateRequest,
    ) -> Result<Mailbox> {
        let wanted = address("address", &request.address)?;
        if let Some(meant) = &home.alias_of_name {
            let message = format!("{} is an alias of {meant}; create the mailbox there", home.name);
            return Err(ServiceError::Conflict { message });
        }
        let taken = || ServiceError::Conflict { message: format!("{wanted} exists already") };
        free(tx, home.id, &wanted).await?;
        long_enough(tx, home.customer, request.password_characters).await?;
        quota::admit(tx, home.customer, Resource::Mailboxes, 1).await?;
        let kind = TemplateKind::Mailbox;
        let template = template::InUse::find(tx, home.customer, request.template.as_deref(), kind).await?;
        let (bytes, mut messages_max) =
            template.as_ref().map(template::InUse::mailbox_limits).unwrap_or_default();
        let mut bytes_max = bytes.or(home.mailbox_bytes_max_default);
        let given = match (&request.store, &template) {
            (None, Some(template)) => template.store(tx).await?,
            _ => None,
        };
        let stores = Stores::of(tx, home.customer).await?;
        let store = given.map_or_else(|| stores.place(request.store.as_deref()), Ok)?;
        set_limit("quota", &mut bytes_max, request.quota)?;
        set_limit("messages", &mut messages_max, request.messages.map(Some))?;
        let new = NewMailbox {
            domain: home.id,
            local_part: wanted.local().to_owned(),
            name: plain_text("name", request.name.as_deref().unwrap_or_default())?,
            // An empty one is the hash of no password.
            password_hash: request.password_hash.unwrap_or_default(),
            store,
            bytes_max,
            messages_max,
        };
        let id = mailbox::insert(tx.conn, &new, tx.now).await?.ok_or_else(taken)?;
        quota::count(tx, home.customer, Resource::Mailboxes, 1).await?;
        if let Some(template) = &template {
            template.furnish_mailbox(tx, id).await?;
        }
        let row = row(tx, id).await?;
        let made = show(tx, row);
        tx.after = serde_json::to_value(&made).ok();
        Ok(made)
    }
}

/// Refuses an address that is taken in the domain or that no mailbox can have.
async fn free(tx: &mut Tx<'_>, domain: DomainId, wanted: &Address) -> Result<()> {
    if wanted.local().contains(DETAIL_SEPARATOR) {
        let message = format!("{DETAIL_SEPARATOR} separates the detail of a subaddress; leave it out");
        return Err(ServiceError::Invalid { field: "address", message });
    }
    let living = mailbox::all_by_address(tx.conn, wanted.local(), wanted.domain().as_str()).await?;
    let targets = alias::targets(tx.conn, domain, wanted.local()).await?;
    if living.iter().any(|other| other.domain == domain) || !targets.is_empty() {
        return Err(ServiceError::Conflict { message: format!("{wanted} exists already") });
    }
    Ok(())
}

/// Which mailboxes to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MailboxListRequest {
    /// Only in this domain.
    domain: Option<String>,
    /// Only of this customer and those below; default: everywhere the caller may.
    customer: Option<String>,
    /// Most mailboxes, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// What a list is of: customers, and possibly one domain only.
pub(in crate::service) struct Listed {
    pub place: Place,
    pub domain: Option<super::targets::OneDomain>,
}

impl Listed {
    /// Finds the domain, or the customer, or everything where the caller may.
    pub async fn find(
        tx: &mut Tx<'_>,
        domain: Option<&str>,
        customer: Option<&str>,
        permission: crate::service::authority::Permission,
    ) -> Result<Self> {
        let domain = match domain {
            Some(name) => Some(OneDomain::find(tx, name, customer).await?),
            None => None,
        };
        Ok(Self { place: Place::find(tx, customer, permission)?, domain })
    }
}

impl Targeted for Listed {
    fn customer(&self) -> crate::base::id::CustomerId {
        self.domain.as_ref().map_or_else(|| self.place.customer(), Targeted::customer)
    }

    fn label(&self) -> String {
        self.domain.as_ref().map_or_else(|| self.place.label(), Targeted::label)
    }

    fn recorded(&self, tree: &crate::service::authority::Tree) -> String {
        self.domain.as_ref().map_or_else(|| self.place.recorded(tree), Targeted::label)
    }
}

/// `mailbox.list`.
pub(in crate::service) struct MailboxList;

impl Operate for MailboxList {
    declare! { "mailbox.list", Get, "/v1/mailboxes", MailboxRead, reads, "List mailboxes by address" }
    type Request = MailboxListRequest;
    type Response = Page<Mailbox>;
    type Target = Listed;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxListRequest) -> Result<Listed> {
        Listed::find(tx, request.domain.as_deref(), request.customer.as_deref(), Self::PERMISSION).await
    }

    async fn run(tx: &mut Tx<'_>, target: Listed, request: MailboxListRequest) -> Result<Page<Mailbox>> {
        let limit = limit(request.limit)?;
        let filter = MailboxListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after = cursors.read(request.cursor.as_deref())?;
        let domain = target.domain.as_ref().map(|domain| domain.0.id);
        let rows = mailbox::page(tx.conn, (&target.place.customers(tx), domain), after, limit + 1).await?;
        let position = |row: &MailboxRow| (row.domain_name.clone(), row.domain.0, row.local_part.clone());
        Page::cut(rows, limit, &cursors, position, |row| show(tx, row))
    }
}

/// Which mailbox.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MailboxRequest {
    /// Its address.
    pub(super) address: String,
}

/// A mailbox with what is known of it.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct MailboxDetail {
    #[serde(flatten)]
    mailbox: Mailbox,
    /// Switches that are off, by holds here or above or by a service that is switched off here.
    switches_off: Vec<String>,
    /// Its mail store, if the caller may know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    /// When its time is over, if somebody has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<Expiry>,
    /// Until when its owner can set the password with a one-time code, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    invited_until: Option<Timestamp>,
    etag: String,
}

/// `mailbox.show`.
pub(in crate::service) struct MailboxShow;

impl Operate for MailboxShow {
    declare! { "mailbox.show", Get, "/v1/mailboxes/{address}", MailboxRead, reads, "Show a mailbox" }
    type Request = MailboxRequest;
    type Response = MailboxDetail;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    async fn run(tx: &mut Tx<'_>, OneMailbox(row): OneMailbox, _: MailboxRequest) -> Result<MailboxDetail> {
        let off = standing::switches_off(tx.conn, At::mailbox(row.id, row.domain, row.customer)).await?;
        let store = Stores::of(tx, row.customer).await?.name_of(row.store);
        let expiry = expiry::shown(tx, Expiring::Mailbox(row.id)).await?;
        let invited_until =
            invitation::of_mailbox(tx.conn, row.id, tx.now).await?.map(|code| code.expires_at);
        let mailbox = show(tx, row);
        let (etag, switches_off) = (etag(&mailbox, &VOLATILE)?, off.into_iter().collect());
        Ok(MailboxDetail { mailbox, switches_off, store, expiry, invited_until, etag })
    }
}

/// The new display name.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MailboxRenameRequest {
    /// Its address.
    address: String,
    /// New address in the same domain; the old one is free then.
    to: Option<String>,
    /// Display name.
    name: Option<String>,
}

/// `mailbox.rename`.
pub(in crate::service) struct MailboxRename;

impl Operate for MailboxRename {
    declare! { "mailbox.rename", Patch, "/v1/mailboxes/{address}", MailboxUpdate, changes,
    "Give a mailbox another display name, or another address in its domain" }
    type Request = MailboxRenameRequest;
    type Response = Mailbox;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxRenameRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    async fn etag<'a>(tx: &'a mut Tx<'_>, target: &'a OneMailbox) -> Result<Option<String>> {
        etag(&show(tx, target.0.clone()), &VOLATILE).map(Some)
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneMailbox(mut row): OneMailbox,
        request: MailboxRenameRequest,
    ) -> Result<Mailbox> {
        let before = show(tx, row.clone());
        tx.before = serde_json::to_value(&before).ok();
        if let Some(name) = &request.name {
            row.name = plain_text("name", name)?;
            mailbox::set_name(tx.conn, row.id, &row.name).await?;
        }
        if let Some(to) = &request.to {
            let to = address("to", to)?;
            if to.domain().as_str() != row.domain_name {
                let message = format!("a mailbox stays in its domain {}", row.domain_name);
                return Err(ServiceError::Invalid { field: "to", message });
            }
            free(tx, row.domain, &to).await?;
            mailbox::set_local_part(tx.conn, row.id, to.local()).await?;
            row.local_part = to.local().to_owned();
        }
        let after = show(tx, row);
        tx.after = serde_json::to_value(&after).ok();
        Ok(after)
    }
}

/// The new password.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MailboxPasswordRequest {
    /// Its address.
    address: String,
    /// Its new password.
    password: Option<String>,
    /// Instead of a password: a hash taken over from elsewhere.
    pub password_hash: Option<String>,
    /// Characters of the password; counted before it is hashed.
    #[serde(skip)]
    #[schema(ignore)]
    pub password_characters: Option<usize>,
}

/// `mailbox.password`: closes the mailbox's sessions and tells its owner, in the mailbox.
pub(in crate::service) struct MailboxPassword;

impl Operate for MailboxPassword {
    declare! { "mailbox.password", Put, "/v1/mailboxes/{address}/password", MailboxPassword, changes,
    "Set a mailbox's password; running sessions end" }
    type Request = MailboxPasswordRequest;
    type Response = Mailbox;
    type Target = OneMailbox;

    async fn prepare(_: &Inner, mut request: MailboxPasswordRequest) -> Result<MailboxPasswordRequest> {
        let imported = request.password_hash.take();
        let (hash, characters) = hash(request.password.take(), imported).await?;
        (request.password_hash, request.password_characters) = (Some(hash), characters);
        Ok(request)
    }

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxPasswordRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneMailbox(row): OneMailbox,
        request: MailboxPasswordRequest,
    ) -> Result<Mailbox> {
        long_enough(tx, row.customer, request.password_characters).await?;
        mailbox::set_password(tx.conn, row.id, &request.password_hash.unwrap_or_default()).await?;
        if !tx.dry_run {
            // Sessions see for themselves that the hash is another one, on every node; here also when it is not.
            tx.inner.login.get().map(|login| login.mailbox_close(row.id));
        }
        let text = format!(
            "An administrator has set a new password for this mailbox, {}, and has ended its sessions.\n\n\
             Whoever knows the new password can read the mail in it. If you did not ask for this, ask your \
             administrators why it was done; it is in their audit trail.",
            row.address()
        );
        let subject = "The password of this mailbox was changed by an administrator";
        let to = To::Mailbox(row.id);
        notices::give(tx.conn, to, notices::Kind::PasswordReset, (subject, &text), tx.now).await?;
        // Who sets a password can log in with it.
        tx.after = Some(serde_json::json!({ "content_capable": true }));
        Ok(show(tx, row))
    }
}

/// The limits to set: absent ones stay, null is no own limit, 0 is nothing at all.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MailboxQuotaRequest {
    /// Its address.
    address: String,
    /// Octets.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    quota: Option<Option<i64>>,
    /// Messages.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    messages: Option<Option<i64>>,
}

/// `mailbox.quota`.
pub(in crate::service) struct MailboxQuota;

impl Operate for MailboxQuota {
    declare! { "mailbox.quota", Patch, "/v1/mailboxes/{address}/quota", MailboxQuota, changes,
    "Set a mailbox's limits; they count for the next message" }
    type Request = MailboxQuotaRequest;
    type Response = Mailbox;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxQuotaRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    async fn etag<'a>(tx: &'a mut Tx<'_>, target: &'a OneMailbox) -> Result<Option<String>> {
        etag(&show(tx, target.0.clone()), &VOLATILE).map(Some)
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneMailbox(mut row): OneMailbox,
        request: MailboxQuotaRequest,
    ) -> Result<Mailbox> {
        tx.before = serde_json::to_value((row.bytes_max, row.messages_max)).ok();
        set_limit("quota", &mut row.bytes_max, request.quota)?;
        set_limit("messages", &mut row.messages_max, request.messages)?;
        mailbox::set_limits(tx.conn, row.id, row.bytes_max, row.messages_max).await?;
        tx.after = serde_json::to_value((row.bytes_max, row.messages_max)).ok();
        Ok(show(tx, row))
    }
}

/// Which mailbox, and where it goes.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MailboxUndeleteRequest {
    /// Its address when it was deleted.
    address: String,
    /// Another address of the same customer, where the old one is in use again.
    #[serde(rename = "as")]
    new_address: Option<String>,
}

/// `mailbox.undelete`.
pub(in crate::service) struct MailboxUndelete;

impl Operate for MailboxUndelete {
    declare! { "mailbox.undelete", Post, "/v1/mailboxes/{address}/undelete", MailboxDelete, changes,
    "Bring a deleted mailbox back, at another address if its own is in use again" }
    type Request = MailboxUndeleteRequest;
    type Response = Mailbox;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxUndeleteRequest) -> Result<OneMailbox> {
        OneMailbox::find_deleted(tx, &request.address).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneMailbox,
        request: &'a MailboxUndeleteRequest,
    ) -> Result<Vec<Need>> {
        let _ = tx;
        let mut needs = vec![Need::at(target.customer(), Self::PERMISSION)];
        // Another address is what renaming gives.
        needs.extend(
            request.new_address.as_ref().map(|_| Need::at(target.customer(), MailboxRename::PERMISSION)),
        );
        Ok(needs)
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneMailbox(row): OneMailbox,
        request: MailboxUndeleteRequest,
    ) -> Result<Mailbox> {
        let conflict = |message: String| Err(ServiceError::Conflict { message });
        let old = address("address", &row.address())?;
        let wanted = request.new_address.as_deref().map(|text| address("as", text)).transpose()?;
        let wanted = wanted.unwrap_or(old);
        let home = if wanted.domain().as_str() == row.domain_name {
            domain::by_id(tx.conn, row.domain).await?
        } else {
            let domains = domain::all_by_name(tx.conn, wanted.domain().as_str()).await?;
            domains.into_iter().find(|home| home.customer == row.customer)
        };
        let Some(home) = home else {
            // Whether somebody else has that domain is not told.
            let message = format!("{wanted}: only addresses of the same customer can be given");
            return Err(ServiceError::Invalid { field: "as", message });
        };
        if home.deleted_at.is_some() {
            return conflict(format!("domain {} is deleted; undelete the domain first", home.name));
        }
        if let Some(meant) = &home.alias_of_name {
            return conflict(format!("{} is an alias of {meant}; give an address there", home.name));
        }
        free(tx, home.id, &wanted).await?;
        quota::admit(tx, row.customer, Resource::Mailboxes, 1).await?;
        if home.id != row.domain
            && let Err(over) = counters::move_domain_use(tx.conn, row.id, row.domain, home.id).await?
        {
            return Err(quota::over(tx.caller, over));
        }
        mailbox::undelete(tx.conn, row.id, home.id, wanted.local()).await?;
        quota::count(tx, row.customer, Resource::Mailboxes, 1).await?;
        let row = self::row(tx, row.id).await?;
        let after = show(tx, row);
        tx.after = serde_json::to_value(&after).ok();
        Ok(after)
    }
}
