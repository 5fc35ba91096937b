//! Customers: bringing aboard, list, show, rename, limits. Moving and deleting stand in `customer_life.rs`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ceilings::Ceilings;
use super::customer_limits::{Limits, set_limit, set_limits};
use super::page::{Cursors, Page, etag, limit};
use super::scope::{Place, plain_text, until};
use super::targets::OneCustomer;
use super::{administrators, domains, grants};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, random_text};
use crate::service::authority::{Permission, Role};
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::expiry::{self, Expiry};
use crate::service::placement::{self, Placed, Stores};
use crate::service::quota;
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::service::settings::standing;
use crate::service::settings::template::{self, TemplateKind};
use crate::service::spending::{self, Spending};
use crate::storage::metadata::customer::{self, CustomerLimits, CustomerRow, NewCustomer};
use crate::storage::metadata::expiry::Expiring;
use crate::storage::metadata::setting::At;

/// Deepest hierarchy unless configured otherwise, and the most that can be configured.
const DEPTH_MAX_DEFAULT: usize = 64;
const DEPTH_MAX: usize = 1_000;
/// Longest slug in octets.
const SLUG_OCTETS_MAX: usize = 63;
/// How often a short code is drawn before giving up; 30 bits make a second draw rare.
const CODE_DRAWS_MAX: usize = 8;

/// A customer.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Customer {
    /// Random id.
    id: String,
    /// Path from the topmost customer that the caller may see.
    path: String,
    /// Short code.
    code: String,
    name: String,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    contact: Option<String>,
    /// Path of the customer above, if visible.
    parent: Option<String>,
    /// Levels below the topmost visible customer.
    depth: usize,
    #[schema(value_type = String)]
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    deleted_at: Option<Timestamp>,
    /// `active` or `deleted`.
    state: String,
    /// Octets used at it and below, counted while it has a limit on octets or messages, or a guarantee.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_used: Option<i64>,
    /// Octets that count against its limit: those used, and what is reserved below and not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_committed: Option<i64>,
    /// Own limits; absent ones do not exist.
    limits: Limits,
}

/// What changes in a customer without anybody changing it.
pub(super) const VOLATILE: [&str; 2] = ["bytes_used", "bytes_committed"];

/// What the caller may see of a customer.
pub(super) fn show(tx: &Tx<'_>, row: CustomerRow) -> Customer {
    let path = tx.caller.path_of(row.id).unwrap_or_default();
    let depth = path.split('/').filter(|segment| !segment.is_empty()).count();
    Customer {
        id: row.public_id,
        parent: row.parent.and_then(|parent| tx.caller.path_of(parent)),
        path,
        depth,
        code: row.code,
        name: row.name,
        kind: row.kind,
        contact: row.contact,
        created_at: row.created_at,
        state: if row.deleted_at.is_some() { "deleted" } else { "active" }.to_owned(),
        deleted_at: row.deleted_at,
        bytes_used: None,
        bytes_committed: None,
        limits: row.limits.into(),
    }
}

/// With what it uses and what is committed.
fn counted(used: Option<&[i64; 2]>, customer: Customer) -> Customer {
    let [bytes_used, bytes_committed] = used.map_or([None; 2], |used| used.map(Some));
    Customer { bytes_used, bytes_committed, ..customer }
}

/// Reads the row of a customer that was found a moment ago in the same transaction.
pub(in crate::service) async fn row(tx: &mut Tx<'_>, id: CustomerId) -> Result<CustomerRow> {
    let gone = || ServiceError::Internal("a customer vanished inside a transaction".to_owned());
    customer::by_id(tx.conn, id).await?.ok_or_else(gone)
}

/// Deepest hierarchy in levels.
pub(super) fn depth_max(tx: &Tx<'_>) -> usize {
    match tx.inner.options.hierarchy_depth_max {
        0 => DEPTH_MAX_DEFAULT,
        configured => configured.min(DEPTH_MAX),
    }
}

/// A path segment: letters, digits and hyphens.
pub(in crate::service) fn slug(text: &str) -> Result<String> {
    let slug = text.to_ascii_lowercase();
    let fits = !slug.is_empty() && slug.len() <= SLUG_OCTETS_MAX;
    let clean = slug.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fits && clean && !slug.starts_with('-') {
        return Ok(slug);
    }
    let message = format!("{text}: a name in a path has 1 to {SLUG_OCTETS_MAX} letters, digits, - and _");
    Err(ServiceError::Invalid { field: "path", message })
}

