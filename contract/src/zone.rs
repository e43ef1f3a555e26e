//! Where an agent runs, as far as failures are shared: a rack, a building, a zone of a cloud. It only names.

use std::{fmt, str::FromStr, sync::Arc};

/// As many characters as a label of Kubernetes may have, whose characters these are.
const MAX_LEN: usize = 63;

/// The text is not a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 63 of A-Z, a-z, 0-9, -, _ and ., with a letter or a digit at both ends")]
pub struct Error;

/// The name of a zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(Arc<str>);

// === impl Zone ===

impl Zone {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a zone where empty means none.
    ///
    /// # Errors
    /// [`Error`].
    pub fn optional(text: &str) -> Result<Option<Self>, Error> {
        match text {
            "" => Ok(None),
            text => text.parse().map(Some),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Zone {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_inner = |it: u8| it.is_ascii_alphanumeric() || b"-_.".contains(&it);
        let bytes = text.as_bytes();
        let has_ends = [bytes.first(), bytes.last()]
            .iter()
            .all(|it| it.is_some_and(u8::is_ascii_alphanumeric));
        if has_ends && bytes.len() <= MAX_LEN && bytes.iter().copied().all(is_inner) {
            Ok(Self(text.into()))
        } else {
            Err(Error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_labels_and_empty_is_none() {
        let longest = "a".repeat(63);
        for text in ["0", "eu-central-1a", "Rack_7.b", &longest] {
            assert_eq!(text.parse::<Zone>().unwrap().as_str(), text);
        }
        let too_long = "a".repeat(64);
        for text in ["", "-a", "a-", "a b", "ä", "a/b", "$(ZONE)", &too_long] {
            assert_eq!(text.parse::<Zone>(), Err(Error), "{text}");
        }
        assert_eq!(Zone::optional(""), Ok(None));
        assert_eq!(Zone::optional("-"), Err(Error));
    }
}
