//! The control plane: owns the subscriptions, places slots, and keeps agents in sync. No event passes through it but as
//! the answer to a question about deliveries.
//!
//! - [`config`], [`app`]: what it is made of, and how that is put together.
//! - [`api`]: the gRPC services.
//! - [`model`]: what tenants, subscriptions and agents are. Pure.
//! - [`store`]: what is remembered. [`keys`]: where. [`stored`] and [`vault`]: in which form, and sealed how.
//! - [`cache`]: the store in memory. [`keyring`]: the keys of callers that are in force, out of it.
//! - [`bootstrap`]: the first keys of all.
//! - [`fleet`]: the agents and how far they are. Pure.
//! - [`placement`]: who owns which slots. Pure. [`reconciler`] puts it into the store.
//! - [`sync`]: sessions with agents.
//! - [`query`]: whom to ask about deliveries.
//! - [`clock`], which it shares with the gateway, and [`random`]: the only readers of time and of chance.

mod api;
pub mod app;
pub mod bootstrap;
mod cache;
pub mod config;
mod fleet;
mod keyring;
mod keys;
mod leader;
mod metrics;
mod model;
mod placement;
mod query;
mod random;
mod reconciler;
pub mod store;
mod stored;
mod sync;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;
mod vault;

pub use hookfleet_gateway::clock;

pub use self::{
    app::{ControlPlane, Error},
    config::Config,
};
