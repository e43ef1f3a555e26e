//! What the core has learnt of receivers, on disk: a file that is written now and then and read once.
//! Sealed, because it names whom tenants call.
//!
//! **Invariant:** the file is whole, or it is as if there were none.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use hookfleet_contract::{retry::LONGEST_PAUSE, seal::Sealer, time::Timestamp};
use hookfleet_proto::fleet::{HealthHints, health_hints};
use prost::Message as _;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::core::{Hint, Hints, Uid};

const CONTEXT: &[u8] = b"hookfleet agent health 1";

/// Where hints are kept.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
    sealer: Sealer,
}

/// Writes hints down as they change.
#[derive(Debug)]
pub(super) struct Keeper {
    store: Store,
    saved: Hints,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(store: Store, saved: Hints) -> Self {
        Self { store, saved }
    }

    /// Writes them down if there is anything new, beside everything else.
    pub(super) fn save(&mut self, hints: Hints) -> Option<JoinHandle<()>> {
        if hints == self.saved {
            return None;
        }
        self.saved = hints.clone();
        let store = self.store.clone();
        Some(spawn_blocking(move || {
            if let Err(error) = store.save(&hints) {
                tracing::warn!(%error, "cannot write down what is known of receivers");
            }
        }))
    }
}

// === impl Store ===

impl Store {
    /// Hints in a file of `dir`, sealed with `sealer`.
    #[must_use]
    pub fn new(dir: &Path, sealer: Sealer) -> Self {
        Self {
            path: dir.join("health"),
            sealer,
        }
    }

    /// What an earlier run learnt, on a clock that may have been ahead of `now`'s. A broken file costs some attempts.
    #[must_use]
    pub fn load(&self, now: Timestamp) -> Hints {
        let Ok(sealed) = fs::read(&self.path) else {
            return Hints::default();
        };
        let plain = self.sealer.open(CONTEXT, &sealed).ok();
        let message = plain.and_then(|it| HealthHints::decode(it.as_slice()).ok());
        let hints = message.map(|it| read(it, now));
        hints.unwrap_or_else(|| {
            tracing::warn!("what was known of receivers is damaged, or sealed with another key");
            Hints::default()
        })
    }

    /// Replaces the hints. Blocks on the disk.
    ///
    /// # Errors
    /// Those of the file system; the hints before stay.
    pub fn save(&self, hints: &Hints) -> io::Result<()> {
        let plain = encode(hints).encode_to_vec();
        let new = self.path.with_extension("new");
        fs::write(&new, self.sealer.seal(CONTEXT, &plain, rand::random()))?;
        fs::rename(&new, &self.path)
    }
}

/// What others are told.
pub(crate) fn encode(hints: &Hints) -> HealthHints {
    let hint = |hint: &Hint| health_hints::Hint {
        opens: hint.opens.into(),
        open_until: Some(hint.open_until.into()),
        failing_since: hint.failing_since.map(Into::into),
        failure_count: i32::try_from(hint.n_failures).unwrap_or(i32::MAX),
        slow: hint.slow,
        ..health_hints::Hint::default()
    };
    let subscriptions = hints
        .subscriptions
        .iter()
        .map(|(uid, it)| health_hints::Hint {
            subscription: uid.to_vec(),
            ..hint(it)
        });
    let endpoints = hints
        .endpoints
        .iter()
        .map(|(endpoint, it)| health_hints::Hint {
            endpoint: endpoint.to_string(),
            ..hint(it)
        });
    let pauses = hints.pauses.iter();
    HealthHints {
        hints: subscriptions.chain(endpoints).collect(),
        pauses: pauses
            .map(|(tenant, endpoint, until)| health_hints::Pause {
                tenant: tenant.to_string(),
                endpoint: endpoint.to_string(),
                until: Some((*until).into()),
            })
            .collect(),
    }
}

/// What was learnt elsewhere, as far as it can be believed now.
pub(super) fn read(message: HealthHints, now: Timestamp) -> Hints {
    as_of(decode(message), now)
}

fn decode(message: HealthHints) -> Hints {
    let mut hints = Hints::default();
    for it in message.hints {
        let hint = Hint {
            opens: u8::try_from(it.opens).unwrap_or(u8::MAX),
            open_until: it.open_until.map(Timestamp::from).unwrap_or_default(),
            failing_since: it.failing_since.map(Timestamp::from),
            n_failures: u32::try_from(it.failure_count).unwrap_or(0),
            slow: it.slow,
        };
        match Uid::try_from(it.subscription) {
            Ok(uid) => hints.subscriptions.push((uid, hint)),
            Err(_) => hints.endpoints.push((Arc::from(it.endpoint), hint)),
        }
    }
    let pauses = message.pauses.into_iter();
    hints.pauses = pauses
        .filter_map(|it| {
            Some((
                it.tenant.parse().ok()?,
                it.endpoint.into(),
                it.until?.into(),
            ))
        })
        .collect();
    hints
}

/// Hints of a run whose clock was ahead: nothing is in the future by more than it can be.
fn as_of(mut hints: Hints, now: Timestamp) -> Hints {
    let believable = |at: Timestamp| at.since(now) <= LONGEST_PAUSE;
    let subscriptions = hints.subscriptions.iter_mut().map(|(_, it)| it);
    let endpoints = hints.endpoints.iter_mut().map(|(_, it)| it);
    for hint in subscriptions.chain(endpoints) {
        if !believable(hint.open_until) {
            hint.open_until = now;
        }
        hint.failing_since = hint.failing_since.map(|it| it.min(now));
    }
    hints.pauses.retain(|(_, _, until)| believable(*until));
    hints
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    #[test]
    fn what_is_saved_is_loaded_and_what_is_damaged_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), Sealer::new([7; 32]));
        assert_eq!(store.load(NOW), Hints::default());
        let hint = Hint {
            opens: 3,
            open_until: Timestamp(1_700_000_000_123),
            failing_since: Some(Timestamp(1_600_000_000_456)),
            n_failures: 9,
            slow: true,
        };
        let hints = Hints {
            subscriptions: vec![([1; 16], hint), ([2; 16], Hint::default())],
            endpoints: vec![("https://a:443".into(), hint)],
            pauses: vec![(
                "acme".parse().unwrap(),
                "https://a:443".into(),
                Timestamp(5),
            )],
        };
        store.save(&hints).unwrap();
        assert_eq!(store.load(NOW), hints);

        let path = dir.path().join("health");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(store.load(NOW), Hints::default());
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_written_keeps_nobody_away() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), Sealer::new([7; 32]));
        let ahead = NOW + Duration::from_secs(10 * 365 * 86_400);
        let hint = |open_until, failing_since| Hint {
            opens: 3,
            open_until,
            failing_since: Some(failing_since),
            n_failures: 9,
            slow: false,
        };
        let endpoint = Arc::<str>::from("https://a:443");
        let soon = NOW + Duration::from_secs(60);
        let pause = |until| ("acme".parse().unwrap(), Arc::clone(&endpoint), until);
        store
            .save(&Hints {
                subscriptions: vec![([1; 16], hint(ahead, ahead))],
                endpoints: vec![(Arc::clone(&endpoint), hint(soon, NOW))],
                pauses: vec![pause(ahead), pause(soon)],
            })
            .unwrap();
        let expected = Hints {
            subscriptions: vec![([1; 16], hint(NOW, NOW))],
            endpoints: vec![(Arc::clone(&endpoint), hint(soon, NOW))],
            pauses: vec![pause(soon)],
        };
        assert_eq!(store.load(NOW), expected);
    }
}
