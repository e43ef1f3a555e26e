//! The gRPC services of the agent, one file each: wire to domain, one call, and back.

mod broadcast;
pub mod delivery;
pub mod lifecycle;
pub mod publisher;
pub mod relay;
mod stream;
