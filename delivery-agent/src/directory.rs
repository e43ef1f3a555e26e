//! What the agent knows of tenants and subscriptions, as its readers need it: by event type for
//! matching, by uid for attempts. It decides nothing; the sync client puts changes in force here.
//!
//! **Invariant:** a reader sees each tenant's subscriptions either before or after a change, never
//! in between.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use hookfleet_contract::{
    name::{SubscriptionId, TenantId},
    subscription::Subscription,
};

use crate::core::{Settings, Uid};

/// A cheap handle to what is known.
#[derive(Clone, Debug, Default)]
pub struct Directory(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
struct Known {
    tenants: HashMap<TenantId, Arc<Tenant>>,
    by_uid: HashMap<Uid, Arc<Subscription>>,
}

/// One tenant with its subscriptions.
#[derive(Clone, Debug, Default)]
pub struct Tenant {
    suspended: bool,
    subscriptions: BTreeMap<SubscriptionId, Arc<Subscription>>,
    /// By the text of each pattern; `*` is under itself.
    by_pattern: HashMap<Box<str>, Vec<Arc<Subscription>>>,
}

/// One thing that is different now.
#[derive(Clone, Debug)]
pub enum Change {
    /// A tenant is new or has changed.
    Tenant {
        /// Which.
        tenant: TenantId,
        /// Whether its deliveries wait.
        suspended: bool,
    },
    /// A tenant is gone, with its subscriptions.
    TenantGone(TenantId),
    /// A subscription is new or has changed.
    Subscription(Arc<Subscription>),
    /// A subscription is gone.
    SubscriptionGone(TenantId, SubscriptionId),
}

/// What a change means for deliveries.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The subscription is to be delivered so.
    Live {
        /// The subscription.
        subscription: Arc<Subscription>,
        /// It or its tenant is suspended.
        suspended: bool,
    },
    /// The subscription is gone.
    Ended(Uid),
}

// === impl Directory ===

impl Directory {
    /// The tenant, if it is known.
    #[must_use]
    pub fn tenant(&self, tenant: &TenantId) -> Option<Arc<Tenant>> {
        self.read(|known| known.tenants.get(tenant).cloned())
    }

    /// All tenants that are known.
    #[must_use]
    pub fn tenants(&self) -> Vec<(TenantId, Arc<Tenant>)> {
        let pair = |(id, tenant): (&TenantId, &Arc<Tenant>)| (id.clone(), Arc::clone(tenant));
        self.read(|known| known.tenants.iter().map(pair).collect())
    }

    /// The subscription with this uid, if it is known.
    #[must_use]
    pub fn subscription(&self, uid: &Uid) -> Option<Arc<Subscription>> {
        self.read(|known| known.by_uid.get(uid).cloned())
    }

    /// What the core needs to know of the subscription with this uid, if it is known.
    #[must_use]
    pub fn settings(&self, uid: &Uid) -> Option<Settings> {
        self.read(|known| {
            let subscription = known.by_uid.get(uid)?;
            let tenant = known.tenants.get(&subscription.name.tenant)?;
            let suspended = tenant.suspended || subscription.suspended;
            Some(Self::settings_of(subscription, suspended))
        })
    }

    /// What the core needs to know of a subscription.
    #[must_use]
    pub fn settings_of(subscription: &Subscription, suspended: bool) -> Settings {
        Settings {
            tenant: subscription.name.tenant.clone(),
            endpoint: subscription.target.origin().into(),
            policy: Arc::clone(&subscription.policy),
            max_in_flight: subscription.max_in_flight,
            max_requests_per_second: subscription.max_requests_per_second,
            suspended,
        }
    }

