//! Finding what an operation acts on, within what the caller may see. What is not there and what is not visible take
//! the same way through the code and give the same answer.

use std::sync::Arc;
use std::time::Duration;

use crate::base::address::{Address, DomainName};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::base::text::{composed, hidden_character};
use crate::service::audit::names;
use crate::service::authority::{CustomerNode, Permission, Tree};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Targeted, Tx};
use crate::storage::metadata::scope::{Customers, FEW_CUSTOMERS};

/// A customer, or all that the caller has a permission at.
pub(in crate::service) struct Place {
    customer: CustomerId,
    label: String,
    /// The topmost customers meant.
    pub tops: Vec<CustomerId>,
    /// What is asked of them.
    permission: Permission,
}

impl Targeted for Place {
    fn customer(&self) -> CustomerId {
        self.customer
    }

    fn label(&self) -> String {
        self.label.clone()
    }

    fn recorded(&self, tree: &Tree) -> String {
        if self.label.is_empty() { String::new() } else { names::customer(tree, self.customer) }
    }
}

impl Place {
    /// The customer at `path`; without one, every customer where the caller holds `permission`.
    pub fn find(tx: &Tx<'_>, path: Option<&str>, permission: Permission) -> Result<Self> {
        if let Some(path) = path {
            let node = tx.caller.resolve(path)?;
            let label = tx.caller.path_of(node.id).unwrap_or_default();
            return Ok(Self { customer: node.id, label, tops: vec![node.id], permission });
        }
        let holding = tx.caller.grants.iter().filter(|grant| tx.caller.given(grant).has(permission));
        let mut tops: Vec<CustomerId> = holding.map(|grant| grant.customer).collect();
        tops.sort_unstable();
        tops.dedup();
        let all = tops.clone();
        tops.retain(|&top| !all.iter().any(|&other| other != top && tx.caller.tree.covers(other, top)));
        let customer = tops.first().copied();
        let mut place = Self::home(tx)?;
        place.customer = customer.unwrap_or(place.customer);
        place.tops = tops;
        place.permission = permission;
        Ok(place)
    }

    /// The caller's home.
    pub fn home(tx: &Tx<'_>) -> Result<Self> {
        let customer =
            tx.caller.home().ok_or_else(|| ServiceError::Internal("the hierarchy has no root".to_owned()))?;
        Ok(Self { customer, label: String::new(), tops: vec![customer], permission: Permission::Own })
    }

    /// The customers meant and all below that are not deleted, for lists.
    pub fn customers(&self, tx: &Tx<'_>) -> Customers {
        let tree = &tx.caller.tree;
        let count: usize = self.tops.iter().map(|&top| tree.subtree(top).len()).sum();
        if count <= FEW_CUSTOMERS {
            return Customers::few(self.customer_ids(tx));
        }
        let (tree, tops, permission) = (Arc::clone(tree), self.tops.clone(), self.permission);
        Customers::Many(Box::new(move |customer| {
            tree.node(customer).is_some_and(|node| !node.deleted && node.allowed.has(permission))
                && tops.iter().any(|&top| tree.covers(top, customer))
        }))
    }

    fn nodes<'t>(&'t self, tree: &'t Tree) -> impl Iterator<Item = &'t CustomerNode> {
        let subtrees = self.tops.iter().flat_map(|&top| tree.subtree(top));
        subtrees.filter(|node| !node.deleted && node.allowed.has(self.permission))
    }

    /// Keys of the customers meant and all below that are not deleted, without those where a ceiling allows nobody
    /// what is asked.
    pub fn customer_ids(&self, tx: &Tx<'_>) -> Vec<i64> {
        self.nodes(&tx.caller.tree).map(|node| node.id.0).collect()
    }

