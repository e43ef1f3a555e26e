//! Compares the cache with the store, a prefix at a time: watches have lost changes (etcd 3.4's known defects,
//! reference/control-plane.md §3.6), and a restored store can look as if nothing had happened.
//!
//! It only looks. **Invariant:** what it compares is both of the same revision, so what differs is wrong.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use hookfleet_contract::slot::Slot;
use tokio::time::sleep;

use super::{Cache, Follow, contents::Difference, list_prefix};
use crate::{
    keys,
    store::{Error, Revision, Store},
};

/// Everything that is listed, in parts that are quickly listed.
pub(super) fn prefixes(slot_count: u16) -> impl Iterator<Item = String> {
    let few = [
        keys::TENANTS,
        keys::AGENTS,
        keys::KEYS,
        keys::SLOTS,
        keys::FLEET,
    ];
    let slots = (0..slot_count).map(|slot| keys::slot(Slot(slot)));
    few.map(str::to_owned).into_iter().chain(slots)
}

impl Cache {
    /// Compares everything once in `period`, evenly, until something is wrong.
    pub(super) async fn audit(
        &self,
        store: &dyn Store,
        slot_count: u16,
        period: Duration,
    ) -> Follow {
        loop {
            let Err(wrong) = self.round(store, slot_count, period).await;
            match wrong {
                // Whoever follows the store waits for it, and lists it again when it is too far ahead.
                Follow::Store(Error::Unavailable { .. } | Error::Compacted { .. }) => {
                    sleep(period / u32::from(slot_count.max(1))).await;
                }
                Follow::Store(_)
                | Follow::Diverged(_)
                | Follow::Guarded(_)
                | Follow::Accepted(_) => return wrong,
            }
        }
    }

    async fn round(
        &self,
        store: &dyn Store,
        slot_count: u16,
        period: Duration,
    ) -> Result<Infallible, Follow> {
        let n_prefixes = u32::try_from(prefixes(slot_count).count()).unwrap_or(u32::MAX);
        loop {
            for prefix in prefixes(slot_count) {
                sleep(period / n_prefixes).await;
                self.believe(store).await?;
                self.compare(store, prefix).await?;
            }
        }
    }

    async fn compare(&self, store: &dyn Store, prefix: String) -> Result<(), Follow> {
        let (revision, here) =
            self.read(|contents| (contents.revision(), contents.versions(&prefix)));
        let stored = list_prefix(store, prefix, revision).await?;
        let stored = stored
            .into_iter()
            .filter(|(key, _)| keys::parse(key).is_some())
            .map(|(key, item)| (Arc::from(key), item.mod_revision))
            .collect();
        let differences = differences(&here, &stored);
        if differences.is_empty() {
            Ok(())
        } else {
            Err(Follow::Diverged(differences))
        }
    }
}

fn differences(
    here: &BTreeMap<Arc<str>, Revision>,
    stored: &BTreeMap<Arc<str>, Revision>,
) -> Vec<Difference> {
    let missing = stored.keys().filter(|key| !here.contains_key(*key));
    let keys = here.keys().chain(missing);
    keys.map(|key| Difference {
        key: Arc::clone(key),
        here: here.get(key).copied(),
        stored: stored.get(key).copied(),
    })
    .filter(|it| it.here != it.stored)
    .collect()
}
