//! What operations act on: one customer, domain, mailbox, alias or administrator that the caller sees.

use std::collections::HashSet;

use super::scope::{address, domain_name};
use crate::base::id::CustomerId;
use crate::service::audit::names;
use crate::service::authority::Tree;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Targeted, Tx};
use crate::storage::metadata::administrator::{self, AdministratorRow};
use crate::storage::metadata::alias::{self, AliasRow};
use crate::storage::metadata::domain::{self, DomainRow};
use crate::storage::metadata::group::{self, GroupRow};
use crate::storage::metadata::mailbox::{self, MailboxRow};

/// Says that something does not exist, in the caller's own words.
pub(in crate::service) fn absent(kind: &str, name: &str) -> ServiceError {
    ServiceError::NotFound { what: format!("{kind} {name}") }
}

/// The first of `rows` that stands where the caller sees.
fn first_visible<R>(
    tx: &Tx<'_>,
    rows: Vec<R>,
    customer: impl Fn(&R) -> CustomerId,
    absent: ServiceError,
) -> Result<R> {
    rows.into_iter().find(|row| tx.caller.sees(customer(row))).ok_or(absent)
}

/// A customer.
#[derive(Clone)]
pub(in crate::service) struct OneCustomer {
    pub id: CustomerId,
    pub parent: Option<CustomerId>,
    pub path: String,
}

impl OneCustomer {
    /// The visible customer at `path` that is not deleted.
    pub fn find(tx: &Tx<'_>, path: &str) -> Result<Self> {
        let node = tx.caller.resolve(path)?;
        if node.deleted {
            return Err(absent("customer", path));
        }
        Ok(Self { id: node.id, parent: node.parent, path: tx.caller.path_of(node.id).unwrap_or_default() })
    }

    /// The visible deleted customer that `path` named when it was deleted, or its short code.
    pub fn find_deleted(tx: &Tx<'_>, path: &str) -> Result<Self> {
        let tree = &tx.caller.tree;
        let visible_deleted =
            |id: &CustomerId| tx.caller.sees(*id) && tree.node(*id).is_some_and(|n| n.deleted);
        let by_code = tree.by_code(path).filter(visible_deleted);
        let by_path = || {
            let (upper, slug) = path.trim_matches('/').rsplit_once('/').unwrap_or(("", path));
            let parent = tx.caller.resolve_with_deleted(upper)?;
            let found = tree.children(parent).filter(|node| node.deleted && node.slug == slug);
            found.map(|node| node.id).max().filter(visible_deleted)
        };
        let id = by_code.or_else(by_path).ok_or_else(|| absent("customer", path))?;
        let parent = tree.node(id).and_then(|node| node.parent);
        Ok(Self { id, parent, path: tx.caller.path_of(id).unwrap_or_default() })
    }
}

impl Targeted for OneCustomer {
    fn customer(&self) -> CustomerId {
        self.id
    }

    fn label(&self) -> String {
        format!("customer {}", self.path)
    }

    fn recorded(&self, tree: &Tree) -> String {
        format!("customer {}", names::customer(tree, self.id))
    }

    fn key(&self) -> String {
        format!("customer {}", self.id)
    }
}

/// A domain.
pub(in crate::service) struct OneDomain(pub DomainRow);

impl OneDomain {
    /// The visible domain of this name that is not deleted: that of `customer` if one is given, else the verified one,
    /// else the only one.
    pub async fn find(tx: &mut Tx<'_>, name: &str, customer: Option<&str>) -> Result<Self> {
        let mut visible = Self::visible(tx, name, customer).await?;
        if let Some(verified) = visible.iter().position(|row| !row.pending) {
            return Ok(Self(visible.swap_remove(verified)));
        }
        Self::only(visible, name)
    }

    /// As [`Self::find`], but pending ones come first: confirming is about them.
    pub async fn find_claimed(tx: &mut Tx<'_>, name: &str, customer: Option<&str>) -> Result<Self> {
        let mut visible = Self::visible(tx, name, customer).await?;
        if visible.iter().any(|row| row.pending) {
            visible.retain(|row| row.pending);
        }
        Self::only(visible, name)
    }

