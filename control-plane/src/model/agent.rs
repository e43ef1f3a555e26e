//! An agent as callers see it, made of its session here and of what any control plane noted in the store.

use std::time::Duration;

use hookfleet_contract::{
    name::{AgentId, AgentName},
    time::Timestamp,
    zone::Zone,
};
use hookfleet_proto::{
    fleet::{SlotOwner, StoredAgent},
    v1::{self, agent::State},
};

use crate::fleet;

/// How many slots concern an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotCounts {
    /// Its own.
    pub(crate) owned: usize,
    /// Those of them that another agent may still have deliveries of.
    pub(crate) arriving: usize,
    /// Those of others that it may still have deliveries of.
    pub(crate) leaving: usize,
}

/// What is known of an agent. What a session here says is newer than what was noted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known<'a> {
    /// The session that it has here.
    pub(crate) session: Option<&'a fleet::Agent>,
    /// What a control plane noted of it, if it has a session somewhere, or had one just now.
    pub(crate) noted: Option<&'a StoredAgent>,
    /// When it was last known to be there.
    pub(crate) seen: Option<Timestamp>,
    /// What the slot table has.
    pub(crate) owner: Option<&'a SlotOwner>,
    /// How many slots concern it.
    pub(crate) slots: SlotCounts,
}

/// The resource.
pub(crate) fn view(id: &AgentId, known: Known<'_>, now: Timestamp) -> v1::Agent {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let (noted, slots) = (known.noted, known.slots);
    let is_draining = noted.is_some_and(|it| it.draining);
    let agent = v1::Agent {
        name: AgentName { agent: id.clone() }.to_string(),
        state: State::Disconnected.into(),
        slot_count: count(slots.owned),
        arriving_slot_count: count(slots.arriving),
        leaving_slot_count: count(slots.leaving),
        weight: noted.map_or(0, |it| it.weight),
        ..v1::Agent::default()
    };
    let lag =
        |since: Option<Timestamp>| Some(duration(since.map_or(Duration::ZERO, |it| now.since(it))));
    match (known.session, noted) {
        (Some(session), _) => v1::Agent {
            address: session.address.clone(),
            zone: session
                .zone
                .as_ref()
                .map(Zone::to_string)
                .unwrap_or_default(),
            state: match session.is_live {
                _ if is_draining => State::Draining,
                true => State::Live,
                false => State::Syncing,
            }
            .into(),
            version: session.version.clone(),
            applied_revision: session.applied,
            last_heartbeat_time: Some(session.last_heard.into()),
            pending_delivery_count: session.n_pending,
            config_lag: lag(session.behind_since),
            ..agent
        },
        (None, Some(noted)) => v1::Agent {
            address: noted.address.clone(),
            zone: noted.zone.clone(),
            version: noted.version.clone(),
            applied_revision: noted.applied_revision,
            last_heartbeat_time: noted.write_time,
            config_lag: lag(noted.behind_since.map(Timestamp::from)),
            ..agent
        },
        (None, None) => v1::Agent {
            address: known.owner.map(|it| it.address.clone()).unwrap_or_default(),
            zone: known.owner.map(|it| it.zone.clone()).unwrap_or_default(),
            last_heartbeat_time: known.seen.map(Into::into),
            silence: known.seen.map(|seen| duration(now.since(seen))),
            ..agent
        },
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    // As long as a duration of Protobuf can be is longer than anybody waits.
    duration.try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::era::Era, fleet::SessionId};

    const NOW: Timestamp = Timestamp(1_000_000);

    fn viewed(known: Known<'_>) -> v1::Agent {
        view(&"a".parse().unwrap(), known, NOW)
    }

    fn ago(seconds: u64) -> Timestamp {
        NOW - Duration::from_secs(seconds)
    }

    fn seconds(duration: Option<prost_types::Duration>) -> Option<i64> {
        duration.map(|it| it.seconds)
    }

    #[test]
    fn an_agent_with_a_session_here_is_as_late_as_the_session_says() {
        let mut session = fleet::Agent {
            session: SessionId::default(),
            address: "http://a".to_owned(),
            version: "1".to_owned(),
            zone: Some("x".parse().unwrap()),
            is_live: true,
            applied: 7,
            era: Era::default(),
            behind_since: Some(ago(9)),
            last_heard: ago(1),
            n_pending: 0,
        };
        let late = viewed(Known {
            session: Some(&session),
            seen: Some(ago(100)),
            ..Known::default()
        });
        assert_eq!((seconds(late.config_lag), late.silence), (Some(9), None));
        assert_eq!((late.zone.as_str(), late.state()), ("x", State::Live));
        session.behind_since = None;
        let up_to_date = viewed(Known {
            session: Some(&session),
            ..Known::default()
        });
        assert_eq!(seconds(up_to_date.config_lag), Some(0));
    }

    #[test]
    fn an_agent_of_another_control_plane_is_as_late_as_was_noted() {
        let mut noted = StoredAgent {
            zone: "x".to_owned(),
            behind_since: Some(ago(30).into()),
            ..StoredAgent::default()
        };
        let late = viewed(Known {
            noted: Some(&noted),
            seen: Some(ago(1)),
            ..Known::default()
        });
        assert_eq!((seconds(late.config_lag), late.silence), (Some(30), None));
        assert_eq!(
            (late.zone.as_str(), late.state()),
            ("x", State::Disconnected)
        );
        noted.behind_since = None;
        let up_to_date = viewed(Known {
            noted: Some(&noted),
            ..Known::default()
        });
        assert_eq!(seconds(up_to_date.config_lag), Some(0));
    }

    #[test]
    fn an_agent_that_is_nowhere_is_as_silent_as_it_was_not_seen() {
        let owner = SlotOwner {
            zone: "x".to_owned(),
            ..SlotOwner::default()
        };
        let silent = viewed(Known {
            owner: Some(&owner),
            seen: Some(ago(40)),
            ..Known::default()
        });
        assert_eq!(
            (silent.config_lag, seconds(silent.silence)),
            (None, Some(40))
        );
        assert_eq!(silent.zone, "x");
        assert_eq!(viewed(Known::default()).silence, None);
    }
}
