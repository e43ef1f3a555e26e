//! The CloudEvents JSON format, both ways. Data that is JSON is embedded byte for byte.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hookfleet_proto::cloudevents::{
    CloudEvent, CloudEventAttributeValue, cloud_event::Data, cloud_event_attribute_value::Attr,
};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::value::RawValue;

use super::media;
use crate::{event::Event, time::parse_rfc3339};

/// The JSON is not a CloudEvent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a JSON object.
    #[error("is not a JSON object")]
    Json(#[from] serde_json::Error),
    /// A member is not what it must be: its name, and what it must be.
    #[error("member {0} {1}")]
    Member(String, &'static str),
}

/// Reads one event. What the specification asks of its attributes is for [`Event`] to check.
///
/// # Errors
/// See [`Error`].
pub fn parse(json: &[u8]) -> Result<CloudEvent, Error> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(json)?;
    let mut event = CloudEvent::default();
    for (name, value) in members {
        let wrong = |must| Error::Member(name.clone(), must);
        if value.get() == "null" && name != "data" {
            continue;
        }
        let text = || {
            let text = serde_json::from_str::<String>(value.get());
            text.map_err(|_| wrong("must be a string"))
        };
        match name.as_str() {
            "id" => event.id = text()?,
            "source" => event.source = text()?,
            "type" => event.r#type = text()?,
            "specversion" => event.spec_version = text()?,
            "data" | "data_base64" if event.data.is_some() => {
                return Err(wrong("must not be there beside data"));
            }
            "data" => event.data = Some(Data::TextData(value.get().to_owned())),
            "data_base64" => {
                let bytes = STANDARD.decode(text()?);
                let bytes = bytes.map_err(|_| wrong("must be base64"))?;
                event.data = Some(Data::BinaryData(bytes.into()));
            }
            _ => {
                let attr = Some(attribute(&name, value).map_err(wrong)?);
                event
                    .attributes
                    .insert(name, CloudEventAttributeValue { attr });
            }
        }
    }
    let content_type = event.attributes.get("datacontenttype");
    let content_type = content_type.and_then(|it| match &it.attr {
        Some(Attr::CeString(text)) => Some(text.as_str()),
        _ => None,
    });
    let is_json = content_type.is_none_or(media::is_json);
    match &event.data {
        // Text of another type is a JSON string; its content is the data.
        Some(Data::TextData(json)) if !is_json => {
            let must = "must be a string, because datacontenttype is not JSON";
            let text = serde_json::from_str(json);
            let text = text.map_err(|_| Error::Member("data".to_owned(), must))?;
            event.data = Some(Data::TextData(text));
        }
        // Data without a type means JSON, which other formats have to say.
        Some(Data::TextData(_)) if content_type.is_none() => {
            let attr = Some(Attr::CeString("application/json".to_owned()));
            let value = CloudEventAttributeValue { attr };
            event.attributes.insert("datacontenttype".to_owned(), value);
        }
        _ => {}
    }
    Ok(event)
}

/// An attribute, or what it must be.
fn attribute(name: &str, value: &RawValue) -> Result<Attr, &'static str> {
    const MUST: &str = "must be a string, a boolean or an integer of 32 bits";
    let value: serde_json::Value = serde_json::from_str(value.get()).map_err(|_| MUST)?;
    match value {
        serde_json::Value::String(text) => attribute_of_text(name, text),
        serde_json::Value::Bool(it) => Ok(Attr::CeBoolean(it)),
        serde_json::Value::Number(it) => {
            let integer = it.as_i64().and_then(|it| i32::try_from(it).ok());
            integer.map(Attr::CeInteger).ok_or(MUST)
        }
        serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
            Err(MUST)
        }
    }
}

/// The attribute of a format that has texts only, by its name; or what it must be.
///
/// # Errors
/// What the text must be.
pub fn attribute_of_text(name: &str, text: String) -> Result<Attr, &'static str> {
    match name {
        "time" => parse_rfc3339(&text)
            .map(Attr::CeTimestamp)
            .ok_or("must be a time of RFC 3339, such as 2026-01-02T03:04:05Z"),
        "dataschema" => Ok(Attr::CeUri(text)),
        _ => Ok(Attr::CeString(text)),
    }
}

/// Writes one event: the required attributes, the optional ones, extensions by name, data.
#[must_use]
pub fn structured(event: &Event) -> Vec<u8> {
    written(&Structured(event))
}

