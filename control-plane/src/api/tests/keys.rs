//! Keys of callers: made, shown once, rotated, revoked; and the first of all.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use hookfleet_contract::time::Timestamp;
use hookfleet_gateway::auth::{
    key::ApiKey,
    keyring::Refusal,
    principal::{Principal, Reach},
    scope::Scope,
};
use hookfleet_proto::v1::{
    CreateKeyRequest, DeleteKeyRequest, DeleteTenantRequest, GetKeyRequest, Key, ListKeysRequest,
    RotateKeyRequest, key_service_server::KeyService as _,
    tenant_service_server::TenantService as _,
};
use tonic::{Code, Request, Response, Status};

use super::{NOW, Plane, eventually, ok, refused, violations};
use crate::bootstrap::Bootstrap;

fn by<T>(caller: &Principal, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(caller.clone());
    request
}

fn operator(scope: Scope) -> Principal {
    Principal::new("operator", Reach::Fleet, [scope].into_iter().collect())
}

fn asked(tenant: &str, scopes: &[&str]) -> CreateKeyRequest {
    CreateKeyRequest {
        key: Some(Key {
            tenant: tenant.to_owned(),
            scopes: scopes.iter().map(|it| (*it).to_owned()).collect(),
            ..Key::default()
        }),
    }
}

impl Plane {
    async fn create_key(
        &self,
        caller: &Principal,
        request: CreateKeyRequest,
    ) -> Result<Key, Status> {
        let created = self.keys.create_key(by(caller, request)).await;
        created.map(Response::into_inner)
    }

    async fn rotate_key(
        &self,
        caller: &Principal,
        name: &str,
        seconds: i64,
    ) -> Result<Key, Status> {
        let overlap = Some(prost_types::Duration { seconds, nanos: 0 });
        let request = RotateKeyRequest {
            name: name.to_owned(),
            overlap,
            ..RotateKeyRequest::default()
        };
        let rotated = self.keys.rotate_key(by(caller, request)).await;
        rotated.map(Response::into_inner)
    }

    async fn delete_key(&self, caller: &Principal, name: &str) -> Result<(), Status> {
        let request = DeleteKeyRequest {
            name: name.to_owned(),
            ..DeleteKeyRequest::default()
        };
        let deleted = self.keys.delete_key(by(caller, request)).await;
        deleted.map(Response::into_inner)
    }

    fn opens(&self, key: &str, now: Timestamp) -> Result<Principal, Refusal> {
        let key: ApiKey = key.parse().map_err(|_| Refusal::Unknown)?;
        self.keyring.open(&key, now)
    }

