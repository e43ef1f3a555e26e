//! What operators watch of a control plane: whether it leads, how much it knows, and who follows it.
//!
//! No label names a tenant or an agent.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hookfleet_gateway::metrics::gauge;

use crate::{api::Api, keys, sync::server::Server};

/// Tells whether this control plane places slots, `until` that time if it is not heard of again.
pub(crate) fn observe_leader(api: &Arc<Api>, until: Arc<AtomicU64>) {
    let clock = api.clock.clone();
    gauge(
        "hookfleet.leader",
        "",
        "1 while this control plane places slots.",
        move || u64::from(clock.steady().0 < until.load(Ordering::Relaxed)),
    );
}

/// Tells of what is there now, whenever somebody looks.
pub(crate) fn observe(api: &Arc<Api>, server: &Arc<Server>) {
    let of_api = |name, description, get: fn(&Api) -> u64| {
        let api = Arc::clone(api);
        gauge(name, "", description, move || get(&api));
    };
    of_api(
        "hookfleet.subscriptions",
        "Subscriptions of all tenants.",
        |it| it.cache.read(|contents| contents.n_subscriptions()) as u64,
    );
    of_api(
        "hookfleet.agents",
        "Agents that are there, by their leases.",
        |it| {
            let agents = |prefix| {
                it.cache
                    .read(|contents| contents.with_prefix(prefix).count())
            };
            agents(keys::AGENTS) as u64
        },
    );
    of_api(
        "hookfleet.store.revision",
        "Up to where the store is known: one that falls behind others is cut off.",
        |it| u64::try_from(it.cache.read(|contents| contents.revision())).unwrap_or(0),
    );
    of_api(
        "hookfleet.store.guarded",
        "1 while the store is not believed: see `hookfleet fleet store`.",
        |it| u64::from(it.cache.is_guarded()),
    );
    of_api(
        "hookfleet.store.ready",
        "1 once everything in the store is known.",
        |it| u64::from(it.cache.is_ready()),
    );
    let server = Arc::clone(server);
    gauge(
        "hookfleet.sync.sessions",
        "",
        "Agents that are kept up to date from here.",
        move || server.n_sessions() as u64,
    );
}
