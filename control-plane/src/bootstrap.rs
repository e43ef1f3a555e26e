//! The first key of all, which opens everything: a store that was never asked for one makes it, once.
//!
//! **Invariant:** of all that try, at any time, one makes it; and its maker had it in hand before it was in force.

use std::io;

use hookfleet_contract::name::KeyName;
use hookfleet_gateway::auth::key::ApiKey;
use hookfleet_proto::v1::Key;
use prost::Message as _;

use crate::{
    api::Api,
    keys, model, random,
    store::{self, Outcome, Txn},
    stored,
};

/// Why there is no first key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not answer, or refuses.
    #[error("cannot put the first key into the store")]
    Store(#[from] store::Error),
    /// Nobody would have known the key.
    #[error("cannot hand out the first key")]
    Show(#[from] io::Error),
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// The key that was shown opens everything.
    Made,
    /// Another was faster: the key that was shown opens nothing.
    Lost,
    /// It was made before; none was shown.
    Before,
}

/// Makes the first key if there was none. `show` is given it before it is in force.
pub(crate) async fn first_key(
    api: &Api,
    show: impl FnOnce(&ApiKey) -> io::Result<()>,
) -> Result<Bootstrap, Error> {
    if api.store.get(keys::FIRST_KEY).await?.0.is_some() {
        return Ok(Bootstrap::Before);
    }
    let made = random::api_key();
    let name = KeyName {
        key: made.id().clone(),
    };
    let key: Key = model::key::first(&name, api.clock.now());
    let stored = stored::new_key(&api.vault, key, &made);
    show(&made)?;
    let txn = Txn::new()
        .absent(keys::FIRST_KEY)
        .put(keys::FIRST_KEY, name.to_string())
        .put(keys::key(&name.key), stored.encode_to_vec());
    match api.store.commit(txn).await? {
        Outcome::Committed(_) => Ok(Bootstrap::Made),
        Outcome::Conflict => Ok(Bootstrap::Lost),
    }
}
