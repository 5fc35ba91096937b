//! What is there and what a row says, field by field; and the fields of the operations that make the one the other.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Done, RowOutcome};
use crate::base::id::CustomerId;
use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::Tx;

/// A field that is not as the row says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct Difference {
    field: String,
    /// What is there.
    #[schema(value_type = Option<Object>)]
    from: Value,
    /// What the row says; nothing where it is secret.
    #[schema(value_type = Option<Object>)]
    to: Value,
}

/// The differences of an object.
#[derive(Default)]
pub(super) struct Differences(Vec<Difference>);

impl Differences {
    /// Notes a difference.
    pub fn add(&mut self, field: &str, from: impl Into<Value>, to: impl Into<Value>) {
        self.0.push(Difference { field: field.to_owned(), from: from.into(), to: to.into() });
    }

    /// Puts the wanted value into `fields`, where one is wanted and differs from the present one.
    pub fn set<T: PartialEq + Clone + Into<Value>>(
        &mut self,
        fields: &mut Fields,
        field: &str,
        present: T,
        wanted: Option<T>,
    ) {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != present) {
            self.add(field, present, wanted.clone());
            fields.set(field, wanted);
        }
    }

    /// What an object that was there came to.
    pub fn done(self) -> Done {
        let outcome = if self.0.is_empty() { RowOutcome::Unchanged } else { RowOutcome::Changed };
        Done { outcome, changes: self.0, code: None }
    }
}

/// What an object that was made came to.
pub(super) fn created() -> Done {
    Done { outcome: RowOutcome::Created, changes: Vec::new(), code: None }
}

/// The fields of an operation.
pub(super) struct Fields {
    members: Map<String, Value>,
    /// How many say which object it is.
    naming: usize,
}

impl Fields {
    /// Those that say which object is meant.
    pub fn naming(members: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let members: Map<String, Value> =
            members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { naming: members.len(), members }
    }

    /// Sets a field.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.members.insert(name.to_owned(), value.into());
    }

    /// Sets a field if there is a value for it.
    pub fn maybe(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// All of them, if there is one besides those that name the object.
    pub fn if_any(self) -> Option<Value> {
        (self.members.len() > self.naming).then_some(Value::Object(self.members))
    }

    /// All of them.
    pub fn all(self) -> Value {
        Value::Object(self.members)
    }
}

/// What was looked for, or nothing if it is not there or not visible.
pub(super) fn found<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(ServiceError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Refuses to compare what the caller may not read: a comparison tells what is there.
pub(super) fn readable(tx: &Tx<'_>, at: CustomerId, permission: Permission) -> Result<()> {
    if tx.caller.may(Some(at), permission) {
        return Ok(());
    }
    Err(ServiceError::Forbidden { permission: permission.name() })
}
