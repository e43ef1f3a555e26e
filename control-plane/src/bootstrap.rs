//! The first keys of all, of which one opens everything: a store that was never asked for them makes them, once.
//!
//! **Invariant:** of all that try, at any time, one makes them; and its maker had them in hand before they were in force.

use std::io;

use hookfleet_contract::name::KeyName;
use hookfleet_gateway::auth::{key::ApiKey, scope::Scope};
use prost::Message as _;

use crate::{
    api::Api,
    keys, model, random,
    store::{self, Outcome, Txn},
    stored,
};

/// What a cluster begins with.
#[derive(Clone, Debug)]
pub struct FirstKeys {
    /// Opens everything.
    pub operator: ApiKey,
    /// What the processes of the fleet call each other with.
    pub fleet: ApiKey,
}

/// Why there are no first keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not answer, or refuses.
    #[error("cannot put the first keys into the store")]
    Store(#[from] store::Error),
    /// Nobody would have known the keys.
    #[error("cannot hand out the first keys")]
    Show(#[from] io::Error),
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// Those that were shown are in force.
    Made,
    /// Another was faster: those that were shown open nothing.
    Lost,
    /// They were made before; none were shown.
    Before,
}

/// Makes the first keys if there were none. `show` is given them before they are in force.
pub(crate) async fn first_keys(
    api: &Api,
    show: impl FnOnce(&FirstKeys) -> io::Result<()>,
) -> Result<Bootstrap, Error> {
    if api.store.get(keys::FIRST_KEY).await?.0.is_some() {
        return Ok(Bootstrap::Before);
    }
    let made = FirstKeys {
        operator: random::api_key(),
        fleet: random::api_key(),
    };
    show(&made)?;
    let stored = |key: &ApiKey, display_name, scope| {
        let name = KeyName {
            key: key.id().clone(),
        };
        let view = model::key::first(&name, display_name, scope, api.clock.now());
        let stored = stored::new_key(&api.vault, view, key);
        (keys::key(&name.key), stored.encode_to_vec())
    };
    let operator = stored(&made.operator, "first key", Scope::SystemAdmin);
    let fleet = stored(&made.fleet, "processes of the fleet", Scope::AgentsRegister);
    let txn = Txn::new()
        .absent(keys::FIRST_KEY)
        .put(keys::FIRST_KEY, operator.0.clone())
        .put(operator.0, operator.1)
        .put(fleet.0, fleet.1);
    match api.store.commit(txn).await? {
        Outcome::Committed(_) => Ok(Bootstrap::Made),
        Outcome::Conflict => Ok(Bootstrap::Lost),
    }
}
