//! How much of its share an agent that joins takes from others, and when more. Pure.
//!
//! A process that has just started has connections to make and receivers to learn, so slots that are well where they are
//! come to it a quarter of its share at a time. **Invariant:** an agent may have ever more of its share for as long as its process
//! is seen; a control plane that has just started has seen nobody before, so that ramps begin anew if it is to lead.

use std::{collections::BTreeMap, time::Duration};

use hookfleet_contract::{name::AgentId, time::Timestamp};

use super::Member;

const QUARTERS: usize = 4;

/// How many quarters of its share an agent may have by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ramp(usize);

/// Who joined when.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    step: Duration,
    /// By process.
    since: BTreeMap<AgentId, (String, Timestamp)>,
}

// === impl Ramp ===

impl Default for Ramp {
    fn default() -> Self {
        Self(QUARTERS)
    }
}

impl Ramp {
    /// Of an agent that joined so long ago, with so long between the quarters.
    pub(crate) fn after(joined: Duration, step: Duration) -> Self {
        let more = joined.as_millis().checked_div(step.as_millis());
        let more = more.and_then(|it| usize::try_from(it).ok());
        Self(more.map_or(QUARTERS, |more| more.min(QUARTERS - 1) + 1))
    }

    /// How many slots an agent with this quota may have before others give it more.
    pub(super) fn limit(self, quota: usize) -> usize {
        (quota * self.0).div_ceil(QUARTERS)
    }
}

// === impl Arrivals ===

impl Arrivals {
    /// Nobody has joined. A further quarter is due after each `step`.
    pub(crate) fn new(step: Duration) -> Self {
        Self {
            step,
            since: BTreeMap::new(),
        }
    }

    /// Who is there now; says how far each of them is.
    pub(crate) fn observe(&mut self, agents: &mut BTreeMap<AgentId, Member>, now: Timestamp) {
        let is_still = |id: &AgentId, (incarnation, _): &mut (String, Timestamp)| {
            let member = agents.get(id);
            member.is_some_and(|it| it.incarnation == *incarnation)
        };
        self.since.retain(is_still);
        for (id, member) in agents {
            let joined = || (member.incarnation.clone(), now);
            let (_, since) = self.since.entry(id.clone()).or_insert_with(joined);
            member.ramp = Ramp::after(now.since(*since), self.step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(10);

    fn ramps(arrivals: &mut Arrivals, agents: &[(&str, &str)], seconds: u64) -> Vec<usize> {
        let member = |(id, incarnation): &(&str, &str)| {
            let incarnation = (*incarnation).to_owned();
            let member = Member {
                incarnation,
                ..Member::default()
            };
            (id.parse().unwrap(), member)
        };
        let mut agents: BTreeMap<AgentId, Member> = agents.iter().map(member).collect();
        arrivals.observe(&mut agents, Timestamp(1) + Duration::from_secs(seconds));
        agents.values().map(|it| it.ramp.0).collect()
    }

    #[test]
    fn a_quarter_is_due_at_once_and_one_after_each_step() {
        let mut arrivals = Arrivals::new(STEP);
        for (seconds, quarters) in [(0, 1), (9, 1), (10, 2), (20, 3), (29, 3), (30, 4), (90, 4)] {
            assert_eq!(ramps(&mut arrivals, &[("a", "1")], seconds), [quarters]);
        }
        assert_eq!(ramps(&mut arrivals, &[("a", "1"), ("b", "1")], 95), [4, 1]);
        assert_eq!([0, 1, 7, 8].map(|quota| Ramp(1).limit(quota)), [0, 1, 2, 2]);
        assert_eq!([0, 1, 7].map(|quota| Ramp(4).limit(quota)), [0, 1, 7]);
    }

    #[test]
    fn a_new_process_and_one_that_was_away_begin_anew() {
        let mut arrivals = Arrivals::new(STEP);
        ramps(&mut arrivals, &[("a", "1"), ("b", "1")], 0);
        assert_eq!(ramps(&mut arrivals, &[("a", "2"), ("b", "1")], 40), [1, 4]);
        ramps(&mut arrivals, &[("a", "2")], 41);
        assert_eq!(ramps(&mut arrivals, &[("a", "2"), ("b", "1")], 50), [2, 1]);
    }

    #[test]
    fn without_a_step_everything_is_due_at_once() {
        let mut arrivals = Arrivals::new(Duration::ZERO);
        assert_eq!(ramps(&mut arrivals, &[("a", "1")], 0), [4]);
    }
}
