//! How far the agent's life is, as its services need to know. Each stage is cancelled when it is reached.

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The stages; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    /// Events are accepted.
    pub ready: CancellationToken,
    /// It is about to end: publishers had better go on elsewhere.
    pub leaving: CancellationToken,
    /// Nothing is accepted any more.
    pub closed: CancellationToken,
    /// What began before that, and may still be accepted.
    pub publishes: TaskTracker,
}
