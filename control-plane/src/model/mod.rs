//! What the resources are and how they change. Pure: no store, no clock, no randomness; what is random comes in.

pub(crate) mod agent;
pub(crate) mod key;
pub(crate) mod mask;
pub(crate) mod subscription;
pub(crate) mod tenant;
