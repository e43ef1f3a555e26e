//! A CloudEvent that is as the specification and the limits want it.
//!
//! **Invariant:** every attribute of an [`Event`] is legal, so that nothing later has to refuse it.

use hookfleet_proto::cloudevents::{
    CloudEvent, CloudEventAttributeValue, cloud_event_attribute_value::Attr,
};
use prost::Message as _;
use url::Url;

use crate::{
    pattern,
    time::{Timestamp, parse_rfc3339},
    violation::Violations,
};

/// What an event may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most bytes of an encoded event.
    pub max_event_bytes: usize,
    /// The most attributes beside the required ones.
    pub max_attributes: usize,
    /// The most bytes of an attribute's value.
    pub max_value_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_event_bytes: 256 << 10,
            max_attributes: 64,
            max_value_bytes: 4 << 10,
        }
    }
}

/// A valid event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event(CloudEvent);

impl Event {
    /// Checks an event.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn try_new(event: CloudEvent, limits: &Limits) -> Result<Self, Violations> {
        let mut violations = Violations::default();
        let size = event.encoded_len();
        if size > limits.max_event_bytes {
            let max = limits.max_event_bytes;
            violations.push(
                "",
                format!("EVENT_TOO_LARGE: has {size} bytes, may have {max}"),
            );
            return Err(violations);
        }
        if event.spec_version != "1.0" {
            violations.push("spec_version", "must be 1.0");
        }
        for (field, value) in [
            ("id", &event.id),
            ("source", &event.source),
            ("type", &event.r#type),
        ] {
            check_text(field, value, limits, &mut violations);
        }
        if !event.source.is_empty() && !is_uri_reference(&event.source) {
            violations.push("source", "must be a URI-reference");
        }
        if event.r#type.len() > pattern::MAX_BYTES {
            violations.push("type", format!("may have {} bytes", pattern::MAX_BYTES));
        }
        if event.attributes.len() > limits.max_attributes {
            let (n, max) = (event.attributes.len(), limits.max_attributes);
            violations.push("attributes", format!("has {n} entries, may have {max}"));
        }
        for (name, value) in &event.attributes {
            check_attribute(name, value, limits, &mut violations);
        }
        violations.into_result(Self(event))
    }

    /// Reads an event that was checked before.
    ///
    /// # Errors
    /// If the bytes are not an encoded event.
    pub fn decode(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        CloudEvent::decode(bytes).map(Self)
    }

    /// Identifies the event within its source.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Where it happened.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// What happened.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.0.r#type
    }

    /// The event as it came.
    #[must_use]
    pub fn cloud_event(&self) -> &CloudEvent {
        &self.0
    }

    /// The event as it came.
    #[must_use]
    pub fn into_inner(self) -> CloudEvent {
        self.0
    }

    /// When the event happened, if it says so.
    #[must_use]
    pub fn time(&self) -> Option<&prost_types::Timestamp> {
        match self.attribute("time")? {
            Attr::CeTimestamp(time) => Some(time),
            Attr::CeString(_)
            | Attr::CeUri(_)
            | Attr::CeUriRef(_)
            | Attr::CeBoolean(_)
            | Attr::CeInteger(_)
            | Attr::CeBytes(_) => None,
        }
    }

    /// The extension `expirytime`: no attempt starts after it.
    #[must_use]
    pub fn expiry_time(&self) -> Option<Timestamp> {
        match self.attribute("expirytime")? {
            Attr::CeTimestamp(time) => Some((*time).into()),
            Attr::CeString(text) => parse_rfc3339(text).map(Into::into),
            Attr::CeUri(_)
            | Attr::CeUriRef(_)
            | Attr::CeBoolean(_)
            | Attr::CeInteger(_)
            | Attr::CeBytes(_) => None,
        }
    }

    /// An attribute that is a text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        text(&self.0, name)
    }

    fn attribute(&self, name: &str) -> Option<&Attr> {
        self.0.attributes.get(name)?.attr.as_ref()
    }
}

