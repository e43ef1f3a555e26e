//! `TenantService`.

use hookfleet_proto::v1::{
    DeleteTenantRequest, GetTenantRequest, ListTenantsRequest, ResumeTenantRequest,
    SuspendTenantRequest, UpdateTenantRequest, tenant::State,
};
use prost_types::FieldMask;

use super::*;
use crate::keys;

async fn get(plane: &Plane, name: &str) -> Result<Tenant, Status> {
    let request = GetTenantRequest {
        name: name.to_owned(),
    };
    plane
        .tenants
        .get_tenant(Request::new(request))
        .await
        .map(Response::into_inner)
}

async fn delete(plane: &Plane, id: &str, etag: &str, force: bool) -> Result<(), Status> {
    let request = DeleteTenantRequest {
        name: format!("tenants/{id}"),
        etag: etag.to_owned(),
        force,
        validate_only: false,
    };
    plane
        .tenants
        .delete_tenant(Request::new(request))
        .await
        .map(Response::into_inner)
}

#[tokio::test]
async fn a_tenant_is_read_as_it_was_created() {
    let plane = Plane::start().await;
    let request = CreateTenantRequest {
        tenant: Some(Tenant {
            name: "tenants/ignored".to_owned(),
            display_name: "Acme".to_owned(),
            state: State::Suspended.into(),
            ..Tenant::default()
        }),
        tenant_id: "acme".to_owned(),
        ..CreateTenantRequest::default()
    };
    let created = ok(plane
        .tenants
        .create_tenant(Request::new(request.clone()))
        .await);
    assert_eq!(
        (created.name.as_str(), created.display_name.as_str()),
        ("tenants/acme", "Acme")
    );
    assert_eq!(
        (created.state(), created.create_time),
        (State::Active, Some(NOW.into()))
    );
    assert_eq!(created.uid.len(), 36);
    assert!(created.etag.starts_with('"') && created.etag.ends_with('"'));
    assert_eq!(get(&plane, "tenants/acme").await.unwrap(), created);
    let again = plane.tenants.create_tenant(Request::new(request)).await;
    assert_eq!(
        refused(again),
        (Code::AlreadyExists, "RESOURCE_EXISTS".to_owned())
    );
    assert_eq!(
        refused(get(&plane, "tenants/b").await),
        (Code::NotFound, "RESOURCE_NOT_FOUND".to_owned())
    );
    assert_eq!(violations(get(&plane, "acme").await), ["name"]);
}

#[tokio::test]
async fn an_id_is_made_when_none_is_chosen_and_checked_when_one_is() {
    let plane = Plane::start().await;
    let tenant = plane.tenant("").await;
    assert!(tenant.name.starts_with("tenants/t-"), "{}", tenant.name);
    for refused in ["Acme", "hookfleet-parked"] {
        let request = CreateTenantRequest {
            tenant: Some(Tenant::default()),
            tenant_id: refused.to_owned(),
            ..CreateTenantRequest::default()
        };
        assert_eq!(
            violations(plane.tenants.create_tenant(Request::new(request)).await),
            ["tenant_id"]
        );
    }
    let request = CreateTenantRequest::default();
    assert_eq!(
        violations(plane.tenants.create_tenant(Request::new(request)).await),
        ["tenant"]
    );
}

#[tokio::test]
async fn pages_show_one_revision_and_their_tokens_are_for_one_list() {
    let plane = Plane::start().await;
    for id in ["a", "b", "c"] {
        plane.tenant(id).await;
    }
    let mut request = ListTenantsRequest {
        page_size: 2,
        ..ListTenantsRequest::default()
    };
    let first = ok(plane
        .tenants
        .list_tenants(Request::new(request.clone()))
        .await);
    plane.tenant("bb").await;
    delete(&plane, "c", "", false).await.unwrap();
    request.page_token.clone_from(&first.next_page_token);
    let second = ok(plane
        .tenants
        .list_tenants(Request::new(request.clone()))
        .await);
    let names = |tenants: &[Tenant]| tenants.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&first.tenants), ["tenants/a", "tenants/b"]);
    assert_eq!(names(&second.tenants), ["tenants/c"]);
    assert_eq!(second.next_page_token, "");

    request.filter = "state = ACTIVE".to_owned();
    assert_eq!(
        violations(plane.tenants.list_tenants(Request::new(request)).await),
        ["page_token"]
    );
    let request = ListTenantsRequest {
        page_size: -1,
        ..ListTenantsRequest::default()
    };
    assert_eq!(
        violations(plane.tenants.list_tenants(Request::new(request)).await),
        ["page_size"]
    );
}

#[tokio::test]
async fn a_token_of_a_state_that_is_gone_has_expired() {
    let plane = Plane::start().await;
    let cursor = [&i64::MAX.to_be_bytes()[..], b"tenant/a"].concat();
    let page_token = plane.api.pages.seal("tenants", &[""], &cursor, [0; 24]);
    let request = ListTenantsRequest {
        page_token,
        ..ListTenantsRequest::default()
    };
    let answer = plane.tenants.list_tenants(Request::new(request)).await;
    assert_eq!(
        refused(answer),
        (Code::InvalidArgument, "PAGE_TOKEN_EXPIRED".to_owned())
    );
}

