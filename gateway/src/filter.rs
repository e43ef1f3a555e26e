//! A subset of the filter language of AIP-160: `field = value`, joined by `AND`.

use crate::status::ApiError;

/// Which of the listed resources are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<(String, String)>);

impl Filter {
    /// Reads a filter over `allowed` fields. An empty text wants everything.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` on `filter`.
    pub fn parse(text: &str, allowed: &[&str]) -> Result<Self, ApiError> {
        let invalid = |description: String| ApiError::invalid_field("filter", description);
        let words = words(text).map_err(|error| invalid(error.to_owned()))?;
        let mut restrictions: Vec<(String, String)> = Vec::new();
        let mut rest = words.as_slice();
        while !rest.is_empty() {
            let [field, equals, value, after @ ..] = rest else {
                return Err(invalid("must be `field = value`, joined by AND".to_owned()));
            };
            if equals != "=" || !allowed.contains(&field.as_str()) {
                let fields = allowed.join(", ");
                return Err(invalid(format!("must compare one of {fields} by =")));
            }
            if restrictions.iter().any(|(other, _)| other == field) {
                return Err(invalid(format!("compares {field} twice")));
            }
            restrictions.push((field.clone(), value.clone()));
            rest = match after {
                [] => after,
                [and, next @ ..] if and == "AND" && !next.is_empty() => next,
                _ => return Err(invalid("must join comparisons by AND".to_owned())),
            };
        }
        Ok(Self(restrictions))
    }

    /// The value that a field must have, if the filter names it.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == field);
        found.map(|(_, value)| value.as_str())
    }
}

/// Words, quoted texts and `=`. A quoted text escapes quotes and backslashes.
fn words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut characters = text.chars().peekable();
    while let Some(&first) = characters.peek() {
        match first {
            it if it.is_whitespace() => {
                characters.next();
            }
            '=' => {
                characters.next();
                words.push("=".to_owned());
            }
            '"' => {
                characters.next();
                words.push(quoted(&mut characters).ok_or("has a text without its closing quote")?);
            }
            _ => {
                let mut word = String::new();
                while let Some(it) =
                    characters.next_if(|it| !it.is_whitespace() && !"=\"".contains(*it))
                {
                    word.push(it);
                }
                words.push(word);
            }
        }
    }
    Ok(words)
}

fn quoted(characters: &mut impl Iterator<Item = char>) -> Option<String> {
    let mut text = String::new();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => text.push(characters.next()?),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_joined_by_and() {
        let filter = Filter::parse(
            r#"state=ACTIVE AND url = "https://a/?b=\"c\"""#,
            &["state", "url"],
        );
        let filter = filter.unwrap();
        assert_eq!(filter.get("state"), Some("ACTIVE"));
        assert_eq!(filter.get("url"), Some(r#"https://a/?b="c""#));
        assert_eq!(filter.get("other"), None);
        assert_eq!(Filter::parse("  ", &[]).unwrap(), Filter::default());
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "state",
            "state =",
            "state = A AND",
            "state = A B",
            "x = 1",
            "state > 1",
            "state = \"A",
            "state = A OR state = B",
            "state = A AND state = B",
        ] {
            assert!(Filter::parse(text, &["state"]).is_err(), "{text}");
        }
    }
}
