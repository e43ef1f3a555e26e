//! What does one callback cost before it leaves: match, render, sign?
//!
//! Axes: 256 bytes, 1 KiB and 16 KiB of data; one shared secret.
//!
//! ```text
//! cargo bench -p hookfleet-contract --bench callback
//! ```

#![expect(missing_docs, reason = "criterion's macros write functions")]
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hookfleet_contract::{
    event::{Event, Limits},
    format::render,
    pattern::Pattern,
    signature::{Key, sign},
    time::Timestamp,
};
use hookfleet_proto::{
    cloudevents::{CloudEvent, CloudEventAttributeValue, cloud_event, cloud_event_attribute_value},
    v1::BodyMode,
};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn callback(criterion: &mut Criterion) {
    let pattern: Pattern = "com.example.orders".parse().unwrap();
    criterion.bench_function("match", |bencher| {
        bencher.iter(|| pattern.covers(black_box("com.example.orders.created")));
    });
    let keys = [Key {
        id: "k1".to_owned(),
        secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap(),
        create_time: NOW,
        expire_time: None,
    }];
    for n_bytes in [256, 1024, 16 << 10] {
        let event = event(n_bytes);
        let id = BenchmarkId::new("render", n_bytes);
        criterion.bench_with_input(id, &event, |bencher, event| {
            bencher.iter(|| render(event, BodyMode::CeStructured, NOW).unwrap());
        });
        let body = render(&event, BodyMode::CeStructured, NOW).unwrap();
        let id = BenchmarkId::new("sign", n_bytes);
        criterion.bench_with_input(id, &body.bytes, |bencher, bytes| {
            bencher.iter(|| sign(&keys, "msg_BwcHBwcHBwcHBwcHBwcHBw", 1, bytes, NOW));
        });
    }
}

fn event(n_bytes: usize) -> Event {
    let text = |text: &str| CloudEventAttributeValue {
        attr: Some(cloud_event_attribute_value::Attr::CeString(text.to_owned())),
    };
    let event = CloudEvent {
        id: "evt_01".to_owned(),
        source: "urn:example:orders".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "com.example.orders.created".to_owned(),
        attributes: [("datacontenttype".to_owned(), text("application/json"))].into(),
        data: Some(cloud_event::Data::TextData(format!(
            "{{\"pad\":\"{}\"}}",
            "x".repeat(n_bytes)
        ))),
    };
    Event::try_new(event, &Limits::default()).unwrap()
}

criterion_group!(benches, callback);
criterion_main!(benches);
