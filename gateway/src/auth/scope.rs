//! Scopes: what a credential allows. Which method needs which is for the [methods](super::methods) to say.

use std::{fmt, str::FromStr};

/// One thing that a credential may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Scope {
    /// Publish events.
    EventsPublish = 1,
    /// See subscriptions and the tenant they are of.
    SubscriptionsRead = 1 << 1,
    /// Create, change and delete subscriptions.
    SubscriptionsWrite = 1 << 2,
    /// Replace signing secrets.
    SecretsRotate = 1 << 3,
    /// See deliveries and their attempts.
    AttemptsRead = 1 << 4,
    /// See events with their data.
    AttemptsReadPayload = 1 << 5,
    /// Deliver again.
    DeliveriesReplay = 1 << 6,
    /// Manage tenants and their keys.
    TenantsAdmin = 1 << 7,
    /// Be a part of the fleet: be told of subscriptions with their secrets, and pass events on.
    AgentsRegister = 1 << 8,
    /// Everything.
    SystemAdmin = 1 << 9,
}

/// A set of scopes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u16);

/// The text is not a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a scope; there are {all}", all = Scopes::all())]
pub struct NotAScope(String);

// === impl Scope ===

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 10] = [
        Self::EventsPublish,
        Self::SubscriptionsRead,
        Self::SubscriptionsWrite,
        Self::SecretsRotate,
        Self::AttemptsRead,
        Self::AttemptsReadPayload,
        Self::DeliveriesReplay,
        Self::TenantsAdmin,
        Self::AgentsRegister,
        Self::SystemAdmin,
    ];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EventsPublish => "events.publish",
            Self::SubscriptionsRead => "subscriptions.read",
            Self::SubscriptionsWrite => "subscriptions.write",
            Self::SecretsRotate => "secrets.rotate",
            Self::AttemptsRead => "attempts.read",
            Self::AttemptsReadPayload => "attempts.read_payload",
            Self::DeliveriesReplay => "deliveries.replay",
            Self::TenantsAdmin => "tenants.admin",
            Self::AgentsRegister => "agents.register",
            Self::SystemAdmin => "system.admin",
        }
    }

    /// Whether a credential of a tenant may have it.
    #[must_use]
    pub fn is_for_tenants(self) -> bool {
        self < Self::TenantsAdmin
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Self, NotAScope> {
        let found = Self::ALL.into_iter().find(|it| it.as_str() == text);
        found.ok_or_else(|| NotAScope(text.to_owned()))
    }
}

// === impl Scopes ===

impl Scopes {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// Whether the set allows what needs `scope`. Parts of the fleet pass questions about deliveries on to each other.
    #[must_use]
    pub fn allow(self, scope: Scope) -> bool {
        let is_passed_on = matches!(
            scope,
            Scope::AttemptsRead | Scope::AttemptsReadPayload | Scope::DeliveriesReplay
        );
        let fleet = Scope::AgentsRegister as u16 * u16::from(is_passed_on);
        self.0 & (scope as u16 | fleet | Scope::SystemAdmin as u16) != 0
    }

    /// Those in the set, in their order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |it| self.0 & *it as u16 != 0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        Self(scopes.into_iter().fold(0, |bits, it| bits | it as u16))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Scope::as_str).collect();
        f.write_str(&names.join(", "))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_as_they_were_written() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        for other in ["", "events", "Events.publish", "events.publish ", "*"] {
            assert!(other.parse::<Scope>().is_err(), "{other}");
        }
    }

    #[test]
    fn a_set_allows_what_is_in_it_and_system_admin_everything() {
        let set: Scopes = [Scope::AttemptsRead, Scope::EventsPublish]
            .into_iter()
            .collect();
        assert_eq!(set.to_string(), "events.publish, attempts.read");
        let admin: Scopes = [Scope::SystemAdmin].into_iter().collect();
        for scope in Scope::ALL {
            let is_in = matches!(scope, Scope::AttemptsRead | Scope::EventsPublish);
            assert_eq!(set.allow(scope), is_in, "{scope}");
            assert!(admin.allow(scope), "{scope}");
            assert!(!Scopes::default().allow(scope), "{scope}");
        }
    }
}
