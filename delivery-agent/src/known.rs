//! What an agent knows of the fleet when it starts: what its snapshot says, put in force.

use hookfleet_contract::target::Rules;
use hookfleet_gateway::auth::keyring::Keyring;

use crate::{
    directory::{Directory, Effect},
    journal::PendingSummary,
    relay::parking::PARKED,
    slots::Slots,
    sync::{
        mirror::{Applied, Mirror},
        snapshot,
    },
};

/// What is known, where it is in force.
#[derive(Debug)]
pub struct Known {
    /// Whether there was a snapshot; else all of this is empty.
    pub has_snapshot: bool,
    /// By name and revision.
    pub mirror: Mirror,
    /// Tenants and subscriptions.
    pub directory: Directory,
    /// What those mean for the driver.
    pub effects: Vec<Effect>,
    /// Who owns which slot.
    pub slots: Slots,
    /// Keys of callers.
    pub keyring: Keyring,
}

// === impl Known ===

impl Known {
    /// Reads the snapshot, and puts it in force.
    ///
    /// # Errors
    /// Those of the database.
    pub fn load(snapshots: &snapshot::Store, rules: Rules) -> Result<Self, fjall::Error> {
        let saved = snapshots.load(&rules)?;
        let has_snapshot = saved.is_some();
        let (mirror, restored) = saved.unwrap_or_else(|| (Mirror::new(rules), Applied::default()));
        let (directory, slots) = (Directory::default(), Slots::default());
        let effects = directory.apply(restored.changes);
        let keyring = Keyring::default();
        keyring.apply(restored.keys);
        if has_snapshot {
            keyring.set_complete();
        }
        if let Some(table) = restored.slot_table {
            slots.set(table);
        }
        Ok(Self {
            has_snapshot,
            mirror,
            directory,
            effects,
            slots,
            keyring,
        })
    }

    /// Whether deliveries wait for subscriptions that are not known.
    #[must_use]
    pub fn lacks_any(&self, pending: &[PendingSummary]) -> bool {
        let mut waiting = pending.iter().map(|it| it.queue.subscription);
        waiting.any(|uid| uid != PARKED && self.directory.subscription(&uid).is_none())
    }
}