/// Writes `{"type", "timestamp", "data"}`, with data that is not JSON as a string.
#[must_use]
pub fn standard_webhooks(event: &Event, timestamp: &prost_types::Timestamp) -> Vec<u8> {
    let timestamp = timestamp.to_string();
    let data = event.cloud_event().data.as_ref();
    written(&StandardWebhooks {
        event_type: event.event_type(),
        timestamp: &timestamp,
        data: data.map(|data| member(event, data).1),
    })
}

fn written(value: &impl Serialize) -> Vec<u8> {
    match serde_json::to_vec(value) {
        Ok(json) => json,
        Err(_) => unreachable!("texts, numbers and JSON can be written as JSON"),
    }
}

struct Structured<'a>(&'a Event);

#[derive(Serialize)]
struct StandardWebhooks<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    timestamp: &'a str,
    data: Option<Value<'a>>,
}

/// The value of `data` or `data_base64`.
enum Value<'a> {
    Json(&'a RawValue),
    Text(Cow<'a, str>),
}

const OPTIONAL: [&str; 4] = ["time", "datacontenttype", "dataschema", "subject"];

impl Serialize for Structured<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(event) = self;
        let cloud_event = event.cloud_event();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("specversion", "1.0")?;
        map.serialize_entry("id", event.id())?;
        map.serialize_entry("source", event.source())?;
        map.serialize_entry("type", event.event_type())?;
        let mut extensions: Vec<(&String, &CloudEventAttributeValue)> = Vec::new();
        for name in OPTIONAL {
            if let Some(attr) = cloud_event
                .attributes
                .get(name)
                .and_then(|it| it.attr.as_ref())
            {
                map.serialize_entry(name, &Attribute(attr))?;
            }
        }
        let others = cloud_event.attributes.iter();
        extensions.extend(others.filter(|(name, _)| !OPTIONAL.contains(&name.as_str())));
        extensions.sort_unstable_by_key(|(name, _)| *name);
        for (name, value) in extensions {
            if let Some(attr) = &value.attr {
                map.serialize_entry(name, &Attribute(attr))?;
            }
        }
        if let Some(data) = &cloud_event.data {
            if let Data::ProtoData(_) = data
                && event.text("datacontenttype").is_none()
            {
                map.serialize_entry("datacontenttype", media::PROTOBUF)?;
            }
            let (name, value) = member(event, data);
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

/// How data stands in JSON: as the JSON it is, as text, or as base64.
fn member<'a>(event: &Event, data: &'a Data) -> (&'static str, Value<'a>) {
    let content_type = event.text("datacontenttype");
    let is_json = content_type.is_none_or(media::is_json);
    let json = |bytes: &'a [u8]| serde_json::from_slice::<&'a RawValue>(bytes).ok();
    let base64 = |bytes: &[u8]| ("data_base64", Value::Text(STANDARD.encode(bytes).into()));
    match data {
        Data::TextData(text) => match json(text.as_bytes()).filter(|_| is_json) {
            Some(value) => ("data", Value::Json(value)),
            None => ("data", Value::Text(text.into())),
        },
        // Bytes without a type stay bytes: nothing says that they are JSON.
        Data::BinaryData(bytes) => {
            match json(bytes).filter(|_| is_json && content_type.is_some()) {
                Some(value) => ("data", Value::Json(value)),
                None => base64(bytes),
            }
        }
        Data::ProtoData(any) => base64(&any.value),
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Json(value) => value.serialize(serializer),
            Self::Text(text) => text.serialize(serializer),
        }
    }
}

struct Attribute<'a>(&'a Attr);

impl Serialize for Attribute<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Attr::CeBoolean(it) => it.serialize(serializer),
            Attr::CeInteger(it) => it.serialize(serializer),
            Attr::CeString(_)
            | Attr::CeBytes(_)
            | Attr::CeUri(_)
            | Attr::CeUriRef(_)
            | Attr::CeTimestamp(_) => text(self.0).serialize(serializer),
        }
    }
}

/// The canonical text of an attribute.
pub(super) fn text(attr: &Attr) -> Cow<'_, str> {
    match attr {
        Attr::CeBoolean(it) => it.to_string().into(),
        Attr::CeInteger(it) => it.to_string().into(),
        Attr::CeString(text) | Attr::CeUri(text) | Attr::CeUriRef(text) => text.into(),
        Attr::CeBytes(bytes) => STANDARD.encode(bytes).into(),
        Attr::CeTimestamp(time) => time.to_string().into(),
    }
}