/// An attribute that is a text, of an event that need not be a good one.
#[must_use]
pub fn text<'a>(event: &'a CloudEvent, name: &str) -> Option<&'a str> {
    match event.attributes.get(name)?.attr.as_ref()? {
        Attr::CeString(text) | Attr::CeUri(text) | Attr::CeUriRef(text) => Some(text),
        Attr::CeBoolean(_) | Attr::CeInteger(_) | Attr::CeBytes(_) | Attr::CeTimestamp(_) => None,
    }
}

fn check_attribute(
    name: &str,
    value: &CloudEventAttributeValue,
    limits: &Limits,
    violations: &mut Violations,
) {
    let field = format!("attributes[{name}]");
    let is_legal = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit();
    if name.is_empty() || name.len() > 64 || !name.bytes().all(is_legal) {
        violations.push(field, "a name must be 1 to 64 of a-z and 0-9");
        return;
    }
    if ["id", "source", "specversion", "type", "data"].contains(&name) {
        violations.push(field, "has a field of its own");
        return;
    }
    let Some(attr) = &value.attr else {
        violations.push(field, "has no value");
        return;
    };
    match attr {
        Attr::CeString(text) | Attr::CeUri(text) | Attr::CeUriRef(text) => {
            check_text(&field, text, limits, violations);
        }
        Attr::CeBytes(bytes) if bytes.len() > limits.max_value_bytes => {
            violations.push(
                field.clone(),
                format!("may have {} bytes", limits.max_value_bytes),
            );
        }
        Attr::CeTimestamp(time) if !is_calendar_time(time) => {
            violations.push(field.clone(), "must be of the years 1 to 9999");
        }
        Attr::CeBoolean(_) | Attr::CeInteger(_) | Attr::CeBytes(_) | Attr::CeTimestamp(_) => {}
    }
    check_core_attribute(name, field, attr, violations);
}

/// The optional attributes that the specification gives a type.
fn check_core_attribute(name: &str, field: String, attr: &Attr, violations: &mut Violations) {
    match (name, attr) {
        ("time", Attr::CeTimestamp(_)) => {}
        ("time", _) => violations.push(field, "must be a ce_timestamp"),
        ("dataschema", Attr::CeUri(text) | Attr::CeString(text)) if Url::parse(text).is_ok() => {}
        ("dataschema", _) => violations.push(field, "must be a ce_uri that is absolute"),
        ("datacontenttype", Attr::CeString(text)) if is_media_type(text) => {}
        ("datacontenttype", _) => {
            violations.push(
                field,
                "must be a ce_string with a media type such as application/json",
            );
        }
        ("subject", Attr::CeString(_)) => {}
        ("subject", _) => violations.push(field, "must be a ce_string"),
        ("expirytime", Attr::CeTimestamp(_)) => {}
        ("expirytime", Attr::CeString(text)) if parse_rfc3339(text).is_some() => {}
        ("expirytime", _) => violations.push(field, "must be a ce_timestamp"),
        _ => {}
    }
}

/// CloudEvents strings are not empty and have no control characters and no non-characters.
fn check_text(field: &str, text: &str, limits: &Limits, violations: &mut Violations) {
    let is_illegal = |it: char| {
        it.is_control()
            || (0xFDD0..=0xFDEF).contains(&u32::from(it))
            || u32::from(it) & 0xFFFE == 0xFFFE
    };
    if text.is_empty() {
        violations.push(field, "must not be empty");
    } else if text.len() > limits.max_value_bytes {
        let (n, max) = (text.len(), limits.max_value_bytes);
        violations.push(field, format!("has {n} bytes, may have {max}"));
    } else if let Some(illegal) = text.chars().find(|it| is_illegal(*it)) {
        let code = u32::from(illegal);
        violations.push(field, format!("must not contain U+{code:04X}"));
    }
}

/// RFC 3986, as far as it can be wrong: no spaces and no characters outside of it, whole escapes.
fn is_uri_reference(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_legal = |it: &u8| it.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(it);
    let escapes_are_whole = bytes.iter().enumerate().all(|(at, byte)| {
        let digits = bytes.get(at + 1..at + 3);
        *byte != b'%' || digits.is_some_and(|it| it.iter().all(u8::is_ascii_hexdigit))
    });
    bytes.iter().all(is_legal) && escapes_are_whole
}

