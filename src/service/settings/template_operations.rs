//! Making, listing, showing, changing and deleting templates.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::template::{Gives, TemplateKind, nearest};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::authority::Tree;
use crate::service::directory::customers::slug;
use crate::service::directory::page::{Cursors, Page, limit};
use crate::service::directory::targets::{OneCustomer, absent};
use crate::service::error::{Result, ServiceError};
use crate::service::placement::Stores;
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::template::{self, TemplateRow};

/// Most templates of a customer.
const TEMPLATES_MAX: i64 = 1_000;

/// A template.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Template {
    /// Random id.
    id: String,
    name: String,
    kind: TemplateKind,
    /// Path of the customer whose it is; absent when that is above what the caller sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    gives: Gives,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

/// What the caller may see of a template that can be used at a customer: a mail store is named if it is known.
async fn show(tx: &mut Tx<'_>, at: CustomerId, row: TemplateRow) -> Result<Template> {
    let mut gives = Gives::of(&row)?;
    if let Some(name) = gives.store.take() {
        let is_known = Stores::of(tx, at).await?.named(&name).is_ok();
        gives.store = is_known.then_some(name);
    }
    Ok(Template {
        kind: TemplateKind::of(&row),
        customer: tx.caller.path_of(row.customer),
        id: row.public_id,
        name: row.name,
        gives,
        created_at: row.created_at,
    })
}

/// Shows what was made or changed, and notes it for the record.
async fn made(tx: &mut Tx<'_>, customer: CustomerId, name: &str) -> Result<Template> {
    let row = template::by_name(tx.conn, customer, name).await?.ok_or_else(|| absent("template", name))?;
    let made = show(tx, customer, row).await?;
    tx.after = serde_json::to_value(&made).ok();
    Ok(made)
}

/// A template to make.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct TemplateCreateRequest {
    /// Its name.
    name: String,
    /// The customer whose it is; it is used there and below.
    customer: String,
    /// `customer` or `mailbox`.
    kind: TemplateKind,
    /// What it gives.
    #[serde(default)]
    gives: Gives,
}

/// `template.create`.
pub(in crate::service) struct TemplateCreate;

impl Operate for TemplateCreate {
    declare! { "template.create", Post, "/v1/templates", CustomerSettings, changes,
    "Make a template: what new customers or mailboxes get" }
    type Request = TemplateCreateRequest;
    type Response = Template;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a TemplateCreateRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.customer)
    }

    async fn needs<'a>(
        _: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        request: &'a TemplateCreateRequest,
    ) -> Result<Vec<Need>> {
        Ok(request.gives.needs(target.id, request.kind))
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: TemplateCreateRequest) -> Result<Template> {
        let name = slug(&request.name)?;
        let gives = request.gives.checked(tx, target.id, request.kind).await?;
        if template::count(tx.conn, target.id).await? >= TEMPLATES_MAX {
            return Err(ServiceError::Limit(format!("a customer has at most {TEMPLATES_MAX} templates")));
        }
        let what = (name.as_str(), request.kind.name());
        if !template::insert(tx.conn, target.id, what, &gives.text()?, tx.now).await? {
            return Err(ServiceError::Conflict { message: format!("template {name} exists already") });
        }
        made(tx, target.id, &name).await
    }
}

/// Which templates to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct TemplateListRequest {
    /// Those that can be used at this customer: its own, and those of customers above.
    customer: String,
    /// Most templates, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `template.list`.
pub(in crate::service) struct TemplateList;

impl Operate for TemplateList {
    declare! { "template.list", Get, "/v1/templates", CustomerRead, reads,
    "List the templates that can be used at a customer" }
    type Request = TemplateListRequest;
    type Response = Page<Template>;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a TemplateListRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.customer)
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: OneCustomer,
        request: TemplateListRequest,
    ) -> Result<Page<Template>> {
        let limit = limit(request.limit)?;
        let filter = TemplateListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after = cursors.read(request.cursor.as_deref())?;
        let path: Vec<i64> = tx.caller.tree.path(target.id).iter().map(|node| node.id.0).collect();
        let rows = template::page(tx.conn, &path, after, limit + 1).await?;
        let page = Page::cut(rows, limit, &cursors, |row| (row.name.clone(), row.id), |row| row)?;
        let mut items = Vec::with_capacity(page.items.len());
        for row in page.items {
            items.push(show(tx, target.id, row).await?);
        }
        Ok(Page { items, cursor: page.cursor })
    }
}

