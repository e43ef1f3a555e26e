//! What was learnt of a subscription's receiver: how fast it answers, how much it takes, whether it
//! fails, when it was called. It outlives the deliveries that taught it, within a bound.

use std::{collections::HashMap, hash::Hash, net::IpAddr, time::Duration};

use hookfleet_contract::time::Timestamp;
use rustc_hash::FxBuildHasher;

use super::{breaker::Breaker, lane::Lane, rate::Bucket, window::Window};

/// A receiver that answers slower than this on average is slow,
const SLOW_MILLIS: f32 = 1000.0;
/// until it answers faster than this.
const FAST_MILLIS: f32 = 700.0;
/// The weight of one answer in the average.
const ALPHA: f32 = 0.2;
/// Without a success for so long, somebody is dead.
const DEAD_AFTER: Duration = Duration::from_secs(24 * 3600);
/// With so many failures since its last success it is not sure that somebody wants to be called: as many as open the
/// breaker of a new receiver.
const DOUBTED_FAILURES: u32 = 3;
/// A subscription without a success for so long,
const GIVE_UP_AFTER: Duration = Duration::from_secs(120 * 3600);
/// and with so many failures, is suspended.
const GIVE_UP_FAILURES: u32 = 20;

/// What is known of a receiver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Health {
    pub(crate) window: Window,
    pub(crate) breaker: Breaker,
    pub(crate) bucket: Bucket,
    /// It has answered with a success, and how fast on average, in milliseconds.
    latency: Option<f32>,
    slow: bool,
    /// The first failure since the last success, and how many there were since.
    failing_since: Option<Timestamp>,
    n_failures: u32,
    /// Where it was called last, if it is an endpoint and that is of the public internet.
    pub(crate) destination: Option<IpAddr>,
}

/// The part of it that survives a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// How often it was given a pause lately.
    pub opens: u8,
    /// Not to be called before.
    pub open_until: Timestamp,
    /// Since when it has only failed.
    pub failing_since: Option<Timestamp>,
    /// How often since.
    pub n_failures: u32,
    /// It answers slowly.
    pub slow: bool,
}

/// What is known of those that have no deliveries now: at least the `capacity` most recent.
#[derive(Debug)]
pub(crate) struct Memory<K> {
    capacity: usize,
    young: HashMap<K, Health, FxBuildHasher>,
    old: HashMap<K, Health, FxBuildHasher>,
}

// === impl Health ===

impl Health {
    pub(crate) const NEW: Self = Self {
        window: Window::NEW,
        breaker: Breaker::CLOSED,
        bucket: Bucket::FULL,
        latency: None,
        slow: false,
        failing_since: None,
        n_failures: 0,
        destination: None,
    };

    /// Which lane its attempts take, unless they are probes.
    pub(crate) fn lane(&self) -> Lane {
        match self.latency {
            _ if self.slow => Lane::Slow,
            Some(_) => Lane::Proven,
            None => Lane::New,
        }
    }

    /// Whether an attempt of it in `lane` goes to somebody who wants to be called. What it took when its name led elsewhere
    /// says nothing for long.
    pub(crate) fn is_wanted(&self, lane: Lane) -> bool {
        lane == Lane::Proven && self.n_failures < DOUBTED_FAILURES
    }

    /// It took a delivery, after so long.
    pub(crate) fn answered(&mut self, duration: Duration) {
        let millis = duration.as_secs_f32() * 1000.0;
        let average = self
            .latency
            .map_or(millis, |average| average + ALPHA * (millis - average));
        self.latency = Some(average);
        self.slow = average > if self.slow { FAST_MILLIS } else { SLOW_MILLIS };
        self.succeeded();
    }

    /// It does not fail now.
    pub(crate) fn succeeded(&mut self) {
        (self.failing_since, self.n_failures) = (None, 0);
    }

    /// It failed.
    pub(crate) fn failed(&mut self, now: Timestamp) {
        self.failing_since.get_or_insert(now);
        self.n_failures = self.n_failures.saturating_add(1);
    }

    /// There was no success for a day.
    pub(crate) fn is_dead(&self, now: Timestamp) -> bool {
        self.has_failed_for(DEAD_AFTER, now)
    }

    /// There was none for so long that nobody seems to wait for one.
    pub(crate) fn is_hopeless(&self, now: Timestamp) -> bool {
        self.n_failures >= GIVE_UP_FAILURES && self.has_failed_for(GIVE_UP_AFTER, now)
    }

    fn has_failed_for(&self, duration: Duration, now: Timestamp) -> bool {
        let since = self.failing_since;
        since.is_some_and(|since| now.since(since) >= duration)
    }

    /// Whether there is anything to remember.
    pub(crate) fn is_new(&self) -> bool {
        *self == Self::NEW
    }

    /// What is to survive a restart, if it is bad.
    pub(crate) fn hint(&self) -> Option<Hint> {
        let hint = self.memory();
        (hint != Hint::default()).then_some(hint)
    }

