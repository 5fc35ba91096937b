//! The JSON shape of requests and responses, for OpenAPI and for turning texts into typed fields.

use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

/// The schema of a type and of the types that it refers to.
pub struct TypeSchema {
    /// Name of the type, unique in the document.
    pub name: String,
    /// Its schema.
    pub schema: RefOr<Schema>,
    /// The types it refers to by `#/components/schemas/NAME`.
    pub components: Vec<(String, RefOr<Schema>)>,
}

impl TypeSchema {
    /// The schema of `T`.
    pub(super) fn of<T: ToSchema>() -> Self {
        let mut components = Vec::new();
        T::schemas(&mut components);
        Self { name: T::name().into_owned(), schema: T::schema(), components }
    }

    /// See [`super::Operation::field_from_text`].
    pub(super) fn value_from_text(&self, field: &str, text: &str) -> Value {
        let schema = serde_json::to_value(&self.schema).unwrap_or_default();
        let kind = schema.pointer("/properties").and_then(|properties| properties.get(field));
        let is = |name: &str| match kind.and_then(|kind| kind.get("type")) {
            Some(Value::String(one)) => one == name,
            Some(Value::Array(several)) => several.iter().any(|one| one == name),
            _ => false,
        };
        if is("integer") {
            if let Ok(number) = text.parse::<i64>() {
                return number.into();
            }
        } else if is("boolean") {
            if let Ok(truth) = text.parse::<bool>() {
                return truth.into();
            }
        } else if is("array") {
            return text.split(',').filter(|part| !part.is_empty()).map(Value::from).collect();
        }
        text.into()
    }
}
