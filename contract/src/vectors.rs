//! The vectors of the delivery contract, `tests/vectors/standards_vectors.json`, and the cases of
//! `egress_cases.tsv` that concern URLs and headers. What other implementations compute is what we
//! compute.

use std::{net::IpAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hookfleet_proto::v1::{BodyMode, SignatureAlgorithm};
use serde_json::Value;

use crate::{
    event::{Event, Limits},
    format::{self, header_value, json},
    header,
    id::WebhookId,
    response::parse_retry_after,
    retry::{Policy, Schedule},
    signature::{self, Key, Secret},
    target::{Rules, Target},
    time::Timestamp,
};

#[path = "../../tests/vectors/cases.rs"]
mod table;

use table::{cases, unescape};

const VECTORS: &str = include_str!("../../tests/vectors/standards_vectors.json");

#[test]
fn hmac_and_ed25519_signatures_are_those_of_other_implementations() {
    let ed25519 = seed();
    let vectors = list("standard_webhooks_sign");
    assert_eq!(vectors.len(), 6);
    for vector in vectors {
        let (id, body) = (text(&vector["webhook_id"]), base64(&vector["body_base64"]));
        let timestamp = vector["webhook_timestamp"].as_u64().unwrap();
        let hmac: Secret = text(&vector["secret"]).parse().unwrap();
        assert_eq!(sign(&[&hmac], id, timestamp, &body), text(&vector["v1"]));
        assert_eq!(
            sign(&[&ed25519], id, timestamp, &body),
            text(&vector["v1a_seed_0to31"])
        );
        assert!(hmac.verify(text(&vector["v1"]), id, &timestamp.to_string(), &body));
        assert!(!hmac.verify(text(&vector["v1"]), id, &timestamp.to_string(), b"other"));
        assert!(!hmac.verify("v1,", id, &timestamp.to_string(), &body));
    }
}

#[test]
fn keys_are_read_and_written_as_others_do() {
    let keys = &vectors()["standard_webhooks_keys"];
    for form in ["whsk_seed32", "whsk_seed_pk64"] {
        let secret: Secret = text(&keys[form]).parse().unwrap();
        assert_eq!(secret.algorithm(), SignatureAlgorithm::Ed25519);
        assert_eq!(secret.reveal(), text(&keys["whsk_seed32"]));
        assert_eq!(secret.public_key().as_deref(), Some(text(&keys["whpk"])));
    }
    let svix = &vectors()["svix_published_v1a"];
    let secret: Secret = text(&svix["whsk"]).parse().unwrap();
    assert_eq!(secret.public_key().as_deref(), Some(text(&svix["whpk"])));
    let (id, timestamp) = (text(&svix["webhook_id"]), svix["ts"].as_u64().unwrap());
    assert_eq!(
        sign(&[&secret], id, timestamp, text(&svix["body"]).as_bytes()),
        text(&svix["sig"])
    );
}

#[test]
fn other_texts_are_not_secrets_and_secrets_do_not_show() {
    for bad in [
        "",
        "whsec_",
        "whsec_AAAA",
        "whsec_!!!!",
        "whsk_AAAA",
        "AAAA",
        "whpk_AAAA",
    ] {
        assert!(bad.parse::<Secret>().is_err(), "{bad}");
    }
    let secret = Secret::generate_hmac([7; 32]);
    assert!(!format!("{secret:?}").contains(&secret.reveal()[6..]));
    assert_eq!(
        secret.reveal().parse::<Secret>().unwrap().reveal(),
        secret.reveal()
    );
}

#[test]
fn asymmetric_entries_come_first_then_the_newest_secret_and_the_oldest_last() {
    let full = &vectors()["full_request_structured"];
    let (newest, oldest) = (
        secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
    );
    let id = "msg_01KDYX0000000000000000000";
    let signed = sign(
        &[&newest, &seed(), &oldest],
        id,
        1_767_323_045,
        text(&full["body"]).as_bytes(),
    );
    assert_eq!(signed, text(&full["webhook_signature"]));
}

#[test]
fn a_key_stops_signing_when_it_expires() {
    let key = |expire_time| Key {
        id: "k".to_owned(),
        secret: Secret::generate_hmac([1; 32]),
        create_time: Timestamp(0),
        expire_time,
    };
    let signed = |keys: &[Key], now| signature::sign(keys, "msg_1", 1, b"{}", Timestamp(now));
    let keys = [key(None), key(Some(Timestamp(1000)))];
    assert_eq!(signed(&keys, 999).unwrap().split(' ').count(), 2);
    assert_eq!(signed(&keys, 1000).unwrap().split(' ').count(), 1);
    assert_eq!(signed(&keys[1..], 1000), None);
}

#[test]
fn the_structured_body_is_byte_exact() {
    let full = &vectors()["full_request_structured"];
    let event = event(text(&full["body"]));
    let body = format::render(&event, BodyMode::CeStructured, Timestamp(0)).unwrap();
    assert_eq!(body.bytes, text(&full["body"]));
    assert_eq!(
        Some(body.bytes.len() as u64),
        full["content_length"].as_u64()
    );
    assert_eq!(
        body.content_type,
        "application/cloudevents+json; charset=utf-8"
    );
}

#[test]
fn the_binary_request_is_what_the_binding_says() {
    let vectors = vectors();
    let binary = &vectors["full_request_binary"];
    let event = event(text(&vectors["full_request_structured"]["body"]));
    let body = format::render(&event, BodyMode::CeBinary, Timestamp(0)).unwrap();
    assert_eq!(body.bytes, text(&binary["body"]));
    let mut headers = body.headers.clone();
    headers.push((http::header::CONTENT_TYPE, body.content_type));
    let expected = binary["headers"].as_object().unwrap();
    assert_eq!(headers.len(), expected.len());
    for (name, value) in headers {
        assert_eq!(value, text(&expected[name.as_str()]), "{name}");
    }
    let newest = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let timestamp = binary["ts"].as_u64().unwrap();
    assert_eq!(
        sign(
            &[&newest],
            text(&binary["webhook_id"]),
            timestamp,
            &body.bytes
        ),
        text(&binary["v1"])
    );
}

#[test]
fn header_values_are_coded_as_the_binding_says() {
    for vector in list("ce_header_encode") {
        assert_eq!(
            header_value::encode(text(&vector["raw"])),
            text(&vector["encoded"])
        );
    }
    for vector in list("ce_header_decode") {
        let decoded = header_value::decode(text(&vector["header"]));
        assert_eq!(decoded.as_deref(), vector["value"].as_str(), "{vector}");
    }
    // What is no escape stays as it is.
    for text in ["%+f", "%-1", "%4", "%", "%g0", "100%"] {
        assert_eq!(header_value::decode(text).as_deref(), Some(text));
    }
}

#[test]
fn a_time_of_json_is_whole() {
    let event = |time| {
        json::parse(
            format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"{time}"}}"#)
                .as_bytes(),
        )
    };
    assert!(event("2026-01-02T03:04:05Z").is_ok());
    assert!(event("2026-01-02").is_err());
}

