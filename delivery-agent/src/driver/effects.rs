//! What a change of a subscription means for the core: in every shard where its tenant may have deliveries.

use hookfleet_contract::{shard::replica, time::Timestamp};

use super::Driver;
use crate::directory::{Directory, Effect};

impl Driver {
    pub(super) fn handle_effect(&mut self, effect: &Effect, now: Timestamp) {
        match effect {
            Effect::Live {
                subscription,
                suspended,
                spread,
            } => {
                for number in 0..spread.shards {
                    let uid = replica(subscription.uid, number);
                    if self.core.has(&uid) {
                        let settings =
                            Directory::settings_of(subscription, *suspended, *spread, number);
                        self.core.handle_subscription(uid, settings, now);
                    }
                }
            }
            Effect::Ended { uid, shards } => {
                for number in 0..*shards {
                    self.core.handle_ended(replica(*uid, number), now);
                }
            }
        }
    }
}
