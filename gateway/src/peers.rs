//! Connections to other processes, and what shows them who calls.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Error},
};

use crate::auth::key::ApiKey;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A half-open connection is found out in this time.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// A connection on which every call says who makes it.
pub type Peer = InterceptedService<Channel, Authorization>;

/// Says who calls: with a key, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Authorization(Option<MetadataValue<Ascii>>);

/// A cheap handle to the connections.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    authorization: Authorization,
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

// === impl Authorization ===

impl Authorization {
    /// Calls with this key.
    #[must_use]
    pub fn with(key: &ApiKey) -> Self {
        let value = MetadataValue::try_from(format!("Bearer {}", *key.reveal()));
        Self(value.ok().map(|mut value| {
            value.set_sensitive(true);
            value
        }))
    }

    /// The connection with it.
    #[must_use]
    pub fn on(&self, channel: Channel) -> Peer {
        InterceptedService::new(channel, self.clone())
    }
}

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

// === impl Peers ===

impl Peers {
    /// No connections yet.
    #[must_use]
    pub fn new(authorization: Authorization) -> Self {
        Self {
            authorization,
            channels: Arc::default(),
        }
    }

    /// A connection to `address` (`http://host:port`), made when it is used, and again after it was lost. Connections to
    /// addresses that are not `current` any more are forgotten.
    ///
    /// # Errors
    /// If the address is not one.
    pub fn peer(&self, address: &str, current: impl Fn(&str) -> bool) -> Result<Peer, Error> {
        let channel = self.channel(address, current)?;
        Ok(self.authorization.on(channel))
    }

    fn channel(&self, address: &str, current: impl Fn(&str) -> bool) -> Result<Channel, Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
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