#[test]
fn retry_after_is_read_in_all_its_forms() {
    for vector in list("retry_after") {
        let now: prost_types::Timestamp = text(&vector["now"]).parse().unwrap();
        let read = parse_retry_after(text(&vector["header"]), now.into());
        assert_eq!(
            read,
            vector["delay_s"].as_u64().map(Duration::from_secs),
            "{vector}"
        );
    }
    for absurd in ["99999999999999999999999", "+5", "5 s", "0x10", "١"] {
        let read = parse_retry_after(absurd, Timestamp(0));
        assert!(
            read.is_none_or(|it| it == crate::response::MAX_RETRY_AFTER),
            "{absurd}"
        );
    }
}

#[test]
fn the_default_schedule_is_the_one_of_standard_webhooks() {
    let vectors = vectors();
    let table = vectors["schedule_default"]["table"].as_array().unwrap();
    let schedule = Schedule::default();
    let mut offset = 0;
    for row in &table[1..] {
        let attempt = u32::try_from(row["attempt"].as_u64().unwrap()).unwrap();
        let delay = schedule.delay(attempt - 1).unwrap();
        offset += delay.as_secs();
        assert_eq!(Some(delay.as_secs()), row["delay_s"].as_u64());
        assert_eq!(Some(offset), row["offset_s"].as_u64());
    }
    assert_eq!(schedule.delay(10), None);
    let worst = vectors["schedule_default"]["worst_case_total_s"]
        .as_f64()
        .unwrap();
    assert!(
        Policy::default().ttl.as_secs_f64() > worst,
        "the last attempt is not cut off"
    );
}

#[test]
fn webhook_ids_are_derived_and_not_steered() {
    for vector in list("webhook_id") {
        let tenant = text(&vector["tenant"]).parse().unwrap();
        let id = WebhookId::of(&tenant, text(&vector["source"]), text(&vector["id"]));
        assert_eq!(id.to_string(), text(&vector["webhook_id"]));
        assert_eq!(id.to_string().parse::<WebhookId>(), Ok(id));
    }
}

