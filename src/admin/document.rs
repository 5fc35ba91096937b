//! `/v1/meta`, and `/v1/openapi.json` generated from the registry.

use axum::Json;
use serde_json::{Map, Value, json};

use super::{BODY_OCTETS_MAX, JSON_DEPTH_MAX, REQUEST_TIMEOUT};
use crate::service::registry::{Method, Operation, TypeSchema, operations};

/// Versions and limits.
pub(super) async fn meta() -> Json<Value> {
    Json(json!({
        "name": "posthouse",
        "version": env!("CARGO_PKG_VERSION"),
        "api": "v1",
        "operations": operations().len(),
        "limits": {
            "body_octets_max": BODY_OCTETS_MAX,
            "json_depth_max": JSON_DEPTH_MAX,
            "request_timeout_secs": REQUEST_TIMEOUT.as_secs(),
        },
    }))
}

/// The OpenAPI document.
pub(super) async fn openapi() -> Json<Value> {
    Json(openapi_document(operations()))
}

fn openapi_document(operations: &[Operation]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut schemas = Map::from_iter([("Problem".to_owned(), problem_schema())]);
    for operation in operations {
        let entry = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Some(methods) = entry.as_object_mut() {
            methods.insert(method_name(operation.method).to_owned(), describe(operation, &mut schemas));
        }
    }
    paths.insert("/v1/meta".to_owned(), json!({ "get": plain("meta", "Versions and limits") }));
    paths.insert("/v1/openapi.json".to_owned(), json!({ "get": plain("openapi", "This document") }));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Posthouse",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Administration of a mail hosting server. Unknown fields are refused. What the caller \
                may not see does not exist.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{}, { "token": [] }, { "password": [] }, { "password": [], "second_factor": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "password": { "type": "http", "scheme": "basic",
                    "description": "An administrator's name and password" },
                "second_factor": { "type": "apiKey", "in": "header", "name": "Second-Factor",
                    "description": "A code of the second factor beside the password; good for one request" },
                "code": { "type": "http", "scheme": "bearer", "description": "A one-time code in place of a token" },
            },
        },
    })
}

const fn method_name(method: Method) -> &'static str {
    match method {
        Method::Get => "get",
        Method::Post => "post",
        Method::Put => "put",
        Method::Patch => "patch",
        Method::Delete => "delete",
    }
}

/// An operation without parameters outside of the registry.
fn plain(name: &str, summary: &str) -> Value {
    let content = json!({ "application/json": { "schema": { "type": "object" } } });
    json!({
        "operationId": name,
        "summary": summary,
        "responses": { "200": { "description": "Done", "content": content }, "default": problem_response() },
    })
}

fn describe(operation: &Operation, schemas: &mut Map<String, Value>) -> Value {
    let request = (operation.request)();
    let response = (operation.response)();
    let fields = schema_value(&request, schemas);
    let response_schema = schema_value(&response, schemas);
    schemas.insert(response.name.clone(), response_schema);

    let in_path: Vec<&str> = operation.path_parameters().collect();
    let in_query = matches!(operation.method, Method::Get | Method::Delete);
    let required: Vec<&str> = fields
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let properties = fields.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut parameters = Vec::new();
    let mut body = Map::new();
    for (name, schema) in properties {
        if in_path.contains(&name.as_str()) {
            parameters.push(parameter(&name, "path", true, schema));
        } else if in_query {
            let is_required = required.contains(&name.as_str());
            parameters.push(parameter(&name, "query", is_required, schema));
        } else {
            body.insert(name, schema);
        }
    }
    if operation.mutates {
        let about = "Run all checks, change nothing, and answer as if it had been done";
        let schema = json!({ "type": "boolean", "description": about });
        parameters.push(parameter("dry_run", "query", false, schema));
        parameters.push(parameter("If-Match", "header", false, json!({ "type": "string" })));
    }
    if operation.method == Method::Post {
        let schema = json!({ "type": "string", "minLength": 1, "maxLength": 200 });
        parameters.push(parameter("Idempotency-Key", "header", false, schema));
    }
    let mut described = json!({
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.name.split('.').next().unwrap_or(operation.name)],
        "x-permission": operation.permission.name(),
        "x-mutates": operation.mutates,
        "parameters": parameters,
        "responses": responses(operation, &response.name),
    });
    if operation.by_code
        && let Some(members) = described.as_object_mut()
    {
        members.insert("security".to_owned(), json!([{ "code": [] }]));
    }
    if let Some(members) = described.as_object_mut().filter(|_| !in_query) {
        let required: Vec<&str> = required.into_iter().filter(|name| body.contains_key(*name)).collect();
        let is_required = !required.is_empty();
        let schema = json!({
            "type": "object", "properties": body, "required": required, "additionalProperties": false,
        });
        let content = json!({ "application/json": { "schema": schema } });
        members.insert("requestBody".to_owned(), json!({ "required": is_required, "content": content }));
    }
    described
}

