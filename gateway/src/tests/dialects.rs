//! The same API by HTTP/JSON and by gRPC.

use hookfleet_proto::{
    DESCRIPTORS,
    v1::{GetTenantRequest, tenant_service_client::TenantServiceClient},
};
use prost_reflect::DescriptorPool;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt as _;

use super::World;
use crate::transcode::Transcoder;

#[tokio::test]
async fn every_kind_of_method_is_called_as_json() {
    let world = World::start().await;
    let created = world
        .call(
            "POST",
            "/v1/tenants?tenantId=acme",
            r#"{"displayName": "A"}"#,
        )
        .await;
    assert_eq!(created.status, 200, "{created:?}");
    assert_eq!(created.body["name"], "tenants/acme");
    assert_eq!(created.body["state"], "ACTIVE");
    assert_eq!(
        created.body["annotations"],
        serde_json::json!({}),
        "defaults are there"
    );
    assert_eq!(created.headers["content-type"], "application/json");
    let snake = world
        .call(
            "POST",
            "/v1/tenants?tenant_id=globex",
            r#"{"display_name": "G"}"#,
        )
        .await;
    assert_eq!(snake.body["displayName"], "G");

    let got = world.call("GET", "/v1/tenants/acme", "").await;
    assert_eq!(got.body["displayName"], "A");
    for size in ["pageSize", "page_size"] {
        let listed = world
            .call(
                "GET",
                &format!("/v1/tenants?{size}=1&filter=state%20%3D%20ACTIVE"),
                "",
            )
            .await;
        assert_eq!(listed.body["tenants"].as_array().unwrap().len(), 1);
        assert_eq!(listed.body["nextPageToken"], "state = ACTIVE");
    }
    let updated = world
        .call(
            "PATCH",
            "/v1/tenants/acme?updateMask=displayName",
            r#"{"displayName": "B"}"#,
        )
        .await;
    assert_eq!(updated.body["displayName"], "B", "{updated:?}");
    for body in ["{}", ""] {
        let suspended = world.call("POST", "/v1/tenants/acme:suspend", body).await;
        assert_eq!(suspended.body["state"], "SUSPENDED", "{suspended:?}");
    }
    let deleted = world
        .call("DELETE", "/v1/tenants/acme?force=true", "")
        .await;
    assert_eq!(
        (deleted.status.as_u16(), deleted.body),
        (200, serde_json::json!({}))
    );
}

#[tokio::test]
async fn errors_are_the_same_in_both_dialects() {
    let world = World::start().await;
    let missing = world.call("GET", "/v1/tenants/acme", "").await;
    assert_eq!(missing.refusal(), (404, "RESOURCE_NOT_FOUND"));
    assert_eq!(missing.body["error"]["status"], "NOT_FOUND");
    let mut client = TenantServiceClient::new(world.channel().await);
    let name = "tenants/acme".to_owned();
    let status = client
        .get_tenant(GetTenantRequest { name })
        .await
        .unwrap_err();
    assert_eq!(missing.body["error"]["message"], status.message());
    assert_eq!(
        status.get_error_details().error_info().unwrap().reason,
        "RESOURCE_NOT_FOUND"
    );

    let full = world.call("POST", "/v1/tenants?tenantId=full", "{}").await;
    assert_eq!(full.refusal(), (429, "OVERLOADED"));
    assert_eq!(full.headers["retry-after"], "2");
    world.call("POST", "/v1/tenants?tenantId=acme", "{}").await;
    let stale = world
        .call("PATCH", "/v1/tenants/acme", r#"{"etag": "old"}"#)
        .await;
    assert_eq!(stale.refusal(), (409, "ETAG_MISMATCH"));
    let held = world.call("DELETE", "/v1/tenants/acme", "").await;
    assert_eq!(held.refusal(), (400, "NOT_EMPTY"));
}

#[tokio::test]
async fn what_is_not_of_the_api_is_refused() {
    let world = World::start().await;
    for (method, path, body) in [
        ("GET", "/v1/tenants?pagesize=1", ""),
        ("GET", "/v1/tenants?pageSize=one", ""),
        ("GET", "/v1/tenants?pageSize=-1", ""),
        ("POST", "/v1/tenants?tenantId=a&tenantId=b", "{}"),
        ("POST", "/v1/tenants?validateOnly=yes", "{}"),
        ("POST", "/v1/tenants", r#"{"colour": "blue"}"#),
        ("POST", "/v1/tenants", "{"),
        ("POST", "/v1/tenants", "[]"),
        ("PATCH", "/v1/tenants/acme", r#"{"name": "tenants/other"}"#),
        (
            "POST",
            "/v1/tenants/acme:suspend",
            r#"{"name": "tenants/other"}"#,
        ),
        ("POST", "/v1/tenants/acme:suspend?etag=x", "{}"),
        ("GET", "/v1/tenants/acme", "{}"),
    ] {
        let answer = world.call(method, path, body).await;
        assert_eq!(
            answer.refusal(),
            (400, "INVALID_REQUEST"),
            "{method} {path} {body}"
        );
    }
    let unknown = world.call("GET", "/v2/things", "").await;
    assert_eq!(unknown.refusal(), (404, "RESOURCE_NOT_FOUND"));
    let wrong = world.call("PUT", "/v1/tenants/acme", "{}").await;
    assert_eq!(wrong.status, 405);
    assert_eq!(wrong.headers["allow"], "GET, PATCH, DELETE");
}

#[test]
fn every_rule_of_the_api_is_usable() {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let services: Vec<String> = pool
        .services()
        .map(|it| it.full_name().to_owned())
        .collect();
    let names: Vec<&str> = services.iter().map(String::as_str).collect();
    let routes = tonic::service::Routes::default();
    let transcoder = Transcoder::new(routes, &names).unwrap();
    let methods = pool
        .services()
        .filter(|it| it.full_name().starts_with("hookfleet.v1."));
    let n_unary = methods
        .flat_map(|it| it.methods().collect::<Vec<_>>())
        .filter(|it| !it.is_client_streaming())
        .count();
    assert_eq!(
        transcoder.n_rules(),
        n_unary,
        "every unary method of the public API has one"
    );
}

#[tokio::test]
async fn reflection_and_health_tell_what_is_served_and_whether() {
    let world = World::start().await;
    let mut client = ServerReflectionClient::new(world.channel().await);
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("not a list: {answer:?}");
    };
    let names: Vec<String> = list.service.into_iter().map(|it| it.name).collect();
    for name in ["hookfleet.v1.TenantService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|it| it == name), "{names:?}");
    }

    let channel = world.channel().await;
    let status = |service: &str| {
        let mut client = HealthClient::new(channel.clone());
        let service = service.to_owned();
        async move {
            client
                .check(HealthCheckRequest { service })
                .await
                .unwrap()
                .into_inner()
                .status
        }
    };
    assert_eq!(world.call("GET", "/livez", "").await.status, 200);
    let unready = world.call("GET", "/readyz", "").await;
    assert_eq!(
        (unready.status.as_u16(), unready.body),
        (503, "not ready: store\n".into())
    );
    world.readiness.set("store", true);
    assert_eq!(world.call("GET", "/readyz", "").await.status, 200);
    for service in ["", "hookfleet.v1.TenantService"] {
        while status(service).await != 1 {
            tokio::task::yield_now().await;
        }
    }
    world.readiness.set("store", false);
    while status("").await != 2 {
        tokio::task::yield_now().await;
    }
}
