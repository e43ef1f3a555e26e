//! The header `Idempotency-Key`: a request that carries one may be repeated.

use hookfleet_contract::violation::Violations;
use http::HeaderMap;

/// The header.
const HEADER: &str = "idempotency-key";
const MAX_BYTES: usize = 128;

/// The key of a request, if it has one: a string in quotes, or the same without.
///
/// # Errors
/// What is wrong with the header.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<String>, Violations> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    let quoted = text.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    let key = quoted.unwrap_or(text);
    let is_legal = |it: u8| it.is_ascii_graphic() && !b"\"\\".contains(&it);
    if values.next().is_none() && (1..=MAX_BYTES).contains(&key.len()) && key.bytes().all(is_legal)
    {
        return Ok(Some(key.to_owned()));
    }
    let mut violations = Violations::default();
    let description = format!("must be one string of 1 to {MAX_BYTES} visible ASCII characters");
    violations.push(HEADER, description);
    violations.into_result(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_string_with_quotes_or_without() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, value.parse().unwrap());
            }
            key(&headers)
        };
        assert_eq!(read(&[]), Ok(None));
        for text in ["8e03978e-40d5", "\"8e03978e-40d5\""] {
            assert_eq!(read(&[text]), Ok(Some("8e03978e-40d5".to_owned())));
        }
        let long = "x".repeat(129);
        for values in [
            &[""][..],
            &["\"\""],
            &["a b"],
            &["\"a"],
            &["a", "b"],
            &[&long],
        ] {
            assert!(read(values).is_err(), "{values:?}");
        }
    }
}
