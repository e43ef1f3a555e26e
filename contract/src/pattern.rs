//! Patterns of event types: dotted prefixes, and `*` for everything.

use std::{fmt, str::FromStr};

/// The most bytes of a pattern and of an event type.
pub const MAX_BYTES: usize = 255;

/// A pattern: `orders` covers `orders` and `orders.created`, not `ordersx`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Box<str>);

/// The text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be `*`, or parts of letters, digits, _ and - joined by dots, at most {MAX_BYTES} bytes"
)]
pub struct Error;

impl Pattern {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether events of this type are wanted.
    #[must_use]
    pub fn covers(&self, event_type: &str) -> bool {
        &*self.0 == "*"
            || event_type
                .strip_prefix(&*self.0)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let legal = |part: &str| {
            let mut bytes = part.bytes();
            !part.is_empty() && bytes.all(|it| it.is_ascii_alphanumeric() || b"_-".contains(&it))
        };
        if text == "*" || (text.len() <= MAX_BYTES && text.split('.').all(legal)) {
            Ok(Self(text.into()))
        } else {
            Err(Error)
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_whole_parts_only() {
        let pattern: Pattern = "orders".parse().unwrap();
        assert!(pattern.covers("orders"));
        assert!(pattern.covers("orders.created.v1"));
        assert!(!pattern.covers("ordersx"));
        assert!(!pattern.covers("order"));
        assert!("*".parse::<Pattern>().unwrap().covers("anything"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", ".", "a.", ".a", "a..b", "a.*", "a b", "ä", "a/b"] {
            assert_eq!(text.parse::<Pattern>(), Err(Error), "{text:?}");
        }
    }
}
