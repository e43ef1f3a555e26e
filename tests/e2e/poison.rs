//! Events that are meant to break whoever handles them (row F46 of the fault matrix): each is refused at once or harms itself
//! alone, in every form that callbacks have.

use std::{collections::BTreeSet, time::Duration};

use hookfleet_proto::{
    cloudevents::{
        CloudEvent, CloudEventAttributeValue, cloud_event::Data, cloud_event_attribute_value::Attr,
    },
    v1::{
        BodyMode, DeadLetterReason, Subscription, delivery::State,
        publish_result::Result as Published,
    },
};

use crate::harness::{
    api::{create_tenant_in_force, deliveries, event, publish, subscribe_in_force, to},
    eventually,
    process::standalone,
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(60);
const ID: &str = "poison";
const DEEP: usize = 100_000;
const MODES: [BodyMode; 4] = [
    BodyMode::CeStructured,
    BodyMode::CeBinary,
    BodyMode::Raw,
    BodyMode::StandardWebhooks,
];

/// What is wrong, and whether it is found out at the door.
fn poison() -> Vec<(&'static str, bool, CloudEvent)> {
    let of = |change: &dyn Fn(&mut CloudEvent)| {
        let mut it = event(ID, "a.b", "{}");
        change(&mut it);
        it
    };
    let with = |name: &'static str, attr: Attr| {
        of(&move |it| {
            let value = CloudEventAttributeValue {
                attr: Some(attr.clone()),
            };
            it.attributes.insert(name.to_owned(), value);
        })
    };
    let subject = |text: String| with("subject", Attr::CeString(text));
    let data = |data: Data| of(&move |it| it.data = Some(data.clone()));
    let json = |text: String| data(Data::TextData(text));
    let raw = |bytes: &'static [u8]| data(Data::BinaryData(bytes.to_vec().into()));
    vec![
        (
            "a NUL in the id",
            true,
            of(&|it| "a\0b".clone_into(&mut it.id)),
        ),
        (
            "a line break in the id",
            true,
            of(&|it| "a\r\nb: c".clone_into(&mut it.id)),
        ),
        (
            "a line break in the type",
            true,
            of(&|it| "a\nb".clone_into(&mut it.r#type)),
        ),
        (
            "a source that is no URI",
            true,
            of(&|it| "\u{7f}".clone_into(&mut it.source)),
        ),
        ("a subject of a MiB", true, subject("s".repeat(1 << 20))),
        ("a NUL in the subject", true, subject("a\0b".to_owned())),
        (
            "a content type with a line break",
            true,
            with("datacontenttype", Attr::CeString("a/b\r\nc: d".to_owned())),
        ),
        (
            "a name that is a header",
            true,
            with("host: x", Attr::CeString("x".to_owned())),
        ),
        (
            "an attribute without a value",
            true,
            of(&|it| {
                it.attributes
                    .insert("empty".to_owned(), CloudEventAttributeValue { attr: None });
            }),
        ),
        (
            "a time at the end of time",
            true,
            with(
                "time",
                Attr::CeTimestamp(prost_types::Timestamp {
                    seconds: i64::MAX,
                    nanos: i32::MAX,
                }),
            ),
        ),
        (
            "a subject of many scripts",
            false,
            subject("\u{202e}ž\u{1f47e}% \"\\".repeat(64)),
        ),
        (
            "an id that is not ASCII",
            false,
            of(&|it| "ключ %0d%0a".clone_into(&mut it.id)),
        ),
        (
            "JSON deeper than any stack",
            false,
            json("[".repeat(DEEP) + &"]".repeat(DEEP)),
        ),
        ("JSON that never ends", false, json("[".repeat(DEEP))),
        (
            "JSON that is none",
            false,
            json("{\"a\": NaN, \u{0}".to_owned()),
        ),
        (
            "JSON with half a character",
            false,
            json("\"\\ud800\"".to_owned()),
        ),
        ("a number without end", false, json("9".repeat(DEEP))),
        (
            "bytes that are no text",
            false,
            raw(b"\"\xc3\x28\xff\xfe\""),
        ),
        ("no data", false, of(&|it| it.data = None)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poisonous_events_harm_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let channel = server.channel();
    let receiver = Receiver::start().await;
    create_tenant_in_force(&channel, "acme").await;
    for mode in MODES {
        let id = format!("mode-{}", mode as i32);
        let subscription = Subscription {
            body_mode: mode.into(),
            ..to(receiver.url(&id))
        };
        subscribe_in_force(&channel, "acme", &id, subscription).await;
    }
    let mut neighbours = BTreeSet::new();
    for (number, (what, is_refused, mut poison)) in poison().into_iter().enumerate() {
        if poison.id == ID {
            poison.id = format!("{ID}-{number}");
        }
        let both = vec![poison, event(&format!("neighbour-{number}"), "a.b", "{}")];
        let results = publish(&channel, "acme", both).await.unwrap();
        let [poisoned, healthy] = &results[..] else {
            panic!("{what}: {results:?}");
        };
        let is_taken = matches!(poisoned, Published::Receipt(_));
        assert_eq!(is_taken, !is_refused, "{what}: {poisoned:?}");
        let Published::Receipt(receipt) = healthy else {
            panic!("{what}: {healthy:?}");
        };
        neighbours.insert(receipt.event.clone());
    }
    let settled = eventually("every neighbour, and an end for each", PATIENCE, || async {
        let all = deliveries(&channel, "acme", "").await;
        let delivered = all.iter().filter(|it| it.state() == State::Succeeded);
        let delivered = delivered.filter(|it| neighbours.contains(&it.event));
        let is_over = delivered.count() == neighbours.len() * MODES.len()
            && all.iter().all(|it| it.state() != State::Pending);
        is_over.then_some(all).ok_or(())
    })
    .await;
    for it in settled.iter().filter(|it| it.state() != State::Succeeded) {
        let reason = it.dead_letter_reason();
        let is_own = [DeadLetterReason::NotSendable, DeadLetterReason::NoPayload].contains(&reason);
        assert!(is_own, "{it:?}");
    }
    assert!(!server.has_logged("panicked"));
    assert!(server.terminate().await.success());
}
