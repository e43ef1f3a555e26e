//! Five hundred small worlds in which everything happens: receivers of all kinds, partitions, rates,
//! suspensions, deletions, changes of endpoints, names that lead to one address or to another, slots that leave, crashes.
//! What [`World`] checks at every step holds in all of them, and in the end nothing is left.

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use hookfleet_contract::partition::UNORDERED;
use rand::{Rng as _, seq::IndexedRandom as _};

use super::world::{Kind, T0, World};

const SEEDS: u64 = 500;
const KINDS: [Kind; 8] = [
    Kind::Healthy,
    Kind::Slow,
    Kind::Refuses,
    Kind::BlackHole,
    Kind::Fails,
    Kind::Stranger,
    Kind::Flaps,
    Kind::Throttles,
];

#[test]
fn whatever_happens_every_delivery_ends_once_and_nothing_leaks() {
    let mut n_crowded = 0;
    for seed in 0..SEEDS {
        let world = catch_unwind(AssertUnwindSafe(|| live(seed)));
        n_crowded += world.unwrap_or_else(|_| panic!("seed {seed} failed"));
    }
    assert!(n_crowded > 1000, "addresses were full {n_crowded} times");
}

/// Returns how often an address became full.
fn live(seed: u64) -> usize {
    let mut world = World::new(seed, 20 + (seed % 5) as usize * 10);
    let n_subscribers: usize = world.rng.random_range(1..40);
    for index in 0..n_subscribers {
        let kind = *KINDS.choose(&mut world.rng).unwrap();
        let tenant = format!("t{}", world.rng.random_range(0..4));
        let shared = world.rng.random::<f64>() < 0.3;
        // Receivers of one kind may share an endpoint.
        let endpoint = if shared {
            format!("https://{kind:?}.example:443")
        } else {
            format!("https://{index}.example:443")
        };
        let subscriber = world.subscribe(kind, &tenant, &endpoint);
        lead(&mut world, subscriber);
        let rate = world.rng.random_range(1.0..20.0);
        let settings = &mut world.subscribers[subscriber].settings;
        settings.max_requests_per_second = index.is_multiple_of(7).then_some(rate);
        settings.max_in_flight = 1 + index as u32 % 64;
    }
    for step in 0..300 {
        let subscriber = world.rng.random_range(0..n_subscribers);
        match world.rng.random_range(0..100) {
            0..70 => {
                for _ in 0..world.rng.random_range(1..20) {
                    let is_ordered = subscriber % 3 == 0;
                    let key = world.rng.random_range(1..4);
                    let partition = if is_ordered { key } else { UNORDERED };
                    world.publish(subscriber, partition);
                }
            }
            70..75 => {
                let settings = &mut world.subscribers[subscriber].settings;
                settings.suspended = !settings.suspended;
                world.tell(subscriber);
            }
            75..80 => {
                let endpoint = format!("https://{step}.example:443");
                world.subscribers[subscriber].settings.endpoint = endpoint.into();
                lead(&mut world, subscriber);
                world.subscribers[subscriber].paused_until = world.now;
                if !world.subscribers[subscriber].ended {
                    world.tell(subscriber);
                }
            }
            80..82 => world.end(subscriber),
            82..84 => world.restart(),
            84..87 => world.leave(&format!("t{}", subscriber % 4)),
            87..90 => lead(&mut world, subscriber),
            90 => {
                for subscriber in 0..n_subscribers {
                    world.publish(subscriber, UNORDERED);
                }
            }
            _ => {}
        }
        let millis = world.rng.random_range(0..2_000);
        world.run_until(world.now + Duration::from_millis(millis));
    }
    // Everything that can be mended is, and what cannot runs out of time.
    for subscriber in 0..n_subscribers {
        let it = &mut world.subscribers[subscriber];
        it.settings.suspended = false;
        if subscriber % 2 == 0 {
            it.kind = Kind::Healthy;
        }
        if !it.ended {
            world.tell(subscriber);
        }
    }
    let end = T0 + Duration::from_secs(30 * 86_400);
    while world.n_open() > 0 {
        let at = world.next_at().expect("something waits, so a timer is set");
        assert!(at < end, "{} are left after a month", world.n_open());
        world.run_until(at);
    }
    let n_over = world.n_succeeded + world.n_dead + world.n_handed_over;
    assert_eq!(world.n_accepted, n_over);
    let counts = world.core.counts();
    assert_eq!((counts.n_waiting, counts.n_in_flight), (0, 0));
    assert_eq!((counts.n_in_memory, counts.bytes_in_flight), (0, 0));
    assert_eq!(counts.n_destinations, 0);
    world.n_crowded
}

/// Most names lead to one of two addresses from now on.
fn lead(world: &mut World, subscriber: usize) {
    const ADDRESSES: [&str; 2] = ["93.184.215.14", "2606:2800::1"];
    let endpoint = &world.subscribers[subscriber].settings.endpoint;
    let address = ADDRESSES.get(world.rng.random_range(0..3));
    let address = address.map(|it| it.parse::<IpAddr>().unwrap());
    match address {
        Some(address) => world.names.insert(endpoint.clone(), address),
        None => world.names.remove(endpoint),
    };
}