/// Which template.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct TemplateRequest {
    /// Its name.
    name: String,
    /// The customer whose it is; to show one, any customer where it can be used.
    customer: String,
}

/// A template, and the customer at which it was asked for.
pub(in crate::service) struct OneTemplate {
    row: TemplateRow,
    at: CustomerId,
}

impl OneTemplate {
    /// The template of a customer itself.
    async fn own(tx: &mut Tx<'_>, customer: &str, name: &str) -> Result<Self> {
        let at = OneCustomer::find(tx, customer)?.id;
        let row = template::by_name(tx.conn, at, name).await?.ok_or_else(|| absent("template", name))?;
        Ok(Self { row, at })
    }
}

impl Targeted for OneTemplate {
    fn customer(&self) -> CustomerId {
        self.at
    }

    fn label(&self) -> String {
        format!("template {}", self.row.name)
    }

    fn recorded(&self, _: &Tree) -> String {
        self.label()
    }
}

/// `template.show`.
pub(in crate::service) struct TemplateShow;

impl Operate for TemplateShow {
    declare! { "template.show", Get, "/v1/templates/{name}", CustomerRead, reads,
    "Show the template of a name that counts at a customer" }
    type Request = TemplateRequest;
    type Response = Template;
    type Target = OneTemplate;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a TemplateRequest) -> Result<OneTemplate> {
        let at = OneCustomer::find(tx, &request.customer)?.id;
        Ok(OneTemplate { row: nearest(tx, at, &request.name).await?, at })
    }

    async fn run(tx: &mut Tx<'_>, target: OneTemplate, _: TemplateRequest) -> Result<Template> {
        show(tx, target.at, target.row).await
    }
}

/// What a template is to give from now on.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct TemplateUpdateRequest {
    /// Its name.
    name: String,
    /// The customer whose it is.
    customer: String,
    /// All that it gives from now on; what was made with it stays as it is.
    gives: Gives,
}

/// `template.update`.
pub(in crate::service) struct TemplateUpdate;

impl Operate for TemplateUpdate {
    declare! { "template.update", Put, "/v1/templates/{name}", CustomerSettings, changes,
    "Say anew what a template gives; what was made with it stays as it is" }
    type Request = TemplateUpdateRequest;
    type Response = Template;
    type Target = OneTemplate;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a TemplateUpdateRequest) -> Result<OneTemplate> {
        OneTemplate::own(tx, &request.customer, &request.name).await
    }

    async fn needs<'a>(
        _: &'a mut Tx<'_>,
        target: &'a OneTemplate,
        request: &'a TemplateUpdateRequest,
    ) -> Result<Vec<Need>> {
        Ok(request.gives.needs(target.at, TemplateKind::of(&target.row)))
    }

    async fn run(tx: &mut Tx<'_>, target: OneTemplate, request: TemplateUpdateRequest) -> Result<Template> {
        let gives = request.gives.checked(tx, target.at, TemplateKind::of(&target.row)).await?;
        let before = show(tx, target.at, target.row.clone()).await?;
        tx.before = serde_json::to_value(&before).ok();
        template::set_content(tx.conn, target.row.id, &gives.text()?).await?;
        made(tx, target.at, &target.row.name).await
    }
}

/// `template.delete`.
pub(in crate::service) struct TemplateDelete;

impl Operate for TemplateDelete {
    declare! { "template.delete", Delete, "/v1/templates/{name}", CustomerSettings, changes,
    "Delete a template; what was made with it stays as it is" }
    type Request = TemplateRequest;
    type Response = Template;
    type Target = OneTemplate;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a TemplateRequest) -> Result<OneTemplate> {
        OneTemplate::own(tx, &request.customer, &request.name).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneTemplate, _: TemplateRequest) -> Result<Template> {
        template::delete(tx.conn, target.row.id).await?;
        let gone = show(tx, target.at, target.row).await?;
        tx.before = serde_json::to_value(&gone).ok();
        Ok(gone)
    }
}
