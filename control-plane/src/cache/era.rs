//! Which store the revisions count in, as far as operators have accepted it: the incarnation of its data, and the last
//! acceptance. Agents compare eras, and get everything anew in another one.
//!
//! **Invariant:** whoever knows one era believes another one only by an acceptance that names the first.

use std::{fmt, sync::Arc};

use hookfleet_proto::fleet::StoredAcceptance;
use prost::Message as _;

use crate::{
    keys,
    store::{Error, Generation, Store},
};

/// An era of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Era(Arc<str>);

/// The era that a store is in, and the one that it says to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) era: Era,
    pub(crate) supersedes: Option<Era>,
}

/// Which era the store is in.
///
/// # Errors
/// As [`Store::generation`].
pub(crate) async fn find(store: &dyn Store) -> Result<Found, Error> {
    let generation = store.generation().await?;
    let (entry, _) = store.get(keys::ACCEPTANCE).await?;
    let Some(entry) = entry else {
        return Ok(Found::new(&generation, None));
    };
    let acceptance = StoredAcceptance::decode(entry.value);
    let acceptance = acceptance.map_err(|_| Error::Corrupt(format!("key {}", keys::ACCEPTANCE)))?;
    Ok(Found::new(&generation, Some(&acceptance)))
}

// === impl Found ===

impl Found {
    fn new(generation: &Generation, acceptance: Option<&StoredAcceptance>) -> Self {
        match acceptance {
            None => Self {
                era: Era(generation.as_str().into()),
                supersedes: None,
            },
            Some(acceptance) => Self {
                era: Era(format!("{generation}-{}", acceptance.id).into()),
                supersedes: Some(Era(acceptance.supersedes.as_str().into())),
            },
        }
    }

    /// Whether somebody who knows `era` may go on in this one.
    pub(crate) fn follows(&self, era: &Era) -> bool {
        self.supersedes.as_ref() == Some(era)
    }
}

// === impl Era ===

impl Era {
    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Self {
        Self(name.into())
    }

    /// The wire form.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