    /// Puts changes in force and says what they mean for deliveries.
    pub fn apply(&self, changes: Vec<Change>) -> Vec<Effect> {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut edits: HashMap<TenantId, Tenant> = HashMap::new();
        let mut effects = Vec::with_capacity(changes.len());
        for change in changes {
            let tenant = change.tenant().clone();
            let edit = edits.entry(tenant.clone()).or_insert_with(|| {
                let known = known.tenants.get(&tenant);
                known.map(|it| Tenant::clone(it)).unwrap_or_default()
            });
            match change {
                Change::Tenant { suspended, .. } => {
                    if edit.suspended != suspended {
                        edit.suspended = suspended;
                        effects.extend(edit.subscriptions.values().map(|it| live(it, suspended)));
                    }
                }
                Change::TenantGone(_) => {
                    let gone = std::mem::take(edit).subscriptions.into_values();
                    effects.extend(gone.map(|it| Effect::Ended(it.uid)));
                    known.tenants.remove(&tenant);
                    edits.remove(&tenant);
                }
                Change::Subscription(subscription) => {
                    let previous = edit.insert(Arc::clone(&subscription));
                    let replaced = previous.filter(|it| it.uid != subscription.uid);
                    effects.extend(replaced.map(|it| Effect::Ended(it.uid)));
                    effects.push(live(&subscription, edit.suspended));
                }
                Change::SubscriptionGone(_, id) => {
                    let gone = edit.remove(&id);
                    effects.extend(gone.map(|it| Effect::Ended(it.uid)));
                }
            }
        }
        for (tenant, edit) in edits {
            known.tenants.insert(tenant, Arc::new(edit.indexed()));
        }
        for effect in &effects {
            match effect {
                Effect::Live { subscription, .. } => {
                    known
                        .by_uid
                        .insert(subscription.uid, Arc::clone(subscription));
                }
                Effect::Ended(uid) => {
                    known.by_uid.remove(uid);
                }
            }
        }
        effects
    }

    fn read<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn live(subscription: &Arc<Subscription>, tenant_suspended: bool) -> Effect {
    Effect::Live {
        subscription: Arc::clone(subscription),
        suspended: tenant_suspended || subscription.suspended,
    }
}

// === impl Tenant ===

impl Tenant {
    /// Whether publishes are refused and deliveries wait.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// The subscription with this id.
    #[must_use]
    pub fn subscription(&self, id: &SubscriptionId) -> Option<&Arc<Subscription>> {
        self.subscriptions.get(id)
    }

    /// The subscriptions in force that want events of this type, each once, ordered by id.
    #[must_use]
    pub fn matching(&self, event_type: &str) -> Vec<&Arc<Subscription>> {
        let dots = event_type.match_indices('.').map(|(at, _)| at);
        let prefixes = dots.map(|at| &event_type[..at]);
        let lists = prefixes
            .chain([event_type, "*"])
            .filter_map(|prefix| self.by_pattern.get(prefix));
        let lists: Vec<_> = lists.collect();
        let mut found: Vec<&Arc<Subscription>> = lists.iter().copied().flatten().collect();
        // Each list is in order, and has each once, as it is made from the ordered map.
        if lists.len() > 1 {
            found.sort_unstable_by(|a, b| a.name.subscription.cmp(&b.name.subscription));
            found.dedup_by(|a, b| a.uid == b.uid);
        }
        found
    }

    fn insert(&mut self, subscription: Arc<Subscription>) -> Option<Arc<Subscription>> {
        let id = subscription.name.subscription.clone();
        self.subscriptions.insert(id, subscription)
    }

    fn remove(&mut self, id: &SubscriptionId) -> Option<Arc<Subscription>> {
        self.subscriptions.remove(id)
    }

    fn indexed(mut self) -> Self {
        self.by_pattern.clear();
        let in_force = self.subscriptions.values().filter(|it| it.is_in_force);
        for subscription in in_force {
            for pattern in &subscription.patterns {
                let list = self.by_pattern.entry(pattern.as_str().into()).or_default();
                if list.last().is_none_or(|it| it.uid != subscription.uid) {
                    list.push(Arc::clone(subscription));
                }
            }
        }
        self
    }
}

// === impl Change ===

impl Change {
    fn tenant(&self) -> &TenantId {
        match self {
            Self::Tenant { tenant, .. }
            | Self::TenantGone(tenant)
            | Self::SubscriptionGone(tenant, _) => tenant,
            Self::Subscription(subscription) => &subscription.name.tenant,
        }
    }
}
