//! What a control plane is made of.

use std::{fmt, sync::Arc, time::Duration};

use hookfleet_contract::{slot::DEFAULT_SLOT_COUNT, target::Rules};
use hookfleet_gateway::readiness::Readiness;

use crate::{clock::Clock, store::Store};

/// The condition of readiness that a control plane keeps up to date: the store is known, and can be believed.
pub const CONDITION: &str = "store";

/// What a control plane is made of.
#[derive(Clone)]
pub struct Config {
    /// What it remembers.
    pub store: Arc<dyn Store>,
    /// Seals secrets in the store and page tokens; the same for every control plane, and kept elsewhere than the store.
    pub sealing_key: [u8; 32],
    /// Which callback URLs are accepted.
    pub target_rules: Rules,
    /// What receivers are told when they are asked whether they want callbacks, and whether they must be.
    pub verification: Verification,
    /// Is told of [`CONDITION`].
    pub readiness: Readiness,
    /// How many slots a new cluster gets; an existing one keeps what it has.
    pub slot_count: u16,
    /// The most subscriptions of one tenant.
    pub max_subscriptions_per_tenant: usize,
    /// How long an agent may be away, besides the life of its lease, before others get its slots.
    pub agent_hold: Duration,
    /// How long an agent that joins waits for each further quarter of its share of other agents' slots; zero is all at once.
    pub join_ramp: Duration,
    /// How often everything that is known of the store is compared with it.
    pub audit_period: Duration,
    /// How often agents and the control plane give each other a sign of life.
    pub heartbeat: Duration,
    /// Tells the time.
    pub clock: Clock,
}

/// With what, and whether, callback URLs are verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// The DNS name that calls, for `WebHook-Request-Origin`.
    pub origin: Option<String>,
    /// What the URLs begin with that receivers confirm by: where the control planes are reached from outside,
    /// `https://host` without a slash at the end.
    pub public_url: Option<String>,
    /// Nobody is called who has not agreed.
    pub is_required: bool,
}

impl Config {
    /// A configuration with the defaults of everything that has one.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        sealing_key: [u8; 32],
        target_rules: Rules,
        readiness: Readiness,
    ) -> Self {
        Self {
            store,
            sealing_key,
            target_rules,
            verification: Verification::default(),
            readiness,
            slot_count: DEFAULT_SLOT_COUNT,
            max_subscriptions_per_tenant: 100_000,
            agent_hold: Duration::from_secs(15),
            join_ramp: Duration::from_secs(10),
            audit_period: Duration::from_secs(300),
            heartbeat: Duration::from_secs(3),
            clock: Clock::system(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("store", &self.store)
            .field("sealing_key", &"***")
            .field("target_rules", &self.target_rules)
            .field("verification", &self.verification)
            .field("slot_count", &self.slot_count)
            .field(
                "max_subscriptions_per_tenant",
                &self.max_subscriptions_per_tenant,
            )
            .field("agent_hold", &self.agent_hold)
            .field("join_ramp", &self.join_ramp)
            .field("heartbeat", &self.heartbeat)
            .finish_non_exhaustive()
    }
}