/// Hosts that are addresses are judged where connections are made; `egress` tests the two together.
#[test]
fn urls_are_accepted_in_one_spelling_only() {
    let mut n_cases = 0;
    for (case, cell, expected) in cases("url.") {
        let (_, profile) = case.split_once('@').unwrap_or((case, ""));
        let rules = Rules {
            allow_http: profile != "https_only",
            own_names: vec!["hooks.ourservice.com".to_owned()],
            ..Rules::default()
        };
        let url = unescape(cell);
        match Target::parse(&url, &rules) {
            Ok(target) => {
                let is_address = target
                    .host()
                    .to_string()
                    .trim_matches(['[', ']'])
                    .parse::<IpAddr>()
                    .is_ok();
                assert!(expected == "allow" || is_address, "{case} is accepted");
                assert_eq!(
                    Target::parse(target.url(), &rules).as_ref(),
                    Ok(&target),
                    "{case}"
                );
            }
            Err(error) => assert_eq!(expected, "deny", "{case}: {error}"),
        }
        n_cases += 1;
    }
    assert!(n_cases > 90);
    for url in list_at("callback_host", "whatwg_normalises_to_127_0_0_1") {
        assert!(
            Target::parse(text(&url), &Rules::default()).is_err(),
            "{url}"
        );
    }
}

/// <https://fetch.spec.whatwg.org/#port-blocking>: browsers call none of them either.
#[test]
fn bad_ports_are_not_called() {
    const BAD_PORTS: [u16; 83] = [
        0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95,
        101, 102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179,
        389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601,
        636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566,
        6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
    ];
    for port in BAD_PORTS {
        let url = format!("https://example.com:{port}/");
        assert!(Target::parse(&url, &Rules::default()).is_err(), "{url}");
    }
    for port in [443, 1024, 8443, 65535] {
        let url = format!("https://example.com:{port}/");
        assert!(Target::parse(&url, &Rules::default()).is_ok(), "{url}");
    }
}

#[test]
fn loopback_is_for_those_who_ask_for_it() {
    let asked = Rules {
        allow_loopback: true,
        ..Rules::default()
    };
    for url in [
        "http://localhost:9000/x",
        "http://127.0.0.1:9000/",
        "https://[::1]:8443/",
        "http://127.1.2.3:6379/",
    ] {
        assert!(Target::parse(url, &asked).is_ok(), "{url}");
        assert!(
            url.starts_with("https") || Target::parse(url, &Rules::default()).is_err(),
            "{url}"
        );
    }
    for url in [
        "http://example.com/",
        "http://localhost.example.com/",
        "http://localhost:22/",
        "http://10.0.0.1:9000/",
    ] {
        assert!(Target::parse(url, &asked).is_err(), "{url}");
    }
}

#[test]
fn headers_of_others_are_refused_and_ordinary_ones_are_not() {
    let mut n_cases = 0;
    for (case, cell, expected) in cases("hdr.") {
        let header = unescape(cell);
        // The row of the pseudo header has its colon in front.
        let split = header[1..].find(':').map(|at| at + 1).unwrap();
        let (name, value) = (&header[..split], &header[split + 1..]);
        let checked = header::check(name, value.strip_prefix(' ').unwrap_or(value));
        assert_eq!(checked.is_ok(), expected == "allow", "{case}: {checked:?}");
        n_cases += 1;
    }
    assert!(n_cases > 20);
    assert!(header::is_secret("Authorization") && header::is_secret("cookie"));
}

fn sign(secrets: &[&Secret], id: &str, timestamp: u64, body: &[u8]) -> String {
    let key = |secret: &&Secret| Key {
        id: String::new(),
        secret: (*secret).clone(),
        create_time: Timestamp(0),
        expire_time: None,
    };
    let keys: Vec<Key> = secrets.iter().map(key).collect();
    signature::sign(&keys, id, timestamp, body, Timestamp(0)).unwrap()
}

fn seed() -> Secret {
    text(&vectors()["standard_webhooks_keys"]["whsk_seed32"])
        .parse()
        .unwrap()
}

fn secret(text: &str) -> Secret {
    text.parse().unwrap()
}

fn event(text: &str) -> Event {
    Event::try_new(json::parse(text.as_bytes()).unwrap(), &Limits::default()).unwrap()
}

fn vectors() -> Value {
    serde_json::from_str(VECTORS).unwrap()
}

fn list(name: &str) -> Vec<Value> {
    vectors()[name].as_array().unwrap().clone()
}

fn list_at(name: &str, inner: &str) -> Vec<Value> {
    vectors()[name][inner].as_array().unwrap().clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn base64(value: &Value) -> Vec<u8> {
    STANDARD.decode(text(value)).unwrap()
}
