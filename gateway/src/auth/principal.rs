//! Who calls, once that is known.

use std::sync::Arc;

use hookfleet_contract::name::{AgentId, ControlPlaneId, TenantId};

use super::scope::{Scope, Scopes};

/// Somebody who has proven who they are. Goes with the request, in its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    subject: Arc<str>,
    reach: Reach,
    scopes: Scopes,
}

/// Whose things a principal may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of one tenant.
    Tenant(TenantId),
    /// Everybody's, and what belongs to nobody.
    Fleet,
}

// === impl Principal ===

impl Principal {
    /// A principal. Of the scopes, those that its reach cannot have are left out.
    #[must_use]
    pub fn new(subject: impl Into<Arc<str>>, reach: Reach, scopes: Scopes) -> Self {
        let may_have = |it: &Scope| reach == Reach::Fleet || it.is_for_tenants();
        Self {
            subject: subject.into(),
            scopes: scopes.iter().filter(may_have).collect(),
            reach,
        }
    }

    /// Whoever reaches a server that asks nobody who they are.
    #[must_use]
    pub fn anyone() -> Self {
        let scopes = [Scope::SystemAdmin].into_iter().collect();
        Self::new("anyone", Reach::Fleet, scopes)
    }

    /// An agent of the fleet.
    #[must_use]
    pub fn agent(agent: &AgentId) -> Self {
        let scopes = [Scope::AgentsRegister].into_iter().collect();
        Self::new(format!("agents/{agent}"), Reach::Fleet, scopes)
    }

    /// A control plane of the fleet.
    #[must_use]
    pub fn control_plane(control_plane: &ControlPlaneId) -> Self {
        let scopes = [Scope::AgentsRegister].into_iter().collect();
        let subject = format!("control-planes/{control_plane}");
        Self::new(subject, Reach::Fleet, scopes)
    }

    /// Who it is, for logs: `keys/…`, `agents/…`, `control-planes/…`, or issuer and subject of a token.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Whose things it may touch.
    #[must_use]
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// What it may do.
    #[must_use]
    pub fn scopes(&self) -> Scopes {
        self.scopes
    }

    /// Whether it may speak for this agent: as that agent, or as somebody who is no part of the fleet by name.
    #[must_use]
    pub fn may_be(&self, agent: &AgentId) -> bool {
        match self.subject.split_once('/') {
            Some(("agents", own)) => own == agent.as_str(),
            Some(("control-planes", _)) => false,
            Some(_) | None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A16.
    #[test]
    fn an_agent_speaks_for_itself_alone_and_a_control_plane_for_none() {
        let [one, other]: [AgentId; 2] = ["one", "other"].map(|it| it.parse().unwrap());
        assert!(Principal::agent(&one).may_be(&one));
        assert!(!Principal::agent(&one).may_be(&other));
        let control_plane = Principal::control_plane(&"one".parse().unwrap());
        assert!(!control_plane.may_be(&one));
        // A key of the fleet is every agent's.
        let key = Principal::new("keys/k1", Reach::Fleet, Scopes::all());
        assert!(key.may_be(&one) && key.may_be(&other));
    }
}