    /// What somebody else should know who goes on.
    pub(crate) fn memory(&self) -> Hint {
        let (opens, open_until) = self.breaker.memory();
        Hint {
            opens,
            open_until,
            failing_since: self.failing_since,
            n_failures: self.n_failures,
            slow: self.slow,
        }
    }

    /// Whether the last thing that was seen is a success.
    pub(crate) fn is_well(&self) -> bool {
        self.latency.is_some() && self.failing_since.is_none()
    }

    /// How long it has failed where it was called before. What was seen here counts more.
    pub(crate) fn learn(&mut self, hint: Hint) {
        if !self.is_well() {
            let since = [self.failing_since, hint.failing_since];
            self.failing_since = since.into_iter().flatten().min();
            self.n_failures = self.n_failures.max(hint.n_failures);
        }
    }
}

impl From<Hint> for Health {
    fn from(hint: Hint) -> Self {
        Self {
            breaker: Breaker::restored(hint.opens, hint.open_until),
            latency: hint.slow.then_some(SLOW_MILLIS),
            slow: hint.slow,
            failing_since: hint.failing_since,
            n_failures: hint.n_failures,
            ..Self::NEW
        }
    }
}

// === impl Memory ===

impl<K: Eq + Hash + Clone> Memory<K> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            young: HashMap::default(),
            old: HashMap::default(),
        }
    }

    /// Keeps what is known; the least recent half is forgotten when there is too much.
    pub(crate) fn keep(&mut self, key: K, health: Health) {
        if health.is_new() {
            return;
        }
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, health);
    }

    /// What is known; it is the caller's from now on.
    pub(crate) fn take(&mut self, key: &K) -> Health {
        let young = self.young.remove(key);
        let old = self.old.remove(key);
        young.or(old).unwrap_or(Health::NEW)
    }

    /// What is bad, in no order.
    pub(crate) fn hints(&self) -> impl Iterator<Item = (K, Hint)> {
        let old = self
            .old
            .iter()
            .filter(|(key, _)| !self.young.contains_key(key));
        let all = self.young.iter().chain(old);
        all.filter_map(|(key, health)| Some((key.clone(), health.hint()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_receiver_must_be_clearly_faster_to_count_as_fast() {
        let mut health = Health::NEW;
        assert_eq!(health.lane(), Lane::New);
        health.answered(Duration::from_millis(10));
        assert_eq!(health.lane(), Lane::Proven);
        for _ in 0..50 {
            health.answered(Duration::from_millis(1100));
        }
        assert_eq!(health.lane(), Lane::Slow);
        for _ in 0..50 {
            health.answered(Duration::from_millis(800));
        }
        assert_eq!(health.lane(), Lane::Slow);
        for _ in 0..50 {
            health.answered(Duration::from_millis(600));
        }
        assert_eq!(health.lane(), Lane::Proven);
    }

    #[test]
    fn one_slow_answer_does_not_make_it_slow() {
        let mut health = Health::NEW;
        for _ in 0..10 {
            health.answered(Duration::from_millis(10));
        }
        health.answered(Duration::from_secs(4));
        assert_eq!(health.lane(), Lane::Proven);
    }

    #[test]
    fn hopeless_is_who_fails_often_and_for_five_days() {
        let start = Timestamp(1_700_000_000_000);
        let hours = |it: u64| start + Duration::from_secs(it * 3600);
        let mut health = Health::NEW;
        for _ in 0..100 {
            health.failed(start);
        }
        assert!(!health.is_dead(hours(23)) && health.is_dead(hours(24)));
        assert!(!health.is_hopeless(hours(119)) && health.is_hopeless(hours(120)));
        health.succeeded();
        health.failed(hours(120));
        assert!(!health.is_dead(hours(120)));
        assert!(!health.is_hopeless(hours(400)), "once only");
    }

    #[test]
    fn what_a_restart_keeps_is_what_was_bad() {
        assert_eq!(Health::NEW.hint(), None);
        let mut good = Health::NEW;
        good.answered(Duration::from_millis(3));
        assert_eq!(good.hint(), None);
        let hint = Hint {
            opens: 3,
            open_until: Timestamp(7),
            failing_since: Some(Timestamp(5)),
            n_failures: 9,
            slow: true,
        };
        let mut bad = Health::from(hint);
        assert_eq!(bad.hint(), Some(hint));
        bad.answered(Duration::from_millis(10));
        assert_eq!(bad.lane(), Lane::Slow, "one answer says little");
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_most_recent() {
        let mut memory = Memory::new(10);
        let mut bad = Health::NEW;
        bad.failed(Timestamp(1));
        for key in 0..1000 {
            memory.keep(key, bad);
            assert!(memory.hints().count() <= 20);
        }
        assert!((990..1000).all(|key| memory.take(&key) == bad));
        assert_eq!(memory.take(&0), Health::NEW);
    }
}
