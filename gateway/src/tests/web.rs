//! gRPC-Web as a browser speaks it: frames in the body of HTTP/1.1, the trailers as the last frame.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Buf as _, Bytes};
use hookfleet_proto::v1::{GetTenantRequest, Tenant};
use http::{HeaderMap, Method, Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use prost::Message;

use super::World;

const GET: &str = "/hookfleet.v1.TenantService/GetTenant";

#[tokio::test]
async fn a_call_is_answered_in_frames() {
    let world = World::start().await;
    world
        .call(
            "POST",
            "/v1/tenants?tenantId=acme",
            r#"{"displayName": "A"}"#,
        )
        .await;
    let request = frame(&get("tenants/acme"));
    let (headers, body) = post(&world, GET, "application/grpc-web+proto", request.clone()).await;
    assert_eq!(headers["content-type"], "application/grpc-web+proto");
    check_answer(body);

    let text = STANDARD.encode(request).into_bytes();
    let (headers, body) = post(&world, GET, "application/grpc-web-text", text).await;
    assert_eq!(headers["content-type"], "application/grpc-web-text+proto");
    check_answer(decoded(&body));
    for name in headers.keys() {
        assert!(
            !name.as_str().starts_with("access-control-"),
            "nobody asked for CORS: {name}"
        );
    }
}

#[tokio::test]
async fn errors_are_those_of_the_other_dialects() {
    let world = World::start().await;
    let unknown = "/hookfleet.v1.TenantService/Unknown";
    let nowhere = "/nowhere.Service/Unknown";
    for (path, status) in [(GET, "5"), (unknown, "12"), (nowhere, "12")] {
        let request = frame(&get("tenants/nobody"));
        let (headers, body) = post(&world, path, "application/grpc-web+proto", request).await;
        assert_eq!(
            headers["content-type"], "application/grpc-web+proto",
            "{path}"
        );
        let said = match headers.get("grpc-status") {
            Some(status) => status.to_str().unwrap().to_owned(),
            None => trailer(&frames(body), "grpc-status"),
        };
        assert_eq!(said, status, "{path}");
    }
}

#[tokio::test]
async fn other_origins_get_no_leave() {
    let world = World::start().await;
    let preflight = Request::options(format!("http://{}{GET}", world.address))
        .header("origin", "https://elsewhere.example.com")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,x-grpc-web")
        .body(Full::<Bytes>::default());
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(preflight.unwrap()).await.unwrap();
    let mut names = answer.headers().keys();
    assert!(
        !names.any(|it| it.as_str().starts_with("access-control-")),
        "{answer:?}"
    );
}

fn get(name: &str) -> GetTenantRequest {
    GetTenantRequest {
        name: name.to_owned(),
    }
}

/// A data frame: a zero, the length in four bytes, the message.
fn frame(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat()
}

/// The frames of a body, each with its flag.
fn frames(mut body: Bytes) -> Vec<(u8, Bytes)> {
    let mut frames = Vec::new();
    while !body.is_empty() {
        let flag = body.get_u8();
        let length = body.get_u32();
        frames.push((flag, body.split_to(length.try_into().unwrap())));
    }
    frames
}

fn check_answer(body: Bytes) {
    let frames = frames(body);
    assert_eq!(
        frames.iter().map(|(flag, _)| *flag).collect::<Vec<_>>(),
        [0, 0x80]
    );
    let tenant = Tenant::decode(frames[0].1.clone()).unwrap();
    assert_eq!(
        (tenant.name.as_str(), tenant.display_name.as_str()),
        ("tenants/acme", "A")
    );
    assert_eq!(trailer(&frames, "grpc-status"), "0");
}

/// A trailer in the frame that has them.
fn trailer(frames: &[(u8, Bytes)], name: &str) -> String {
    let (_, block) = frames
        .iter()
        .find(|(flag, _)| *flag == 0x80)
        .expect("trailers");
    let block = std::str::from_utf8(block).unwrap();
    let lines = block.split("\r\n").filter_map(|it| it.split_once(':'));
    let found = lines
        .filter(|(it, _)| *it == name)
        .map(|(_, value)| value.trim().to_owned());
    found
        .last()
        .unwrap_or_else(|| panic!("no {name} in {block}"))
}

/// Base64 that was made piece by piece, each with its own padding.
fn decoded(text: &[u8]) -> Bytes {
    let pieces = text.chunks(4).map(|it| STANDARD.decode(it).unwrap());
    pieces.flatten().collect::<Vec<u8>>().into()
}

async fn post(world: &World, path: &str, content_type: &str, body: Vec<u8>) -> (HeaderMap, Bytes) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_11)
        .uri(format!("http://{}{path}", world.address))
        .header("content-type", content_type)
        .header("accept", content_type)
        .header("x-grpc-web", "1")
        .body(Full::from(body));
    let (head, body) = client.request(request.unwrap()).await.unwrap().into_parts();
    assert_eq!(
        (head.status.as_u16(), head.version),
        (200, Version::HTTP_11)
    );
    (head.headers, body.collect().await.unwrap().to_bytes())
}
