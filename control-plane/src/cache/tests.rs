//! Caches on stores that lie: watches that lose changes, and data that is gone.

use hookfleet_contract::digest::Part;
use hookfleet_proto::{
    fleet::{ResourceType, StoredAcceptance},
    v1::{AcceptStoreRequest, GetStoreStatusRequest, fleet_service_server::FleetService as _},
};
use prost::Message as _;
use tempfile::TempDir;
use tonic::Request;

use super::*;
use crate::{
    api::{
        fleet::Agents,
        tests::{Plane, eventually, ok, orders, refused},
    },
    store::{Batch, Change, Embedded, Txn, embedded::Retention, lossy::Lossy},
};

/// So many subscriptions that losing all of them at once is not believed.
const MANY: usize = 130;

async fn lossy() -> (TempDir, Arc<Lossy>) {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Retention::default()).await;
    (dir, Arc::new(Lossy::new(Arc::new(store.unwrap()))))
}

async fn audited(store: Arc<dyn Store>) -> Plane {
    Plane::start_on(store, |config| {
        config.slot_count = 16;
        config.audit_period = Duration::from_millis(200);
    })
    .await
}

fn has(plane: &Plane, key: &str) -> bool {
    plane.api.cache.read(|contents| contents.get(key).is_some())
}

/// The cache loses a key that the store has.
fn forget(plane: &Plane, key: &str) {
    let mut contents = plane.api.cache.write();
    let (key, revision) = (key.to_owned(), contents.revision());
    let mod_revision = revision;
    let changes = vec![Change::Delete { key, mod_revision }];
    contents.apply(Batch { changes, revision });
}

/// Waits until the cache is right again about a key, and has been wrong once.
async fn mended(plane: &Plane, key: &str, exists: bool) {
    eventually("the cache is mended", || async {
        let mends = plane.api.cache.read(Contents::mends);
        (has(plane, key) == exists && mends == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_the_watch_did_not_tell_is_found_by_comparison() {
    let (_dir, store) = lossy().await;
    let plane = audited(store.clone()).await;
    store.lose("tenant/a");
    plane.tenant("a").await;
    mended(&plane, "tenant/a", true).await;
    assert!(store.has_lost());
}

#[tokio::test]
async fn a_deletion_that_the_watch_did_not_tell_is_found_by_comparison() {
    let (_dir, store) = lossy().await;
    let plane = audited(store.clone()).await;
    plane.tenant("a").await;
    eventually("known", || async { has(&plane, "tenant/a").then_some(()) }).await;
    store.lose("tenant/a");
    store.commit(Txn::new().delete("tenant/a")).await.unwrap();
    mended(&plane, "tenant/a", false).await;
    assert!(store.has_lost());
}

#[tokio::test]
async fn what_the_cache_has_lost_comes_back() {
    let (_dir, store) = lossy().await;
    let plane = audited(store).await;
    plane.tenant("a").await;
    eventually("known", || async { has(&plane, "tenant/a").then_some(()) }).await;
    let tenants = Part {
        kind: ResourceType::Tenant,
        slot: 0,
    };
    let digest = plane.api.cache.read(|contents| contents.digest(tenants));
    forget(&plane, "tenant/a");
    mended(&plane, "tenant/a", true).await;
    let mended = plane.api.cache.read(|contents| contents.digest(tenants));
    assert_eq!(mended, digest);
}

#[tokio::test]
async fn a_store_that_is_emptied_is_not_believed_until_an_operator_accepts_it() {
    let plane = Plane::start_with(|config| config.slot_count = 16).await;
    plane.tenant("a").await;
    for number in 0..MANY {
        plane.subscribe("a", &format!("s{number}"), orders()).await;
    }
    let fleet = Agents(Arc::clone(&plane.api));
    let status = async || {
        let status = fleet.get_store_status(Request::new(GetStoreStatusRequest {}));
        ok(status.await)
    };
    let before = status().await;
    let accept = async |era: &str| {
        let era = era.to_owned();
        let request = Request::new(AcceptStoreRequest { era });
        fleet.accept_store(request).await
    };
    assert_eq!(refused(accept(&before.era).await).1, "STORE_NOT_GUARDED");

    let page = plane.store.range("subscription/", None, 1000, None).await;
    let mut txn = Txn::new();
    for entry in page.unwrap().entries.into_iter().skip(10) {
        txn = txn.delete(entry.key);
    }
    plane.store.commit(txn).await.unwrap();
    eventually("guarded", || async {
        (status().await.state().as_str_name() == "GUARDED").then_some(())
    })
    .await;
    let guarded = status().await;
    assert_eq!(guarded.subscription_count, i64::try_from(MANY).unwrap());
    assert_eq!(plane.readiness.unmet(), [crate::config::CONDITION]);
    // Nothing is read from it, and nothing is changed in it.
    let found = plane.get("tenants/a/subscriptions/s0").await;
    assert_eq!(refused(found).1, "STORE_UNAVAILABLE");

    assert_eq!(refused(accept("another").await).1, "ETAG_MISMATCH");
    ok(accept(&guarded.era).await);
    eventually("accepted", || async {
        let now = status().await;
        let is_over = now.state().as_str_name() == "FOLLOWED" && now.era != before.era;
        is_over.then_some(())
    })
    .await;
    assert_eq!(status().await.subscription_count, 10);
    assert!(plane.readiness.unmet().is_empty());
}

#[tokio::test]
async fn a_store_that_an_agent_knows_to_have_been_further_is_not_believed() {
    let (_dir, store) = lossy().await;
    let plane = audited(store).await;
    plane.api.cache.witness(1_000_000);
    eventually("guarded", || async {
        plane.api.cache.is_guarded().then_some(())
    })
    .await;
    // What agents knew of it was before.
    let era = plane.api.cache.read(|contents| contents.era().to_string());
    let accepting = Request::new(AcceptStoreRequest { era });
    ok(Agents(Arc::clone(&plane.api)).accept_store(accepting).await);
    eventually("followed", || async {
        (standing(&plane) == "Followed").then_some(())
    })
    .await;
}

fn standing(plane: &Plane) -> String {
    format!("{:?}", plane.api.cache.standing())
}

#[tokio::test]
async fn a_store_that_is_another_one_is_not_believed_however_alike() {
    let (_dir, store) = lossy().await;
    let plane = audited(store.clone()).await;
    store.become_another();
    eventually("guarded", || async {
        standing(&plane)
            .contains("it is another store")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_acceptance_counts_only_for_those_who_know_what_it_was_instead_of() {
    let (_dir, store) = lossy().await;
    let plane = audited(store.clone()).await;
    let era = || plane.api.cache.read(|contents| contents.era().to_string());
    let accept = async |id: &str, supersedes: String| {
        let id = id.to_owned();
        let acceptance = StoredAcceptance { id, supersedes }.encode_to_vec();
        let txn = Txn::new().put(keys::ACCEPTANCE, acceptance);
        store.commit(txn).await.unwrap();
    };
    let before = era();
    accept("one", "somebody else's".to_owned()).await;
    eventually("guarded", || async {
        plane.api.cache.is_guarded().then_some(())
    })
    .await;
    assert_eq!(era(), before);
    accept("two", before).await;
    eventually("followed in its era", || async {
        (standing(&plane) == "Followed" && era().ends_with("-two")).then_some(())
    })
    .await;
}