#[tokio::test]
async fn suspending_and_resuming_change_the_state_once() {
    let plane = Plane::start().await;
    let created = plane.tenant("a").await;
    let suspend = || async {
        let request = SuspendTenantRequest {
            name: "tenants/a".to_owned(),
            etag: String::new(),
        };
        ok(plane.tenants.suspend_tenant(Request::new(request)).await)
    };
    let suspended = suspend().await;
    assert_eq!(suspended.state(), State::Suspended);
    assert_ne!(suspended.etag, created.etag);
    assert_eq!(suspend().await, suspended);
    let request = ListTenantsRequest {
        filter: "state = SUSPENDED".to_owned(),
        ..ListTenantsRequest::default()
    };
    assert_eq!(
        ok(plane.tenants.list_tenants(Request::new(request)).await).tenants,
        [suspended]
    );
    let request = ResumeTenantRequest {
        name: "tenants/a".to_owned(),
        etag: created.etag,
    };
    let answer = plane.tenants.resume_tenant(Request::new(request)).await;
    assert_eq!(refused(answer), (Code::Aborted, "ETAG_MISMATCH".to_owned()));
    let request = ResumeTenantRequest {
        name: "tenants/a".to_owned(),
        etag: String::new(),
    };
    assert_eq!(
        ok(plane.tenants.resume_tenant(Request::new(request)).await).state(),
        State::Active
    );
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names_under_its_etag() {
    let plane = Plane::start().await;
    let created = plane.tenant("a").await;
    let update = |etag: &str, validate_only| UpdateTenantRequest {
        tenant: Some(Tenant {
            name: "tenants/a".to_owned(),
            display_name: "new".to_owned(),
            etag: etag.to_owned(),
            ..Tenant::default()
        }),
        update_mask: Some(FieldMask {
            paths: vec!["display_name".to_owned()],
        }),
        validate_only,
    };
    plane.clock.set(NOW + Duration::from_secs(5));
    let checked = ok(plane
        .tenants
        .update_tenant(Request::new(update(&created.etag, true)))
        .await);
    assert_eq!(checked.display_name, "new");
    assert_eq!(get(&plane, "tenants/a").await.unwrap(), created);
    let updated = ok(plane
        .tenants
        .update_tenant(Request::new(update(&created.etag, false)))
        .await);
    assert_eq!(
        updated.update_time,
        Some((NOW + Duration::from_secs(5)).into())
    );
    assert_eq!(get(&plane, "tenants/a").await.unwrap(), updated);
    let stale = plane
        .tenants
        .update_tenant(Request::new(update(&created.etag, false)))
        .await;
    assert_eq!(refused(stale), (Code::Aborted, "ETAG_MISMATCH".to_owned()));
    let mut unknown = update("", false);
    unknown.update_mask = Some(FieldMask {
        paths: vec!["x".to_owned()],
    });
    let answer = plane.tenants.update_tenant(Request::new(unknown)).await;
    assert_eq!(violations(answer), ["update_mask.paths[0]"]);
}

#[tokio::test]
async fn a_tenant_with_subscriptions_is_deleted_only_by_force_and_wholly() {
    let plane = Plane::start().await;
    let tenant = plane.tenant("a").await;
    plane.tenant("b").await;
    plane.subscribe("b", "kept", orders()).await;
    // More than one transaction holds.
    for n in 0..150 {
        plane.subscribe("a", &format!("s{n}"), orders()).await;
    }
    let refusal = delete(&plane, "a", "", false).await;
    assert_eq!(
        refused(refusal),
        (Code::FailedPrecondition, "TENANT_NOT_EMPTY".to_owned())
    );
    assert_eq!(get(&plane, "tenants/a").await.unwrap(), tenant);
    assert_eq!(
        refused(delete(&plane, "a", "\"1\"", true).await).1,
        "ETAG_MISMATCH"
    );
    delete(&plane, "a", &tenant.etag, true).await.unwrap();
    assert_eq!(refused(get(&plane, "tenants/a").await).0, Code::NotFound);
    let left = plane.dump().await.into_iter().map(|(key, _)| key);
    let left: Vec<_> = left
        .filter(|key| key.starts_with(keys::SUBSCRIPTIONS))
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        refused(delete(&plane, "a", "", false).await).0,
        Code::NotFound
    );
}

#[tokio::test]
async fn nothing_is_created_in_a_tenant_that_is_being_deleted_and_its_deletion_can_be_finished() {
    let plane = Plane::start().await;
    plane.tenant("a").await;
    plane.subscribe("a", "s", orders()).await;
    // As a deletion by force leaves it when it is interrupted.
    let subject = change_subject("a");
    let mark = |it: &hookfleet_proto::fleet::StoredTenant| {
        Ok(Some(hookfleet_proto::fleet::StoredTenant {
            deleting: true,
            ..it.clone()
        }))
    };
    super::super::change::update(&*plane.store, &subject, mark)
        .await
        .map_err(Status::from)
        .unwrap();
    let answer = plane.create(asking("a", "t", orders())).await;
    assert_eq!(
        refused(answer),
        (Code::FailedPrecondition, "TENANT_BEING_DELETED".to_owned())
    );
    delete(&plane, "a", "", true).await.unwrap();
    assert_eq!(refused(get(&plane, "tenants/a").await).0, Code::NotFound);
}

fn change_subject(tenant: &str) -> super::super::change::Subject {
    super::super::change::Subject {
        key: keys::tenant(&tenant.parse().unwrap()),
        name: format!("tenants/{tenant}"),
        etag: String::new(),
        validate_only: false,
    }
}
