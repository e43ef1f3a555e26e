//! For how long an agent has lacked something. Pure.
//!
//! **Invariant:** it is as old as the oldest change that the agent has not applied, as far as the session has seen it come.
//! What comes during a round is the next round's, so two times are enough.

use hookfleet_contract::time::Timestamp;

use crate::store::Revision;

/// Since when an agent has been behind.
#[derive(Clone, Debug)]
pub(super) struct Lag {
    seen: Revision,
    since: Option<Timestamp>,
    /// When the first change came that the round which goes on does not bring.
    next: Option<Timestamp>,
}

// === impl Lag ===

impl Lag {
    /// Everything up to `seen` was there when the session began; whether the agent had it.
    pub(super) fn new(seen: Revision, is_behind: bool, now: Timestamp) -> Self {
        Self {
            seen,
            since: is_behind.then_some(now),
            next: None,
        }
    }

    /// When the oldest change came that the agent has not applied.
    pub(super) fn since(&self) -> Option<Timestamp> {
        self.since
    }

    /// Everything up to here is there now.
    pub(super) fn see(&mut self, revision: Revision, in_round: bool, now: Timestamp) {
        if revision > self.seen {
            self.seen = revision;
            self.since.get_or_insert(now);
            if in_round {
                self.next.get_or_insert(now);
            }
        }
    }

    /// The agent must have everything anew.
    pub(super) fn begin_anew(&mut self, now: Timestamp) {
        self.since.get_or_insert(now);
    }

    /// The agent has everything that was there when the round began.
    pub(super) fn end_round(&mut self) {
        self.since = self.next.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_change_that_is_not_applied_counts() {
        let mut lag = Lag::new(5, false, Timestamp(0));
        assert_eq!(lag.since(), None);
        lag.see(5, false, Timestamp(1));
        assert_eq!(lag.since(), None);
        lag.see(6, false, Timestamp(2));
        lag.see(7, true, Timestamp(3));
        lag.see(8, true, Timestamp(4));
        assert_eq!(lag.since(), Some(Timestamp(2)));
        lag.end_round();
        assert_eq!(lag.since(), Some(Timestamp(3)));
        lag.end_round();
        assert_eq!(lag.since(), None);
    }

    #[test]
    fn whoever_begins_or_must_begin_anew_is_behind_since_then() {
        let mut lag = Lag::new(5, true, Timestamp(1));
        lag.begin_anew(Timestamp(2));
        assert_eq!(lag.since(), Some(Timestamp(1)));
        lag.end_round();
        lag.begin_anew(Timestamp(3));
        assert_eq!(lag.since(), Some(Timestamp(3)));
    }
}