/// A customer to bring aboard.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct CustomerCreateRequest {
    /// Where: the path of the customer above, a slash, and the new name.
    path: String,
    /// Display name; default: the last part of the path.
    name: Option<String>,
    /// Free label such as `department`.
    kind: Option<String>,
    /// Address for people.
    contact: Option<String>,
    /// Short code; only a system administrator chooses one.
    code: Option<String>,
    /// Its first domain.
    domain: Option<String>,
    /// Name of its first administrator, who gets the role `admin` and a token.
    admin: Option<String>,
    /// The mail store for its new mailboxes.
    store: Option<String>,
    /// A template of the customer above, or of one further up; what is said here counts before what it says.
    template: Option<String>,
    /// Its limit on octets.
    bytes: Option<i64>,
    /// Its limit on mailboxes.
    mailboxes: Option<i64>,
    /// When its time is over: RFC 3339, or from now such as `90d`.
    expires_at: Option<String>,
    /// What happens then, in order: `disable-login`, `stop-receiving+7d`, `delete+30d`. Default: `disable-login`.
    on_expiry: Option<Vec<String>>,
}

/// What was made.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct CustomerCreated {
    #[serde(flatten)]
    customer: Customer,
    /// Its first domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    /// Name by which the administrator is known: `name@CODE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    administrator: Option<String>,
    /// The administrator's token; shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// `customer.create`; acts on the customer above.
pub(in crate::service) struct CustomerCreate;

impl Operate for CustomerCreate {
    declare! { "customer.create", Post, "/v1/customers", CustomerCreate, changes,
    "Bring a customer aboard, with its first domain and administrator" }
    type Request = CustomerCreateRequest;
    type Response = CustomerCreated;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CustomerCreateRequest) -> Result<OneCustomer> {
        let (upper, last) = split(&request.path);
        slug(last)?;
        OneCustomer::find(tx, upper)
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        request: &'a CustomerCreateRequest,
    ) -> Result<Vec<Need>> {
        let mut needs = vec![Need::at(target.id, Permission::CustomerCreate)];
        if request.domain.is_some() {
            needs.push(Need::at(target.id, Permission::DomainCreate));
        }
        if request.admin.is_some() {
            needs.push(Need::at(target.id, Permission::AdministratorCreate));
            needs.extend(grants::needs_to_grant(target.id, Role::Admin, None));
        }
        if request.code.is_some() {
            needs.push(Need::above(tx, root(tx)?, Permission::SystemRoot));
        }
        needs.extend(request.store.as_ref().map(|_| Need::at(target.id, Permission::CustomerStore)));
        if request.bytes.is_some() || request.mailboxes.is_some() {
            needs.push(Need::at(target.id, Permission::CustomerLimit));
        }
        if request.expires_at.is_some() {
            let steps = expiry::parse_steps(request.on_expiry.as_deref())?;
            let permissions = expiry::permissions_of(Expiring::Customer(target.id), &steps);
            needs.extend(permissions.into_iter().map(|permission| Need::at(target.id, permission)));
        }
        Ok(needs)
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: OneCustomer,
        request: CustomerCreateRequest,
    ) -> Result<CustomerCreated> {
        let slug = slug(split(&request.path).1)?;
        let kind = TemplateKind::Customer;
        let template = template::InUse::find(tx, target.id, request.template.as_deref(), kind).await?;
        let mut row = create(tx, &target, slug, &request).await?;
        if let Some(template) = &template {
            template.fill(&mut row.limits);
        }
        set_limit("bytes", &mut row.limits.bytes, request.bytes.map(Some))?;
        set_limit("mailboxes", &mut row.limits.mailboxes, request.mailboxes.map(Some))?;
        if row.limits != CustomerLimits::default() {
            set_limits(tx, &row, Vec::new(), None).await?;
        }
        quota::overcommit::admit_below(tx, Some(target.id)).await?;
        if let Some(template) = &template {
            template.furnish_customer(tx, row.id).await?;
        }
        if let Some(name) = &request.store {
            let above = Stores::of(tx, target.id).await?;
            placement::set_default(tx, &above, row.id, Some(name)).await?;
        }
        if let Some(expires_at) = until("expires_at", request.expires_at.as_deref(), tx.now)? {
            let steps = expiry::parse_steps(request.on_expiry.as_deref())?;
            let on = Expiring::Customer(row.id);
            let authority = expiry::authority(tx, on, target.id);
            expiry::begin(tx, on, (expires_at, &steps), authority).await?;
        }
        let domain = match &request.domain {
            Some(name) => Some(domains::create(tx, row.id, name, None, false).await?.name),
            None => None,
        };
        let (administrator, token) = match &request.admin {
            Some(name) => {
                let (login, token) = administrators::first(tx, &row, name).await?;
                (Some(login), Some(token))
            }
            None => (None, None),
        };
        let path =
            if target.path == "/" { row.slug.clone() } else { format!("{}/{}", target.path, row.slug) };
        tx.also.push(row.id);
        let mut customer = show(tx, row);
        customer.depth = path.split('/').count();
        customer.parent = Some(target.path);
        customer.path = path;
        tx.after = serde_json::to_value(&customer).ok();
        Ok(CustomerCreated { customer, domain, administrator, token })
    }
}