    /// The visible domain of this name that was deleted last: by `customer` if one is given; else only one customer
    /// may have had it.
    pub async fn find_deleted(tx: &mut Tx<'_>, name: &str, customer: Option<&str>) -> Result<Self> {
        let at = customer.map(|path| OneCustomer::find(tx, path)).transpose()?.map(|one| one.id);
        let wanted = domain_name("domain", name)?;
        let rows = domain::deleted_by_name(tx.conn, wanted.as_str()).await?;
        let mut visible: Vec<DomainRow> = Self::seen(tx, rows, at);
        let mut customers = Vec::new();
        // One customer may have deleted it several times; the last time counts.
        visible.retain(|row| {
            let is_first = !customers.contains(&row.customer);
            customers.push(row.customer);
            is_first
        });
        Self::only(visible, name)
    }

    async fn visible(tx: &mut Tx<'_>, name: &str, customer: Option<&str>) -> Result<Vec<DomainRow>> {
        let at = customer.map(|path| OneCustomer::find(tx, path)).transpose()?.map(|one| one.id);
        let name = domain_name("domain", name)?;
        let rows = domain::all_by_name(tx.conn, name.as_str()).await?;
        Ok(Self::seen(tx, rows, at))
    }

    fn seen(tx: &Tx<'_>, rows: Vec<DomainRow>, at: Option<CustomerId>) -> Vec<DomainRow> {
        let seen = |row: &DomainRow| tx.caller.sees(row.customer) && at.is_none_or(|at| at == row.customer);
        rows.into_iter().filter(seen).collect()
    }

    /// The one that is left; of several, the caller must say whose.
    fn only(mut visible: Vec<DomainRow>, name: &str) -> Result<Self> {
        if visible.len() > 1 {
            let message =
                format!("several customers have a domain {name}; say whose: customer, or --customer PATH");
            return Err(ServiceError::Conflict { message });
        }
        visible.pop().map(Self).ok_or_else(|| absent("domain", name))
    }
}

impl Targeted for OneDomain {
    fn customer(&self) -> CustomerId {
        self.0.customer
    }

    fn label(&self) -> String {
        format!("domain {}", self.0.name)
    }

    fn key(&self) -> String {
        format!("domain {}", self.0.id)
    }
}

/// A mailbox.
pub(in crate::service) struct OneMailbox(pub MailboxRow);

impl OneMailbox {
    /// The visible mailbox with this address that is not deleted.
    pub async fn find(tx: &mut Tx<'_>, text: &str) -> Result<Self> {
        let wanted = address("address", text)?;
        let rows = mailbox::all_by_address(tx.conn, wanted.local(), wanted.domain().as_str()).await?;
        first_visible(tx, rows, |row| row.customer, absent("mailbox", &wanted.to_string())).map(Self)
    }

    /// The visible mailbox with this address that was deleted last.
    pub async fn find_deleted(tx: &mut Tx<'_>, text: &str) -> Result<Self> {
        let wanted = address("address", text)?;
        let rows = mailbox::deleted_by_address(tx.conn, wanted.local(), wanted.domain().as_str()).await?;
        first_visible(tx, rows, |row| row.customer, absent("mailbox", &wanted.to_string())).map(Self)
    }
}

impl Targeted for OneMailbox {
    fn customer(&self) -> CustomerId {
        self.0.customer
    }

    fn label(&self) -> String {
        format!("mailbox {}", self.0.address())
    }

    fn key(&self) -> String {
        format!("mailbox {}", self.0.id)
    }
}

/// An alias.
pub(in crate::service) struct OneAlias(pub AliasRow);

impl OneAlias {
    /// The visible alias with this address.
    pub async fn find(tx: &mut Tx<'_>, text: &str) -> Result<Self> {
        let wanted = address("address", text)?;
        let rows = alias::all_by_address(tx.conn, wanted.local(), wanted.domain().as_str()).await?;
        first_visible(tx, rows, |row| row.customer, absent("alias", &wanted.to_string())).map(Self)
    }
}

impl Targeted for OneAlias {
    fn customer(&self) -> CustomerId {
        self.0.customer
    }

    fn label(&self) -> String {
        format!("alias {}", self.0.address())
    }

    fn key(&self) -> String {
        format!("alias {}", self.0.public_id)
    }
}

/// What is named `name@CODE` or `name` alone: the name, and the home where one is said: nothing there when no customer
/// has that code.
pub(in crate::service) fn name_and_home(tx: &Tx<'_>, login: &str) -> (String, Option<Option<CustomerId>>) {
    match login.split_once('@') {
        Some((name, code)) => (name.to_lowercase(), Some(tx.caller.tree.by_code(code))),
        None => (login.to_lowercase(), None),
    }
}

