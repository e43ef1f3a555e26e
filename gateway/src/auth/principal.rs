//! Who calls, once that is known.

use std::sync::Arc;

use hookfleet_contract::name::{AgentId, TenantId};

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

    /// Who it is, for logs: `keys/…`, `agents/…`, or issuer and subject of a token.
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

    /// Whether it may speak for this agent: as that agent, or as somebody who is not an agent.
    #[must_use]
    pub fn may_be(&self, agent: &AgentId) -> bool {
        let own = self.subject.strip_prefix("agents/");
        own.is_none_or(|own| own == agent.as_str())
    }
}