fn root(tx: &Tx<'_>) -> Result<CustomerId> {
    let root = tx.caller.tree.root().map(|root| root.id);
    root.ok_or_else(|| ServiceError::Internal("the hierarchy has no root".to_owned()))
}

/// Path of the customer above, and the last segment.
fn split(path: &str) -> (&str, &str) {
    let path = path.trim_matches('/');
    path.rsplit_once('/').unwrap_or(("", path))
}

async fn create(
    tx: &mut Tx<'_>,
    above: &OneCustomer,
    slug: String,
    request: &CustomerCreateRequest,
) -> Result<CustomerRow> {
    let depth = tx.caller.tree.node(above.id).map_or(0, |node| node.depth);
    if depth + 2 > depth_max(tx) {
        let message = format!("the hierarchy is at most {} levels deep", depth_max(tx));
        return Err(ServiceError::Limit(message));
    }
    let taken = || ServiceError::Conflict { message: format!("customer {} exists already", request.path) };
    if tx.caller.tree.child(above.id, &slug).is_some() {
        return Err(taken());
    }
    quota::admit(tx, above.id, Resource::Customers, 1).await?;
    let name = request.name.as_deref().map(|name| plain_text("name", name)).transpose()?;
    let kind = request.kind.as_deref().map(|kind| plain_text("kind", kind)).transpose()?;
    let contact =
        request.contact.as_deref().map(|text| super::scope::address("contact", text)).transpose()?;
    let mut new = NewCustomer {
        parent: above.id,
        name: name.unwrap_or_else(|| slug.clone()),
        kind: kind.unwrap_or_else(|| "customer".to_owned()),
        slug,
        code: String::new(),
        contact: contact.map(|address| address.to_string()),
    };
    for _ in 0..CODE_DRAWS_MAX {
        new.code = request.code.clone().unwrap_or_else(|| random_text(6));
        if !new.code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') || new.code.len() > 16 {
            let message = "a short code has at most 16 letters, digits and -".to_owned();
            return Err(ServiceError::Invalid { field: "code", message });
        }
        if tx.caller.tree.by_code(&new.code).is_none()
            && let Some(id) = customer::insert(tx.conn, &new, tx.now).await?
        {
            return row(tx, id).await;
        }
        if request.code.is_some() {
            return Err(ServiceError::Conflict { message: format!("short code {} is taken", new.code) });
        }
    }
    Err(ServiceError::Unavailable("no free short code was drawn".to_owned()))
}

/// Which customers to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct CustomerListRequest {
    /// This one and everything below; default: everything visible.
    customer: Option<String>,
    /// Most customers, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `customer.list`: depth first, siblings by name, so that the order is that of the tree.
pub(in crate::service) struct CustomerList;

impl Operate for CustomerList {
    declare! { "customer.list", Get, "/v1/customers", CustomerRead, reads,
    "List customers, each after the one above it" }
    type Request = CustomerListRequest;
    type Response = Page<Customer>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CustomerListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Self::PERMISSION)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: CustomerListRequest) -> Result<Page<Customer>> {
        let limit = limit(request.limit)?;
        let filter = CustomerListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after: Option<String> = cursors.read(request.cursor.as_deref())?;
        let after = after.and_then(|code| tx.caller.tree.by_code(&code));
        let wanted = usize::try_from(limit + 1).unwrap_or(usize::MAX);
        let keys = target.customer_ids_behind(tx, after, wanted);
        let order: HashMap<i64, usize> = keys.iter().enumerate().map(|(index, key)| (*key, index)).collect();
        let mut rows = customer::by_ids(tx.conn, keys.iter().copied()).await?;
        rows.sort_by_key(|row| order.get(&row.id.0).copied());
        let used: HashMap<CustomerId, [i64; 2]> =
            customer::bytes_used(tx.conn, &keys).await?.into_iter().collect();
        Page::cut(
            rows,
            limit,
            &cursors,
            |row| row.code.clone(),
            |row| counted(used.get(&row.id), show(tx, row)),
        )
    }
}

/// Which customer.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct CustomerRequest {
    /// Its path or short code.
    pub path: String,
}

