//! Which owners have been away for so long that they are given up. Pure.
//!
//! **Invariants:** an owner is given up only after it was seen to be away for the whole hold, by this process: what
//! happened before it led, or while it could not look, is not held against anybody; when many are away at once, it is we who are believed to be cut
//! off, and nobody is given up for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hookfleet_contract::{name::AgentId, time::Timestamp};

/// More than this part of the owners, if there are so many, are not believed to be dead all at once,
const BRAKE: (usize, usize) = (30, 4);
/// for so long. An operator who knows better drains them.
const BRAKE_HOLD: Duration = Duration::from_secs(600);
/// It is looked every second. Who has not looked for so long does not know who was there meanwhile.
const BLIND: Duration = Duration::from_secs(5);

/// Who is away, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Absences {
    hold: Duration,
    since: BTreeMap<AgentId, Timestamp>,
    looked: Option<Timestamp>,
    is_braking: bool,
}

impl Absences {
    /// Nobody is away. Owners may be away for `hold`.
    pub(crate) fn new(hold: Duration) -> Self {
        Self {
            hold,
            since: BTreeMap::new(),
            looked: None,
            is_braking: false,
        }
    }

    /// Somebody else observes from now on.
    pub(crate) fn forget(&mut self) {
        self.since.clear();
        self.is_braking = false;
    }

    /// Who is there and who should be there, now. Answers who is lost; `given_up` are at once.
    pub(crate) fn observe(
        &mut self,
        owners: BTreeSet<AgentId>,
        is_there: impl Fn(&AgentId) -> bool,
        given_up: &BTreeSet<AgentId>,
        now: Timestamp,
    ) -> BTreeSet<AgentId> {
        let looked = self.looked.replace(now);
        if looked.is_some_and(|looked| now.since(looked) > BLIND) {
            self.since.clear();
        }
        let n_owners = owners.len();
        let away: BTreeSet<AgentId> = owners
            .into_iter()
            .filter(|owner| !is_there(owner))
            .collect();
        self.since.retain(|agent, _| away.contains(agent));
        for agent in &away {
            self.since.entry(agent.clone()).or_insert(now);
        }
        let hold = self.hold_of(away.difference(given_up).count(), n_owners);
        let is_lost = |agent: &AgentId| {
            let since = self.since.get(agent);
            given_up.contains(agent) || since.is_some_and(|since| now.since(*since) >= hold)
        };
        away.into_iter().filter(is_lost).collect()
    }

    fn hold_of(&mut self, n_away: usize, n_owners: usize) -> Duration {
        let (percent, least) = BRAKE;
        let brakes = n_owners >= least && n_away * 100 > n_owners * percent;
        if brakes != self.is_braking {
            self.is_braking = brakes;
            if brakes {
                tracing::error!(
                    n_away,
                    n_owners,
                    "many agents are away at once: nothing moves for ten minutes"
                );
            }
        }
        if brakes {
            self.hold.max(BRAKE_HOLD)
        } else {
            self.hold
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp(1_000_000) + Duration::from_millis(millis)
    }

    #[test]
    fn an_owner_is_lost_after_the_hold_and_not_if_it_comes_back() {
        let owner: AgentId = "a".parse().unwrap();
        let owners = || BTreeSet::from([owner.clone()]);
        let mut absences = Absences::new(Duration::from_secs(15));
        let nobody = BTreeSet::new();
        let mut observe =
            |is_there, millis| absences.observe(owners(), |_| is_there, &nobody, at(millis));
        for millis in [0, 5000, 10_000, 14_999] {
            assert!(observe(false, millis).is_empty());
        }
        assert_eq!(observe(false, 15_000), owners());
        assert!(observe(true, 15_001).is_empty());
        for millis in [15_002, 20_000, 25_000, 30_000] {
            assert!(observe(false, millis).is_empty());
        }
        assert_eq!(
            absences.observe(owners(), |_| false, &owners(), at(30_000)),
            owners()
        );
    }

    #[test]
    fn what_happened_while_nobody_looked_is_held_against_nobody() {
        let owner: AgentId = "a".parse().unwrap();
        let owners = || BTreeSet::from([owner.clone()]);
        let mut absences = Absences::new(Duration::from_secs(15));
        let mut observe =
            |millis| absences.observe(owners(), |_| false, &BTreeSet::new(), at(millis));
        assert!(observe(0).is_empty());
        // The store was away, or this process was frozen.
        for millis in [20_000, 25_000, 30_000, 34_999] {
            assert!(observe(millis).is_empty());
        }
        assert_eq!(observe(35_000), owners());
    }

    #[test]
    fn many_at_once_are_waited_for() {
        let owners: BTreeSet<AgentId> = (0..10)
            .map(|it| format!("a{it}").parse().unwrap())
            .collect();
        let away: BTreeSet<AgentId> = owners.iter().take(4).cloned().collect();
        let mut absences = Absences::new(Duration::from_secs(15));
        let nobody = BTreeSet::new();
        let is_there = |agent: &AgentId| !away.contains(agent);
        for millis in (0..600_000).step_by(5000).chain([599_999]) {
            assert!(
                absences
                    .observe(owners.clone(), is_there, &nobody, at(millis))
                    .is_empty()
            );
        }
        let given_up: BTreeSet<AgentId> = away.iter().take(2).cloned().collect();
        let lost = absences.observe(owners.clone(), is_there, &given_up, at(599_999));
        assert_eq!(lost, away, "two are known to be gone, and two are not many");
        let mut absences = Absences::new(Duration::from_secs(15));
        for millis in (0..600_000).step_by(5000) {
            absences.observe(owners.clone(), is_there, &nobody, at(millis));
        }
        assert_eq!(
            absences.observe(owners, is_there, &nobody, at(600_000)),
            away
        );
    }
}
