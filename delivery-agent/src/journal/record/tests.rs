use proptest::{collection::vec, prelude::*};

use super::*;

const JOURNAL: u128 = 0x0123_4567_89ab_cdef;

fn label() -> impl Strategy<Value = String> {
    ("[a-z]", "[a-z0-9]{0,62}").prop_map(|(first, rest)| first + &rest)
}

fn delivery() -> impl Strategy<Value = DeliveryId> {
    (any::<u64>(), any::<u32>()).prop_map(|(seq, target)| DeliveryId { seq, target })
}

fn target() -> impl Strategy<Value = Target> {
    (any::<[u8; 16]>(), any::<u16>(), label()).prop_map(|(uid, partition, subscription)| Target {
        partition,
        uid,
        subscription: subscription.parse().unwrap(),
    })
}

fn event() -> impl Strategy<Value = Record> {
    let numbers = (any::<u64>(), any::<u64>(), any::<[u8; 16]>());
    let rest = (
        label(),
        vec(target(), 0..4),
        origin(),
        vec(any::<u8>(), 0..100),
    );
    (numbers, rest).prop_map(|((seq, time, id), (tenant, targets, origin, event))| {
        Record::Event(StoredEvent {
            seq,
            tenant: tenant.parse().unwrap(),
            webhook_id: WebhookId(id),
            accept_time: Timestamp(time),
            targets,
            origin,
            event: event.into(),
            stands: Vec::new(),
        })
    })
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        Just(Origin::Published),
        Just(Origin::Parked),
        delivery().prop_map(Origin::Redelivery),
        any::<[u8; 16]>().prop_map(Origin::HandedOver),
    ]
}

fn outcome() -> impl Strategy<Value = Record> {
    let standing = prop_oneof![
        Just(Standing::Succeeded),
        Just(Standing::HandedOver),
        (0..=10).prop_map(|it| Standing::DeadLettered(DeadLetterReason::try_from(it).unwrap())),
        any::<u64>().prop_map(|due| Standing::Deferred {
            due: Timestamp(due)
        }),
    ];
    let progress = (any::<u32>(), any::<u32>());
    let parts = (delivery(), progress, standing, any::<u64>());
    parts.prop_map(|(delivery, (attempts, step), standing, at)| {
        Record::Outcome(Outcome {
            delivery,
            progress: Progress { attempts, step },
            standing,
            at: Timestamp(at),
        })
    })
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![4 => event(), 4 => outcome(), 1 => Just(Record::Clean)]
}

fn encode(record: &Record, offset: u64) -> Bytes {
    let mut buffer = Vec::new();
    Place::new(JOURNAL, 7).encode(&mut buffer, offset, record);
    buffer.into()
}

proptest! {
    #[test]
    fn what_is_written_is_read(records in vec(record(), 1..5), offset in 0_u64..1 << 40) {
        let place = Place::new(JOURNAL, 7);
        let mut buffer = Vec::new();
        for record in &records {
            place.encode(&mut buffer, offset, record);
        }
        let (bytes, mut at) = (Bytes::from(buffer), 0);
        for record in records {
            let (read, length) = place.decode(&bytes, at, offset + at as u64).unwrap();
            prop_assert_eq!(&read, &record);
            prop_assert_eq!(length, size(&bytes[at..]).unwrap());
            match &record {
                Record::Event(event) => prop_assert_eq!(length, event_size(event)),
                Record::Outcome(_) => prop_assert!(length <= OUTCOME_BYTES),
                Record::Clean => prop_assert_eq!(length, CLEAN_BYTES),
            }
            at += length;
        }
        prop_assert_eq!(at, bytes.len());
    }

    #[test]
    fn a_record_cut_at_any_byte_is_invalid(record in record()) {
        let bytes = encode(&record, 64);
        for length in 0..bytes.len() {
            let cut = bytes.slice(..length);
            prop_assert_eq!(Place::new(JOURNAL, 7).decode(&cut, 0, 64), Err(Invalid));
        }
    }

    #[test]
    fn every_flipped_bit_is_detected(record in record()) {
        let bytes = encode(&record, 64);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Place::new(JOURNAL, 7).decode(&flipped.into(), 0, 64), Err(Invalid));
        }
    }

    #[test]
    fn a_record_is_valid_only_where_it_was_written(record in record()) {
        let bytes = encode(&record, 64);
        prop_assert!(Place::new(JOURNAL, 7).decode(&bytes, 0, 64).is_ok());
        prop_assert_eq!(Place::new(JOURNAL, 7).decode(&bytes, 0, 72), Err(Invalid));
        prop_assert_eq!(Place::new(JOURNAL, 8).decode(&bytes, 0, 64), Err(Invalid));
        prop_assert_eq!(Place::new(JOURNAL + 1, 7).decode(&bytes, 0, 64), Err(Invalid));
    }

    #[test]
    fn bytes_of_a_stranger_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(get_event(bytes.clone().into()).is_ok_and(|it| it.event.len() > 200), false);
        prop_assert!(Place::new(JOURNAL, 7).decode(&bytes.into(), 0, 0).is_err());
    }
}

#[test]
fn zeros_are_no_record() {
    let zeros = Bytes::from_static(&[0; 64]);
    assert_eq!(Place::new(JOURNAL, 7).decode(&zeros, 0, 0), Err(Invalid));
}
