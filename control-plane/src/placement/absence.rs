//! Which owners have been away for so long that they are given up. Pure.
//!
//! **Invariant:** an owner is given up only after it was seen to be away for the whole grace, by this process: what
//! happened before it started is not held against anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hookfleet_contract::{name::AgentId, time::Timestamp};

/// How long an owner may be away besides the life of its lease: about as long as a restart of its machine's services.
/// Meanwhile its tenants' events are taken by nobody, so it is short.
const GRACE: Duration = Duration::from_secs(15);

/// Who is away, and since when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Absences(BTreeMap<AgentId, Timestamp>);

impl Absences {
    /// Who is there and who should be there, now. Answers who is lost.
    pub(crate) fn observe(
        &mut self,
        owners: BTreeSet<AgentId>,
        is_there: impl Fn(&AgentId) -> bool,
        now: Timestamp,
    ) -> BTreeSet<AgentId> {
        let away: BTreeSet<AgentId> = owners
            .into_iter()
            .filter(|owner| !is_there(owner))
            .collect();
        self.0.retain(|agent, _| away.contains(agent));
        for agent in &away {
            self.0.entry(agent.clone()).or_insert(now);
        }
        let is_lost = |agent: &AgentId| {
            self.0
                .get(agent)
                .is_some_and(|since| now.since(*since) >= GRACE)
        };
        away.into_iter().filter(is_lost).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_lost_after_the_grace_and_not_if_it_comes_back() {
        let owner: AgentId = "a".parse().unwrap();
        let owners = || BTreeSet::from([owner.clone()]);
        let mut absences = Absences::default();
        let at = |millis| Timestamp(1_000_000) + Duration::from_millis(millis);
        assert!(absences.observe(owners(), |_| false, at(0)).is_empty());
        assert!(absences.observe(owners(), |_| false, at(14_999)).is_empty());
        assert_eq!(absences.observe(owners(), |_| false, at(15_000)), owners());
        assert!(absences.observe(owners(), |_| true, at(15_001)).is_empty());
        assert!(absences.observe(owners(), |_| false, at(15_002)).is_empty());
        assert!(absences.observe(owners(), |_| false, at(30_000)).is_empty());
    }
}
