//! Pages of lists: their sizes, and tokens that say where the next one begins.
//!
//! **Invariant:** a token tells its holder nothing, and is good only for the list it was made for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hookfleet_contract::seal::Sealer;

use crate::status::ApiError;

const DEFAULT_SIZE: usize = 50;
const MAX_SIZE: usize = 1000;

/// Makes and reads page tokens.
#[derive(Clone, Debug)]
pub struct Pages(Sealer);

impl Pages {
    /// Tokens that are sealed with `sealer`.
    #[must_use]
    pub fn new(sealer: Sealer) -> Self {
        Self(sealer)
    }

    /// A token for the page of `list` after `cursor`. `scope` is what must not change between pages:
    /// the parent and the filter.
    #[must_use]
    pub fn seal(&self, list: &str, scope: &[&str], cursor: &[u8], nonce: [u8; 24]) -> String {
        URL_SAFE_NO_PAD.encode(self.0.seal(&context(list, scope), cursor, nonce))
    }

    /// The cursor in a token; none in an empty one.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` on `page_token`.
    pub fn open(
        &self,
        list: &str,
        scope: &[&str],
        token: &str,
    ) -> Result<Option<Vec<u8>>, ApiError> {
        if token.is_empty() {
            return Ok(None);
        }
        let sealed = URL_SAFE_NO_PAD.decode(token).ok();
        let cursor = sealed.and_then(|it| self.0.open(&context(list, scope), &it).ok());
        let description = "is not a token of this list with this parent and filter";
        cursor
            .map(Some)
            .ok_or_else(|| ApiError::invalid_field("page_token", description))
    }
}

/// The number of entries of a page, from what a request asks for.
///
/// # Errors
/// `INVALID_ARGUMENT` on `page_size` if it is negative.
pub fn page_size(asked: i32) -> Result<usize, ApiError> {
    match usize::try_from(asked) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) => Ok(size.min(MAX_SIZE)),
        Err(_) => Err(ApiError::invalid_field("page_size", "must not be negative")),
    }
}

/// No part contains a NUL: they are names, filters and the like, and one that did would only make a
/// token bad.
fn context(list: &str, scope: &[&str]) -> Vec<u8> {
    let parts = [&["hookfleet page 1", list], scope].concat();
    parts.join("\0").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_list_only() {
        let pages = Pages::new(Sealer::new([1; 32]));
        let token = pages.seal("tenants", &["", "state = ACTIVE"], b"acme", [2; 24]);
        let open = |scope: &[&str], token: &str| pages.open("tenants", scope, token);
        assert_eq!(
            open(&["", "state = ACTIVE"], &token).unwrap(),
            Some(b"acme".to_vec())
        );
        assert!(open(&["", ""], &token).is_err());
        assert!(open(&["", "state = ACTIVE"], &token[1..]).is_err());
        assert!(
            pages
                .open("agents", &["", "state = ACTIVE"], &token)
                .is_err()
        );
        assert_eq!(open(&[], "").unwrap(), None);
    }

    #[test]
    fn sizes_have_a_default_and_a_maximum() {
        assert_eq!(page_size(0).unwrap(), 50);
        assert_eq!(page_size(7).unwrap(), 7);
        assert_eq!(page_size(5000).unwrap(), 1000);
        assert!(page_size(-1).is_err());
    }
}
