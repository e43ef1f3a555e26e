//! An event in the binary mode: its attributes are headers, its data is the body.

use std::collections::HashMap;

use bytes::Bytes;
use hookfleet_contract::{
    format::{header_value, json, media},
    violation::Violations,
};
use hookfleet_proto::cloudevents::{CloudEvent, CloudEventAttributeValue, cloud_event::Data};
use http::{HeaderMap, HeaderName, header};

use crate::status::ApiError;

/// What the headers of attributes begin with.
pub(super) const PREFIX: &str = "ce-";
const CONTENT_TYPE: &str = "datacontenttype";

/// Reads it. What the specification asks of attributes is for the service to check.
///
/// # Errors
/// Every header that is not one of an attribute.
pub(super) fn event(headers: &HeaderMap, body: &Bytes) -> Result<CloudEvent, ApiError> {
    let mut violations = Violations::default();
    let mut attributes = HashMap::new();
    for name in headers.keys() {
        let attribute = match (name.as_str().strip_prefix(PREFIX), name) {
            (Some(attribute), _) => attribute,
            (None, name) if name == header::CONTENT_TYPE => CONTENT_TYPE,
            (None, _) => continue,
        };
        match text(headers, name).map(|text| attributes.insert(attribute.to_owned(), text)) {
            Ok(None) => {}
            // The content type is that header alone; some say it twice.
            Ok(Some(before)) if attributes.get(attribute) == Some(&before) => {}
            Ok(Some(_)) => violations.push(name.as_str(), "contradicts content-type"),
            Err(must) => violations.push(name.as_str(), must),
        }
    }
    let mut take = |name: &str| attributes.remove(name).unwrap_or_default();
    let mut event = CloudEvent {
        id: take("id"),
        source: take("source"),
        spec_version: take("specversion"),
        r#type: take("type"),
        ..CloudEvent::default()
    };
    event.data = data(attributes.get(CONTENT_TYPE).map(String::as_str), body);
    for (name, text) in attributes {
        match json::attribute_of_text(&name, text) {
            Ok(attr) => {
                let value = CloudEventAttributeValue { attr: Some(attr) };
                event.attributes.insert(name, value);
            }
            Err(must) => violations.push(format!("{PREFIX}{name}"), must),
        }
    }
    violations.into_result(event).map_err(ApiError::invalid)
}

/// The value of a header, decoded; or what it must be. A content type is as it is.
fn text(headers: &HeaderMap, name: &HeaderName) -> Result<String, &'static str> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err("must be there once");
    };
    let text = value.to_str();
    let text = text.map_err(|_| "must be ASCII; other characters are percent-encoded")?;
    if name == header::CONTENT_TYPE {
        return Ok(text.to_owned());
    }
    header_value::decode(text).ok_or("must be percent-encoded UTF-8")
}

/// The data: text if its type says so and it is, else bytes. An empty body is no data.
fn data(content_type: Option<&str>, body: &Bytes) -> Option<Data> {
    if body.is_empty() {
        return None;
    }
    let text = content_type
        .filter(|it| media::is_text(it))
        .and_then(|content_type| {
            let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
            let is_whole = !media::is_json(content_type) || is_json();
            std::str::from_utf8(body).ok().filter(|_| is_whole)
        });
    Some(match text {
        Some(text) => Data::TextData(text.to_owned()),
        None => Data::BinaryData(body.clone()),
    })
}

#[cfg(test)]
mod tests {
    use hookfleet_proto::cloudevents::cloud_event_attribute_value::Attr;
    use http::HeaderValue;

    use super::*;

    fn header_map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn read(headers: &[(&str, &str)], body: &'static [u8]) -> Result<CloudEvent, ApiError> {
        event(&header_map(headers), &Bytes::from_static(body))
    }

    fn attr<'a>(event: &'a CloudEvent, name: &str) -> &'a Attr {
        event.attributes[name].attr.as_ref().unwrap()
    }

    #[test]
    fn headers_are_attributes() {
        let event = read(
            &[
                ("ce-specversion", "1.0"),
                ("ce-id", "%E2%82%AC%20%f0%9f%98%80"),
                ("ce-source", "/s"),
                ("ce-type", "\"a\\\"b%25\""),
                ("ce-time", "2026-01-02T03:04:05Z"),
                ("ce-dataschema", "https://example.com/s"),
                ("ce-partitionkey", "k"),
                ("content-type", "text/plain"),
                ("user-agent", "x"),
            ],
            b"hello",
        );
        let event = event.unwrap();
        assert_eq!(event.id, "\u{20ac} \u{1f600}");
        assert_eq!(event.r#type, "a\"b%");
        assert_eq!(
            (event.source.as_str(), event.spec_version.as_str()),
            ("/s", "1.0")
        );
        assert!(
            matches!(attr(&event, "time"), Attr::CeTimestamp(it) if it.seconds == 1_767_323_045)
        );
        assert!(matches!(attr(&event, "dataschema"), Attr::CeUri(_)));
        assert_eq!(
            *attr(&event, "partitionkey"),
            Attr::CeString("k".to_owned())
        );
        assert_eq!(
            *attr(&event, CONTENT_TYPE),
            Attr::CeString("text/plain".to_owned())
        );
        assert_eq!(event.attributes.len(), 4);
        assert_eq!(event.data, Some(Data::TextData("hello".to_owned())));
    }

    #[test]
    fn data_is_text_where_its_type_says_so_and_it_is() {
        let data = |content_type: &str, body| read(&[("content-type", content_type)], body);
        let data = |content_type, body| data(content_type, body).unwrap().data;
        for (content_type, body) in [
            ("application/json", &b"{\"a\": 1}"[..]),
            ("text/html; charset=utf-8", b"<p>"),
            ("image/svg+xml", b"<svg/>"),
        ] {
            let text = std::str::from_utf8(body).unwrap().to_owned();
            assert_eq!(data(content_type, body), Some(Data::TextData(text)));
        }
        for (content_type, body) in [
            ("application/json", &b"{"[..]),
            ("text/plain", b"\xff"),
            ("text/plain; charset=latin1", b"x"),
            ("image/png", b"x"),
        ] {
            let bytes = Bytes::from_static(body);
            assert_eq!(data(content_type, body), Some(Data::BinaryData(bytes)));
        }
        assert_eq!(data("application/json", b""), None);
        let untyped = read(&[], b"x").unwrap();
        assert_eq!(
            untyped.data,
            Some(Data::BinaryData(Bytes::from_static(b"x")))
        );
        assert_eq!(untyped.attributes.len(), 0);
    }

    #[test]
    fn every_header_that_is_wrong_is_named() {
        let error = read(
            &[
                ("ce-id", "%C0%A0"),
                ("ce-source", "\u{fc}"),
                ("ce-time", "soon"),
                ("ce-subject", "a"),
                ("ce-subject", "b"),
                ("ce-datacontenttype", "text/plain"),
                ("content-type", "application/json"),
            ],
            b"",
        );
        let status = tonic::Status::from(error.unwrap_err());
        for name in [
            "ce-id:",
            "ce-source:",
            "ce-time:",
            "ce-subject:",
            "contradicts content-type",
        ] {
            assert!(
                status.message().contains(name),
                "{name}: {}",
                status.message()
            );
        }
        let twice = [("content-type", "a/b"), ("ce-datacontenttype", "a/b")];
        assert!(read(&twice, b"").is_ok());
    }
}
