//! How many refusals are written down: some for everyone who is refused, and some in all. The others are counted. Pure.
//!
//! **Invariant:** whatever is refused, at most [`ALL`] is written: some 100 MB in a day.

use std::{collections::HashMap, time::Duration};

use hookfleet_contract::time::Timestamp;

/// How many at once, and how long until there is room for one more.
type Rate = (u32, Duration);

/// Of one caller; those of whom nobody knows who they are are one.
const EACH: Rate = (60, Duration::from_secs(1));
/// Of all together.
const ALL: Rate = (600, Duration::from_millis(500));
/// Callers that are told apart. Whoever comes when there are as many shares with others.
const MAX_CALLERS: usize = 256;

/// Counts refusals.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    all: Bucket,
    each: HashMap<String, Bucket>,
    unrecorded: u64,
}

/// What was taken, as the time at which all of it is forgotten.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at: Timestamp,
}

// === impl Quota ===

impl Quota {
    /// Whether one more refusal of this caller is written down; else it is counted.
    pub(crate) fn take(&mut self, caller: &str, now: Timestamp) -> bool {
        if self.each.len() >= MAX_CALLERS {
            self.each.retain(|_, bucket| bucket.full_at > now);
        }
        let is_known = self.each.contains_key(caller) || self.each.len() < MAX_CALLERS;
        let caller = if is_known { caller } else { "" };
        let each = self.each.entry(caller.to_owned()).or_default();
        let has_room = each.has_room(EACH, now) && self.all.has_room(ALL, now);
        if has_room {
            each.take(EACH, now);
            self.all.take(ALL, now);
        } else {
            self.unrecorded += 1;
        }
        has_room
    }

    /// How many were counted since this was asked last.
    pub(crate) fn unrecorded(&mut self) -> u64 {
        std::mem::take(&mut self.unrecorded)
    }
}

// === impl Bucket ===

impl Bucket {
    fn has_room(&self, (burst, each): Rate, now: Timestamp) -> bool {
        self.full_at.since(now) + each <= each * burst
    }

    fn take(&mut self, (_, each): Rate, now: Timestamp) {
        self.full_at = self.full_at.max(now) + each;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_767_323_045_000);

    fn taken(quota: &mut Quota, caller: &str, now: Timestamp) -> usize {
        (0..10_000).filter(|_| quota.take(caller, now)).count()
    }

    #[test]
    fn a_flood_of_one_caller_leaves_room_for_the_others() {
        let mut quota = Quota::default();
        assert_eq!(taken(&mut quota, "", NOW), 60);
        assert_eq!(quota.unrecorded(), 9940);
        assert_eq!(quota.unrecorded(), 0);
        assert_eq!(taken(&mut quota, "keys/a", NOW), 60);
        assert_eq!(taken(&mut quota, "", NOW + Duration::from_secs(5)), 5);
    }

    #[test]
    fn all_together_are_bounded_however_many_callers_there_are() {
        let mut quota = Quota::default();
        let callers = (0..2000).map(|it| format!("keys/{it}"));
        let count = callers.filter(|it| quota.take(it, NOW) | quota.take(it, NOW));
        // Two of each that is told apart, and sixty of all others.
        assert_eq!(count.count(), 256 + 30);
        assert_eq!(taken(&mut quota, "keys/0", NOW), 600 - 512 - 60);
        assert!(quota.each.len() <= MAX_CALLERS + 1);
        assert_eq!(taken(&mut quota, "keys/0", NOW + Duration::from_secs(1)), 2);
    }
}
