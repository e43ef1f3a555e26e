//! Whether a process is ready for work: a few named conditions, all of which must hold.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// A cheap handle to the conditions.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    conditions: Mutex<BTreeMap<&'static str, bool>>,
    is_ready: watch::Sender<bool>,
}

impl Readiness {
    /// Conditions that do not hold yet.
    #[must_use]
    pub fn new(conditions: &[&'static str]) -> Self {
        let conditions: BTreeMap<_, _> = conditions.iter().map(|it| (*it, false)).collect();
        Self(Arc::new(Shared {
            is_ready: watch::Sender::new(conditions.is_empty()),
            conditions: Mutex::new(conditions),
        }))
    }

    /// A condition holds, or does not any more.
    pub fn set(&self, condition: &'static str, holds: bool) {
        let mut conditions = self.lock();
        conditions.insert(condition, holds);
        let is_ready = conditions.values().all(|it| *it);
        self.0
            .is_ready
            .send_if_modified(|it| std::mem::replace(it, is_ready) != is_ready);
    }

    /// The conditions that do not hold.
    #[must_use]
    pub fn unmet(&self) -> Vec<&'static str> {
        let conditions = self.lock();
        let unmet = conditions.iter().filter(|(_, holds)| !**holds);
        unmet.map(|(condition, _)| *condition).collect()
    }

    /// Whether all hold, now and whenever that changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.is_ready.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, bool>> {
        self.0
            .conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Readiness;

    #[test]
    fn ready_is_when_all_conditions_hold() {
        let readiness = Readiness::new(&["config", "journal"]);
        let watch = readiness.watch();
        readiness.set("config", true);
        assert_eq!(readiness.unmet(), ["journal"]);
        assert!(!*watch.borrow());
        readiness.set("journal", true);
        assert!(*watch.borrow());
        readiness.set("config", false);
        assert!(!*watch.borrow());
    }
}