/// What is at home at a customer and named `name`, as it is told apart from others of that name.
pub(in crate::service) fn full_name(tree: &Tree, name: &str, home: CustomerId) -> String {
    format!("{name}@{}", tree.node(home).map(|node| node.code.as_str()).unwrap_or_default())
}

/// An administrator.
#[derive(Clone)]
pub(in crate::service) struct OneAdministrator {
    pub row: AdministratorRow,
    pub login: String,
}

impl OneAdministrator {
    /// The visible administrator `name@CODE`, or `name` when only one such is visible. Everybody sees themselves.
    pub async fn find(tx: &mut Tx<'_>, login: &str) -> Result<Self> {
        let (name, home) = name_and_home(tx, login);
        let rows = administrator::all_by_name(tx.conn, &name).await?;
        Self::only(tx, rows, login, home)
    }

    /// The visible administrator of this name that was deleted last, where only one home had such.
    pub async fn find_deleted(tx: &mut Tx<'_>, login: &str) -> Result<Self> {
        let (name, home) = name_and_home(tx, login);
        let mut rows = administrator::deleted_by_name(tx.conn, &name).await?;
        // Of one home the last deleted, which comes first.
        let mut homes = HashSet::new();
        rows.retain(|row| homes.insert(row.customer));
        Self::only(tx, rows, login, home)
    }

    /// The only visible one.
    fn only(
        tx: &Tx<'_>,
        rows: Vec<AdministratorRow>,
        login: &str,
        home: Option<Option<CustomerId>>,
    ) -> Result<Self> {
        let me = tx.caller.administrator();
        let mut found = rows.into_iter().filter(|row| {
            let visible = tx.caller.sees(row.customer) || me == Some(row.id);
            visible && home.is_none_or(|home| home == Some(row.customer))
        });
        let row = found.next().ok_or_else(|| absent("administrator", login))?;
        if found.next().is_some() {
            let message = format!("several administrators are called {}; say name@CODE", row.name);
            return Err(ServiceError::Conflict { message });
        }
        Ok(Self::new(tx, row))
    }

    /// With the name to log in by.
    pub fn new(tx: &Tx<'_>, row: AdministratorRow) -> Self {
        let login = full_name(&tx.caller.tree, &row.name, row.customer);
        Self { row, login }
    }
}

impl Targeted for OneAdministrator {
    fn customer(&self) -> CustomerId {
        self.row.customer
    }

    fn label(&self) -> String {
        format!("administrator {}", self.login)
    }

    fn recorded(&self, tree: &Tree) -> String {
        format!("administrator {}", names::administrator(tree, self.row.customer, &self.login))
    }

    fn key(&self) -> String {
        format!("administrator {}", self.row.id)
    }
}

/// A group of administrators.
#[derive(Clone)]
pub(in crate::service) struct OneGroup {
    pub row: GroupRow,
    pub login: String,
}

impl OneGroup {
    /// The visible group `name@CODE`, or `name` when only one such is visible.
    pub async fn find(tx: &mut Tx<'_>, login: &str) -> Result<Self> {
        let (name, home) = name_and_home(tx, login);
        let mut found = group::by_name(tx.conn, &name).await?.into_iter().filter(|row| {
            let is_there = tx.caller.tree.node(row.customer).is_some_and(|node| !node.is_gone);
            is_there && tx.caller.sees(row.customer) && home.is_none_or(|home| home == Some(row.customer))
        });
        let row = found.next().ok_or_else(|| absent("group", login))?;
        if found.next().is_some() {
            let message = format!("several groups are called {}; say name@CODE", row.name);
            return Err(ServiceError::Conflict { message });
        }
        Ok(Self::new(tx, row))
    }

    /// With its full name.
    pub fn new(tx: &Tx<'_>, row: GroupRow) -> Self {
        let login = full_name(&tx.caller.tree, &row.name, row.customer);
        Self { row, login }
    }
}

impl Targeted for OneGroup {
    fn customer(&self) -> CustomerId {
        self.row.customer
    }

    fn label(&self) -> String {
        format!("group {}", self.login)
    }

    fn recorded(&self, tree: &Tree) -> String {
        format!("group {}", names::administrator(tree, self.row.customer, &self.login))
    }
}