    /// Those of [`Self::customer_ids`] behind `after`, if it is among them; at most `limit`.
    pub fn customer_ids_behind(&self, tx: &Tx<'_>, after: Option<CustomerId>, limit: usize) -> Vec<i64> {
        let tree = &tx.caller.tree;
        let is_there = |after: CustomerId| {
            self.includes(tx, after) && tree.node(after).is_some_and(|node| !node.deleted)
        };
        let after = after.filter(|&after| is_there(after));
        let first = after.and_then(|after| self.tops.iter().position(|&top| tree.covers(top, after)));
        let tops = self.tops.iter().skip(first.unwrap_or(0)).enumerate();
        let subtrees = tops.flat_map(|(at, &top)| {
            let after = after.filter(|_| at == 0);
            let seen = after.map_or(0, |after| tree.range(after).start + 1 - tree.range(top).start);
            tree.subtree(top).iter().skip(seen)
        });
        let nodes = subtrees.filter(|node| !node.deleted && node.allowed.has(self.permission));
        nodes.map(|node| node.id.0).take(limit).collect()
    }

    /// Whether the customer is among those meant.
    pub fn includes(&self, tx: &Tx<'_>, customer: CustomerId) -> bool {
        let tree = &tx.caller.tree;
        tree.node(customer).is_some_and(|node| node.allowed.has(self.permission))
            && self.tops.iter().any(|&top| tree.covers(top, customer))
    }
}

/// A domain name in a request.
pub(in crate::service) fn domain_name(field: &'static str, text: &str) -> Result<DomainName> {
    text.parse().map_err(|error| ServiceError::Invalid { field, message: format!("{text}: {error}") })
}

/// An address in a request.
pub(in crate::service) fn address(field: &'static str, text: &str) -> Result<Address> {
    text.parse().map_err(|error| ServiceError::Invalid { field, message: format!("{text}: {error}") })
}

/// A moment: RFC 3339, or how long ago (`45s`, `30m`, `6h`, `2d`, `1w`).
pub(in crate::service) fn moment(
    field: &'static str,
    text: Option<&str>,
    now: Timestamp,
) -> Result<Option<Timestamp>> {
    let Some(text) = text else { return Ok(None) };
    if let Some(duration) = duration(text) {
        return Ok(Some(now.minus(duration)));
    }
    let wrong = |_| ServiceError::Invalid {
        field,
        message: format!("expected a time such as 2026-11-22T10:00:00Z, or 2d, got {text}"),
    };
    Timestamp::parse_rfc3339(text).map(Some).map_err(wrong)
}

/// `45s`, `30m`, `6h`, `2d`, `1w`.
pub(in crate::service) fn duration(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let secs = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
    count.checked_mul(secs).map(Duration::from_secs)
}

/// A text of a request, in normalization form C: nothing in it that is not seen, not too long.
pub(in crate::service) fn plain_text(field: &'static str, text: &str) -> Result<String> {
    const CHARACTERS_MAX: usize = 200;
    let text = composed(text.trim());
    if text.chars().count() > CHARACTERS_MAX || text.chars().any(char::is_control) {
        let message = format!("expected at most {CHARACTERS_MAX} characters and no control characters");
        return Err(ServiceError::Invalid { field, message });
    }
    if let Some(hidden) = hidden_character(&text) {
        let message =
            format!("U+{:04X} is invisible or changes how others are seen; leave it out", u32::from(hidden));
        return Err(ServiceError::Invalid { field, message });
    }
    Ok(text)
}

/// When something ends: RFC 3339, or from now (`30d`). It must lie ahead.
pub(in crate::service) fn until(
    field: &'static str,
    text: Option<&str>,
    now: Timestamp,
) -> Result<Option<Timestamp>> {
    let Some(text) = text else { return Ok(None) };
    let parsed = match duration(text) {
        Some(duration) => Some(now.plus(duration)),
        None => Timestamp::parse_rfc3339(text).ok(),
    };
    let wrong = || ServiceError::Invalid {
        field,
        message: format!("expected a time to come such as 2026-11-22T10:00:00Z, or 30d, got {text}"),
    };
    parsed.filter(|&at| at > now).map(Some).ok_or_else(wrong)
}