/// A customer with what it has.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct CustomerDetail {
    #[serde(flatten)]
    customer: Customer,
    /// Switches that are off, by holds here or above or by a service that is switched off here.
    switches_off: Vec<String>,
    /// Its own mailboxes, customers below not counted.
    mailboxes: i64,
    aliases: i64,
    domains: i64,
    administrators: i64,
    /// What anybody can be allowed there at most, by a ceiling of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    ceiling: Option<Vec<String>>,
    /// What ceilings here and above allow nobody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    withheld: Vec<String>,
    #[serde(flatten)]
    placed: Placed,
    /// When its time is over, if somebody has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<Expiry>,
    /// What it may spend in a month, if somebody has said so and the caller may read its bills.
    #[serde(skip_serializing_if = "Option::is_none")]
    spending: Option<Spending>,
    etag: String,
}

/// `customer.show`.
pub(in crate::service) struct CustomerShow;

impl Operate for CustomerShow {
    declare! { "customer.show", Get, "/v1/customers/{path}", CustomerRead, reads, "Show a customer" }
    type Request = CustomerRequest;
    type Response = CustomerDetail;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CustomerRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.path)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, _: CustomerRequest) -> Result<CustomerDetail> {
        let row = row(tx, target.id).await?;
        let counts = customer::counts(tx.conn, &[target.id.0]).await?;
        let switches_off = standing::switches_off(tx.conn, At::customer(target.id)).await?;
        let used = customer::bytes_used(tx.conn, &[target.id.0]).await?;
        let customer = counted(used.first().map(|(_, used)| used), show(tx, row));
        let placed = Stores::of(tx, target.id).await?.shown();
        let Ceilings { ceiling, withheld } = Ceilings::of(tx, target.id);
        let expiry = expiry::shown(tx, Expiring::Customer(target.id)).await?;
        let spending = spending::shown(tx, target.id).await?;
        Ok(CustomerDetail {
            ceiling,
            withheld,
            expiry,
            spending,
            placed,
            etag: etag(&customer, &VOLATILE)?,
            customer,
            switches_off: switches_off.into_iter().collect(),
            mailboxes: counts.mailboxes,
            aliases: counts.aliases,
            domains: counts.domains,
            administrators: counts.administrators,
        })
    }
}

/// What to change; absent fields stay.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct CustomerUpdateRequest {
    /// Its path or short code.
    path: String,
    /// New last part of its path.
    slug: Option<String>,
    /// New display name.
    name: Option<String>,
    /// New label.
    kind: Option<String>,
    /// New address for people; empty for none.
    contact: Option<String>,
}

/// `customer.rename`.
pub(in crate::service) struct CustomerRename;

impl Operate for CustomerRename {
    declare! { "customer.rename", Patch, "/v1/customers/{path}", CustomerUpdate, changes,
    "Change a customer's name, kind, contact or the last part of its path" }
    type Request = CustomerUpdateRequest;
    type Response = Customer;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CustomerUpdateRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.path)
    }

    async fn etag<'a>(tx: &'a mut Tx<'_>, target: &'a OneCustomer) -> Result<Option<String>> {
        let row = row(tx, target.id).await?;
        etag(&show(tx, row), &VOLATILE).map(Some)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: CustomerUpdateRequest) -> Result<Customer> {
        let mut row = row(tx, target.id).await?;
        let before = show(tx, row.clone());
        tx.before = serde_json::to_value(&before).ok();
        if let Some(text) = &request.slug {
            let wanted = slug(text)?;
            let taken = target.parent.and_then(|parent| tx.caller.tree.child(parent, &wanted));
            if taken.is_some_and(|node| node.id != target.id) {
                return Err(ServiceError::Conflict { message: format!("{wanted} exists already there") });
            }
            row.slug = wanted;
        }
        if let Some(name) = &request.name {
            row.name = plain_text("name", name)?;
        }
        if let Some(kind) = &request.kind {
            row.kind = plain_text("kind", kind)?;
        }
        match request.contact.as_deref() {
            Some("") => row.contact = None,
            Some(text) => row.contact = Some(super::scope::address("contact", text)?.to_string()),
            None => {}
        }
        customer::update(tx.conn, &row).await?;
        let slug = row.slug.clone();
        let mut after = show(tx, row);
        if let Some((upper, _)) = after.path.rsplit_once('/') {
            after.path = if upper.is_empty() { "/".to_owned() } else { format!("{upper}/{slug}") };
        } else {
            after.path = slug;
        }
        tx.after = serde_json::to_value(&after).ok();
        Ok(after)
    }
}
