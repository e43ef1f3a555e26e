//! Who takes part: subscriptions with their tenants and endpoints, each found by name and referred to
//! by number, and the memory of those that are idle. It decides nothing.
//!
//! **Invariant:** a number is given to another only when nothing refers to it any more.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use hookfleet_contract::{name::TenantId, shard::Shard, time::Timestamp};
use rustc_hash::FxBuildHasher;
use slab::Slab;

use super::{
    Uid,
    command::{Hints, Settings},
    destination::Destinations,
    endpoint::Endpoint,
    health::Memory,
    lane::{Holder, Lane, Share},
    subscription::{Live, Phase, Place, Subscription},
};

/// How many idle subscriptions, and endpoints, are remembered at least: 18 MiB each.
const REMEMBERED: usize = 128 << 10;

/// Everyone.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) subscriptions: Slab<Subscription>,
    pub(super) tenants: Slab<Tenant>,
    pub(super) endpoints: Slab<Endpoint>,
    pub(super) destinations: Destinations,
    by_uid: HashMap<Uid, usize, FxBuildHasher>,
    by_tenant: HashMap<TenantId, usize>,
    by_origin: HashMap<Arc<str>, usize>,
    idle_subscriptions: Memory<Uid>,
    idle_endpoints: Memory<Arc<str>>,
    /// Until when a tenant's calls of an endpoint wait because it said so.
    pauses: HashMap<(TenantId, Arc<str>), Timestamp>,
    /// How many pauses there may be before the old ones are looked for.
    max_pauses: usize,
}

/// A tenant with deliveries.
#[derive(Debug)]
pub(super) struct Tenant {
    id: TenantId,
    /// How many subscriptions refer to it, by the number of their shard.
    n_users: BTreeMap<u8, usize>,
    shares: [Share; 4],
}

/// An endpoint that is no longer referred to, and its timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) endpoint: usize,
    pub(super) timer: Timestamp,
}

// === impl Tables ===

impl Tables {
    /// Nobody yet, for a core with so many permits.
    pub(super) fn new(permits: usize) -> Self {
        Self {
            subscriptions: Slab::new(),
            tenants: Slab::new(),
            endpoints: Slab::new(),
            destinations: Destinations::new(permits),
            by_uid: HashMap::default(),
            by_tenant: HashMap::new(),
            by_origin: HashMap::new(),
            idle_subscriptions: Memory::new(REMEMBERED),
            idle_endpoints: Memory::new(REMEMBERED),
            pauses: HashMap::new(),
            max_pauses: 2048,
        }
    }

    /// The number of a subscription that has deliveries.
    pub(super) fn find(&self, uid: &Uid) -> Option<usize> {
        self.by_uid.get(uid).copied()
    }

    /// Those that have not been heard of.
    pub(super) fn unknown(&self) -> Vec<usize> {
        let all = self.subscriptions.iter();
        let unknown = all.filter(|(_, it)| matches!(it.phase, Phase::Unknown));
        unknown.map(|(key, _)| key).collect()
    }

    /// The subscriptions in these shards that are not leaving yet.
    pub(super) fn of(&self, shards: &BTreeSet<Shard>) -> Vec<usize> {
        let is_of = |it: &Subscription| {
            let live = it.phase.live();
            !it.leaving && live.is_some_and(|it| shards.contains(&it.settings.shard))
        };
        let all = self.subscriptions.iter();
        all.filter(|(_, it)| is_of(it))
            .map(|(key, _)| key)
            .collect()
    }

    /// Those that have deliveries.
    pub(super) fn users(&self) -> impl Iterator<Item = Shard> {
        let tenants = self.tenants.iter().map(|(_, tenant)| tenant);
        tenants.flat_map(|it| {
            let numbers = it.n_users.keys();
            numbers.map(|&number| Shard {
                tenant: it.id.clone(),
                number,
            })
        })
    }

    /// A subscription that has not been heard of.
    pub(super) fn add(&mut self, uid: Uid) -> usize {
        let health = self.idle_subscriptions.take(&uid);
        let key = self.subscriptions.insert(Subscription::new(uid, health));
        self.by_uid.insert(uid, key);
        key
    }

