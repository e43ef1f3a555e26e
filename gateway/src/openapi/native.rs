//! What HTTP has beside the API: the facade for consumers, and publishing CloudEvents.

use prost_reflect::DescriptorPool;
use serde_json::{Map, Value, json};

use super::{
    operation::{json_body, parameter},
    schema::{Schemas, object, reference},
};
use crate::facade::form::Form;

/// The operations of the facade: path, HTTP method, scope, operation.
pub(super) fn facade(
    pool: &DescriptorPool,
    schemas: &mut Schemas,
) -> [(&'static str, &'static str, &'static str, Value); 3] {
    let form = Form::new(pool);
    let mut wish = Map::new();
    let mut shown = Map::new();
    for (name, field) in form.fields() {
        let schema = schemas.field(&field);
        if Form::is_member(&field) {
            wish.insert(name.clone(), schema.clone());
        }
        shown.insert(name, schema);
    }
    let description = "The resource: the prefix of event types that events are wanted of.";
    shown.insert(
        "resource".to_owned(),
        json!({"type": "string", "description": description}),
    );
    schemas.add("Subscribe", object(wish, &["callbackUrl"]));
    schemas.add(
        "Subscribed",
        object(shown, &["name", "callbackUrl", "resource"]),
    );
    let url = json!({"type": "string", "description": "Where callbacks went."});
    let unsubscribe = object(
        Map::from_iter([("callbackUrl".to_owned(), url)]),
        &["callbackUrl"],
    );
    schemas.add("Unsubscribe", unsubscribe);
    [
        (
            "/{resource}/subscribe",
            "post",
            "subscriptions.write",
            subscribe(),
        ),
        (
            "/{resource}/unsubscribe",
            "post",
            "subscriptions.write",
            unsubscribe_operation(),
        ),
        (
            "/{resource}/subscriptions",
            "get",
            "subscriptions.read",
            list(),
        ),
    ]
}

fn subscribe() -> Value {
    let done = |description: &str| {
        json!({
            "description": description,
            "headers": {
                "Location": {"description": "The subscription.", "required": true, "schema": {"type": "string"}},
                "ETag": {"description": "Its version.", "required": true, "schema": {"type": "string"}},
            },
            "content": {"application/json": {"schema": reference("Subscribed")}},
        })
    };
    json!({
        "operationId": "subscribe",
        "summary": "Subscribes to a resource",
        "description": "Tenant, resource and callback URL are one subscription: subscribing again changes it. \
                        What the body leaves out is as in a new one.",
        "tags": ["Facade"],
        "parameters": [resource(), tenant(), idempotency_key(), if_match()],
        "requestBody": json_body(reference("Subscribe"), true),
        "responses": {
            "200": done("It was there, and is as the body says now."),
            "201": done("It is there, and active. This answer alone has the secret."),
            "202": done("It is there, and not active yet. This answer alone has the secret."),
        },
    })
}

fn unsubscribe_operation() -> Value {
    json!({
        "operationId": "unsubscribe",
        "summary": "Ends the subscription of a resource to a callback URL",
        "tags": ["Facade"],
        "parameters": [resource(), tenant(), if_match()],
        "requestBody": json_body(reference("Unsubscribe"), true),
        "responses": {"204": {"description": "It is gone."}},
    })
}

fn list() -> Value {
    let page = object(
        Map::from_iter([
            (
                "subscriptions".to_owned(),
                json!({"type": "array", "items": reference("Subscribed")}),
            ),
            ("nextPageToken".to_owned(), json!({"type": "string"})),
        ]),
        &["subscriptions", "nextPageToken"],
    );
    let query = |name: &str, description: &str, schema: Value| json!({"name": name, "in": "query", "description": description, "schema": schema});
    let size = json!({"type": "integer", "format": "int32", "minimum": 0, "maximum": i32::MAX});
    json!({
        "operationId": "listSubscriptionsOfResource",
        "summary": "Lists the subscriptions of a resource",
        "tags": ["Facade"],
        "parameters": [
            resource(),
            tenant(),
            query("pageSize", "At most this many; 0 is 50, more than 1000 is 1000.", size),
            query("pageToken", "`nextPageToken` of the page before.", json!({"type": "string"})),
        ],
        "responses": {"200": {"description": "A page.", "content": {"application/json": {"schema": page}}}},
    })
}

/// The operation that publishes events: path, HTTP method, scope, operation.
pub(super) fn events(schemas: &mut Schemas) -> (&'static str, &'static str, &'static str, Value) {
    let text = json!({"type": "string", "minLength": 1});
    let event = |required: &[&str]| {
        json!({
            "type": "object",
            "description": "An event in the JSON format of CloudEvents 1.0. Other members are extensions.",
            "required": required,
            "properties": {
                "specversion": {"type": "string", "enum": ["1.0"]},
                "id": text, "source": text, "type": text,
                "time": {"type": "string", "format": "date-time"},
                "subject": text, "datacontenttype": text, "dataschema": text,
                "data": {"description": "The data, if it is JSON or text."},
                "data_base64": {"type": "string", "format": "byte", "contentEncoding": "base64"},
            },
            "additionalProperties": {"type": ["string", "boolean", "integer"]},
        })
    };
    schemas.add(
        "CloudEvent",
        event(&["specversion", "id", "source", "type"]),
    );
    schemas.add("PlainEvent", event(&["type"]));
    let batch = json!({"type": "array", "items": reference("CloudEvent"), "maxItems": 1000});
    let bytes = json!({"type": "string", "contentEncoding": "binary"});
    let answer = json!({"anyOf": [reference("Receipt"), reference("PublishResponse")]});
    let media = |schema: Value| json!({"schema": schema});
    let operation = json!({
        "operationId": "publishCloudEvents",
        "summary": "Publishes events by the HTTP binding of CloudEvents",
        "description": "In the structured mode, in the batched mode, in the binary mode (attributes in `ce-` headers, any \
                        content type), or as plain JSON of which only `type` is required. 200 means that every event is durable.",
        "tags": ["PublisherService"],
        "parameters": [parameter("tenant"), idempotency_key()],
        "requestBody": {"required": true, "content": {
            "application/cloudevents+json": media(reference("CloudEvent")),
            "application/cloudevents-batch+json": media(batch),
            "application/cloudevents+protobuf": media(bytes.clone()),
            "application/cloudevents-batch+protobuf": media(bytes),
            "application/json": media(reference("PlainEvent")),
        }},
        "responses": {
            "200": {
                "description": "Durable: a receipt, or the results of a batch.",
                "content": {"application/json": {"schema": answer}},
            },
            "400": {
                "description": "Something is wrong with an event. Of a batch, the others are durable.",
                "content": {"application/json": {"schema": reference("RefusedEvents")}},
            },
            "415": {"$ref": "#/components/responses/Error"},
        },
    });
    (
        "/v1/tenants/{tenant}/events",
        "post",
        "events.publish",
        operation,
    )
}

fn resource() -> Value {
    json!({
        "name": "resource",
        "in": "path",
        "required": true,
        "description": "A dotted prefix of event types. In a path its parts may be joined by slashes too.",
        "schema": {"type": "string", "pattern": r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", "maxLength": 128},
    })
}

fn tenant() -> Value {
    header(
        "Hookfleet-Tenant",
        "The id of the tenant; else the credential's, else `default`.",
        ID_LIKE,
    )
}

fn idempotency_key() -> Value {
    let description = "Makes a repeat within 24 hours the same request.";
    header("Idempotency-Key", description, r"^[!#-\[\]-~]{1,128}$")
}

fn if_match() -> Value {
    let description = "The version that must be there.";
    header("If-Match", description, r#"^(\*|"[!#-~]*")$"#)
}

const ID_LIKE: &str = "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$";

fn header(name: &str, description: &str, pattern: &str) -> Value {
    json!({"name": name, "in": "header", "description": description, "schema": {"type": "string", "pattern": pattern}})
}
