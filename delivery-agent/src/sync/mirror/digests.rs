//! What was told comes to, part by part, for the control plane to compare. A few parts go with each heartbeat.

use hookfleet_contract::digest::{Digests, Part, digest};
use hookfleet_proto::fleet::PartDigest;

use super::Place;

/// Parts whose digests go with one heartbeat: all of 1024 slots in half a minute.
const PARTS: usize = 128;

/// The digests of what was told, and which part is compared next.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) digests: Digests,
    next: usize,
}

// === impl Told ===

impl Told {
    /// The digests of the next parts.
    pub(super) fn next(&mut self, slot_count: u16) -> Vec<PartDigest> {
        let parts = Part::all(slot_count).skip(self.next).take(PARTS);
        let parts: Vec<Part> = parts.collect();
        self.next += parts.len();
        if parts.len() < PARTS {
            self.next = 0;
        }
        let digest = |part: Part| PartDigest {
            r#type: part.kind.into(),
            slot: part.slot.into(),
            digest: self.digests.of(part),
        };
        parts.into_iter().map(digest).collect()
    }

    /// What is at a place was told at another revision than before; none is nothing.
    pub(super) fn change(
        &mut self,
        place: &Place,
        slot_count: i32,
        before: Option<i64>,
        after: Option<i64>,
    ) {
        let Ok(slot_count @ 1..) = u16::try_from(slot_count) else {
            return;
        };
        let name = place.name();
        let Some(part) = Part::of(&name, slot_count).filter(|_| before != after) else {
            return;
        };
        if let Some(revision) = before {
            self.digests.remove(part, digest(&name, revision));
        }
        if let Some(revision) = after {
            self.digests.add(part, digest(&name, revision));
        }
    }
}
