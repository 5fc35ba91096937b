//! What holds somewhere, from what is set and locked on the path to it.

use std::collections::HashMap;

use super::keys::{Declaration, Key};
use crate::base::id::CustomerId;
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::hold::HoldOn;
use crate::storage::metadata::setting::{self, At, Mark};
use crate::storage::metadata::sql::Conn;

/// What holds for one key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Resolved<'m> {
    /// The mark whose value holds; nothing for the default.
    pub value: Option<&'m Mark>,
    /// The topmost lock.
    pub lock: Option<&'m Mark>,
}

impl<'m> Resolved<'m> {
    /// The value as text.
    pub fn text(&self, declaration: &Declaration) -> &'m str {
        let declared = declaration.default;
        self.value.and_then(|mark| mark.value.as_deref()).unwrap_or(declared)
    }
}

/// Goes from the root down: each value replaces the one above, until the first lock.
pub(super) fn resolve<'m>(marks: impl IntoIterator<Item = &'m Mark>) -> Resolved<'m> {
    let mut resolved = Resolved::default();
    for mark in marks {
        if mark.value.is_some() {
            resolved.value = Some(mark);
        }
        if mark.lock.is_some() {
            resolved.lock = Some(mark);
            break;
        }
    }
    resolved
}

/// Reads what is kept. A text that this version does not understand counts as nothing, and the log says so.
fn read<T>(key: &Key<T>, text: &str) -> Result<T> {
    let Declaration { name, default, .. } = key.declaration;
    (key.read)(text)
        .or_else(|expected| {
            tracing::warn!(key = name, text, expected, "a setting cannot be read; its default holds");
            (key.read)(default)
        })
        .map_err(|expected| ServiceError::Internal(format!("{name}: {expected}")))
}

/// What holds for `key` among marks of several keys, from the root down.
pub(super) fn among<T>(marks: &[Mark], key: &Key<T>) -> Result<T> {
    let own = marks.iter().filter(|mark| mark.key == key.declaration.name);
    read(key, resolve(own).text(&key.declaration))
}

/// What holds for a customer.
///
/// # Errors
/// When the database fails.
pub async fn value<T>(conn: &mut Conn, customer: CustomerId, key: &Key<T>) -> Result<T> {
    let marks = setting::along(conn, At::customer(customer), &[key.declaration.name]).await?;
    among(&marks, key)
}

/// What holds for a customer, and the customer at which it was set; nothing for the default.
///
/// # Errors
/// When the database fails.
pub async fn value_and_place<T>(
    conn: &mut Conn,
    customer: CustomerId,
    key: &Key<T>,
) -> Result<(T, Option<CustomerId>)> {
    let marks = setting::along(conn, At::customer(customer), &[key.declaration.name]).await?;
    let resolved = resolve(&marks);
    let place = resolved.value.and_then(|mark| match mark.on {
        HoldOn::Customer(id) => Some(id),
        HoldOn::Domain(_) | HoldOn::Mailbox(_) => None,
    });
    Ok((read(key, resolved.text(&key.declaration))?, place))
}

/// What holds for every customer, from the few at which something is set.
pub struct Everywhere<'k, T> {
    key: &'k Key<T>,
    marks: HashMap<CustomerId, Mark>,
}

impl<'k, T> Everywhere<'k, T> {
    /// Reads what is set anywhere.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read(conn: &mut Conn, key: &'k Key<T>) -> Result<Self> {
        let marks = setting::at_customers(conn, &[key.declaration.name]).await?;
        let marks = marks.into_iter().filter_map(|mark| match mark.on {
            HoldOn::Customer(id) => Some((id, mark)),
            HoldOn::Domain(_) | HoldOn::Mailbox(_) => None,
        });
        Ok(Self { key, marks: marks.collect() })
    }

    /// Whether nothing is set anywhere: the default holds for all.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// What holds at the end of a path of customers, given from the root down.
    ///
    /// # Errors
    /// When the key's own default cannot be read.
    pub fn at(&self, path: impl IntoIterator<Item = CustomerId>) -> Result<T> {
        let marks = path.into_iter().filter_map(|id| self.marks.get(&id));
        read(self.key, resolve(marks).text(&self.key.declaration))
    }
}
