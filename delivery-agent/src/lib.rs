//! The delivery agent: takes events, keeps them, and calls back.
//!
//! In the order of an event's life:
//!
//! - [`api`]: the gRPC services.
//! - [`ingest`]: whose an event is, whether it is well-formed, whom it matches.
//! - [`directory`], [`slots`]: what is known of tenants, subscriptions and owners; [`known`]: at the start.
//! - [`journal`]: the durable log.
//! - [`core`]: decides which delivery is attempted when. Pure.
//! - [`driver`]: the only place where the core meets effects.
//! - [`callback`]: one attempt.
//! - [`history`]: what became of events.
//! - [`relay`]: events on their way to the agents that own their slots.
//! - [`verification`]: asking receivers whether they want callbacks.
//! - [`leftovers`]: what is still here of slots that other agents own.
//! - [`drain`]: how the agent leaves.
//! - [`sync`]: what the control plane says, and the snapshot of it.
//! - [`identity`]: who the agent is over restarts.
//! - [`clock`]: the only reader of time.
//! - [`config`]: what it is told at its start. [`app`]: puts the above together.

pub mod api;
pub mod app;
pub mod callback;
pub mod clock;
pub mod config;
pub mod core;
pub mod directory;
pub mod drain;
pub mod driver;
pub mod history;
pub mod identity;
pub mod ingest;
pub mod journal;
pub mod known;
pub mod leftovers;
mod metrics;
pub mod relay;
pub mod slots;
pub mod sync;
pub mod verification;
