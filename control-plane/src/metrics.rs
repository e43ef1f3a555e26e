//! What operators watch of a control plane: whether it leads, how much it knows, and who follows it.
//!
//! No label names a tenant or an agent.

use std::sync::Arc;

use opentelemetry::{
    global,
    metrics::{Meter, UpDownCounter},
};

use crate::{api::Api, keys, sync::server::Server};

/// 1 while this control plane places slots.
pub(crate) fn leads() -> UpDownCounter<i64> {
    meter()
        .i64_up_down_counter("hookfleet.leader")
        .with_description("1 while this control plane places slots.")
        .build()
}

/// Tells of what is there now, whenever somebody looks.
pub(crate) fn observe(api: &Arc<Api>, server: &Arc<Server>) {
    let gauge = |name, description, get: fn(&Api) -> u64| {
        let api = Arc::clone(api);
        observed(name, description, move || get(&api));
    };
    gauge(
        "hookfleet.subscriptions",
        "Subscriptions of all tenants.",
        |it| it.cache.read(|contents| contents.n_subscriptions()) as u64,
    );
    gauge(
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
    gauge(
        "hookfleet.store.revision",
        "Up to where the store is known: one that falls behind others is cut off.",
        |it| u64::try_from(it.cache.read(|contents| contents.revision())).unwrap_or(0),
    );
    gauge(
        "hookfleet.store.guarded",
        "1 while the store is not believed: see `hookfleet fleet store`.",
        |it| u64::from(it.cache.is_guarded()),
    );
    gauge(
        "hookfleet.store.ready",
        "1 once everything in the store is known.",
        |it| u64::from(it.cache.is_ready()),
    );
    let server = Arc::clone(server);
    observed(
        "hookfleet.sync.sessions",
        "Agents that are kept up to date from here.",
        move || server.n_sessions() as u64,
    );
}

fn observed(
    name: &'static str,
    description: &'static str,
    get: impl Fn() -> u64 + Send + Sync + 'static,
) {
    let _kept_by_the_meter = meter()
        .u64_observable_gauge(name)
        .with_description(description)
        .with_callback(move |it| it.observe(get(), &[]))
        .build();
}

fn meter() -> Meter {
    global::meter("hookfleet")
}