fn is_media_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let is_token = |it: &str| {
        let is_legal = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it);
        !it.is_empty() && it.bytes().all(is_legal)
    };
    let is_visible = text.bytes().all(|it| (0x20..=0x7E).contains(&it));
    is_visible
        && matches!(essence.split_once('/'), Some((kind, subtype)) if is_token(kind) && is_token(subtype))
}

fn is_calendar_time(time: &prost_types::Timestamp) -> bool {
    (-62_135_596_800..=253_402_300_799).contains(&time.seconds)
        && (0..1_000_000_000).contains(&time.nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_violation() {
        type Spoil = fn(&mut CloudEvent);
        let long = "x".repeat(5000);
        let control = "a\u{1}b";
        let cases: [(&str, Spoil); 8] = [
            ("id", |it| it.id.clear()),
            ("source", |it| it.source = "not a uri".to_owned()),
            ("source", |it| it.source = "urn:%zz".to_owned()),
            ("type", |it| it.r#type = "x".repeat(300)),
            ("spec_version", |it| it.spec_version = "0.3".to_owned()),
            ("attributes[Bad]", |it| {
                put(it, "Bad", Attr::CeBoolean(true))
            }),
            ("attributes[id]", |it| {
                put(it, "id", Attr::CeString("x".to_owned()))
            }),
            ("attributes[time]", |it| {
                put(it, "time", Attr::CeString("yesterday".to_owned()))
            }),
        ];
        for (field, spoil) in cases {
            let mut event = good();
            spoil(&mut event);
            assert_eq!(fields(event), [field]);
        }
        for (name, value) in [
            ("subject", ""),
            ("subject", control),
            ("subject", "\u{FFFF}"),
            ("subject", &long),
            ("dataschema", "relative"),
            ("datacontenttype", "json"),
            ("expirytime", "soon"),
            ("expirytime", "2026-01-02"),
        ] {
            let mut event = good();
            put(&mut event, name, Attr::CeString(value.to_owned()));
            assert_eq!(fields(event), [format!("attributes[{name}]")], "{value:?}");
        }
    }

    #[test]
    fn a_good_event_passes_whole_and_a_large_one_does_not() {
        let event = good();
        let passed = Event::try_new(event.clone(), &Limits::default()).unwrap();
        assert_eq!(passed.cloud_event(), &event);
        assert_eq!(passed.expiry_time(), Some(Timestamp(1_767_323_045_000)));
        let limits = Limits {
            max_event_bytes: 20,
            ..Limits::default()
        };
        let violations = Event::try_new(event, &limits).unwrap_err();
        assert!(violations.to_string().contains("EVENT_TOO_LARGE"));
    }

    #[test]
    fn too_many_attributes_are_too_many() {
        let mut event = good();
        for number in 0..70 {
            put(&mut event, &format!("a{number}"), Attr::CeInteger(number));
        }
        assert_eq!(fields(event), ["attributes"]);
    }

    fn good() -> CloudEvent {
        let mut event = CloudEvent {
            id: "1 ü".to_owned(),
            source: "/orders?x=%20".to_owned(),
            spec_version: "1.0".to_owned(),
            r#type: "orders.created".to_owned(),
            ..CloudEvent::default()
        };
        put(
            &mut event,
            "dataschema",
            Attr::CeUri("https://example.com/s".to_owned()),
        );
        let expiry = Attr::CeString("2026-01-02T03:04:05Z".to_owned());
        put(&mut event, "expirytime", expiry);
        event
    }

    fn put(event: &mut CloudEvent, name: &str, attr: Attr) {
        let value = CloudEventAttributeValue { attr: Some(attr) };
        event.attributes.insert(name.to_owned(), value);
    }

    fn fields(event: CloudEvent) -> Vec<String> {
        let violations = Event::try_new(event, &Limits::default()).unwrap_err();
        violations.0.into_iter().map(|it| it.field).collect()
    }
}
