//! Answers what became of events. Everything here blocks on the disk.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hookfleet_contract::{
    id::DeliveryId,
    name::{DeliveryName, SubscriptionScope, TenantId},
};
use hookfleet_proto::v1::{self, delivery::State};

use super::{
    Cursor, Error, History, Wanted,
    buckets::{Bucket, Day},
    key,
    row::Row,
    scan::{Found, Scan},
};

/// The most deliveries and rows that one page looks at; it may be shorter than asked for.
const MAX_EXAMINED: usize = 20_000;

impl History {
    /// One delivery. Blocks on the disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn delivery(&self, name: &DeliveryName) -> Result<Option<v1::Delivery>, Error> {
        let life = self.life(&name.tenant, name.delivery)?;
        Ok(life
            .filter(|(found, _)| found.subscription() == name.subscription.as_str())
            .map(|(found, rows)| found.delivery(&name.tenant, &rows)))
    }

    /// A page of deliveries, newest first, and where the next one begins. Blocks on the disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn deliveries(
        &self,
        scope: &SubscriptionScope,
        wanted: &Wanted,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<v1::Delivery>, Option<Cursor>), Error> {
        self.page(scope, wanted, after, limit, MAX_EXAMINED)
    }

    /// Looks at about `max_examined` deliveries and rows at most.
    pub(super) fn page(
        &self,
        scope: &SubscriptionScope,
        wanted: &Wanted,
        after: Option<Cursor>,
        limit: usize,
        max_examined: usize,
    ) -> Result<(Vec<v1::Delivery>, Option<Cursor>), Error> {
        let tenant = &scope.tenant;
        let is_in_scope = |found: &Found| {
            let only = scope.subscription.as_ref();
            only.is_none_or(|it| it.as_str() == found.subscription())
        };
        let buckets = self.buckets.newest_first();
        let (mut page, mut n_examined) = (Vec::new(), 0);
        for (nth, (day, bucket)) in buckets.iter().enumerate() {
            let mut scan = match after {
                Some(cursor) if day.0 > cursor.day => continue,
                Some(cursor) if day.0 == cursor.day => Scan::after(bucket, tenant, cursor.after)?,
                Some(_) | None => Scan::all(bucket, tenant)?,
            };
            while let Some(found) = scan.next()? {
                if is_in_scope(&found)
                    && let Some(delivery) = self.listed(tenant, *day, &found, &buckets[..nth])?
                    && wanted.admits(&delivery)
                {
                    page.push(delivery);
                }
                if page.len() == limit || n_examined + scan.n_examined() >= max_examined {
                    let (day, after) = (day.0, found.id);
                    return Ok((page, Some(Cursor { day, after })));
                }
            }
            n_examined += scan.n_examined();
        }
        Ok((page, None))
    }

    /// A delivery that was found on a day, unless it is listed on a `newer` one.
    fn listed(
        &self,
        tenant: &TenantId,
        day: Day,
        found: &Found,
        newer: &[(Day, Arc<Bucket>)],
    ) -> Result<Option<v1::Delivery>, Error> {
        let delivery = found.delivery(tenant, &found.rows()?);
        if delivery.state() == State::Pending {
            // Only what is pending can have outlived its day.
            let key = key::subject(tenant, found.id);
            for (_, bucket) in newer {
                if bucket.deliveries.contains_key(&key)? {
                    return Ok(None);
                }
            }
        }
        if Day::of(found.block.accept_time()) == day {
            return Ok(Some(delivery));
        }
        let life = self.life(tenant, found.id)?;
        Ok(life.map(|(found, rows)| found.delivery(tenant, &rows)))
    }

    /// The attempts of a delivery after number `after`, oldest first. Blocks on the disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn attempts(&self, name: &DeliveryName, after: i32) -> Result<Vec<v1::Attempt>, Error> {
        let life = self.life(&name.tenant, name.delivery)?;
        let rows = life.map(|(_, rows)| rows).unwrap_or_default();
        // An attempt that was made again after a crash has the number of the one before.
        let attempts: BTreeMap<i32, v1::Attempt> = rows
            .into_iter()
            .filter_map(|it| it.attempt.map(|it| (it.number, it)))
            .filter(|(number, _)| *number > after)
            .collect();
        Ok(attempts.into_values().collect())
    }

    /// A delivery and all that became of it, oldest first: on the day when it was accepted, and
    /// later if it has outlived it.
    fn life(&self, tenant: &TenantId, id: DeliveryId) -> Result<Option<(Found, Vec<Row>)>, Error> {
        let mut life: Option<(Found, Vec<Row>)> = None;
        for (_, bucket) in self.buckets.newest_first().iter().rev() {
            let Some(found) = Scan::only(bucket, tenant, id)?.next()? else {
                continue;
            };
            let rows = found.rows()?;
            match &mut life {
                Some((_, known)) => known.extend(rows),
                None => life = Some((found, rows)),
            }
        }
        Ok(life)
    }

    /// The encoded event of a dead letter. Blocks on the disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn dead_event(&self, delivery: DeliveryId) -> Result<Option<Bytes>, Error> {
        for (_, bucket) in self.buckets.newest_first() {
            if let Some(event) = bucket.dead.get(key::dead(delivery))? {
                return Ok((!event.is_empty()).then(|| Bytes::copy_from_slice(&event)));
            }
        }
        Ok(None)
    }
}
