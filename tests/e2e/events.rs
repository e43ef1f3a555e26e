//! Publishing over HTTP: CloudEvents in every mode of their binding, and plain JSON.

use std::{path::Path, process::Command, time::Duration};

use hookfleet_proto::cloudevents::{CloudEvent, CloudEventBatch};
use prost::Message as _;
use serde_json::{Value, json};

use crate::harness::{
    api::{create_tenant, deliveries, event, subscribe_in_force, to},
    eventually,
    http::{Answer, Http},
    process::{Process, standalone},
    receiver::{Received, Receiver},
    verifier,
};

const PATIENCE: Duration = Duration::from_secs(30);
const EVENTS: &str = "/v1/tenants/acme/events";
const STRUCTURED: (&str, &str) = (
    "content-type",
    "application/cloudevents+json; charset=UTF-8",
);
const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");
const BINARY: [(&str, &str); 4] = [
    ("ce-specversion", "1.0"),
    ("ce-id", "1"),
    ("ce-source", "urn:shop"),
    ("ce-type", "orders.created"),
];

#[tokio::test]
async fn a_structured_event_is_delivered_as_it_was() {
    let world = World::start().await;
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "urn:shop", "type": "orders.created",
        "subject": "42", "time": "2026-01-02T03:04:05Z", "partitionkey": "k", "count": 7,
        "flag": true, "data": {"a": [1, null, "ü"]},
    });
    let answer = world.post(&[STRUCTURED], event.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let receipt = answer.json();
    assert_eq!(receipt["deliveryCount"], 1);
    assert_eq!(receipt["duplicate"], false);

    let received = world.received(1).await.remove(0);
    let id = receipt["event"]
        .as_str()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap();
    assert_eq!(received.header("webhook-id"), id);
    let mut expected = event.clone();
    expected["datacontenttype"] = "application/json".into();
    assert_eq!(received.json(), expected);

    let again = world.post(&[STRUCTURED], event.to_string()).await;
    assert_eq!(again.json()["duplicate"], true);
    assert_eq!(again.json()["event"], receipt["event"]);
}

#[tokio::test]
async fn a_binary_event_is_delivered_as_it_was() {
    let world = World::start().await;
    let cases: [(&str, &[u8], Value); 5] = [
        (
            "application/json",
            br#"{"a": 1}"#,
            json!({"data": {"a": 1}}),
        ),
        (
            "text/plain; charset=utf-8",
            "grün".as_bytes(),
            json!({"data": "grün"}),
        ),
        ("image/png", b"\x89\x00\xff", json!({"data_base64": "iQD/"})),
        ("application/json", b"{", json!({"data_base64": "ew=="})),
        ("", b"x", json!({"data_base64": "eA=="})),
    ];
    for (index, (content_type, body, data)) in cases.into_iter().enumerate() {
        let id = format!("%E2%82%AC%20{index}");
        let mut headers = BINARY.to_vec();
        headers[1] = ("ce-id", &id);
        headers.push(("ce-subject", "\"a \\\" b\""));
        if !content_type.is_empty() {
            headers.push(("content-type", content_type));
        }
        let answer = world.post(&headers, body.to_vec()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let received = world.received(index + 1).await.remove(index).json();
        assert_eq!(received["id"], format!("\u{20ac} {index}"));
        assert_eq!(received["subject"], "a \" b");
        let content_type = Some(content_type).filter(|it| !it.is_empty());
        assert_eq!(
            received.get("datacontenttype").and_then(Value::as_str),
            content_type
        );
        for member in ["data", "data_base64"] {
            assert_eq!(received.get(member), data.get(member), "{received}");
        }
    }
}

#[tokio::test]
async fn each_event_of_a_batch_has_its_result() {
    let world = World::start().await;
    let event = |id: &str| json!({"specversion": "1.0", "id": id, "source": "urn:shop", "type": "orders.created"});
    let batch = json!([event("1"), event("2")]);
    let answer = world.post(&[BATCH], batch.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["results"].as_array().unwrap().len(), 2);
    assert_eq!(
        world.post(&[BATCH], "[]").await.json(),
        json!({"results": []})
    );

    // What is wrong is refused, the rest is accepted, and nobody takes it for a success.
    let mut both = event("3");
    both["data"] = 1.into();
    both["data_base64"] = "AA==".into();
    let batch = json!([event("1"), event(""), 7, both, event("4")]);
    let answer = world.post(&[BATCH], batch.to_string()).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let answer = answer.json();
    let refused = &answer["error"]["details"][1]["fieldViolations"];
    let fields: Vec<&Value> = refused
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["field"])
        .collect();
    assert_eq!(fields, ["[1]", "[2]", "[3]"]);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results[0]["receipt"]["duplicate"], true);
    for (index, field) in [(1, "id"), (2, ""), (3, "data_base64")] {
        let details = results[index]["error"]["details"].as_array().unwrap();
        let bad = |it: &&Value| it["@type"] == "type.googleapis.com/google.rpc.BadRequest";
        let bad = details.iter().find(bad).unwrap();
        assert_eq!(bad["fieldViolations"][0]["field"], field, "{bad}");
    }
    assert_eq!(results[4]["receipt"]["duplicate"], false);
    let received = world.received(3).await;
    let ids: Vec<Value> = received.iter().map(|it| it.json()["id"].clone()).collect();
    assert!(ids.contains(&"4".into()), "{ids:?}");
}

