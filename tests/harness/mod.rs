//! What integration tests are made of: real processes, real receivers, conditions to wait for.

pub mod api;
pub mod cgroup;
pub mod checker;
pub mod dialect;
pub mod disk;
pub mod frames;
pub mod http;
pub mod ledger;
pub mod name_server;
pub mod network;
pub mod process;
pub mod provider;
pub mod raw;
pub mod receiver;
pub mod shim;
pub mod verifier;

use std::{fmt::Debug, future::Future, time::Duration};

use tokio::time::{Instant, sleep};

/// Waits until `check` returns something, and panics with the last state once `patience` is over.
pub async fn eventually<T, S: Debug, F: Future<Output = Result<T, S>>>(
    what: &str,
    patience: Duration,
    mut check: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match check().await {
            Ok(done) => return done,
            Err(state) if Instant::now() > deadline => {
                panic!("{what}: not within {patience:?}; now {state:#?}")
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
