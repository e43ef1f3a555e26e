//! A destination: an address of the public internet, whatever names lead there. Who owns a name owns all names below it
//! and points them where it likes, so a thousand endpoints may be one victim. Attempts to one address are bounded here,
//! over all tenants and names, but for receivers that are proven: who takes what it is sent has asked for it, and does
//! not suffer from others that some provider has put behind the same address. Those who are not proven wait in the order in
//! which they came, whoever they are. A name whose address is not known yet does not count: what is new has a lane of its
//! own, which is bounded.
//!
//! **Invariants:** attempts in flight to an address of receivers that are not proven ≤ the bound; who waits for a
//! destination waits for attempts in flight there. With the last of them nobody waits any more and nothing is kept of it.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

/// The most attempts in flight to one address of receivers that are not proven: about what a server that nobody has tuned
/// holds (nginx: 512 connections), and half of what one endpoint may have.
const MAX_UNPROVEN: u32 = 500;
/// Where permits are few, one in so many.
const PERMITS_DIVISOR: usize = 8;

/// All destinations with attempts in flight that count.
#[derive(Debug)]
pub(crate) struct Destinations {
    max_unproven: u32,
    /// By addresses that strangers choose, so the hash is not one that they could foresee.
    by_address: HashMap<IpAddr, Destination>,
}

#[derive(Debug, Default)]
struct Destination {
    in_flight: u32,
    /// Those who wait for a place, each once.
    waiters: VecDeque<usize>,
}

impl Destinations {
    /// None yet, for a core with so many permits.
    pub(crate) fn new(permits: usize) -> Self {
        let share = u32::try_from(permits / PERMITS_DIVISOR).unwrap_or(u32::MAX);
        Self {
            max_unproven: share.clamp(1, MAX_UNPROVEN),
            by_address: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_address.len()
    }

    /// How many attempts may start.
    pub(crate) fn room(&self, address: IpAddr) -> u32 {
        let found = self.by_address.get(&address);
        let in_flight = found.map_or(0, |it| it.in_flight);
        self.max_unproven.saturating_sub(in_flight)
    }

    /// How many of those who wait may go on: all of them, if no attempt is left whose end would be their turn.
    pub(crate) fn room_for_waiters(&self, address: IpAddr) -> u32 {
        match self.by_address.get(&address) {
            None | Some(Destination { in_flight: 0, .. }) => u32::MAX,
            Some(Destination { in_flight, .. }) => self.max_unproven.saturating_sub(*in_flight),
        }
    }

    /// An attempt starts.
    pub(crate) fn start(&mut self, address: IpAddr) {
        self.by_address.entry(address).or_default().in_flight += 1;
    }

    /// An attempt is over. Then those who wait are to go on, as far as there is room for them.
    pub(crate) fn end(&mut self, address: IpAddr) {
        if let Some(destination) = self.by_address.get_mut(&address) {
            destination.in_flight -= 1;
            self.tidy(address);
        }
    }

    /// A subscription waits for a place.
    pub(crate) fn wait(&mut self, address: IpAddr, subscription: usize) {
        let destination = self.by_address.entry(address).or_default();
        debug_assert!(destination.in_flight > 0, "{address} is full");
        destination.waiters.push_back(subscription);
    }

    /// It waits no longer.
    pub(crate) fn leave(&mut self, address: IpAddr, subscription: usize) {
        if let Some(destination) = self.by_address.get_mut(&address) {
            destination.waiters.retain(|&it| it != subscription);
            self.tidy(address);
        }
    }

    /// Who has waited longest; it waits no longer.
    pub(crate) fn next(&mut self, address: IpAddr) -> Option<usize> {
        let next = self.by_address.get_mut(&address)?.waiters.pop_front();
        self.tidy(address);
        next
    }

    fn tidy(&mut self, address: IpAddr) {
        let found = self.by_address.get(&address);
        if found.is_some_and(|it| it.in_flight == 0 && it.waiters.is_empty()) {
            self.by_address.remove(&address);
        }
    }
}
