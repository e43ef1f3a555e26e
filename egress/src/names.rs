//! What names answered, for each tenant apart. It does not know how names are asked nor which addresses
//! may be called.
//!
//! **Invariant:** no tenant takes the room of another, nor asks more often than it may; who asks for a
//! name that is being asked for waits for the same answer.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hookfleet_contract::name::TenantId;
use tokio::{sync::OnceCell, time::Instant};

use crate::resolve::Error;

/// Each takes some 300 bytes.
const MAX_NAMES: usize = 65_536;
/// A tenth: a tenant of a million names that nobody has leaves the rest their room.
const MAX_NAMES_PER_TENANT: usize = MAX_NAMES / 10;
/// How often a tenant may ask: a thousand names at once, then 500 a second. As many live names, asked
/// for every 300 s, are 150,000.
const QUESTION_PERIOD: Duration = Duration::from_millis(2);
const MAX_BURST: Duration = Duration::from_secs(2);

/// The addresses of a name, or why there are none.
pub(crate) type Answer = Result<Arc<[IpAddr]>, Error>;

/// What names answered.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_tenant: HashMap<TenantId, Tenant>,
    n_names: usize,
}

#[derive(Debug)]
struct Tenant {
    names: HashMap<String, Cell>,
    /// When its questions so far would all have been due.
    asked_until: Instant,
}

/// An answer and how long it is good; empty while the name is asked for.
type Cell = Arc<OnceCell<(Answer, Instant)>>;

// === impl Names ===

impl Names {
    /// The answer of a name; `ask` brings a new one and how long it is good.
    ///
    /// # Cancel safety
    /// Who is dropped while asking leaves the question to the next who waits.
    pub(crate) async fn answer<F: Future<Output = (Answer, Duration)>>(
        &self,
        tenant: &TenantId,
        name: &str,
        ask: impl FnOnce() -> F,
    ) -> Answer {
        let cell = self.cell(tenant, name, Instant::now())?;
        let answered = cell.get_or_init(|| async {
            let (answer, time_to_live) = ask().await;
            (answer, Instant::now() + time_to_live)
        });
        answered.await.0.clone()
    }

    /// Forgets what is no longer good.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut known = self.lock();
        let mut n_names = 0;
        known.by_tenant.retain(|_, tenant| {
            tenant.names.retain(|_, cell| match cell.get() {
                Some((_, until)) => *until > now,
                None => Arc::strong_count(cell) > 1,
            });
            n_names += tenant.names.len();
            !tenant.names.is_empty() || tenant.asked_until > now
        });
        known.n_names = n_names;
    }

    /// What is known of a name, or the place for it.
    fn cell(&self, tenant: &TenantId, name: &str, now: Instant) -> Result<Cell, Error> {
        let mut known = self.lock();
        let known = &mut *known;
        if !known.by_tenant.contains_key(tenant) {
            let names = HashMap::new();
            let asked_until = now;
            let new = Tenant { names, asked_until };
            known.by_tenant.insert(tenant.clone(), new);
        }
        let Some(tenant) = known.by_tenant.get_mut(tenant) else {
            unreachable!("it was inserted");
        };
        let is_good = |it: &&mut Cell| it.get().is_none_or(|(_, until)| *until > now);
        let place = tenant.names.get_mut(name);
        let is_known = place.is_some();
        if let Some(cell) = place.filter(is_good) {
            return Ok(Arc::clone(cell));
        }
        if tenant.asked_until > now + MAX_BURST {
            return Err(Error::TooMany);
        }
        tenant.asked_until = tenant.asked_until.max(now) + QUESTION_PERIOD;
        let cell = Cell::default();
        let has_room = known.n_names < MAX_NAMES && tenant.names.len() < MAX_NAMES_PER_TENANT;
        if is_known || has_room {
            tenant.names.insert(name.to_owned(), Arc::clone(&cell));
            known.n_names += usize::from(!is_known);
        }
        Ok(cell)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::{advance, sleep};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_good_for_its_time_and_for_its_tenant() {
        let (names, n_asked) = (Names::default(), AtomicUsize::new(0));
        let ask = |tenant, name| {
            let asking = || asking(&n_asked, Duration::ZERO);
            let (names, tenant) = (&names, id(tenant));
            async move { names.answer(&tenant, name, asking).await }
        };
        for _ in 0..3 {
            assert!(ask("acme", "a.example.com").await.is_ok());
        }
        assert_eq!(n_asked.load(Ordering::Relaxed), 1);
        assert!(ask("acme", "b.example.com").await.is_ok());
        assert!(ask("globex", "a.example.com").await.is_ok());
        assert_eq!(n_asked.load(Ordering::Relaxed), 3);
        advance(MINUTE).await;
        assert!(ask("acme", "a.example.com").await.is_ok());
        assert_eq!(n_asked.load(Ordering::Relaxed), 4);
        names.sweep(Instant::now());
        assert_eq!(names.lock().n_names, 1);
        advance(MINUTE).await;
        names.sweep(Instant::now());
        assert!(names.lock().by_tenant.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_want_a_name_ask_once_even_if_the_first_goes_away() {
        let (names, n_asked) = (Names::default(), AtomicUsize::new(0));
        let acme = id("acme");
        let want = || {
            let asking = || asking(&n_asked, Duration::from_secs(1));
            names.answer(&acme, "a.example.com", asking)
        };
        tokio::select! {
            biased;
            _ = want() => panic!("it takes a second"),
            () = sleep(Duration::from_millis(10)) => {}
        }
        let (first, second, third) = tokio::join!(want(), want(), want());
        assert!(first.is_ok() && second.is_ok() && third.is_ok());
        assert_eq!(n_asked.load(Ordering::Relaxed), 2);
    }

    /// L13 of the load shapes, reference/trust §4.1.
    #[tokio::test(start_paused = true)]
    async fn a_tenant_of_a_million_names_costs_only_itself() {
        let (names, n_asked) = (Names::default(), AtomicUsize::new(0));
        let (flood, acme) = (id("flood"), id("acme"));
        let asking = || asking(&n_asked, Duration::ZERO);
        assert!(names.answer(&acme, "a.example.com", asking).await.is_ok());
        let mut n_refused = 0;
        for number in 0..1_000_000 {
            let name = format!("{number}.example.com");
            let answer = names.answer(&flood, &name, asking).await;
            n_refused += u32::from(matches!(answer, Err(Error::TooMany)));
        }
        // As many as fit into the burst; the clock stands still.
        assert!(n_refused > 990_000, "{n_refused}");
        for number in 0..20_000 {
            advance(QUESTION_PERIOD).await;
            let name = format!("more-{number}.example.com");
            assert!(names.answer(&flood, &name, asking).await.is_ok());
        }
        let n_names = names.lock().n_names;
        assert!(n_names <= MAX_NAMES_PER_TENANT + 1, "{n_names}");
        let n_before = n_asked.load(Ordering::Relaxed);
        assert!(names.answer(&acme, "a.example.com", asking).await.is_ok());
        assert_eq!(
            n_asked.load(Ordering::Relaxed),
            n_before,
            "it is still known"
        );
    }

    async fn asking(n_asked: &AtomicUsize, takes: Duration) -> (Answer, Duration) {
        n_asked.fetch_add(1, Ordering::Relaxed);
        sleep(takes).await;
        (Ok([Ipv4Addr::LOCALHOST.into()].into()), MINUTE)
    }

    fn id(tenant: &str) -> TenantId {
        tenant.parse().unwrap()
    }
}
