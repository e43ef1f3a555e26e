//! When the keys of an issuer are fetched, and how long they are good for. Pure: it fetches nothing itself.
//!
//! **Invariant:** two fetches begin [`MIN_PAUSE`] apart at least, whoever asks for them.

use std::{sync::Arc, time::Duration};

use hookfleet_contract::time::Timestamp;

use super::key_set::KeySet;

/// How often keys are fetched. A key that its issuer withdraws stops working within ten minutes, the fetch included.
const PERIOD: Duration = Duration::from_secs(9 * 60);
/// Tokens with invented keys make no more fetches than one in this time.
const MIN_PAUSE: Duration = Duration::from_secs(30);
/// How long keys are good for while their issuer is out of reach.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Fetch the keys, and say how it ended.
    Fetch,
}

/// The keys of an issuer and their age.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    kept: Option<(Arc<KeySet>, Timestamp)>,
    /// When the last fetch began.
    began: Option<Timestamp>,
    is_fetching: bool,
    has_failed: bool,
    is_wanted: bool,
}

// === impl Upkeep ===

impl Upkeep {
    /// A token names a key that is not there. Says whether a fetch is under way, or about to be, that may bring it.
    pub(super) fn handle_unknown_key(&mut self, now: Timestamp) -> bool {
        self.is_wanted = self.is_wanted || !self.is_fetching && self.pause_ends() <= now;
        self.is_wanted || self.is_fetching
    }

    /// A fetch has ended; without keys if it failed.
    pub(super) fn handle_fetched(&mut self, fetched: Option<KeySet>, now: Timestamp) {
        self.is_fetching = false;
        self.has_failed = fetched.is_none();
        if let Some(keys) = fetched {
            self.kept = Some((Arc::new(keys), now));
        }
    }

    pub(super) fn poll_command(&mut self, now: Timestamp) -> Option<Command> {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return None;
        }
        self.is_wanted = false;
        self.is_fetching = true;
        self.began = Some(now);
        Some(Command::Fetch)
    }

    /// When there is something to do, if nothing happens before.
    pub(super) fn poll_timeout(&self) -> Option<Timestamp> {
        let due = match &self.kept {
            _ if self.is_fetching => return None,
            Some((_, fetched)) if !self.has_failed && !self.is_wanted => *fetched + PERIOD,
            _ => Timestamp(0),
        };
        Some(due.max(self.pause_ends()))
    }

    /// The keys, while they are good.
    pub(super) fn keys(&self, now: Timestamp) -> Option<&Arc<KeySet>> {
        let (keys, fetched) = self.kept.as_ref()?;
        (now < *fetched + MAX_AGE).then_some(keys)
    }

    fn pause_ends(&self) -> Timestamp {
        self.began.map_or(Timestamp(0), |began| began + MIN_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(60 * 60);
    const START: Timestamp = Timestamp(1_000_000);

    fn keys(id: &str) -> Option<KeySet> {
        let x = "A".repeat(43);
        let document = format!(
            r#"{{"keys": [{{"kty": "OKP", "crv": "Ed25519", "kid": "{id}", "x": "{x}"}}]}}"#
        );
        KeySet::read(document.as_bytes()).ok()
    }

    fn has(upkeep: &Upkeep, id: &str, now: Timestamp) -> bool {
        upkeep.keys(now).is_some_and(|it| it.has(id))
    }

    /// An upkeep that has fetched at the start.
    fn fetched() -> Upkeep {
        let mut upkeep = Upkeep::default();
        assert_eq!(upkeep.poll_command(START), Some(Command::Fetch));
        upkeep.handle_fetched(keys("a"), START);
        upkeep
    }

    #[test]
    fn a_flood_of_unknown_keys_makes_one_fetch_in_thirty_seconds() {
        let mut upkeep = fetched();
        let mut fetches = Vec::new();
        // A thousand a second for ten minutes, by an issuer that takes a second to answer.
        let mut ends = None;
        for tick in 1..600_000_u64 {
            let now = START + Duration::from_millis(tick);
            let may_come = upkeep.handle_unknown_key(now);
            if upkeep.poll_command(now).is_some() {
                assert!(may_come);
                fetches.push(now);
                ends = Some(now + SECOND);
            }
            assert_eq!(may_come, ends.is_some(), "{now:?}");
            if ends == Some(now) {
                upkeep.handle_fetched(keys("a"), now);
                ends = None;
            }
        }
        assert_eq!(fetches.len(), 19);
        assert!(fetches.windows(2).all(|it| it[1].since(it[0]) >= MIN_PAUSE));
    }

    #[test]
    fn keys_work_for_a_day_while_their_issuer_is_down_and_no_longer() {
        let mut upkeep = fetched();
        let mut now = START;
        let mut n_fetches = 0;
        while now < START + 25 * HOUR {
            let is_good = now < START + 24 * HOUR;
            assert_eq!(has(&upkeep, "a", now), is_good, "{now:?}");
            if upkeep.poll_command(now).is_some() {
                n_fetches += 1;
                upkeep.handle_fetched(None, now);
            }
            now = now + SECOND;
        }
        // It is asked twice a minute while it is down.
        assert!((2900..=3000).contains(&n_fetches), "{n_fetches}");
        upkeep.handle_fetched(keys("b"), now);
        assert!(has(&upkeep, "b", now));
    }

    #[test]
    fn a_key_that_was_removed_stops_working_within_ten_minutes() {
        let mut upkeep = fetched();
        // It is removed as soon as it was fetched.
        let mut now = START;
        while has(&upkeep, "a", now) {
            now = now + SECOND;
            if upkeep.poll_command(now).is_some() {
                now = now + 10 * SECOND;
                upkeep.handle_fetched(keys("b"), now);
            }
        }
        assert!(now.since(START) <= 10 * MINUTE, "{:?}", now.since(START));
        assert!(now.since(START) > 5 * MINUTE, "{:?}", now.since(START));
    }

    #[test]
    fn nothing_is_fetched_while_a_fetch_is_under_way() {
        let mut upkeep = Upkeep::default();
        assert_eq!(upkeep.poll_timeout(), Some(Timestamp(0)));
        assert_eq!(upkeep.poll_command(START), Some(Command::Fetch));
        assert!(upkeep.handle_unknown_key(START + HOUR));
        assert_eq!(upkeep.poll_command(START + HOUR), None);
        assert_eq!(upkeep.poll_timeout(), None);
        upkeep.handle_fetched(None, START + HOUR);
        assert_eq!(upkeep.poll_timeout(), Some(START + MIN_PAUSE));
    }
}
