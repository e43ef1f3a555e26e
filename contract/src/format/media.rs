//! Media types, as far as they decide how data stands in a body.

/// The type of protobuf messages.
pub(super) const PROTOBUF: &str = "application/protobuf";

/// Whether data of this type is JSON: the subtype is `json` or ends with `+json`.
pub(super) fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let subtype = essence.split_once('/').map_or("", |(_, subtype)| subtype);
    let subtype = subtype.to_ascii_lowercase();
    subtype == "json" || subtype.ends_with("+json")
}
