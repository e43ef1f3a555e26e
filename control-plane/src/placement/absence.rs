//! Which owners have been away for so long that they are given up. Pure.
//!
//! **Invariants:** an owner is given up only after it was seen to be away for the whole hold, by this process: what
//! happened before it led, or while it could not look, is not held against anybody; when many are away at once, it is we who are believed to be cut
//! off, and nobody is given up for a while, unless what is away is a whole zone and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hookfleet_contract::{name::AgentId, time::Timestamp, zone::Zone};

/// More than this part of the owners, if there are so many, are not believed to be dead all at once,
const BRAKE: (usize, usize) = (30, 4);
/// for so long. An operator who knows better drains them.
const BRAKE_HOLD: Duration = Duration::from_secs(600);
/// Who sees so many zones whole is not cut off: it is the zone that is missing which is down.
const WHOLE_ZONES: usize = 2;
/// It is looked every second. Who has not looked for so long does not know who was there meanwhile.
const BLIND: Duration = Duration::from_secs(5);

/// Agents, and where each runs.
pub(crate) type Zones = BTreeMap<AgentId, Option<Zone>>;

/// Who is away, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Absences {
    hold: Duration,
    since: BTreeMap<AgentId, Timestamp>,
    looked: Option<Timestamp>,
    /// What was said last about it.
    said: Reading,
}

/// What it means that these are away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Reading {
    /// Each by itself.
    #[default]
    Few,
    /// We are cut off.
    CutOff,
    /// Their zone is down.
    ZoneDown(Zone),
}

impl Absences {
    /// Nobody is away. Owners may be away for `hold`.
    pub(crate) fn new(hold: Duration) -> Self {
        Self {
            hold,
            since: BTreeMap::new(),
            looked: None,
            said: Reading::Few,
        }
    }

    /// Somebody else observes from now on.
    pub(crate) fn forget(&mut self) {
        self.since.clear();
        self.said = Reading::Few;
    }

    /// Who is there and who should be there, now. Answers who is lost; `given_up` are at once.
    pub(crate) fn observe(
        &mut self,
        owners: &Zones,
        there: &Zones,
        given_up: &BTreeSet<AgentId>,
        now: Timestamp,
    ) -> BTreeSet<AgentId> {
        let looked = self.looked.replace(now);
        if looked.is_some_and(|looked| now.since(looked) > BLIND) {
            self.since.clear();
        }
        let away = owners.keys().filter(|owner| !there.contains_key(*owner));
        let away: BTreeSet<AgentId> = away.cloned().collect();
        self.since.retain(|agent, _| away.contains(agent));
        for agent in &away {
            self.since.entry(agent.clone()).or_insert(now);
        }
        let missed: Vec<&AgentId> = away.difference(given_up).collect();
        let reading = Reading::of(&missed, owners, there);
        let hold = match reading {
            Reading::Few | Reading::ZoneDown(_) => self.hold,
            Reading::CutOff => self.hold.max(BRAKE_HOLD),
        };
        let is_over = |agent: &AgentId, hold| {
            let since = self.since.get(agent);
            since.is_some_and(|since| now.since(*since) >= hold)
        };
        // What it means is of consequence once the first of them would be given up.
        let matters = missed.iter().any(|agent| is_over(agent, self.hold));
        let n_missed = missed.len();
        let is_lost = |agent: &AgentId| given_up.contains(agent) || is_over(agent, hold);
        let lost = away
            .iter()
            .filter(|agent| is_lost(agent))
            .cloned()
            .collect();
        let reading = if matters { reading } else { Reading::Few };
        self.say(reading, n_missed, owners.len());
        lost
    }

    fn say(&mut self, reading: Reading, n_away: usize, n_owners: usize) {
        if reading == self.said {
            return;
        }
        match &reading {
            Reading::Few => {}
            Reading::CutOff => tracing::error!(
                n_away,
                n_owners,
                "many agents are away at once: nothing moves for ten minutes"
            ),
            Reading::ZoneDown(zone) => tracing::warn!(
                n_away,
                n_owners,
                %zone,
                "a whole zone is away: its slots move as those of one agent would"
            ),
        }
        self.said = reading;
    }
}

