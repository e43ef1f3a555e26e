//! What is said on a stream to a control plane, and how it ends.

use std::{error::Error as StdError, time::Duration};

use hookfleet_proto::fleet::{Goaway, SyncRequest, SyncResponse, sync_request::Message as Request};
use tokio::{sync::mpsc, time::timeout};
use tonic::Streaming;

use super::client::Error;

/// How long the control plane may take to hear something.
const GOODBYE: Duration = Duration::from_secs(2);

/// Ends a stream so that what was said last is heard: slots wait for it.
pub(super) async fn goodbye(
    requests: mpsc::Sender<SyncRequest>,
    mut responses: Streaming<SyncResponse>,
) {
    drop(requests);
    let heard = async { while let Ok(Some(_)) = responses.message().await {} };
    drop(timeout(GOODBYE, heard).await);
}

/// Says something to a control plane that listens.
pub(super) async fn send(
    requests: &mpsc::Sender<SyncRequest>,
    message: Request,
) -> Result<(), Error> {
    let request = SyncRequest {
        message: Some(message),
    };
    match timeout(GOODBYE, requests.send(request)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Error::Ended),
        Err(_) => Err(Error::Silent(GOODBYE)),
    }
}

pub(super) fn transport(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::Transport(error.into())
}

pub(super) fn goaway_error(goaway: Goaway) -> Error {
    let min = u64::try_from(goaway.reconnect_min_millis).unwrap_or(0);
    let max = u64::try_from(goaway.reconnect_max_millis).unwrap_or(0);
    let millis = rand::random_range(min..=max.max(min));
    Error::Goaway {
        reason: goaway.reason,
        pause: Duration::from_millis(millis),
    }
}
