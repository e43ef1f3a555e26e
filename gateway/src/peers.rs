//! Connections to other processes of the fleet, by their addresses.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::transport::{Channel, Endpoint, Error};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A half-open connection is found out in this time.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// A cheap handle to the connections.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<Mutex<HashMap<String, Channel>>>);

impl Peers {
    /// A connection to `address` (`http://host:port`), made when it is used, and again after it was lost. Connections to
    /// addresses that are not `current` any more are forgotten.
    ///
    /// # Errors
    /// If the address is not one.
    pub fn channel(&self, address: &str, current: impl Fn(&str) -> bool) -> Result<Channel, Error> {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let (interval, patience) = KEEP_ALIVE;
        let channel = Endpoint::from_shared(address.to_owned())?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(patience)
            .connect_lazy();
        channels.retain(|address, _| current(address));
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}