fn parameter(name: &str, place: &str, is_required: bool, schema: Value) -> Value {
    json!({ "name": name, "in": place, "required": is_required, "schema": schema })
}

fn responses(operation: &Operation, name: &str) -> Value {
    let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
    let content = json!({ "application/json": { "schema": schema } });
    let done = json!({ "description": "Done", "content": content });
    let status = if operation.starts_job { "202" } else { "200" };
    let mut responses = Map::from_iter([(status.to_owned(), done.clone())]);
    if operation.starts_job {
        // The answer of a dry run.
        responses.insert("200".to_owned(), done.clone());
    }
    if operation.method == Method::Post && operation.name.ends_with(".create") && !operation.starts_job {
        responses.insert("201".to_owned(), done);
    }
    responses.insert("default".to_owned(), problem_response());
    responses.into()
}

/// The schema itself; those it refers to are put into `schemas`.
fn schema_value(schema: &TypeSchema, schemas: &mut Map<String, Value>) -> Value {
    for (name, component) in &schema.components {
        schemas.insert(name.clone(), serde_json::to_value(component).unwrap_or_default());
    }
    serde_json::to_value(&schema.schema).unwrap_or_default()
}

fn problem_response() -> Value {
    let schema = json!({ "$ref": "#/components/schemas/Problem" });
    json!({ "description": "Not done", "content": { "application/problem+json": { "schema": schema } } })
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "code", "detail", "request_id", "retryable"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "code": { "type": "string", "description": "Stable, for programs" },
            "detail": { "type": "string", "description": "For people" },
            "request_id": { "type": "string", "description": "Under which log and audit trail have more" },
            "retryable": { "type": "boolean", "description": "Whether the same request may succeed later" },
            "fields": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["field", "message"],
                    "properties": { "field": { "type": "string" }, "message": { "type": "string" } },
                },
            },
            "permission": { "type": "string", "description": "The one that is missing" },
            "resource": { "type": "string", "description": "Whose quota would be exceeded" },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every `$ref` below `value`.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    match member.as_str().filter(|_| name == "$ref") {
                        Some(target) => drop(found.insert(target.to_owned())),
                        None => references(member, found),
                    }
                }
            }
            Value::Array(elements) => elements.iter().for_each(|element| references(element, found)),
            _ => {}
        }
    }

    #[test]
    fn document_holds_every_operation_and_every_schema_it_refers_to() {
        let document = openapi_document(operations());
        let paths = document["paths"].as_object().unwrap();
        for operation in operations() {
            let described = &paths[operation.path][method_name(operation.method)];
            assert_eq!(described["operationId"], operation.name);
            for name in operation.path_parameters() {
                let parameters = described["parameters"].as_array().unwrap();
                let is_described = |parameter: &Value| parameter["name"] == name && parameter["in"] == "path";
                assert!(parameters.iter().any(is_described), "{}: {name}", operation.name);
            }
        }
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for target in found {
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target} is not in the document");
        }
    }

    /// Two types of one name would describe each other's fields.
    #[test]
    fn names_of_schemas_mean_one_type_each() {
        let mut known: Map<String, Value> = Map::new();
        for operation in operations() {
            let (request, response) = ((operation.request)(), (operation.response)());
            let own = [(request.name, request.schema), (response.name, response.schema)];
            for list in [request.components, response.components, own.into()] {
                for (name, component) in list {
                    let component = serde_json::to_value(component).unwrap();
                    let before = known.insert(name.clone(), component.clone());
                    assert!(before.is_none_or(|before| before == component), "{name} in {}", operation.name);
                }
            }
        }
    }

    #[test]
    fn names_and_places_of_operations_are_unique() {
        let mut names = BTreeSet::new();
        let mut places = BTreeSet::new();
        for operation in operations() {
            assert!(names.insert(operation.name), "{} is declared twice", operation.name);
            assert!(places.insert((operation.path, method_name(operation.method))), "{}", operation.path);
        }
    }
}