// === impl Reading ===

impl Reading {
    fn of(away: &[&AgentId], owners: &Zones, there: &Zones) -> Self {
        let (percent, least) = BRAKE;
        let is_few = owners.len() < least || away.len() * 100 <= owners.len() * percent;
        if is_few {
            return Self::Few;
        }
        zone_down(away, owners, there).map_or(Self::CutOff, |it| Self::ZoneDown(it.clone()))
    }
}

/// The zone that everybody who is away is of, if nobody who is there is, and enough other zones are whole.
fn zone_down<'a>(away: &[&AgentId], owners: &'a Zones, there: &Zones) -> Option<&'a Zone> {
    let mut zones = away.iter().map(|agent| owners.get(*agent)?.as_ref());
    let zone = zones.next()??;
    let is_the_only = zones.all(|it| it == Some(zone));
    let whole: BTreeSet<&Zone> = there.values().flatten().collect();
    let is_down = is_the_only && !whole.contains(zone) && whole.len() >= WHOLE_ZONES;
    is_down.then_some(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(15);

    fn at(millis: u64) -> Timestamp {
        Timestamp(1_000_000) + Duration::from_millis(millis)
    }

    /// Agents as `id` or `id@zone`.
    fn zones(agents: &[&str]) -> Zones {
        let agent = |it: &&str| {
            let (id, zone) = it.split_once('@').unwrap_or((it, ""));
            (id.parse().unwrap(), Zone::optional(zone).unwrap())
        };
        agents.iter().map(agent).collect()
    }

    fn ids(agents: &[&str]) -> BTreeSet<AgentId> {
        zones(agents).into_keys().collect()
    }

    #[test]
    fn an_owner_is_lost_after_the_hold_and_not_if_it_comes_back() {
        let owners = zones(&["a"]);
        let mut absences = Absences::new(HOLD);
        let nobody = BTreeSet::new();
        let mut observe =
            |there: &[&str], millis| absences.observe(&owners, &zones(there), &nobody, at(millis));
        for millis in [0, 5000, 10_000, 14_999] {
            assert!(observe(&[], millis).is_empty());
        }
        assert_eq!(observe(&[], 15_000), ids(&["a"]));
        assert!(observe(&["a"], 15_001).is_empty());
        for millis in [15_002, 20_000, 25_000, 30_000] {
            assert!(observe(&[], millis).is_empty());
        }
        let given_up = ids(&["a"]);
        let lost = absences.observe(&owners, &Zones::new(), &given_up, at(30_000));
        assert_eq!(lost, given_up);
    }

    #[test]
    fn what_happened_while_nobody_looked_is_held_against_nobody() {
        let owners = zones(&["a"]);
        let mut absences = Absences::new(HOLD);
        let mut observe =
            |millis| absences.observe(&owners, &Zones::new(), &BTreeSet::new(), at(millis));
        assert!(observe(0).is_empty());
        // The store was away, or this process was frozen.
        for millis in [20_000, 25_000, 30_000, 34_999] {
            assert!(observe(millis).is_empty());
        }
        assert_eq!(observe(35_000), ids(&["a"]));
    }

    #[test]
    fn many_at_once_are_waited_for() {
        let owners = zones(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]);
        let there = zones(&["e", "f", "g", "h", "i", "j"]);
        let away = ids(&["a", "b", "c", "d"]);
        let mut absences = Absences::new(HOLD);
        let nobody = BTreeSet::new();
        for millis in (0..600_000).step_by(5000).chain([599_999]) {
            let lost = absences.observe(&owners, &there, &nobody, at(millis));
            assert!(lost.is_empty());
        }
        let given_up = ids(&["a", "b"]);
        let lost = absences.observe(&owners, &there, &given_up, at(599_999));
        assert_eq!(lost, away, "two are known to be gone, and two are not many");
        let mut absences = Absences::new(HOLD);
        for millis in (0..600_000).step_by(5000) {
            absences.observe(&owners, &there, &nobody, at(millis));
        }
        let lost = absences.observe(&owners, &there, &nobody, at(600_000));
        assert_eq!(lost, away);
    }

    #[test]
    fn who_leads_again_has_seen_nobody_go() {
        let owners = zones(&["a"]);
        let mut absences = Absences::new(HOLD);
        let observe = |absences: &mut Absences, millis| {
            absences.observe(&owners, &Zones::new(), &BTreeSet::new(), at(millis))
        };
        for millis in [0, 5000, 10_000] {
            assert!(observe(&mut absences, millis).is_empty());
        }
        absences.forget();
        for millis in [14_000, 19_000, 24_000, 28_999] {
            assert!(observe(&mut absences, millis).is_empty());
        }
        assert_eq!(observe(&mut absences, 29_000), ids(&["a"]));
    }

    #[test]
    fn many_at_once_are_waited_for_no_less_than_one_alone_and_said_no_earlier() {
        let owners = zones(&["a", "b", "c", "d"]);
        let mut absences = Absences::new(BRAKE_HOLD * 2);
        let nobody = BTreeSet::new();
        let mut observe = |millis| {
            let lost = absences.observe(&owners, &Zones::new(), &nobody, at(millis));
            (lost.len(), absences.said.clone())
        };
        for millis in (0..1_200_000).step_by(5000) {
            assert_eq!(observe(millis), (0, Reading::Few));
        }
        assert_eq!(observe(1_200_000), (4, Reading::CutOff));
    }

    #[test]
    fn few_are_not_waited_for() {
        let owners = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        assert_eq!(lost(&owners, &owners[3..]), ids(&["a", "b", "c"]));
        assert_eq!(lost(&owners[..3], &[]), ids(&["a", "b", "c"]));
    }

    /// Who is lost once the ordinary hold is over.
    fn lost(owners: &[&str], there: &[&str]) -> BTreeSet<AgentId> {
        let (owners, there) = (zones(owners), zones(there));
        let mut absences = Absences::new(HOLD);
        let mut observe = |millis| absences.observe(&owners, &there, &BTreeSet::new(), at(millis));
        for millis in [0, 5000, 10_000, 14_999] {
            assert!(observe(millis).is_empty());
        }
        observe(15_000)
    }

    #[test]
    fn a_zone_that_is_down_is_not_waited_for() {
        let owners = ["a@x", "b@x", "c@y", "d@y", "e@z", "f@z"];
        assert_eq!(
            lost(&owners, &["c@y", "d@y", "e@z", "f@z"]),
            ids(&["a", "b"])
        );
    }

    #[test]
    fn what_is_less_than_a_zone_or_more_is_waited_for() {
        let owners = ["a@x", "b@x", "c@x", "d@y", "e@y", "f@z"];
        let nobody = BTreeSet::new();
        // One of the zone is there.
        assert_eq!(lost(&owners, &["c@x", "d@y", "e@y", "f@z"]), nobody);
        // One of it that owns nothing yet is there.
        let there = ["new@x", "d@y", "e@y", "f@z"];
        assert_eq!(lost(&owners, &there), nobody);
        // Somebody of another zone is away too.
        assert_eq!(lost(&owners, &["e@y", "f@z"]), nobody);
        // A single zone that is whole is where we are ourselves, perhaps.
        let two = ["a@x", "b@x", "c@y", "d@y"];
        assert_eq!(lost(&two, &["c@y", "d@y"]), nobody);
        // Nobody said where they are.
        let unknown = ["a", "b", "c@y", "d@z"];
        assert_eq!(lost(&unknown, &["c@y", "d@z"]), nobody);
    }
}
