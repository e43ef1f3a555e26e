//! A subscription as the facade's JSON has it: the members are the fields of `hookfleet.v1.Subscription` that its owner
//! sets, a few under shorter names.
//!
//! **Invariant:** every member is used or refused.

use hookfleet_contract::violation::Violations;
use hookfleet_proto::v1;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, MessageDescriptor,
    SerializeOptions,
};
use serde_json::{Map, Value};

use super::resource::Resource;
use crate::transcode::annotation;

/// Fields with another name on the facade.
const NAMES: [(&str, &str); 4] = [
    ("event_types", "types"),
    ("body_mode", "mode"),
    ("signing_secret", "secret"),
    ("retry_policy", "retry"),
];

/// The members of the body.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    message: MessageDescriptor,
}

// === impl Form ===

impl Form {
    /// The form of the subscription that `pool` describes.
    pub(crate) fn new(pool: &DescriptorPool) -> Self {
        let message = pool.get_message_by_name("hookfleet.v1.Subscription");
        let message = message.expect("the API has subscriptions");
        Self { message }
    }

    /// The subscription that a body asks for.
    ///
    /// # Errors
    /// Everything that is wrong with the body's members, by pointers.
    pub(super) fn read(
        &self,
        json: &[u8],
        resource: &Resource,
    ) -> Result<v1::Subscription, Violations> {
        let mut violations = Violations::default();
        let mut asked = DynamicMessage::new(self.message.clone());
        for (name, value) in object(json)? {
            let place = pointer([name.as_str()]);
            let Some(field) = self.members().find(|it| member_name(it) == name) else {
                violations.push(place, "is not a member of a subscription");
                continue;
            };
            match self.one(&field, value) {
                Ok(one) if one.has_field(&field) => {
                    asked.set_field(&field, one.get_field(&field).into_owned());
                }
                Ok(_) => {}
                Err(error) => violations.push(place, error),
            }
        }
        let asked = v1::Subscription::decode(asked.encode_to_vec().as_slice());
        let mut asked = match asked {
            Ok(asked) => asked,
            Err(_) => unreachable!("both are the same message"),
        };
        if asked.callback_url.is_empty() && violations.is_empty() {
            violations.push("#/callbackUrl", "is required");
        }
        for (index, event_type) in asked.event_types.iter().enumerate() {
            if !resource.covers(event_type) {
                let description = format!("is not a type of the resource {}", resource.as_str());
                violations.push(format!("#/types/{index}"), description);
            }
        }
        if asked.event_types.is_empty() {
            asked.event_types.push(resource.as_str().to_owned());
        }
        violations.into_result(asked)
    }

    /// A subscription as JSON. Its secret is a member only if it is shown.
    pub(super) fn write(&self, subscription: &v1::Subscription, resource: &Resource) -> Value {
        let bytes = subscription.encode_to_vec();
        let message = DynamicMessage::decode(self.message.clone(), bytes.as_slice());
        let options = SerializeOptions::new().skip_default_fields(false);
        let json = message
            .map(|message| message.serialize_with_options(serde_json::value::Serializer, &options));
        let Ok(Ok(Value::Object(fields))) = json else {
            unreachable!("a message is a JSON object");
        };
        let mut members: Map<String, Value> = fields
            .into_iter()
            .map(|(json_name, value)| {
                let field = self.message.get_field_by_json_name(&json_name);
                let name = field.map(|it| member_name(&it).to_owned());
                (name.unwrap_or(json_name), value)
            })
            .collect();
        if subscription.signing_secret.is_empty() {
            members.remove("secret");
        }
        members.insert("resource".to_owned(), resource.as_str().into());
        Value::Object(members)
    }

    /// Where a field of a call is in the body: `subscription.headers[0].name` is `#/headers/0/name`.
    pub(super) fn locate(&self, field: &str) -> String {
        let path = field.strip_prefix("subscription.").unwrap_or(field);
        let (names, keys) = path.split_once('[').unwrap_or((path, ""));
        let mut places: Vec<String> = names.split('.').map(ToOwned::to_owned).collect();
        let (key, rest) = keys.split_once(']').unwrap_or((keys, ""));
        places.push(key.to_owned());
        places.extend(rest.split('.').map(ToOwned::to_owned));
        places.retain(|it| !it.is_empty());
        let mut message = Some(self.message.clone());
        for (depth, place) in places.iter_mut().enumerate() {
            let field = message.as_ref().and_then(|it| it.get_field_by_name(place));
            let Some(field) = field else { continue };
            let name = if depth == 0 {
                member_name(&field)
            } else {
                field.json_name()
            };
            name.clone_into(place);
            message = field.kind().as_message().cloned();
        }
        pointer(places.iter().map(String::as_str))
    }

    /// Every field with its name on the facade.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (String, FieldDescriptor)> + '_ {
        let fields = self.message.fields();
        fields.map(|it| (member_name(&it).to_owned(), it))
    }

    /// Whether its owner sets a field.
    pub(crate) fn is_member(field: &FieldDescriptor) -> bool {
        let mut behaviors = ["REQUIRED", "OPTIONAL"].iter();
        behaviors.any(|behavior| annotation::has_behavior(field, behavior))
    }

    /// The fields that the owner sets.
    fn members(&self) -> impl Iterator<Item = FieldDescriptor> + '_ {
        self.message.fields().filter(Self::is_member)
    }

    /// A message with one field.
    fn one(&self, field: &FieldDescriptor, value: Value) -> Result<DynamicMessage, String> {
        let json = Value::Object(Map::from_iter([(field.json_name().to_owned(), value)]));
        let options = DeserializeOptions::new().deny_unknown_fields(true);
        let message =
            DynamicMessage::deserialize_with_options(self.message.clone(), json, &options);
        message.map_err(|error| error.to_string())
    }
}

/// What a field is called on the facade.
fn member_name(field: &FieldDescriptor) -> &str {
    let renamed = NAMES.iter().find(|(name, _)| *name == field.name());
    renamed.map_or_else(|| field.json_name(), |(_, member)| member)
}

/// The members of a body.
///
/// # Errors
/// What is wrong with the body as a whole.
pub(super) fn object(json: &[u8]) -> Result<Map<String, Value>, Violations> {
    serde_json::from_slice(json).map_err(|error| {
        let mut violations = Violations::default();
        violations.push("#", format!("is not a JSON object: {error}"));
        violations
    })
}

/// A JSON pointer as a fragment.
pub(super) fn pointer<'a>(places: impl IntoIterator<Item = &'a str>) -> String {
    let mut pointer = "#".to_owned();
    for place in places {
        pointer.push('/');
        for byte in place.bytes() {
            match byte {
                b'~' => pointer.push_str("~0"),
                b'/' => pointer.push_str("~1"),
                it if it.is_ascii_alphanumeric() || b"-._".contains(&it) => {
                    pointer.push(char::from(it));
                }
                it => pointer.push_str(&format!("%{it:02X}")),
            }
        }
    }
    pointer
}
