//! Counts what callers use of their quotas, and says no.
//!
//! **Invariant:** what is refused is not counted.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;
use tonic::Code;

use super::{
    bucket::{Left, Quota},
    connections::Source,
    table::{Refusal, Table},
};
use crate::{clock::Clock, status::ApiError};

/// A batch has no more events; a second's worth may be less.
const LARGEST_BATCH: u64 = 1000;
/// No message is larger.
const LARGEST_MESSAGE: u64 = 9 << 20;
/// Seconds' worth of failures that are forgiven at once: many clients behind one address may start with a key that has
/// expired.
const FORGIVEN_SECONDS: u64 = 10;
/// What a caller is asked to wait at least and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// Callers that were refused together are not to come back together: they wait longer by up to this part.
const JITTER: f64 = 0.2;
/// When to come back to a server that cannot count.
const FAULT_PAUSE: Duration = Duration::from_secs(10);

/// How much callers may use per second; 0 is as much as they like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Events of a tenant.
    pub tenant_events: u64,
    /// Bytes of a tenant's events.
    pub tenant_bytes: u64,
    /// Requests of a credential, or of an address without one; those that publish are not among them.
    pub requests: u64,
    /// Requests of an address without a credential that is good.
    pub failures: u64,
}

/// Counts; cheap to clone.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    events: Option<Limit>,
    bytes: Option<Limit>,
    credentials: Option<Limit>,
    addresses: Option<Limit>,
    failures: Option<Limit>,
    has_complained: AtomicBool,
}

#[derive(Debug)]
struct Limit {
    name: &'static str,
    table: Table,
}

/// What is left of a quota after a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(super) name: &'static str,
    pub(super) quota: Quota,
    pub(super) left: Left,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Events.
    Ingest,
    /// Everything else.
    Control,
}

/// Why something is refused.
enum Exceeded<'a> {
    Over(&'a Limit, Duration),
    Fault,
}

// === impl Limiter ===

impl Limiter {
    /// Nothing was used yet.
    #[must_use]
    pub fn new(rates: Rates, clock: Clock) -> Self {
        let limit = |name, per_second, largest| {
            let table = Table::new(Quota::new(per_second, largest)?);
            Some(Limit { name, table })
        };
        let forgiven = rates.failures.saturating_mul(FORGIVEN_SECONDS);
        Self(Arc::new(Inner {
            clock,
            events: limit("tenant-events", rates.tenant_events, LARGEST_BATCH),
            bytes: limit("tenant-bytes", rates.tenant_bytes, LARGEST_MESSAGE),
            credentials: limit("credential", rates.requests, 0),
            addresses: limit("address", rates.requests, 0),
            failures: limit("failures", rates.failures, forgiven),
            has_complained: AtomicBool::new(false),
        }))
    }

