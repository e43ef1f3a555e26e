//! The HTTP surfaces as an OpenAPI document, made of the descriptors and their comments: whatever is served is in it.
//! Pure.
//!
//! **Invariant:** an operation is in the document exactly if this process answers it.

mod comment;
mod native;
mod operation;
mod schema;

use prost_reflect::{DescriptorPool, ServiceDescriptor};
use serde_json::{Map, Value, json};

use self::{
    comment::Described as _,
    operation::Singulars,
    schema::{Schemas, object, reference},
};
use crate::{
    auth::methods::Methods,
    transcode::{self, annotation, rule},
};

/// Where it is served.
pub(crate) const PATH: &str = "/openapi.json";

/// How a call can fail, whatever it is.
const FAILURES: [(u16, &str); 9] = [
    (
        400,
        "The request is not valid, or the state of things forbids it.",
    ),
    (401, "Nobody knows who calls."),
    (403, "The caller may not."),
    (404, "There is no such resource."),
    (409, "It exists already, or has changed meanwhile."),
    (413, "The body is too large."),
    (
        429,
        "Too much, or too many: `Retry-After` says when to come back.",
    ),
    (503, "Not now: `Retry-After` says when to come back."),
    (504, "It took too long."),
];
/// The ways in which a call is refused if callers are asked who they are.
const REFUSALS: [&str; 2] = ["401", "403"];

/// The document of the named services. `is_guarded` says whether callers show a credential.
///
/// # Errors
/// If the HTTP rules cannot be used.
pub(crate) fn document(
    pool: &DescriptorPool,
    methods: &Methods,
    services: &[&str],
    is_guarded: bool,
) -> Result<Value, transcode::Error> {
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    let failures = failures("Error", is_guarded);
    let singulars = singulars(pool);
    let security = |scope: &str| is_guarded.then(|| security(scope));
    let mut add = |path: &str, verb: &str, operation: Value| {
        let operations = paths.entry(path).or_insert_with(|| json!({}));
        operations[verb] = operation;
    };
    for rule in rule::collect(pool, services)? {
        let (path, verb, mut operation) = operation::of(&rule, &singulars, &mut schemas);
        let scope = methods.get(&rule.grpc_path()).map(|it| it.scope.as_str());
        let security = scope.and_then(security);
        operation::guard(&mut operation, &failures, security);
        add(&path, &verb, operation);
    }
    if services.contains(&"hookfleet.v1.PublisherService") {
        let (path, verb, scope, mut operation) = native::events(&mut schemas);
        operation::guard(&mut operation, &failures, security(scope));
        add(path, verb, operation);
    }
    if services.contains(&"hookfleet.v1.SubscriptionService") {
        let mut problems = self::failures("Problem", is_guarded);
        for status in [412, 422] {
            problems.insert(status.to_string(), response("Problem"));
        }
        for (path, verb, scope, mut operation) in native::facade(pool, &mut schemas) {
            operation::guard(&mut operation, &problems, security(scope));
            add(path, verb, operation);
        }
    }
    errors(&mut schemas);
    let tags = pool.services();
    let tags = tags.filter(|it| services.contains(&it.full_name()));
    let tags: Vec<_> = tags.filter(is_public).map(|it| tag(&it)).collect();
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hookfleet",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Webhooks at fleet scale. The same methods are served as gRPC and gRPC-Web on the same port.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.into_value(),
            "responses": {
                "Error": error_response("application/json", "Error"),
                "Problem": error_response("application/problem+json", "Problem"),
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token of an identity provider."},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "basic": {"type": "http", "scheme": "basic", "description": "An API key as the password."},
            },
        },
    }))
}

fn is_public(service: &ServiceDescriptor) -> bool {
    service.full_name().starts_with("hookfleet.v1.")
}

fn tag(service: &ServiceDescriptor) -> Value {
    json!({"name": service.name(), "description": service.comment()})
}

/// The names of members by those of their collections.
fn singulars(pool: &DescriptorPool) -> Singulars {
    let resources = pool
        .all_messages()
        .filter_map(|it| annotation::resource(&it));
    resources.collect()
}

/// Any one credential does.
fn security(scope: &str) -> Value {
    json!([{"bearer": [scope]}, {"apiKey": [scope]}, {"basic": [scope]}])
}

fn failures(name: &str, is_guarded: bool) -> Map<String, Value> {
    let all = FAILURES.iter().map(|(status, _)| status.to_string());
    let all = all.filter(|it| is_guarded || !REFUSALS.contains(&it.as_str()));
    all.map(|status| (status, response(name))).collect()
}

fn response(name: &str) -> Value {
    json!({"$ref": format!("#/components/responses/{name}")})
}

fn error_response(content_type: &str, name: &str) -> Value {
    let statuses = FAILURES.iter();
    let statuses: Vec<_> = statuses
        .map(|(status, what)| format!("- {status}: {what}"))
        .collect();
    json!({
        "description": format!("The call failed.\n{}", statuses.join("\n")),
        "headers": {"Retry-After": {
            "description": "How many seconds to wait.",
            "schema": {"type": "integer", "minimum": 0},
        }},
        "content": {content_type: {"schema": reference(name)}},
    })
}

/// Errors: `google.rpc.Status` in the form of AIP-193, and the problem details of the facade.
fn errors(schemas: &mut Schemas) {
    let detail = json!({
        "type": "object",
        "description": "A detail by its type. Every error has one `google.rpc.ErrorInfo`, whose reason is stable.",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "additionalProperties": true,
    });
    let status = json!({
        "type": "object",
        "description": "A `google.rpc.Status`.",
        "properties": {
            "code": {"type": "integer", "description": "The HTTP status."},
            "message": {"type": "string", "description": "For people; it may change."},
            "status": {"type": "string", "description": "The name of the `google.rpc.Code`."},
            "details": {"type": "array", "items": detail},
        },
        "required": ["code", "message", "status", "details"],
        "additionalProperties": false,
    });
    let member = |name: &str, schema: Value| (name.to_owned(), schema);
    schemas.add("Status", status);
    let error = Map::from_iter([member("error", reference("Status"))]);
    let mut refused = error.clone();
    refused.insert(
        "results".to_owned(),
        json!({"type": "array", "items": reference("PublishResult")}),
    );
    schemas.add("Error", object(error, &["error"]));
    schemas.add("RefusedEvents", object(refused, &["error"]));
    let place = json!({
        "type": "object",
        "properties": {
            "detail": {"type": "string"},
            "pointer": {"type": "string", "description": "A JSON pointer into the body, as a fragment."},
            "parameter": {"type": "string"},
            "header": {"type": "string"},
        },
        "required": ["detail"],
        "additionalProperties": false,
    });
    let problem = Map::from_iter([
        member("type", json!({"type": "string", "format": "uri"})),
        member("title", json!({"type": "string"})),
        member("status", json!({"type": "integer"})),
        member("detail", json!({"type": "string"})),
        member(
            "reason",
            json!({"type": "string", "description": "Stable, as in the other dialects."}),
        ),
        member("errors", json!({"type": "array", "items": place})),
    ]);
    let mut problem = object(problem, &["type", "title", "status", "detail"]);
    problem["description"] = "Problem details of RFC 9457.".into();
    schemas.add("Problem", problem);
}

#[cfg(test)]
mod tests;
