//! Headers that a subscription adds to its callbacks: which names and values are accepted.

/// The longest name.
const MAX_NAME_BYTES: usize = 128;
/// The longest value.
pub const MAX_VALUE_BYTES: usize = 4096;
/// The most headers of a subscription.
pub const MAX_HEADERS: usize = 32;
/// The most bytes of all of them.
pub const MAX_TOTAL_BYTES: usize = 16 << 10;

/// What belongs to the connection, to the message, to us, or opens doors of clouds and proxies.
const DENIED: [&str; 38] = [
    "host",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "http2-settings",
    "accept-encoding",
    "date",
    "via",
    "forwarded",
    "x-real-ip",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "user-agent",
    "origin",
    "traceparent",
    "tracestate",
    "baggage",
    "signature",
    "signature-input",
    "metadata-flavor",
    "metadata",
    "x-google-metadata-request",
    "x-aws-ec2-metadata-token",
    "x-aws-ec2-metadata-token-ttl-seconds",
    "x-metadata-token",
    "idempotency-key",
    "alt-svc",
    "refresh",
    "range",
    "content-digest",
    "location",
];
const DENIED_PREFIXES: [&str; 12] = [
    "content-",
    "proxy-",
    "webhook-",
    "ce-",
    "hookfleet-",
    "x-forwarded-",
    "grpc-",
    "sec-",
    "x-envoy-",
    "x-smokescreen-",
    "x-upstream-",
    "x-amz-",
];
const SECRET: [&str; 4] = ["authorization", "cookie", "x-api-key", "x-auth-token"];

/// Checks a header.
///
/// # Errors
/// What is wrong with it.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    check_name(name)?;
    check_value(value)
}

/// Checks a header's name.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    // An underscore is a hyphen to many a gateway, so it is no part of a name here.
    let is_legal = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&it);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_legal) {
        return Err(format!(
            "must be a header's name without _, at most {MAX_NAME_BYTES} bytes"
        ));
    }
    let lower = name.to_ascii_lowercase();
    if DENIED.contains(&lower.as_str()) || DENIED_PREFIXES.iter().any(|it| lower.starts_with(it)) {
        return Err(format!(
            "must not be {lower}, which is not the subscription's to set"
        ));
    }
    Ok(())
}

/// Checks a header's value.
///
/// # Errors
/// What is wrong with it.
pub fn check_value(value: &str) -> Result<(), String> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(format!(
            "has {} bytes, may have {MAX_VALUE_BYTES}",
            value.len()
        ));
    }
    if !value.bytes().all(|it| (0x20..=0x7E).contains(&it)) || value.trim() != value {
        return Err("must be visible ASCII, with spaces only inside".to_owned());
    }
    Ok(())
}

/// Whether the value of this header is a secret even if its owner does not say so.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    SECRET.iter().any(|it| name.eq_ignore_ascii_case(it))
}
