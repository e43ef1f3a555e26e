//! A request whose events belong to several shards, taken apart and put together again. Pure.

use std::collections::BTreeMap;

use hookfleet_contract::{
    name::TenantId,
    shard::{Shard, shard_of},
};
use hookfleet_proto::cloudevents::CloudEvent;

/// The events of a request that are in one shard, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Portion {
    /// The shard.
    pub shard: Shard,
    /// The events.
    pub events: Vec<CloudEvent>,
    /// Where they stand in the request.
    pub places: Vec<usize>,
}

/// Takes events of a tenant apart that are of so many shards.
#[must_use]
pub fn portions(tenant: &TenantId, spread: u8, events: Vec<CloudEvent>) -> Vec<Portion> {
    if spread <= 1 {
        return vec![Portion {
            shard: Shard::first(tenant),
            places: (0..events.len()).collect(),
            events,
        }];
    }
    let mut portions: BTreeMap<u8, Portion> = BTreeMap::new();
    for (place, event) in events.into_iter().enumerate() {
        let number = shard_of(&event, spread);
        let portion = portions.entry(number).or_insert_with(|| Portion {
            shard: Shard {
                tenant: tenant.clone(),
                number,
            },
            events: Vec::new(),
            places: Vec::new(),
        });
        portion.events.push(event);
        portion.places.push(place);
    }
    portions.into_values().collect()
}

/// Puts what became of the events at these places into the order of the request.
#[must_use]
pub fn together<T>(parts: impl IntoIterator<Item = (Vec<usize>, Vec<T>)>) -> Vec<T> {
    let placed = parts.into_iter();
    let mut placed: Vec<(usize, T)> = placed
        .flat_map(|(places, results)| places.into_iter().zip(results))
        .collect();
    placed.sort_unstable_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart_and_put_together_again() {
        let tenant = "acme".parse().unwrap();
        let event = |id: usize| CloudEvent {
            id: id.to_string(),
            ..CloudEvent::default()
        };
        let events: Vec<CloudEvent> = (0..100).map(event).collect();
        for (spread, n_portions) in [(1, 1), (8, 8)] {
            let portions = portions(&tenant, spread, events.clone());
            assert_eq!(portions.len(), n_portions);
            for portion in &portions {
                let shards = portion.events.iter().map(|it| shard_of(it, spread));
                assert!(shards.into_iter().all(|it| it == portion.shard.number));
                assert!(portion.places.is_sorted());
            }
            let parts = portions.into_iter().map(|it| (it.places, it.events));
            assert_eq!(together(parts), events);
        }
    }
}
