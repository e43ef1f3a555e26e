//! How the store stands, and the operator's word that it is to be believed.
//!
//! **Invariant:** accepting a store takes nothing from it. It adds what callers and agents need to go on: which cluster it
//! is, keys if it has none, and who owns which slot.

use hookfleet_gateway::status::ApiError;
use hookfleet_proto::{
    fleet::{SlotTable, StoredAcceptance, StoredCluster},
    v1::{AcceptStoreRequest, StoreStatus, store_status::State},
};
use prost::Message as _;

use super::{Api, change, status};
use crate::{
    cache::{Standing, era},
    keys, random,
    store::{Error, Outcome, Store, Txn},
};

const NAME: &str = "storeStatus";
/// Keys of callers in one transaction; stores take 128 compares.
const CHUNK: usize = 100;

/// How the store stands.
pub(super) fn get(api: &Api) -> StoreStatus {
    let (state, reason) = match api.cache.standing() {
        Standing::Unknown => (State::Reading, String::new()),
        Standing::Followed => (State::Followed, String::new()),
        Standing::Away { reason } => (State::Away, reason),
        Standing::Guarded { reason } => (State::Guarded, reason),
    };
    let mut status = api.cache.read(|contents| StoreStatus {
        reason,
        era: contents.era().to_string(),
        revision: contents.revision(),
        subscription_count: i64::try_from(contents.n_subscriptions()).unwrap_or(i64::MAX),
        mend_count: i64::try_from(contents.mends()).unwrap_or(i64::MAX),
        ..StoreStatus::default()
    });
    status.set_state(state);
    status
}

/// Makes every control plane believe the store.
pub(super) async fn accept(
    api: &Api,
    request: &AcceptStoreRequest,
) -> Result<StoreStatus, ApiError> {
    let held = get(api);
    if held.state() != State::Guarded {
        let message = "the store is not in doubt";
        return Err(ApiError::precondition("STORE_NOT_GUARDED", message));
    }
    if request.era != held.era {
        return Err(ApiError::etag_mismatch(NAME));
    }
    let store = &*api.unguarded;
    era::find(store).await.map_err(of_store)?;
    keep_keys(api, store).await?;
    let txn = acceptance(api, store, held.era).await?;
    match store.commit(txn).await.map_err(of_store)? {
        Outcome::Committed(_) => Ok(get(api)),
        Outcome::Conflict => Err(status::contended(NAME)),
    }
}

/// The transaction that begins the next era.
async fn acceptance(api: &Api, store: &dyn Store, supersedes: String) -> Result<Txn, ApiError> {
    let acceptance = StoredAcceptance {
        id: random::uuid().to_string(),
        supersedes,
    };
    let (before, _) = store.get(keys::ACCEPTANCE).await.map_err(of_store)?;
    let txn = match before {
        None => Txn::new().absent(keys::ACCEPTANCE),
        Some(before) => Txn::new().unchanged(keys::ACCEPTANCE, before.mod_revision),
    };
    let txn = txn.put(keys::ACCEPTANCE, acceptance.encode_to_vec());
    let txn = match change::read::<StoredCluster>(store, keys::CLUSTER).await? {
        None => txn
            .absent(keys::CLUSTER)
            .put(keys::CLUSTER, api.cluster.encode_to_vec()),
        Some(found) if found.value.cluster_id == api.cluster.cluster_id => txn,
        Some(found) => {
            // Its agents would not talk to us, and ours not to it.
            let message = "the store is another cluster's; a control plane of that one can use it";
            let error = ApiError::precondition("FOREIGN_CLUSTER", message);
            return Err(error.with("cluster_id", found.value.cluster_id));
        }
    };
    let table = api
        .cache
        .read(|contents| SlotTable::clone(contents.slot_table()));
    let next = SlotTable {
        version: table.version + 1,
        ..table
    };
    Ok(match change::read::<SlotTable>(store, keys::SLOTS).await? {
        Some(found) if found.value.version >= next.version => txn,
        Some(found) => txn
            .unchanged(keys::SLOTS, found.revision)
            .put(keys::SLOTS, next.encode_to_vec()),
        None if next.slot_owners.is_empty() => txn,
        None => txn
            .absent(keys::SLOTS)
            .put(keys::SLOTS, next.encode_to_vec()),
    })
}

/// Puts the keys of callers into a store that has none: else nobody could call any more.
async fn keep_keys(api: &Api, store: &dyn Store) -> Result<(), ApiError> {
    let page = store.range(keys::KEYS, None, 1, None).await;
    if !page.map_err(of_store)?.entries.is_empty() {
        return Ok(());
    }
    let known: Vec<_> = api.cache.read(|contents| {
        let known = contents.with_prefix(keys::KEYS);
        known
            .map(|(key, item)| (key.to_string(), item.value.clone()))
            .collect()
    });
    for chunk in known.chunks(CHUNK) {
        let put = |txn: Txn, (key, value): &(String, bytes::Bytes)| {
            txn.absent(key.clone()).put(key.clone(), value.clone())
        };
        let txn = chunk.iter().fold(Txn::new(), put);
        match store.commit(txn).await.map_err(of_store)? {
            Outcome::Committed(_) => {}
            Outcome::Conflict => return Err(status::contended(NAME)),
        }
    }
    Ok(())
}

fn of_store(error: Error) -> ApiError {
    if matches!(error, Error::Foreign { .. }) {
        let message = "another etcd cluster answers; restart the control planes to accept it";
        return ApiError::precondition("FOREIGN_STORE", message);
    }
    status::of_store(error)
}
