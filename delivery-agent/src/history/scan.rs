//! The deliveries of a tenant in one bucket, newest first, without reading more than is asked for.

use std::{iter::Rev, ops::Range, sync::Arc};

use fjall::UserValue;
use hookfleet_contract::{id::DeliveryId, name::TenantId};
use hookfleet_proto::v1;
use prost::Message as _;

use super::{
    Error,
    buckets::Bucket,
    key::{self, Key, Kind, first_of_block},
    row::{Block, Row},
};

/// A walk along the keys. What became of the deliveries of a block follows it in their order.
pub(super) struct Scan {
    entries: fjall::Iter,
    /// The length of the tenant's part of the keys.
    prefix: usize,
    next: Option<(Key, UserValue)>,
    block: Option<Unfolding>,
    n_examined: usize,
}

/// A block that is walked through.
struct Unfolding {
    seq: u64,
    first: u32,
    block: Arc<Block>,
    places: Rev<Range<u32>>,
}

/// A delivery, not read yet.
pub(super) struct Found {
    pub(super) id: DeliveryId,
    pub(super) block: Arc<Block>,
    place: u32,
    /// What became of it after its block was written, newest first.
    later: Vec<UserValue>,
}

// === impl Scan ===

impl Scan {
    /// All of them.
    pub(super) fn all(bucket: &Bucket, tenant: &TenantId) -> Result<Self, Error> {
        Self::new(bucket, tenant, key::tenant(tenant), key::tenant_end(tenant))
    }

    /// Those after `id`.
    pub(super) fn after(bucket: &Bucket, tenant: &TenantId, id: DeliveryId) -> Result<Self, Error> {
        let start = key::end(tenant, id);
        let mut scan = Self::new(bucket, tenant, start, key::tenant_end(tenant))?;
        scan.open(bucket, tenant, id, |place, _| 0..place)?;
        Ok(scan)
    }

    /// `id` alone.
    pub(super) fn only(bucket: &Bucket, tenant: &TenantId, id: DeliveryId) -> Result<Self, Error> {
        let (start, end) = (key::subject(tenant, id), key::end(tenant, id));
        let mut scan = Self::new(bucket, tenant, start, end)?;
        scan.open(bucket, tenant, id, |place, n| place..n.min(place + 1))?;
        Ok(scan)
    }

    fn new(
        bucket: &Bucket,
        tenant: &TenantId,
        start: Vec<u8>,
        end: Vec<u8>,
    ) -> Result<Self, Error> {
        let mut scan = Self {
            entries: bucket.deliveries.range(start..end),
            prefix: key::tenant(tenant).len(),
            next: None,
            block: None,
            n_examined: 0,
        };
        scan.advance()?;
        Ok(scan)
    }

    /// Begins in the middle of the block that `id` is in. `wanted` is given its place and how many
    /// there are.
    fn open(
        &mut self,
        bucket: &Bucket,
        tenant: &TenantId,
        id: DeliveryId,
        wanted: impl FnOnce(u32, u32) -> Range<u32>,
    ) -> Result<(), Error> {
        let Some(value) = bucket.deliveries.get(key::block(tenant, id))? else {
            return Ok(());
        };
        let mut block = Unfolding::new(id, &value)?;
        let n_places = block.block.n_places();
        let places = wanted(id.target - block.first, n_places);
        block.places = (places.start..places.end.min(n_places)).rev();
        self.block = Some(block);
        Ok(())
    }

    /// How much was looked at.
    pub(super) fn n_examined(&self) -> usize {
        self.n_examined
    }

    pub(super) fn next(&mut self) -> Result<Option<Found>, Error> {
        loop {
            if let Some(unfolding) = &mut self.block {
                if let Some(place) = unfolding.places.next() {
                    let id = DeliveryId {
                        seq: unfolding.seq,
                        target: unfolding.first + place,
                    };
                    let block = Arc::clone(&unfolding.block);
                    return self.found(id, block, place).map(Some);
                }
                self.block = None;
            }
            let Some((key, value)) = self.next.take() else {
                return Ok(None);
            };
            self.advance()?;
            match key.kind {
                Kind::Block => self.block = Some(Unfolding::new(key.id, &value)?),
                Kind::Subject => {
                    let subject = Arc::new(Block::decode(&*value)?);
                    return self.found(key.id, subject, 0).map(Some);
                }
                // Whose subject is lost.
                Kind::Row => {}
            }
        }
    }

    /// Takes what follows of the delivery. A subject beside a block says nothing new.
    fn found(&mut self, id: DeliveryId, block: Arc<Block>, place: u32) -> Result<Found, Error> {
        self.n_examined += 1;
        let mut later = Vec::new();
        let is_of_it = |it: &mut (Key, UserValue)| it.0.id == id && it.0.kind != Kind::Block;
        while let Some((key, value)) = self.next.take_if(is_of_it) {
            self.advance()?;
            self.n_examined += 1;
            if key.kind == Kind::Row {
                later.push(value);
            }
        }
        Ok(Found {
            id,
            block,
            place,
            later,
        })
    }

    fn advance(&mut self) -> Result<(), Error> {
        self.next = None;
        for entry in self.entries.by_ref() {
            let (key, value) = entry.into_inner()?;
            let key = key.get(self.prefix..).and_then(Key::parse);
            // A key of a later version.
            let Some(key) = key else { continue };
            self.next = Some((key, value));
            break;
        }
        Ok(())
    }
}

// === impl Unfolding ===

impl Unfolding {
    /// The block that `id` is in, all of it.
    fn new(id: DeliveryId, value: &[u8]) -> Result<Self, Error> {
        let block = Block::decode(value)?;
        Ok(Self {
            seq: id.seq,
            first: first_of_block(id.target),
            places: (0..block.n_places()).rev(),
            block: Arc::new(block),
        })
    }
}

// === impl Found ===

impl Found {
    pub(super) fn subscription(&self) -> &str {
        self.block.subscription(self.place)
    }

    /// What became of it, oldest first.
    pub(super) fn rows(&self) -> Result<Vec<Row>, Error> {
        let mut rows = self.block.rows(self.place).to_vec();
        for value in self.later.iter().rev() {
            rows.push(Row::decode(&**value)?);
        }
        Ok(rows)
    }

    /// The delivery as `rows` left it.
    pub(super) fn delivery(&self, tenant: &TenantId, rows: &[Row]) -> v1::Delivery {
        let mut delivery = self.block.accepted(tenant, self.id, self.place);
        for row in rows {
            row.apply(&mut delivery);
        }
        delivery
    }
}
