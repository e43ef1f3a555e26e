//! How what is kept is found: keys begin with what is asked for and end so that the newest comes
//! first. Pure.
//!
//! The deliveries of a tenant are one run of keys. Each event has its blocks, those with the highest
//! targets first, and each block is followed by what came later of its deliveries:
//!
//! ```text
//! tenant 0 !seq !last target of the block  0           block
//! tenant 0 !seq !target                    1           subject: a delivery apart from its block
//! tenant 0 !seq !target                    2 !number   row: what became of it, newest first
//! ```

use hookfleet_contract::{id::DeliveryId, name::TenantId};

/// How many targets a block has at most: few enough to be read for one delivery, and enough that
/// acceptance by 100,000 targets is a hundred records. A power of two.
pub(super) const BLOCK_TARGETS: u32 = 1024;

/// What a key of a tenant's deliveries leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Deliveries that were accepted together.
    Block,
    /// One delivery apart from its block.
    Subject,
    /// What became of one delivery.
    Row,
}

/// A key of a tenant's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) kind: Kind,
    /// Of a block, the last delivery that has a place in it.
    pub(super) id: DeliveryId,
}

/// The first of the targets of the block that `target` is in.
pub(super) const fn first_of_block(target: u32) -> u32 {
    target & !(BLOCK_TARGETS - 1)
}

/// Everything of a tenant.
pub(super) fn tenant(tenant: &TenantId) -> Vec<u8> {
    // Room for the longest key.
    let mut key = Vec::with_capacity(tenant.as_str().len() + 18);
    key.extend_from_slice(tenant.as_str().as_bytes());
    key.push(0);
    key
}

/// After everything of a tenant.
pub(super) fn tenant_end(tenant: &TenantId) -> Vec<u8> {
    let mut key = self::tenant(tenant);
    key.pop();
    key.push(1);
    key
}

/// The block that a delivery is in.
pub(super) fn block(tenant: &TenantId, id: DeliveryId) -> Vec<u8> {
    let last = DeliveryId {
        target: first_of_block(id.target) + (BLOCK_TARGETS - 1),
        ..id
    };
    of_delivery(tenant, last, 0)
}

/// A delivery apart from its block. What became of it follows.
pub(super) fn subject(tenant: &TenantId, id: DeliveryId) -> Vec<u8> {
    of_delivery(tenant, id, 1)
}

/// What became of a delivery. A later number comes first.
pub(super) fn row(tenant: &TenantId, id: DeliveryId, number: u32) -> Vec<u8> {
    let mut key = of_delivery(tenant, id, 2);
    key.extend_from_slice(&(!number).to_be_bytes());
    key
}

/// After everything of a delivery.
pub(super) fn end(tenant: &TenantId, id: DeliveryId) -> Vec<u8> {
    of_delivery(tenant, id, 3)
}

/// The event of a dead letter.
pub(super) fn dead(id: DeliveryId) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&(!id.seq).to_be_bytes());
    key[8..].copy_from_slice(&(!id.target).to_be_bytes());
    key
}

fn of_delivery(tenant: &TenantId, id: DeliveryId, kind: u8) -> Vec<u8> {
    let mut key = self::tenant(tenant);
    key.extend_from_slice(&dead(id));
    key.push(kind);
    key
}

impl Key {
    /// A key after the part that is [`tenant`]'s.
    pub(super) fn parse(key: &[u8]) -> Option<Self> {
        let (seq, rest) = key.split_first_chunk::<8>()?;
        let (target, rest) = rest.split_first_chunk::<4>()?;
        let kind = match rest.first()? {
            0 => Kind::Block,
            1 => Kind::Subject,
            2 => Kind::Row,
            _ => return None,
        };
        let id = DeliveryId {
            seq: !u64::from_be_bytes(*seq),
            target: !u32::from_be_bytes(*target),
        };
        Some(Self { kind, id })
    }
}