    /// Counts nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::new(Rates::default(), Clock::system())
    }

    /// Counts events of a tenant (`tenants/…`), which have `n_bytes()` together.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if the tenant has published as much as it may.
    pub fn publish(
        &self,
        tenant: &str,
        n_events: usize,
        n_bytes: impl FnOnce() -> usize,
    ) -> Result<(), ApiError> {
        let taken = self.take_events(tenant, n_events, n_bytes);
        taken.map_err(|it| it.error(tenant))
    }

    /// Waits until an event of a tenant may come in, and counts it.
    ///
    /// # Cancel safety
    /// What is not waited for is not counted.
    pub async fn paced(&self, tenant: &str, n_bytes: usize) {
        while let Err(exceeded) = self.take_events(tenant, 1, || n_bytes) {
            // The clock has milliseconds.
            sleep(exceeded.delay().max(Duration::from_millis(1))).await;
        }
    }

    /// Whether a tenant might publish something of about this size. Counts nothing.
    pub(super) fn might_publish(&self, tenant: &str, n_bytes: usize) -> Result<(), ApiError> {
        self.publish(tenant, 1, || n_bytes)?;
        self.give_back(&self.0.events, tenant, 1);
        self.give_back(&self.0.bytes, tenant, n_bytes);
        Ok(())
    }

    /// Counts a request that does not publish, for its credential, or for the address of one that shows none: many who have
    /// credentials may share an address. What is left afterwards.
    pub(super) fn request(
        &self,
        caller: Option<&str>,
        source: Option<Source>,
    ) -> Result<Option<Standing>, ApiError> {
        let (credentials, addresses) = (&self.0.credentials, &self.0.addresses);
        match (caller, source) {
            (Some(caller), _) => {
                let taken = self.take(credentials, caller, 1, Purpose::Control);
                taken.map_err(|it| it.error(caller))
            }
            (None, Some(source)) => {
                let taken = self.take(addresses, source, 1, Purpose::Control);
                taken.map_err(|it| it.error(&source.to_string()))
            }
            (None, None) => Ok(None),
        }
    }

    /// What somebody is told who was not let in: why, or, if that was too often, when to come back.
    pub(crate) fn not_let_in(&self, source: Option<Source>, why: ApiError) -> ApiError {
        let Some(source) = source.filter(|_| why.code() == Code::Unauthenticated) else {
            return why;
        };
        match self.take(&self.0.failures, source, 1, Purpose::Control) {
            Ok(_) | Err(Exceeded::Fault) => why,
            Err(over @ Exceeded::Over(..)) => over.error(&source.to_string()),
        }
    }

    fn take_events(
        &self,
        tenant: &str,
        n_events: usize,
        n_bytes: impl FnOnce() -> usize,
    ) -> Result<(), Exceeded<'_>> {
        self.take(&self.0.events, id(tenant), n_events, Purpose::Ingest)?;
        if self.0.bytes.is_some() {
            let taken = self.take(&self.0.bytes, id(tenant), n_bytes(), Purpose::Ingest);
            if taken.is_err() {
                self.give_back(&self.0.events, tenant, n_events);
            }
            taken?;
        }
        Ok(())
    }

    /// Takes of a limit, if there is one. Here is decided what becomes of a request that cannot be counted: events are what
    /// we are there for and come in, all else can wait until somebody has looked after us.
    fn take<'a>(
        &self,
        limit: &'a Option<Limit>,
        key: impl Hash,
        units: usize,
        purpose: Purpose,
    ) -> Result<Option<Standing>, Exceeded<'a>> {
        let Some(limit @ Limit { name, table }) = limit else {
            return Ok(None);
        };
        match (table.take(key, wide(units), self.0.clock.steady()), purpose) {
            (Ok(left), _) => Ok(Some(Standing {
                name,
                quota: table.quota(),
                left,
            })),
            (Err(Refusal::Over(delay)), _) => Err(Exceeded::Over(limit, delay)),
            (Err(Refusal::Fault), Purpose::Ingest) => {
                self.complain();
                Ok(None)
            }
            (Err(Refusal::Fault), Purpose::Control) => {
                self.complain();
                Err(Exceeded::Fault)
            }
        }
    }

    fn give_back(&self, limit: &Option<Limit>, tenant: &str, units: usize) {
        if let Some(Limit { table, .. }) = limit {
            table.give_back(id(tenant), wide(units));
        }
    }

    /// Once: nothing mends it but a restart.
    fn complain(&self) {
        if !self.0.has_complained.swap(true, Ordering::Relaxed) {
            tracing::error!("requests cannot be counted: events are let in, all else is refused");
        }
    }

    /// Breaks it as a bug would.
    #[cfg(test)]
    pub(crate) fn break_down(&self) {
        let Inner {
            events,
            bytes,
            credentials,
            addresses,
            failures,
            ..
        } = &*self.0;
        for limit in [events, bytes, credentials, addresses, failures]
            .into_iter()
            .flatten()
        {
            limit.table.break_down();
        }
    }
}

// === impl Exceeded ===

impl Exceeded<'_> {
    fn delay(&self) -> Duration {
        match self {
            Self::Over(_, delay) => *delay,
            Self::Fault => FAULT_PAUSE,
        }
    }

    /// What the one who has used too much is told.
    fn error(self, subject: &str) -> ApiError {
        match self {
            Self::Over(Limit { name, table }, delay) => {
                let (least, most) = PAUSE;
                let delay = delay.mul_f64(1.0 + rand::random_range(0.0..JITTER));
                let (units, window) = (table.quota().burst(), table.quota().window_seconds());
                let delay = delay.clamp(least, most);
                ApiError::over_quota(name, subject, (units, window), delay)
            }
            Self::Fault => {
                let message = "this server cannot count requests";
                ApiError::unavailable("LIMITER_FAILED", message, FAULT_PAUSE)
            }
        }
    }
}

/// The tenant of a name `tenants/…`.
fn id(tenant: &str) -> &str {
    tenant.strip_prefix("tenants/").unwrap_or(tenant)
}

