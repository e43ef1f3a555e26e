//! Puts the keys of callers in force on this control plane, as its cache knows them.
//!
//! **Invariant:** what the cache no longer has opens nothing from the next round on.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc};

use hookfleet_gateway::auth::keyring::{Change, Keyring, Record};
use hookfleet_proto::fleet::StoredApiKey;
use prost::Message as _;

use crate::{
    api::Api,
    cache::{Contents, Item},
    keys::{self, Kind},
    stored,
};

/// Follows the cache for as long as it is polled.
pub(crate) async fn run(api: Arc<Api>, keyring: Keyring) -> Infallible {
    let mut progress = api.cache.progress();
    let mut known = None;
    loop {
        // The cache and its progress live as long as this does, so an error does not happen.
        drop(progress.wait_for(|it| it.ready).await);
        let (is_all, changed) = api.cache.read(|contents| {
            // Removals before the horizon are not known one by one, and in another store nothing is.
            let stand = (contents.era().clone(), contents.mends());
            let since = known.take_if(|(before, _)| *before == stand);
            let since = since.map(|(_, since)| since);
            let since = since.filter(|since| *since >= contents.horizon());
            known = Some((stand, contents.revision()));
            (since.is_none(), changed(contents, since))
        });
        let changes = changed.into_iter();
        let changes = changes.filter_map(|(key, item)| change(&api, &key, item));
        match is_all {
            true => keyring.replace(changes),
            false => keyring.apply(changes),
        }
        drop(progress.changed().await);
    }
}

/// The keys that are different since a revision; all of them if there is none.
fn changed(contents: &Contents, since: Option<i64>) -> Vec<(Arc<str>, Option<Item>)> {
    let keys: BTreeSet<Arc<str>> = match since {
        Some(since) => contents.changed_since(since),
        None => contents
            .with_prefix(keys::KEYS)
            .map(|(key, _)| Arc::clone(key))
            .collect(),
    };
    let keys = keys.into_iter().filter(|key| key.starts_with(keys::KEYS));
    keys.map(|key| {
        let item = contents.get(&key).cloned();
        (key, item)
    })
    .collect()
}

/// What the change of a key means. One that cannot be read opens nothing.
fn change(api: &Api, key: &str, item: Option<Item>) -> Option<Change> {
    let Some(Kind::Key(id)) = keys::parse(key) else {
        return None;
    };
    let record = item.map(|item| {
        let stored = StoredApiKey::decode(item.value).map_err(|error| error.to_string())?;
        let spec = stored::open_key(&api.vault, &id, stored).map_err(|error| error.to_string())?;
        Record::try_from(&spec)
    });
    Some(match record {
        Some(Ok(record)) => Change::Put(record),
        Some(Err(reason)) => {
            tracing::error!(key, reason, "cannot read a key of the store");
            Change::Gone(id)
        }
        None => Change::Gone(id),
    })
}