#[tokio::test]
async fn protobuf_is_a_format_too() {
    let world = World::start().await;
    let event = |id: &str| event(id, "orders.created", r#"{"a": 1}"#);
    let one = [("content-type", "application/cloudevents+protobuf")];
    let answer = world.post(&one, event("1").encode_to_vec()).await;
    assert_eq!(answer.json()["deliveryCount"], 1, "{answer:?}");
    let batch = CloudEventBatch {
        events: vec![event("2"), event("3"), CloudEvent::default()],
    };
    let several = [("content-type", "Application/CloudEvents-Batch+Protobuf")];
    let answer = world.post(&several, batch.encode_to_vec()).await;
    assert_eq!(answer.status, 400, "one is none: {answer:?}");
    let results = answer.json()["results"].clone();
    assert_eq!(results[1]["receipt"]["deliveryCount"], 1, "{results}");
    assert_eq!(results[2]["error"]["code"], 3, "{results}");
    assert_eq!(world.received(3).await[0].json()["data"], json!({"a": 1}));
    for headers in [one, several] {
        assert_eq!(world.post(&headers, "\u{1}").await.status, 400);
    }
}

#[tokio::test]
async fn plain_json_needs_a_type_and_no_more() {
    let world = World::start().await;
    let body = json!({"type": "orders.created", "data": {"orderId": 42}}).to_string();
    let first = world.post(&[], body.clone()).await;
    assert_eq!(first.status, 200, "{first:?}");
    let other = world
        .post(&[("content-type", "application/json")], body.clone())
        .await;
    assert_eq!(
        other.json()["duplicate"],
        false,
        "without an id each is another one"
    );
    let received = world.received(2).await.remove(0).json();
    assert_eq!(received["data"], json!({"orderId": 42}));
    assert_eq!(received["source"], "urn:hookfleet:http");

    let key = [("idempotency-key", "\"k-1\"")];
    let first = world.post(&key, body.clone()).await.json();
    let again = world.post(&key, body.clone()).await.json();
    assert_eq!(
        (&first["duplicate"], &again["duplicate"]),
        (&false.into(), &true.into())
    );
    assert_eq!(world.received(3).await[2].json()["id"], "k-1");
}

#[tokio::test]
async fn what_is_not_an_event_is_refused_precisely() {
    let world = World::start().await;
    let without = |name: &str| {
        BINARY
            .into_iter()
            .filter(|it| it.0 != name)
            .collect::<Vec<_>>()
    };
    let with = |header| [&BINARY[..], &[header]].concat();
    let structured = |name: &str, value: Value| {
        let mut event = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t"});
        event[name] = value;
        event.to_string()
    };
    for (headers, body, field) in [
        (vec![STRUCTURED], "{".to_owned(), ""),
        (vec![STRUCTURED], "[]".to_owned(), ""),
        (vec![STRUCTURED], structured("id", 7.into()), "id"),
        (vec![STRUCTURED], structured("id", Value::Null), "id"),
        (
            vec![STRUCTURED],
            structured("specversion", "0.3".into()),
            "spec_version",
        ),
        (vec![STRUCTURED], structured("time", "soon".into()), "time"),
        (
            vec![STRUCTURED],
            structured("big", json!(1_u64 << 40)),
            "big",
        ),
        (
            vec![STRUCTURED],
            structured("data_base64", "?".into()),
            "data_base64",
        ),
        (
            vec![STRUCTURED],
            structured("Upper", "x".into()),
            "attributes[Upper]",
        ),
        (vec![BATCH], "{}".to_owned(), ""),
        (without("ce-id"), String::new(), "id"),
        (without("ce-specversion"), String::new(), "spec_version"),
        (with(("ce-time", "soon")), String::new(), "ce-time"),
        (with(("ce-subject", "%C0%A0")), String::new(), "ce-subject"),
        (with(("ce-id", "2")), String::new(), "ce-id"),
        (with(("ce-data", "2")), String::new(), "attributes[data]"),
        (vec![], r#"{"data": 1}"#.to_owned(), "type"),
        (vec![], "type=x".to_owned(), ""),
        (
            vec![("idempotency-key", "a b")],
            r#"{"type": "t"}"#.to_owned(),
            "idempotency-key",
        ),
    ] {
        let answer = world.post(&headers, body.clone()).await;
        assert_eq!(answer.status, 400, "{headers:?} {body}: {answer:?}");
        let error = answer.json();
        let details = error["error"]["details"].as_array().unwrap();
        let bad = details
            .iter()
            .find_map(|it| it["fieldViolations"].as_array());
        let bad = bad.unwrap_or_else(|| panic!("{error}"));
        assert_eq!(
            bad[0].get("field").map_or("", |it| it.as_str().unwrap()),
            field,
            "{error}"
        );
    }
    let unknown = world
        .post(&[("content-type", "application/cloudevents+xml")], "<a/>")
        .await;
    assert_eq!(unknown.status, 415, "{unknown:?}");
    let nobody = world
        .http
        .post("/v1/tenants/nobody/events", &[], r#"{"type": "t"}"#)
        .await;
    assert_eq!(nobody.status, 404, "{nobody:?}");
    let wrong = world.http.get(EVENTS).await;
    assert_eq!(
        (wrong.status.as_u16(), wrong.header("allow")),
        (405, "POST")
    );
    assert_eq!(deliveries(&world.server.channel(), "acme", "").await, []);
}

#[tokio::test]
async fn an_answered_event_survives_a_kill() {
    let mut world = World::start().await;
    world.receiver.answer("hook", 503);
    let answer = world.post(&BINARY, "{}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    world.server.kill();
    world.receiver.answer("hook", 200);
    world.server = standalone(world.dir.path());
    eventually("the event is delivered", PATIENCE, || async {
        let received = world.receiver.received_at("hook");
        let delivered = received
            .iter()
            .any(|it| it.status == 200 && it.json()["id"] == "1");
        if delivered { Ok(()) } else { Err(received) }
    })
    .await;
}

#[tokio::test]
async fn the_cloudevents_library_of_pypi_publishes() {
    publishes(verifier::python("publish_cloudevents.py"), "größer als 5 %").await;
}

#[tokio::test]
async fn the_cloudevents_library_of_npm_publishes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut node = Command::new("node");
    node.arg(root.join("tests/publish_cloudevents.mjs"));
    publishes(node, "greater than 5 percent").await;
}

/// Runs a program that publishes in every mode, and looks at what is received.
async fn publishes(mut program: Command, subject: &str) {
    let world = World::start().await;
    let url = format!("http://{}{EVENTS}", world.server.address);
    let output = program.arg(url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let mut received: Vec<Value> = world.received(4).await.iter().map(Received::json).collect();
    received.sort_by_key(|it| it["id"].to_string());
    let data: Vec<_> = received
        .iter()
        .map(|it| (&it["id"], &it["subject"], &it["data"]))
        .collect();
    let (subject, data_of_all) = (json!(subject), json!({"orderId": 42}));
    for (index, id) in ["binary", "structured-0", "structured-1", "structured-2"]
        .iter()
        .enumerate()
    {
        assert_eq!(data[index], (&json!(id), &subject, &data_of_all));
    }
}

/// A standalone server with a tenant and one subscription of everything.
struct World {
    server: Process,
    http: Http,
    receiver: Receiver,
    dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = standalone(dir.path());
        let receiver = Receiver::start().await;
        create_tenant(&server.channel(), "acme").await;
        subscribe_in_force(&server.channel(), "acme", "hook", to(receiver.url("hook"))).await;
        Self {
            http: Http::to(server.address),
            server,
            receiver,
            dir,
        }
    }

    async fn post(&self, headers: &[(&str, &str)], body: impl Into<axum::body::Bytes>) -> Answer {
        self.http.post(EVENTS, headers, body).await
    }

    /// The first callbacks, once there are so many.
    async fn received(&self, count: usize) -> Vec<Received> {
        eventually("the callbacks", PATIENCE, || async {
            let received = self.receiver.received_at("hook");
            if received.len() >= count {
                Ok(received)
            } else {
                Err(received)
            }
        })
        .await
    }
}