fn wide(units: usize) -> u64 {
    u64::try_from(units).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use hookfleet_contract::time::Timestamp;
    use tonic::Status;
    use tonic_types::StatusExt as _;

    use super::*;

    const RATES: Rates = Rates {
        tenant_events: 2000,
        tenant_bytes: 20 << 20,
        requests: 5,
        failures: 2,
    };

    fn limiter() -> (Limiter, Clock) {
        let clock = Clock::fixed(Timestamp(1_000));
        (Limiter::new(RATES, clock.clone()), clock)
    }

    fn source() -> Source {
        std::net::SocketAddr::from(([192, 0, 2, 1], 7)).into()
    }

    fn published(limiter: &Limiter, tenant: &str, n_events: usize, n_bytes: usize) -> bool {
        limiter.publish(tenant, n_events, || n_bytes).is_ok()
    }

    #[test]
    fn a_refusal_says_which_quota_whose_and_when_to_come_back() {
        let (limiter, _) = limiter();
        limiter.publish("tenants/acme", 2000, || 1).unwrap();
        let error = limiter.publish("tenants/acme", 1000, || 1).unwrap_err();
        let status = Status::from(error);
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.reason, "RATE_LIMITED");
        assert_eq!(info.metadata["quota"], "tenant-events");
        let quota = details.quota_failure().unwrap();
        assert_eq!(quota.violations[0].subject, "tenants/acme");
        let delay = details.retry_info().unwrap().retry_delay.unwrap();
        assert!(delay >= Duration::from_millis(500) && delay <= Duration::from_millis(600));
    }

    #[test]
    fn a_tenant_that_has_used_up_its_quota_is_nobody_elses_trouble() {
        let (limiter, clock) = limiter();
        for is_within in [true, true, true, true, false] {
            assert_eq!(published(&limiter, "tenants/flood", 500, 1), is_within);
        }
        assert!(published(&limiter, "tenants/acme", 500, 1));
        assert!(
            limiter.might_publish("flood", 1).is_err(),
            "by its bare id, too"
        );
        clock.set(Timestamp(1_250));
        assert!(published(&limiter, "tenants/flood", 500, 1));
        assert!(!published(&limiter, "tenants/flood", 1, 1));
    }

    #[test]
    fn bytes_that_are_too_many_use_up_no_events() {
        let (limiter, _) = limiter();
        assert!(published(&limiter, "tenants/acme", 1, 20 << 20));
        for _ in 0..10 {
            assert!(!published(&limiter, "tenants/acme", 1000, 1 << 20));
        }
        assert!(published(&limiter, "tenants/acme", 1999, 0));
        assert!(!published(&limiter, "tenants/acme", 1, 0));
    }

    #[test]
    fn whether_somebody_might_publish_uses_up_nothing() {
        let (limiter, _) = limiter();
        for _ in 0..10_000 {
            limiter.might_publish("acme", 1 << 20).unwrap();
        }
        assert!(published(&limiter, "tenants/acme", 2000, 20 << 20));
    }

    #[test]
    fn requests_are_counted_for_the_credential_or_else_for_the_address() {
        let (limiter, clock) = limiter();
        for left in (0..5).rev() {
            let standing = limiter.request(Some("keys/a"), Some(source())).unwrap();
            assert_eq!(standing.unwrap().left.units, left);
        }
        let quota = |it: Result<_, ApiError>| {
            let status = Status::from(it.map(|_: Option<Standing>| ()).unwrap_err());
            status.get_details_error_info().unwrap().metadata["quota"].clone()
        };
        assert_eq!(quota(limiter.request(Some("keys/a"), None)), "credential");
        limiter.request(Some("keys/b"), Some(source())).unwrap();
        for _ in 0..5 {
            limiter.request(None, Some(source())).unwrap();
        }
        let other = limiter.request(None, Some(source()));
        assert_eq!(quota(other), "address");
        clock.set(Timestamp(1_200));
        limiter.request(Some("keys/a"), Some(source())).unwrap();
    }

    #[test]
    fn failures_are_told_to_come_back_later_and_other_refusals_are_not_failures() {
        let (limiter, clock) = limiter();
        let why = || ApiError::unauthenticated("CREDENTIAL_INVALID", "no");
        let denied = ApiError::permission_denied();
        for _ in 0..20 {
            assert_eq!(
                limiter.not_let_in(Some(source()), why()).code(),
                Code::Unauthenticated
            );
            limiter.not_let_in(Some(source()), denied.clone());
        }
        assert_eq!(
            limiter.not_let_in(Some(source()), why()).reason(),
            "RATE_LIMITED"
        );
        clock.set(Timestamp(1_500));
        assert_eq!(
            limiter.not_let_in(Some(source()), why()).code(),
            Code::Unauthenticated
        );
    }

    #[test]
    fn a_broken_limiter_lets_events_in_and_nothing_else() {
        let (limiter, _) = limiter();
        limiter.break_down();
        assert!(published(&limiter, "tenants/acme", 1_000_000, 1 << 40));
        let refused = limiter.request(Some("keys/a"), None).unwrap_err();
        assert_eq!(
            (refused.code(), refused.reason()),
            (Code::Unavailable, "LIMITER_FAILED")
        );
        let refused = limiter.request(None, Some(source())).unwrap_err();
        assert_eq!(refused.reason(), "LIMITER_FAILED");
        let why = ApiError::unauthenticated("CREDENTIAL_INVALID", "no");
        assert_eq!(
            limiter.not_let_in(Some(source()), why).code(),
            Code::Unauthenticated
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_paced_waits_for_the_quota() {
        let (limiter, clock) = limiter();
        assert!(published(&limiter, "tenants/acme", 2000, 0));
        let paced = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.paced("tenants/acme", 1).await }
        });
        sleep(Duration::from_secs(60)).await;
        assert!(!paced.is_finished(), "time stands still for the limiter");
        clock.set(Timestamp(1_001));
        paced.await.unwrap();
        assert!(published(&limiter, "tenants/acme", 1, 0));
        assert!(!published(&limiter, "tenants/acme", 1, 0));
    }

    #[test]
    fn nothing_is_counted_unless_it_is_said() {
        let limiter = Limiter::off();
        for _ in 0..10_000 {
            assert!(published(&limiter, "tenants/acme", 1000, 1 << 30));
            assert!(
                limiter
                    .request(Some("a"), Some(source()))
                    .unwrap()
                    .is_none()
            );
        }
    }
}
