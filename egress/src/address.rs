//! Which addresses may be called. Pure: no lookup, no connection.
//!
//! The rule: IPv6 only inside `2000::/3`, then subtract; IPv4, subtract. A denial of the operator's
//! beats a permission of the operator's; some denials nobody can lift.
//!
//! The lists are IANA's special-purpose registries of 2026 and what clouds put behind addresses that
//! look ordinary.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

/// The text is not a block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a block of addresses such as 10.0.0.0/8")]
pub struct CidrError(String);

/// Which addresses may be called.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Blocks that may be called although they are not public.
    pub allow: Vec<Cidr>,
    /// Blocks that may not be called although they are public.
    pub deny: Vec<Cidr>,
    /// /96 prefixes of our own NAT64: judged by the IPv4 address they carry.
    pub nat64_prefixes: Vec<Ipv6Addr>,
    /// Addresses of this machine and its peers.
    pub own: Vec<IpAddr>,
    /// `127.0.0.0/8` and `::1` may be called: for a machine that serves only itself.
    pub allow_loopback: bool,
}

/// The address may not be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} may not be called: {reason}")]
pub struct Refused {
    /// The address.
    pub address: IpAddr,
    /// Why.
    pub reason: &'static str,
}

/// Nobody can lift these.
const HARD_V4: [(Ipv4Addr, u8, &str); 5] = [
    (
        Ipv4Addr::new(0, 0, 0, 0),
        8,
        "this network reaches local listeners",
    ),
    (
        Ipv4Addr::new(169, 254, 0, 0),
        16,
        "link-local, metadata of clouds",
    ),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "Azure's host"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

const LOOPBACK_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);

const SOFT_V4: [(Ipv4Addr, u8, &str); 13] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared by carriers"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "protocol assignments"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation"),
    (Ipv4Addr::new(192, 31, 196, 0), 24, "AS112"),
    (Ipv4Addr::new(192, 175, 48, 0), 24, "AS112"),
    (Ipv4Addr::new(192, 52, 193, 0), 24, "AMT"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relays"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking"),
];

/// Inside `2000::/3`.
const SOFT_V6: [(Ipv6Addr, u8, &str); 6] = [
    (
        Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0),
        23,
        "protocol assignments",
    ),
    (
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
        32,
        "documentation",
    ),
    (
        Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0),
        20,
        "documentation",
    ),
    (
        Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0),
        16,
        "6to4 carries any IPv4 address",
    ),
    (
        Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0),
        48,
        "AS112",
    ),
    (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16, "6bone"),
];

/// Unique local addresses: the only IPv6 outside `2000::/3` that an operator may allow.
const UNIQUE_LOCAL: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);
const GLOBAL_UNICAST: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

// === impl Policy ===

impl Policy {
    /// Whether an address may be called.
    ///
    /// # Errors
    /// [`Refused`] if it may not.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        match self.verdict(address) {
            None => Ok(()),
            Some(reason) => Err(Refused { address, reason }),
        }
    }

    /// The address of the public internet that is called with this one: itself, or the one behind our own NAT64. None for
    /// what only an operator can allow, which is the operator's own. Whoever has one address of IPv6 has all 2^64 of its
    /// network, so they are one.
    pub(crate) fn destination(&self, address: IpAddr) -> Option<IpAddr> {
        let called = match address {
            IpAddr::V6(v6) => self.carried(v6).map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        };
        Self::default().check(called).ok()?;
        Some(match called {
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
            IpAddr::V4(_) => called,
        })
    }

    /// Why an address may not be called.
    fn verdict(&self, address: IpAddr) -> Option<&'static str> {
        let is_in = |blocks: &[Cidr]| blocks.iter().any(|it| it.contains(address));
        if self.own.contains(&address) && !(self.allow_loopback && address.is_loopback()) {
            return Some("this machine itself");
        }
        if is_in(&self.deny) {
            return Some("denied by the operator");
        }
        match address {
            IpAddr::V4(v4) => self.verdict_v4(v4, is_in(&self.allow)),
            IpAddr::V6(v6) => self.verdict_v6(v6, is_in(&self.allow)),
        }
    }

    fn verdict_v4(&self, address: Ipv4Addr, is_allowed: bool) -> Option<&'static str> {
        if let Some(reason) = find_v4(&HARD_V4, address) {
            return Some(reason);
        }
        if in_v4(address, LOOPBACK_V4) {
            return (!self.allow_loopback).then_some("loopback");
        }
        find_v4(&SOFT_V4, address).filter(|_| !is_allowed)
    }

    fn verdict_v6(&self, address: Ipv6Addr, is_allowed: bool) -> Option<&'static str> {
        if address == Ipv6Addr::LOCALHOST {
            return (!self.allow_loopback).then_some("loopback");
        }
        if let Some(carried) = self.carried(address) {
            // A translator's loopback is not ours.
            return if carried.is_loopback() {
                Some("loopback")
            } else {
                self.verdict(IpAddr::V4(carried))
            };
        }
        if !in_v6(address, GLOBAL_UNICAST) {
            let may_be_allowed = is_allowed && in_v6(address, UNIQUE_LOCAL);
            return (!may_be_allowed).then_some("not global unicast");
        }
        let segments = address.segments();
        if segments[4] & !0x0200 == 0 && segments[5] == 0x5efe {
            return Some("ISATAP carries any IPv4 address");
        }
        let found = SOFT_V6
            .iter()
            .find(|(block, length, _)| in_v6(address, (*block, *length)));
        found.map(|(_, _, reason)| *reason).filter(|_| !is_allowed)
    }

    /// The IPv4 address behind our own NAT64.
    fn carried(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let prefix = |it: Ipv6Addr| u128::from(it) >> 32;
        let is_ours = self
            .nat64_prefixes
            .iter()
            .any(|it| prefix(*it) == prefix(address));
        let [.., a, b, c, d] = address.octets();
        is_ours.then(|| Ipv4Addr::new(a, b, c, d))
    }
}

fn find_v4(blocks: &[(Ipv4Addr, u8, &'static str)], address: Ipv4Addr) -> Option<&'static str> {
    let found = blocks
        .iter()
        .find(|(block, length, _)| in_v4(address, (*block, *length)));
    found.map(|(_, _, reason)| *reason)
}

fn in_v4(address: Ipv4Addr, (block, length): (Ipv4Addr, u8)) -> bool {
    let differ = u32::from(address) ^ u32::from(block);
    differ.leading_zeros() >= u32::from(length)
}

fn in_v6(address: Ipv6Addr, (block, length): (Ipv6Addr, u8)) -> bool {
    let differ = u128::from(address) ^ u128::from(block);
    differ.leading_zeros() >= u32::from(length)
}

// === impl Cidr ===

impl Cidr {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(block), IpAddr::V4(address)) => in_v4(address, (block, self.length)),
            (IpAddr::V6(block), IpAddr::V6(address)) => in_v6(address, (block, self.length)),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let length: u8 = length.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            (length <= most).then_some(Self { address, length })
        };
        parse().ok_or_else(|| CidrError(text.to_owned()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}
