//! Media types, as far as they decide how data stands in a body.

/// The type of protobuf messages.
pub(super) const PROTOBUF: &str = "application/protobuf";

/// Whether data of this type is JSON: the subtype is `json` or ends with `+json`.
#[must_use]
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let subtype = essence.split_once('/').map_or("", |(_, subtype)| subtype);
    let subtype = subtype.to_ascii_lowercase();
    subtype == "json" || subtype.ends_with("+json")
}

/// Whether data of this type is text: JSON, XML, `text/*`, in UTF-8 as far as it says.
#[must_use]
pub fn is_text(content_type: &str) -> bool {
    let lower = content_type.to_ascii_lowercase();
    let mut parts = lower.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let is_utf8 = parts.all(|it| match it.strip_prefix("charset=") {
        Some(charset) => ["utf-8", "us-ascii"].contains(&charset.trim_matches('"')),
        None => true,
    });
    let subtype = essence.split_once('/').map_or("", |(_, subtype)| subtype);
    let is_xml = subtype == "xml" || subtype.ends_with("+xml");
    is_utf8 && (is_json(essence) || is_xml || essence.starts_with("text/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_say_whether_data_is_text() {
        for text in [
            "application/json",
            "application/vnd.api+JSON; charset=utf-8",
            "text/plain",
            "text/plain; charset=\"UTF-8\"",
            "image/svg+xml",
            "application/xml",
        ] {
            assert!(is_text(text), "{text}");
        }
        for other in [
            "",
            "image/png",
            "text/plain; charset=latin1",
            "application/jsonp",
        ] {
            assert!(!is_text(other), "{other}");
        }
    }
}
