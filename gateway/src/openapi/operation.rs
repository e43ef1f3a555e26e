//! Methods of the API as operations: their paths, parameters and answers.

use std::collections::HashMap;

use prost_reflect::{FieldDescriptor, Kind};
use serde_json::{Map, Value, json};

use super::{
    comment::{self, Described as _},
    schema::Schemas,
};
use crate::transcode::{
    annotation,
    rule::{Body, Rule},
    template::Segment,
};

/// Ids as the names of resources have them.
const ID: &str = "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$";
const DELIVERY: &str = "^dlv_[0-9a-f]{16}-[0-9a-f]+$";
const EVENT: &str = "^msg_[A-Za-z0-9_-]{22}$";

/// What collections have: `tenants` are each a `tenant`.
pub(super) type Singulars = HashMap<String, String>;

/// A method as an operation: its path, its HTTP method, and what the document says of it.
pub(super) fn of(
    rule: &Rule,
    singulars: &Singulars,
    schemas: &mut Schemas,
) -> (String, String, Value) {
    let (path, mut parameters) = path(rule, singulars);
    let method = &rule.descriptor;
    let comment = method.comment();
    let service = method.parent_service();
    let mut operation = json!({
        "operationId": format!("{}_{}", service.name(), method.name()),
        "summary": comment::summary(&comment),
        "description": comment,
        "tags": [service.name()],
    });
    let in_path = rule.template.fields();
    match &rule.body {
        Body::None => parameters.extend(query(rule, |it| !in_path.contains(&it.name()), schemas)),
        Body::All => {
            let schema = schemas.body(&rule.descriptor.input(), &in_path);
            operation["requestBody"] = json_body(schema, false);
        }
        Body::Field(name) => {
            parameters.extend(query(rule, |it| it.name() != name, schemas));
            operation["requestBody"] = field_body(rule, name, schemas);
        }
    }
    operation["parameters"] = parameters.into();
    let answer = schemas.message(&method.output());
    operation["responses"] = json!({"200": {
        "description": "Done.",
        "content": {"application/json": {"schema": answer}},
    }});
    (path, rule.method.as_str().to_lowercase(), operation)
}

/// The path with a parameter for each part that a name leaves open.
fn path(rule: &Rule, singulars: &Singulars) -> (String, Vec<Value>) {
    let (mut path, mut parameters) = (String::new(), Vec::new());
    let mut collection = "";
    for segment in rule.template.segments() {
        path.push('/');
        match segment {
            Segment::Literal(text) => {
                path.push_str(text);
                collection = text;
            }
            Segment::Any => {
                let name = singulars.get(collection).map_or(collection, String::as_str);
                path.push_str(&format!("{{{name}}}"));
                parameters.push(parameter(name));
            }
        }
    }
    if let Some(verb) = rule.template.verb() {
        path.push_str(&format!(":{verb}"));
    }
    (path, parameters)
}

/// A part of a path.
pub(super) fn parameter(name: &str) -> Value {
    let pattern = match name {
        "delivery" => DELIVERY,
        "event" => EVENT,
        _ => ID,
    };
    json!({
        "name": name,
        "in": "path",
        "required": true,
        "description": format!("The id of the {name}."),
        "schema": {"type": "string", "pattern": pattern},
    })
}

/// The fields that a query can have: those that are one value, or several.
fn query(
    rule: &Rule,
    is_in: impl Fn(&FieldDescriptor) -> bool,
    schemas: &mut Schemas,
) -> Vec<Value> {
    let is_value = |it: &FieldDescriptor| match it.kind() {
        Kind::Message(message) => message.full_name().starts_with("google.protobuf."),
        Kind::Bool | Kind::String | Kind::Bytes | Kind::Enum(_) => true,
        Kind::Double | Kind::Float | Kind::Int32 | Kind::Int64 | Kind::Uint32 => true,
        Kind::Uint64 | Kind::Sint32 | Kind::Sint64 => true,
        Kind::Fixed32 | Kind::Fixed64 | Kind::Sfixed32 | Kind::Sfixed64 => true,
    };
    let fields = rule.descriptor.input().fields().collect::<Vec<_>>();
    let fields = fields.iter().filter(|it| is_in(it) && is_value(it));
    let parameters = fields.map(|field| {
        json!({
            "name": field.json_name(),
            "in": "query",
            "required": annotation::has_behavior(field, "REQUIRED"),
            "description": field.comment(),
            "schema": schemas.field(field),
        })
    });
    parameters.collect()
}

/// The body that one field of the request is.
fn field_body(rule: &Rule, name: &str, schemas: &mut Schemas) -> Value {
    let field = rule.descriptor.input().get_field_by_name(name);
    let kind = field.as_ref().map(FieldDescriptor::kind);
    let Some(message) = kind.as_ref().and_then(Kind::as_message) else {
        return json!({"content": {}});
    };
    if rule.method == http::Method::PATCH {
        return json_body(schemas.patch(message), true);
    }
    json_body(schemas.message(message), true)
}

/// A body of JSON.
pub(super) fn json_body(schema: Value, is_required: bool) -> Value {
    json!({"required": is_required, "content": {"application/json": {"schema": schema}}})
}

/// Adds the ways in which it can fail, and who may call it.
pub(super) fn guard(operation: &mut Value, failures: &Map<String, Value>, security: Option<Value>) {
    if let Some(responses) = operation["responses"].as_object_mut() {
        for (status, response) in failures {
            responses.entry(status).or_insert_with(|| response.clone());
        }
    }
    if let Some(security) = security {
        operation["security"] = security;
    }
}
