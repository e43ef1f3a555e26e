//! Connections to other processes, and what shows them who calls: a key on each call, or the certificate of the connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, ClientTlsConfig, Endpoint, Error},
};

use crate::{auth::key::ApiKey, tls::peer::PeerTls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A half-open connection is found out in this time.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// A connection on which every call says who makes it.
pub type Peer = InterceptedService<Channel, Authorization>;

/// Says who calls: with a key, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Authorization(Option<MetadataValue<Ascii>>);

/// How this process calls others. By default it shows them nothing, and believes the public authorities.
#[derive(Clone, Debug, Default)]
pub struct Dialer {
    /// What it shows on each call.
    pub authorization: Authorization,
    /// What it makes connections with to `https` addresses.
    pub tls: PeerTls,
}

/// A cheap handle to the connections.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    dialer: Dialer,
    channels: Arc<Mutex<Channels>>,
}

#[derive(Debug, Default)]
struct Channels {
    by_address: HashMap<String, Channel>,
    /// What they were made with.
    tls: Weak<ClientTlsConfig>,
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

// === impl Dialer ===

impl Dialer {
    /// What reaches an address, with what is in force now.
    ///
    /// # Errors
    /// If the address is not one.
    pub fn endpoint(&self, address: &str) -> Result<Endpoint, Error> {
        endpoint(address, &self.tls.current())
    }

    /// A connection on which calls say who makes them.
    #[must_use]
    pub fn on(&self, channel: Channel) -> Peer {
        self.authorization.on(channel)
    }
}

fn endpoint(address: &str, tls: &ClientTlsConfig) -> Result<Endpoint, Error> {
    let endpoint = Endpoint::from_shared(address.to_owned())?;
    match endpoint.uri().scheme_str() {
        Some("https") => endpoint.tls_config(tls.clone()),
        Some(_) | None => Ok(endpoint),
    }
}

// === impl Peers ===

impl Peers {
    /// No connections yet.
    #[must_use]
    pub fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            channels: Arc::default(),
        }
    }

    /// A connection to `address` (`http://host:port`, or `https`), made when it is used, and again after it was lost. Connections to
    /// addresses that are not `current` any more are forgotten.
    ///
    /// # Errors
    /// If the address is not one.
    pub fn peer(&self, address: &str, current: impl Fn(&str) -> bool) -> Result<Peer, Error> {
        let channel = self.channel(address, current)?;
        Ok(self.dialer.on(channel))
    }

    fn channel(&self, address: &str, current: impl Fn(&str) -> bool) -> Result<Channel, Error> {
        let tls = self.dialer.tls.current();
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::ptr::eq(channels.tls.as_ptr(), Arc::as_ptr(&tls)) {
            // Calls under way go on; others are made with the new certificate.
            channels.by_address.clear();
            channels.tls = Arc::downgrade(&tls);
        }
        if let Some(channel) = channels.by_address.get(address) {
            return Ok(channel.clone());
        }
        let (interval, patience) = KEEP_ALIVE;
        let channel = endpoint(address, &tls)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(patience)
            .connect_lazy();
        channels.by_address.retain(|address, _| current(address));
        channels
            .by_address
            .insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}
