//! The request message of a method, made of the path, the query and the body.
//!
//! **Invariant:** every member is used or refused; a path and a body never disagree silently.

use hookfleet_contract::violation::Violations;
use prost_reflect::{DeserializeOptions, DynamicMessage, Kind, MessageDescriptor};
use serde_json::{Map, Value};

use super::rule::{Body, Rule};
use crate::status::ApiError;

/// Makes the message.
pub(super) fn message(
    rule: &Rule,
    path: Vec<(&str, String)>,
    query: &str,
    body: &[u8],
) -> Result<DynamicMessage, ApiError> {
    let mut request = match (&rule.body, body) {
        (Body::None, []) | (Body::All | Body::Field(_), []) => Map::new(),
        (Body::None, _) => return Err(ApiError::invalid_field("", "must have no body")),
        (Body::All, json) => object(json)?,
        (Body::Field(field), json) => {
            Map::from_iter([(field.clone(), Value::Object(object(json)?))])
        }
    };
    for (name, text) in url_pairs(query) {
        if matches!(rule.body, Body::All) {
            let description = "must be in the body, as every field of this method";
            return Err(ApiError::invalid_field(name, description));
        }
        let value = query_value(&rule.descriptor.input(), &name, &text)?;
        add(&mut request, &name, value)?;
    }
    for (field, text) in path {
        bind(&mut request, field, text)?;
    }
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let json = Value::Object(request);
    DynamicMessage::deserialize_with_options(rule.descriptor.input(), json, &options)
        .map_err(|error| ApiError::invalid_field("", error.to_string()))
}

fn object(json: &[u8]) -> Result<Map<String, Value>, ApiError> {
    serde_json::from_slice(json).map_err(|error| {
        ApiError::invalid_field("", format!("the body is not a JSON object: {error}"))
    })
}

fn url_pairs(query: &str) -> Vec<(String, String)> {
    let pairs = form_urlencoded::parse(query.as_bytes());
    pairs
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

/// The value of a query parameter: texts are as JSON wants them but for booleans and numbers.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other kind is a text in a query"
)]
fn query_value(input: &MessageDescriptor, name: &str, text: &str) -> Result<Value, ApiError> {
    let mut message = input.clone();
    let mut parts = name.split('.').peekable();
    while let Some(part) = parts.next() {
        let field = message
            .get_field_by_name(part)
            .or_else(|| message.get_field_by_json_name(part));
        let Some(field) = field else {
            return Err(ApiError::invalid_field(
                name,
                "is not a field of this method",
            ));
        };
        if parts.peek().is_some() {
            match field.kind() {
                Kind::Message(inner) if !field.is_list() && !field.is_map() => message = inner,
                _ => {
                    return Err(ApiError::invalid_field(
                        name,
                        "is not a field of this method",
                    ));
                }
            }
            continue;
        }
        let value = match field.kind() {
            Kind::Bool => match text {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => return Err(ApiError::invalid_field(name, "must be true or false")),
            },
            Kind::Enum(_) => text
                .parse::<i32>()
                .map_or_else(|_| text.into(), Value::from),
            _ => Value::from(text),
        };
        return Ok(if field.is_list() {
            Value::Array(vec![value])
        } else {
            value
        });
    }
    Err(ApiError::invalid_field(
        name,
        "is not a field of this method",
    ))
}

/// Puts a query parameter into its place; those of a repeated field are put together.
fn add(request: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), ApiError> {
    let place =
        place(request, name).ok_or_else(|| ApiError::invalid_field(name, "is there twice"))?;
    match (place, value) {
        (place @ Value::Null, value) => *place = value,
        (Value::Array(values), Value::Array(more)) => values.extend(more),
        _ => return Err(ApiError::invalid_field(name, "is there twice")),
    }
    Ok(())
}

/// Puts a part of the path into its place. A body may repeat it, but not contradict it.
fn bind(request: &mut Map<String, Value>, field: &str, text: String) -> Result<(), ApiError> {
    let mut violations = Violations::default();
    match place(request, field) {
        Some(place @ Value::Null) => *place = Value::String(text),
        Some(Value::String(given)) if *given == text => {}
        Some(Value::String(given)) if given.is_empty() => *given = text,
        Some(_) | None => violations.push(field, "is not what the path says"),
    }
    violations.into_result(()).map_err(ApiError::invalid)
}

/// The place of a dotted path, made if it is not there.
fn place<'a>(request: &'a mut Map<String, Value>, path: &str) -> Option<&'a mut Value> {
    match path.split_once('.') {
        None => Some(request.entry(path).or_insert(Value::Null)),
        Some((first, rest)) => {
            let inner = request
                .entry(first)
                .or_insert_with(|| Value::Object(Map::new()));
            place(inner.as_object_mut()?, rest)
        }
    }
}