    async fn until_opens(&self, key: &str, expected: Result<(), Refusal>) {
        eventually("the key opens, or not", || async {
            (self.opens(key, NOW).map(drop) == expected).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_key_is_shown_once_and_opens_what_it_was_made_for() {
    let plane = Plane::start().await;
    plane.tenant("acme").await;
    let admin = operator(Scope::TenantsAdmin);
    let request = asked("tenants/acme", &["events.publish", "subscriptions.read"]);
    let key = plane.create_key(&admin, request).await.unwrap();
    plane.until_opens(&key.secret, Ok(())).await;
    let principal = plane.opens(&key.secret, NOW).unwrap();
    assert_eq!(principal.subject(), key.name);
    assert_eq!(principal.reach(), &Reach::Tenant("acme".parse().unwrap()));
    assert_eq!(
        principal.scopes().to_string(),
        "events.publish, subscriptions.read"
    );
    let year = Timestamp::from(key.expire_time.unwrap());
    assert_eq!(plane.opens(&key.secret, year), Err(Refusal::Expired));

    let name = key.name.clone();
    let shown = ok(plane.keys.get_key(by(&admin, GetKeyRequest { name })).await);
    assert_eq!((shown.secret.as_str(), &shown.etag), ("", &key.etag));
    let list = |filter: &str| ListKeysRequest {
        filter: filter.to_owned(),
        ..ListKeysRequest::default()
    };
    let listed = ok(plane
        .keys
        .list_keys(by(&admin, list("tenant = \"tenants/acme\"")))
        .await);
    assert_eq!(listed.keys, [shown]);
    let others = ok(plane
        .keys
        .list_keys(by(&admin, list("tenant = \"tenants/b\"")))
        .await);
    assert_eq!(others.keys, []);

    // Neither the key nor what is kept of it lies in the store in clear.
    let made: ApiKey = key.secret.parse().unwrap();
    let secret = key.secret.split('_').nth(3).unwrap();
    for (_, value) in plane.dump().await {
        let has = |bytes: &[u8]| value.windows(bytes.len()).any(|it| it == bytes);
        assert!(!has(secret.as_bytes()) && !has(made.digest().as_bytes()));
    }
    plane.stop().await;
}

#[tokio::test]
async fn a_rotated_key_opens_with_both_secrets_for_the_overlap_and_a_revoked_one_with_none() {
    let plane = Plane::start().await;
    plane.tenant("acme").await;
    let admin = operator(Scope::TenantsAdmin);
    let request = asked("tenants/acme", &["events.publish"]);
    let key = plane.create_key(&admin, request).await.unwrap();
    let rotated = plane.rotate_key(&admin, &key.name, 60).await.unwrap();
    assert_ne!(rotated.secret, key.secret);
    plane.until_opens(&rotated.secret, Ok(())).await;
    assert!(plane.opens(&key.secret, NOW).is_ok());
    let minute = NOW + Duration::from_secs(60);
    assert_eq!(plane.opens(&key.secret, minute), Err(Refusal::Expired));
    assert!(plane.opens(&rotated.secret, minute).is_ok());

    let last = plane.rotate_key(&admin, &key.name, 0).await.unwrap();
    plane
        .until_opens(&rotated.secret, Err(Refusal::Unknown))
        .await;
    plane.delete_key(&admin, &key.name).await.unwrap();
    plane.until_opens(&last.secret, Err(Refusal::Unknown)).await;
    let again = plane.delete_key(&admin, &key.name).await;
    assert_eq!(refused(again).0, Code::NotFound);
    plane.stop().await;
}

#[tokio::test]
async fn only_who_may_do_everything_has_keys_that_go_beyond_one_tenant() {
    let plane = Plane::start().await;
    let (tenants, all) = (operator(Scope::TenantsAdmin), operator(Scope::SystemAdmin));
    let request = || asked("", &["system.admin"]);
    let denied = Code::PermissionDenied;
    assert_eq!(
        refused(plane.create_key(&tenants, request()).await).0,
        denied
    );
    let key = plane.create_key(&all, request()).await.unwrap();
    assert_eq!(
        refused(plane.rotate_key(&tenants, &key.name, 0).await).0,
        denied
    );
    assert_eq!(
        refused(plane.delete_key(&tenants, &key.name).await).0,
        denied
    );
    let unknown = plane.keys.create_key(Request::new(request())).await;
    assert_eq!(refused(unknown).0, denied);
    plane.stop().await;
}

#[tokio::test]
async fn a_key_is_of_a_tenant_that_exists_and_goes_with_it() {
    let plane = Plane::start().await;
    let admin = operator(Scope::TenantsAdmin);
    let request = || asked("tenants/acme", &["events.publish"]);
    let missing = plane.create_key(&admin, request()).await;
    assert_eq!(refused(missing).0, Code::NotFound);
    let wrong = plane
        .create_key(&admin, asked("tenants/acme", &["system.admin"]))
        .await;
    assert_eq!(violations(wrong), ["key.scopes[0]"]);
    plane.tenant("acme").await;
    plane.tenant("other").await;
    let key = plane.create_key(&admin, request()).await.unwrap();
    let kept = asked("tenants/other", &["events.publish"]);
    let kept = plane.create_key(&admin, kept).await.unwrap();
    plane.until_opens(&key.secret, Ok(())).await;
    let request = DeleteTenantRequest {
        name: "tenants/acme".to_owned(),
        ..DeleteTenantRequest::default()
    };
    ok(plane.tenants.delete_tenant(Request::new(request)).await);
    plane.until_opens(&key.secret, Err(Refusal::Unknown)).await;
    assert!(plane.opens(&kept.secret, NOW).is_ok());
    plane.stop().await;
}

#[tokio::test]
async fn of_fifty_that_make_the_first_keys_one_does() {
    let plane = Plane::start().await;
    let shown = Arc::new(Mutex::new(Vec::new()));
    let racing = (0..50).map(|_| {
        let (api, shown) = (Arc::clone(&plane.api), Arc::clone(&shown));
        tokio::spawn(async move {
            let mut made = None;
            let became = crate::bootstrap::first_keys(&api, |keys| {
                let texts = [&keys.operator, &keys.fleet].map(|it| it.reveal().to_string());
                made = Some(texts);
                Ok(())
            });
            let became = became.await.unwrap();
            shown.lock().unwrap().push((became, made));
        })
    });
    for racer in racing.collect::<Vec<_>>() {
        racer.await.unwrap();
    }
    let shown = shown.lock().unwrap().clone();
    let winners: Vec<_> = shown
        .iter()
        .filter(|(became, _)| *became == Bootstrap::Made)
        .collect();
    assert_eq!(winners.len(), 1);
    let (_, keys) = winners[0];
    for key in keys.as_ref().unwrap() {
        plane.until_opens(key, Ok(())).await;
    }
    let losers = shown
        .iter()
        .filter(|(became, _)| *became != Bootstrap::Made);
    for key in losers.filter_map(|(_, keys)| keys.as_ref()).flatten() {
        assert_eq!(plane.opens(key, NOW), Err(Refusal::Unknown));
    }
    plane.stop().await;
}
