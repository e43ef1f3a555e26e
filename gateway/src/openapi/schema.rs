//! Messages in their proto3 JSON form, as JSON Schema.

use std::collections::BTreeMap;

use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::comment::Described as _;
use crate::transcode::annotation;

/// Schemas by their names, those of everything that they refer to included.
#[derive(Default)]
pub(super) struct Schemas(BTreeMap<String, Value>);

// === impl Schemas ===

impl Schemas {
    /// All of them.
    pub(super) fn into_value(self) -> Value {
        self.0.into_iter().collect()
    }

    /// Adds one that no message has.
    pub(super) fn add(&mut self, name: &str, schema: Value) {
        self.0.insert(name.to_owned(), schema);
    }

    /// A reference to a message, whose schema is there from now on.
    pub(super) fn message(&mut self, message: &MessageDescriptor) -> Value {
        if let Some(schema) = well_known(message.full_name()) {
            return schema;
        }
        let name = name(message.full_name());
        if !self.0.contains_key(&name) {
            // Messages may be in themselves.
            self.add(&name, Value::Null);
            let schema = self.object(message, |_| true);
            self.add(&name, schema);
        }
        reference(&name)
    }

    /// A reference to a message of which nothing is required, because only what is there is changed.
    pub(super) fn patch(&mut self, message: &MessageDescriptor) -> Value {
        let name = format!("{}.Patch", name(message.full_name()));
        let mut schema = self.object(message, |_| true);
        schema.as_object_mut().map(|it| it.remove("required"));
        self.add(&name, schema);
        reference(&name)
    }

    /// A reference to what of a request is in its body.
    pub(super) fn body(&mut self, message: &MessageDescriptor, in_path: &[&str]) -> Value {
        let name = name(message.full_name());
        let schema = self.object(message, |it| !in_path.contains(&it.name()));
        self.add(&name, schema);
        reference(&name)
    }

    fn object(
        &mut self,
        message: &MessageDescriptor,
        is_in: impl Fn(&FieldDescriptor) -> bool,
    ) -> Value {
        let fields: Vec<_> = message.fields().filter(is_in).collect();
        let required = fields
            .iter()
            .filter(|it| annotation::has_behavior(it, "REQUIRED"));
        let required: Vec<_> = required.map(FieldDescriptor::json_name).collect();
        let mut schema = json!({
            "type": "object",
            "description": message.comment(),
            "additionalProperties": false,
        });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        let properties = fields
            .iter()
            .map(|it| (it.json_name().to_owned(), self.field(it)));
        schema["properties"] = Value::Object(properties.collect());
        schema
    }

    /// A field, with what its comment and its behaviour say.
    pub(super) fn field(&mut self, field: &FieldDescriptor) -> Value {
        let kind = field.kind();
        let mut schema = match kind.as_message().filter(|_| field.is_map()) {
            Some(entry) => {
                let value = entry.map_entry_value_field().kind();
                json!({"type": "object", "additionalProperties": self.kind(&value)})
            }
            None if field.cardinality() == Cardinality::Repeated => {
                json!({"type": "array", "items": self.kind(&kind)})
            }
            None => self.kind(&kind),
        };
        schema["description"] = field.comment().into();
        let is = |behavior| annotation::has_behavior(field, behavior);
        // A name is said by a path, or by nobody.
        if is("OUTPUT_ONLY") || is("IDENTIFIER") {
            schema["readOnly"] = true.into();
        }
        if is("INPUT_ONLY") {
            schema["writeOnly"] = true.into();
        }
        schema
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "format": "byte", "contentEncoding": "base64"}),
            Kind::Double => json!({"type": "number", "format": "double"}),
            Kind::Float => json!({"type": "number", "format": "float"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({"type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX})
            }
            Kind::Uint32 | Kind::Fixed32 => {
                json!({"type": "integer", "format": "uint32", "minimum": 0, "maximum": u32::MAX})
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"})
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!({"type": "string", "format": "uint64", "pattern": "^[0-9]+$"})
            }
            Kind::Message(message) => self.message(message),
            Kind::Enum(names) => self.names(names),
        }
    }

    fn names(&mut self, names: &EnumDescriptor) -> Value {
        let name = name(names.full_name());
        let all = || names.values();
        let mut description = names.comment();
        for value in all() {
            description += &format!("\n- `{}`: {}", value.name(), value.comment());
        }
        let values: Vec<_> = all().map(|it| it.name().to_owned()).collect();
        let schema = json!({"type": "string", "enum": values, "description": description});
        self.add(&name, schema);
        reference(&name)
    }
}

/// A reference to a schema.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Our own go by their short names.
fn name(full_name: &str) -> String {
    let own = full_name.strip_prefix("hookfleet.v1.");
    own.unwrap_or(full_name).to_owned()
}

/// Messages with a JSON form of their own.
fn well_known(full_name: &str) -> Option<Value> {
    Some(match full_name {
        "google.protobuf.Empty" => json!({"type": "object", "additionalProperties": false}),
        "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
        "google.protobuf.FieldMask" => json!({"type": "string"}),
        "google.protobuf.Duration" => {
            json!({"type": "string", "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$"})
        }
        "google.protobuf.Any" => json!({
            "type": "object",
            "properties": {"@type": {"type": "string"}},
            "required": ["@type"],
            "additionalProperties": true,
        }),
        _ => return None,
    })
}

/// An object with these properties, and no others.
pub(super) fn object(properties: Map<String, Value>, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}
