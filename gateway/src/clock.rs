//! The only file of the gateway, and of the control plane, that reads time. Tests hold a clock that they set.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use hookfleet_contract::time::Timestamp;

/// Tells the time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { started: Instant },
    Fixed(Arc<AtomicU64>),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn system() -> Self {
        Self(Source::System {
            started: Instant::now(),
        })
    }

    /// A clock that stands still until it is [set](Self::set).
    #[must_use]
    pub fn fixed(now: Timestamp) -> Self {
        Self(Source::Fixed(Arc::new(AtomicU64::new(now.0))))
    }

    /// Sets a fixed clock; the system's stays as it is.
    pub fn set(&self, now: Timestamp) {
        match &self.0 {
            Source::System { .. } => {}
            Source::Fixed(fixed) => fixed.store(now.0, Ordering::Relaxed),
        }
    }

    /// The time of day, for what is written down.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System { .. } => {
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
                Timestamp(0) + since_epoch.unwrap_or_default()
            }
            Source::Fixed(fixed) => Timestamp(fixed.load(Ordering::Relaxed)),
        }
    }

    /// The time since some moment, for timeouts: it never jumps, whatever becomes of the time of day.
    #[must_use]
    pub fn steady(&self) -> Timestamp {
        match &self.0 {
            Source::System { started } => Timestamp(0) + started.elapsed(),
            Source::Fixed(fixed) => Timestamp(fixed.load(Ordering::Relaxed)),
        }
    }
}