    /// The subscription is as the settings say. Returns its endpoint, and the one it had before if
    /// nobody else has it.
    pub(super) fn attach(&mut self, key: usize, settings: Settings) -> (usize, Option<Left>) {
        if let Phase::Live(live) = &mut self.subscriptions[key].phase
            && live.settings.endpoint == settings.endpoint
            && live.settings.shard == settings.shard
        {
            live.settings = settings;
            return (live.endpoint, None);
        }
        let tenant = self.tenant(&settings.shard.tenant);
        let endpoint = self.endpoint(&settings.endpoint);
        self.tenants[tenant].enter(settings.shard.number);
        self.endpoints[endpoint].n_users += 1;
        let left = self.detach(key);
        self.subscriptions[key].phase = Phase::Live(Live {
            settings,
            tenant,
            endpoint,
        });
        (endpoint, left)
    }

    /// The subscription is gone.
    pub(super) fn end(&mut self, key: usize) -> Option<Left> {
        let left = self.detach(key);
        self.subscriptions[key].phase = Phase::Ended;
        left
    }

    /// Forgets a subscription without deliveries, but not what was learnt of its receiver.
    pub(super) fn remove(&mut self, key: usize) -> Option<Left> {
        let left = self.detach(key);
        let removed = self.subscriptions.remove(key);
        self.by_uid.remove(&removed.uid);
        if matches!(removed.phase, Phase::Live(_)) {
            self.idle_subscriptions.keep(removed.uid, removed.health);
        }
        left
    }

    /// Forgets an endpoint that nobody refers to.
    pub(super) fn leave_endpoint(&mut self, key: usize) -> Option<Left> {
        let endpoint = &self.endpoints[key];
        if endpoint.n_users > 0 || endpoint.in_flight > 0 {
            return None;
        }
        let removed = self.endpoints.remove(key);
        self.by_origin.remove(&removed.origin);
        let left = removed.timer.map(|timer| Left {
            endpoint: key,
            timer,
        });
        self.idle_endpoints.keep(removed.origin, removed.health);
        left
    }

    /// Forgets a tenant that nobody refers to.
    pub(super) fn leave_tenant(&mut self, key: usize) {
        let tenant = &self.tenants[key];
        if tenant.n_users.is_empty() && tenant.shares.iter().all(Share::is_idle) {
            let removed = self.tenants.remove(key);
            self.by_tenant.remove(&removed.id);
        }
    }

    /// Until when a tenant's endpoint asked to be left alone.
    pub(super) fn paused_until(&self, live: &Live, now: Timestamp) -> Option<Timestamp> {
        if self.pauses.is_empty() {
            return None;
        }
        let until = self.pauses.get(&live.settings.place());
        until.copied().filter(|&until| until > now)
    }

    /// A tenant's endpoint asks to be left alone.
    pub(super) fn pause(&mut self, key: usize, until: Timestamp, now: Timestamp) {
        let Some(live) = self.subscriptions[key].phase.live() else {
            return;
        };
        let place = live.settings.place();
        self.put_pause(place, until, now);
    }

    fn put_pause(&mut self, place: (TenantId, Arc<str>), until: Timestamp, now: Timestamp) {
        let pause = self.pauses.entry(place).or_insert(until);
        *pause = until.max(*pause);
        if self.pauses.len() > self.max_pauses {
            self.pauses.retain(|_, until| *until > now);
            self.max_pauses = 2 * self.pauses.len().max(1024);
        }
    }

    /// Forgets what was learnt of a subscription that has no deliveries here.
    pub(super) fn forget(&mut self, uid: &Uid) {
        self.idle_subscriptions.take(uid);
    }

    /// What an earlier run learnt.
    pub(super) fn remember(&mut self, hints: Hints) {
        for (uid, hint) in hints.subscriptions {
            self.idle_subscriptions.keep(uid, hint.into());
        }
        for (origin, hint) in hints.endpoints {
            self.idle_endpoints.keep(origin, hint.into());
        }
        for (tenant, origin, until) in hints.pauses {
            self.pauses.insert((tenant, origin), until);
        }
    }

    /// What the agent should know that goes on with a subscription.
    pub(super) fn hints_of(&self, key: usize, now: Timestamp) -> Hints {
        let subscription = &self.subscriptions[key];
        let mut hints = Hints {
            subscriptions: vec![(subscription.uid, subscription.health.memory())],
            ..Hints::default()
        };
        if let Some(live) = subscription.phase.live() {
            let endpoint = &self.endpoints[live.endpoint];
            let hint = endpoint.health.hint();
            hints.endpoints = hint
                .map(|it| (Arc::clone(&endpoint.origin), it))
                .into_iter()
                .collect();
            let (tenant, origin) = live.settings.place();
            let until = self.paused_until(live, now);
            hints.pauses = until.map(|it| (tenant, origin, it)).into_iter().collect();
        }
        hints
    }

