//! What a reader of deliveries asks for, and where its next page begins. Pure.

use hookfleet_contract::id::DeliveryId;
use hookfleet_proto::v1::{self, delivery::State};

/// Which deliveries are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// In this state.
    pub state: Option<State>,
    /// Of this event, by its name.
    pub event: Option<String>,
    /// Of this type of events.
    pub event_type: Option<String>,
}

/// Where a page ends: the next one begins after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub(super) day: u64,
    pub(super) after: DeliveryId,
}

// === impl Wanted ===

impl Wanted {
    pub(super) fn admits(&self, delivery: &v1::Delivery) -> bool {
        let is = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|it| it == text);
        self.state.is_none_or(|it| delivery.state() == it)
            && is(&self.event, &delivery.event)
            && is(&self.event_type, &delivery.event_type)
    }
}

// === impl Cursor ===

impl Cursor {
    /// For a page token.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let Self { day, after } = self;
        [
            day.to_be_bytes().as_slice(),
            &after.seq.to_be_bytes(),
            &after.target.to_be_bytes(),
        ]
        .concat()
    }

    /// From a page token.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (day, rest) = bytes.split_first_chunk()?;
        let (seq, rest) = rest.split_first_chunk()?;
        let (target, rest) = rest.split_first_chunk()?;
        rest.is_empty().then(|| Self {
            day: u64::from_be_bytes(*day),
            after: DeliveryId {
                seq: u64::from_be_bytes(*seq),
                target: u32::from_be_bytes(*target),
            },
        })
    }
}
