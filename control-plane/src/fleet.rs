//! The agents that have a session with this control plane, and how far each is. Pure; sessions themselves are elsewhere.
//!
//! **Invariants:** an agent has one session at a time, the newest; what an older one still says is not heard.

use std::{collections::BTreeMap, time::Duration};

use hookfleet_contract::{name::AgentId, time::Timestamp, zone::Zone};

use crate::{cache::era::Era, store::Revision};

/// An agent that was sent elsewhere and is back so soon has found nobody better: time for ten others to have a look.
const BACK: Duration = Duration::from_secs(120);

/// Names a session among those of this control plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(u64);

/// The agents.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    sessions_so_far: u64,
    agents: BTreeMap<AgentId, Agent>,
    /// What agents could not apply, by name, and at which revision. Outlives sessions, because an agent that goes on
    /// where it stood does not say it again.
    rejected: BTreeMap<AgentId, BTreeMap<String, Revision>>,
    /// When agents were last known to be there, with a session or a note in the store. Outlives both.
    seen: BTreeMap<AgentId, Timestamp>,
    /// When agents were sent elsewhere because the store was out of reach.
    sent_away: BTreeMap<AgentId, Timestamp>,
}

/// An agent, as far as this control plane knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) session: SessionId,
    pub(crate) address: String,
    pub(crate) version: String,
    /// Where it runs, as far as failures are shared.
    pub(crate) zone: Option<Zone>,
    /// It has had everything at least once.
    pub(crate) is_live: bool,
    /// It has applied everything up to here, of the store of this era.
    pub(crate) applied: Revision,
    pub(crate) era: Era,
    /// When the oldest change was heard of that it has not applied.
    pub(crate) behind_since: Option<Timestamp>,
    pub(crate) last_heard: Timestamp,
    pub(crate) n_pending: i64,
}

impl Fleet {
    /// A session begins; an older one of the same agent is over from here on.
    pub(crate) fn join(
        &mut self,
        id: &AgentId,
        address: String,
        version: String,
        zone: Option<Zone>,
        era: Era,
        now: Timestamp,
    ) -> SessionId {
        self.sessions_so_far += 1;
        let session = SessionId(self.sessions_so_far);
        let agent = Agent {
            session,
            address,
            version,
            zone,
            is_live: false,
            applied: 0,
            era,
            behind_since: Some(now),
            last_heard: now,
            n_pending: 0,
        };
        self.agents.insert(id.clone(), agent);
        session
    }

    /// An agent begins anew: it will say again what it cannot apply.
    pub(crate) fn forget_rejections(&mut self, id: &AgentId) {
        self.rejected.remove(id);
    }

    /// An agent cannot apply this version of a resource.
    pub(crate) fn reject(&mut self, id: &AgentId, name: String, mod_revision: Revision) {
        self.rejected
            .entry(id.clone())
            .or_default()
            .insert(name, mod_revision);
    }

    /// Whether an agent has this version of a resource, or a later one, in force, given how far it is.
    pub(crate) fn has_applied(
        &self,
        id: &AgentId,
        applied: Revision,
        name: &str,
        mod_revision: Revision,
    ) -> bool {
        let rejected = self
            .rejected
            .get(id)
            .and_then(|rejected| rejected.get(name));
        applied >= mod_revision && rejected.is_none_or(|at| *at < mod_revision)
    }

    /// A session ended.
    pub(crate) fn leave(&mut self, id: &AgentId, session: SessionId) {
        if let Some(agent) = self.session(id, session) {
            let heard = agent.last_heard;
            self.agents.remove(id);
            self.seen.insert(id.clone(), heard);
        }
    }

    /// These agents have a note in the store. Of the others only owners of slots are remembered.
    pub(crate) fn see<'a>(
        &mut self,
        noted: impl Iterator<Item = &'a AgentId>,
        is_owner: impl Fn(&AgentId) -> bool,
        now: Timestamp,
    ) {
        self.seen.retain(|id, _| is_owner(id));
        self.seen.extend(noted.map(|id| (id.clone(), now)));
    }

    /// When an agent was last known to be there.
    pub(crate) fn seen(&self, id: &AgentId) -> Option<Timestamp> {
        self.seen.get(id).copied()
    }

    /// An agent is sent elsewhere because the store is out of reach.
    pub(crate) fn send_away(&mut self, id: &AgentId, now: Timestamp) {
        self.sent_away.retain(|_, sent| now.since(*sent) < BACK);
        self.sent_away.insert(id.clone(), now);
    }

    /// Whether an agent that comes was sent elsewhere and is back.
    pub(crate) fn is_back(&mut self, id: &AgentId, now: Timestamp) -> bool {
        let sent = self.sent_away.remove(id);
        sent.is_some_and(|sent| now.since(sent) < BACK)
    }

    /// The agent of a session, if it still is the agent's newest.
    pub(crate) fn session(&mut self, id: &AgentId, session: SessionId) -> Option<&mut Agent> {
        self.agents
            .get_mut(id)
            .filter(|agent| agent.session == session)
    }

    pub(crate) fn get(&self, id: &AgentId) -> Option<&Agent> {
        self.agents.get(id)
    }

    pub(crate) fn agents(&self) -> impl Iterator<Item = (&AgentId, &Agent)> {
        self.agents.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_session_is_heard() {
        let (mut fleet, id) = (Fleet::default(), "a".parse().unwrap());
        let mut join = |now| {
            let (address, version) = ("http://a".to_owned(), "1".to_owned());
            fleet.join(&id, address, version, None, Era::default(), Timestamp(now))
        };
        let (older, newer) = (join(1), join(2));
        assert!(fleet.session(&id, older).is_none());
        fleet.leave(&id, older);
        assert!(fleet.session(&id, newer).is_some());
        fleet.leave(&id, newer);
        assert_eq!(fleet.get(&id), None);
        assert_eq!(fleet.seen(&id), Some(Timestamp(2)));
        fleet.see([&id].into_iter(), |_| false, Timestamp(5));
        assert_eq!(fleet.seen(&id), Some(Timestamp(5)));
        fleet.see([].into_iter(), |_| true, Timestamp(6));
        assert_eq!(fleet.seen(&id), Some(Timestamp(5)));
        fleet.see([].into_iter(), |_| false, Timestamp(7));
        assert_eq!(fleet.seen(&id), None);
    }

    #[test]
    fn an_agent_is_back_if_it_was_sent_away_lately_and_only_once() {
        let (mut fleet, id) = (Fleet::default(), "a".parse().unwrap());
        assert!(!fleet.is_back(&id, Timestamp(0)));
        fleet.send_away(&id, Timestamp(0));
        assert!(fleet.is_back(&id, Timestamp(119_999)));
        assert!(!fleet.is_back(&id, Timestamp(119_999)));
        fleet.send_away(&id, Timestamp(0));
        assert!(!fleet.is_back(&id, Timestamp(120_000)));
    }

    #[test]
    fn a_rejected_version_is_not_applied_but_a_later_one_may_be() {
        let (mut fleet, id) = (Fleet::default(), "a".parse().unwrap());
        fleet.reject(&id, "s".to_owned(), 5);
        assert!(!fleet.has_applied(&id, 10, "s", 5));
        assert!(fleet.has_applied(&id, 10, "s", 6));
        assert!(!fleet.has_applied(&id, 10, "s", 11));
        assert!(fleet.has_applied(&id, 10, "t", 5));
        fleet.forget_rejections(&id);
        assert!(fleet.has_applied(&id, 10, "s", 5));
    }
}