    /// What another agent learnt of what this one goes on with.
    pub(super) fn learn(&mut self, hints: Hints, now: Timestamp) {
        for (uid, hint) in hints.subscriptions {
            if let Some(key) = self.find(&uid) {
                self.subscriptions[key].health.learn(hint);
            } else {
                let known = self.idle_subscriptions.take(&uid);
                let health = if known.is_well() { known } else { hint.into() };
                self.idle_subscriptions.keep(uid, health);
            }
        }
        for (origin, hint) in hints.endpoints {
            if !self.by_origin.contains_key(&origin) {
                let known = self.idle_endpoints.take(&origin);
                let health = if known.is_new() { hint.into() } else { known };
                self.idle_endpoints.keep(origin, health);
            }
        }
        for (tenant, origin, until) in hints.pauses {
            self.put_pause((tenant, origin), until, now);
        }
    }

    /// What the next run should know.
    pub(super) fn hints(&self, now: Timestamp) -> Hints {
        let subscriptions = self.subscriptions.iter();
        let subscriptions = subscriptions.filter_map(|(_, it)| Some((it.uid, it.health.hint()?)));
        let endpoints = self.endpoints.iter();
        let endpoints =
            endpoints.filter_map(|(_, it)| Some((Arc::clone(&it.origin), it.health.hint()?)));
        let pauses = self.pauses.iter().filter(|(_, until)| **until > now);
        let pauses =
            pauses.map(|((tenant, origin), until)| (tenant.clone(), Arc::clone(origin), *until));
        Hints {
            subscriptions: subscriptions
                .chain(self.idle_subscriptions.hints())
                .collect(),
            endpoints: endpoints.chain(self.idle_endpoints.hints()).collect(),
            pauses: pauses.collect(),
        }
    }

    fn tenant(&mut self, id: &TenantId) -> usize {
        if let Some(&key) = self.by_tenant.get(id) {
            return key;
        }
        let key = self.tenants.insert(Tenant {
            id: id.clone(),
            n_users: BTreeMap::new(),
            shares: Default::default(),
        });
        self.by_tenant.insert(id.clone(), key);
        key
    }

    fn endpoint(&mut self, origin: &Arc<str>) -> usize {
        if let Some(&key) = self.by_origin.get(origin) {
            return key;
        }
        let health = self.idle_endpoints.take(origin);
        let endpoint = Endpoint::new(Arc::clone(origin), health);
        let key = self.endpoints.insert(endpoint);
        self.by_origin.insert(Arc::clone(origin), key);
        key
    }

    /// The subscription refers to no tenant and endpoint any more.
    fn detach(&mut self, key: usize) -> Option<Left> {
        let subscription = &mut self.subscriptions[key];
        let live = subscription.phase.live()?;
        let (tenant, endpoint, number) = (live.tenant, live.endpoint, live.settings.shard.number);
        match subscription.place {
            Place::Endpoint => {
                subscription.place = Place::Nowhere;
                self.endpoints[endpoint].waiters.retain(|&it| it != key);
            }
            Place::Destination(address) => {
                subscription.place = Place::Nowhere;
                self.destinations.leave(address, key);
            }
            Place::Nowhere | Place::Lane | Place::Budget => {}
        }
        self.tenants[tenant].leave(number);
        self.leave_tenant(tenant);
        self.endpoints[endpoint].n_users -= 1;
        self.leave_endpoint(endpoint)
    }
}

// === impl Tenant ===

impl Tenant {
    /// A subscription in this shard refers to it.
    fn enter(&mut self, number: u8) {
        *self.n_users.entry(number).or_default() += 1;
    }

    /// A subscription in this shard refers to it no longer.
    fn leave(&mut self, number: u8) {
        if let Some(n_users) = self.n_users.get_mut(&number) {
            *n_users -= 1;
            if *n_users == 0 {
                self.n_users.remove(&number);
            }
        }
    }
}

impl Holder for Tenant {
    fn share(&mut self, lane: Lane) -> &mut Share {
        &mut self.shares[lane as usize]
    }
}
