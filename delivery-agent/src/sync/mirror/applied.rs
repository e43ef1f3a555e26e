//! What comes of an update, or of a greeting.

use hookfleet_gateway::auth::keyring;
use hookfleet_proto::fleet::{Ack, SlotTable};

use crate::{directory::Change, sync::snapshot::Row};

/// What to do about an update.
#[derive(Debug, Default)]
pub struct Applied {
    /// To put in force, before the acknowledgement is sent.
    pub changes: Vec<Change>,
    /// Keys of callers to put in force, before the acknowledgement is sent.
    pub keys: Vec<keyring::Change>,
    /// A new slot table.
    pub slot_table: Option<SlotTable>,
    /// For the snapshot, in their order.
    pub rows: Vec<Row>,
    /// To send.
    pub ack: Ack,
}

/// The control plane is not the one that this agent belongs to.
#[derive(Debug, thiserror::Error)]
#[error("the control plane is of cluster {theirs}, this agent belongs to {ours}")]
pub struct ForeignCluster {
    pub(super) ours: String,
    pub(super) theirs: String,
}
