//! Names to addresses that may be called. Every answer is judged; one bad answer refuses the name,
//! because mixed answers are an attack or a mistake.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{PoisonError, RwLock},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
        ResolverOpts,
    },
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use hookfleet_contract::{
    name::TenantId,
    target::{Host, Target},
};
use tokio::time::{Instant, timeout};

use crate::{
    address::{Policy, Refused},
    names::{Answer, Names},
};

/// For A and AAAA together.
const BUDGET: Duration = Duration::from_secs(2);
/// More answers than any honest name has.
const MAX_ANSWERS: usize = 16;
/// How long answers are good, at least and at most, whatever they say.
const POSITIVE_TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
const NEGATIVE_TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// No answer is good for as long as RFC 9520 asks at least: nobody's next attempt finds it.
const FAILURE_TTL: Duration = Duration::from_secs(1);

/// Why a target has no address that may be called. Tenants are not told which it is.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the name does not resolve")]
    Lookup(#[source] NetError),
    #[error("the name did not resolve within {BUDGET:?}")]
    Slow,
    #[error("the name has {0} addresses, may have 1 to {MAX_ANSWERS}")]
    Count(usize),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the tenant asks for too many names")]
    TooMany,
}

/// Finds addresses.
pub(crate) struct Resolver {
    policy: RwLock<Policy>,
    /// What the operator calls our own, beside this machine's.
    own: Vec<IpAddr>,
    names: Names,
    source: Source,
}

#[cfg(test)]
type Script = Box<dyn Fn(&str) -> Vec<IpAddr> + Send + Sync>;

enum Source {
    Dns(Box<TokioResolver>),
    #[cfg(test)]
    Scripted(Script),
}

impl Resolver {
    /// Asks these name servers, or the system's if there are none: with absolute names, without the
    /// hosts file.
    pub(crate) fn new(policy: Policy, servers: &[SocketAddr]) -> Result<Self, NetError> {
        let builder = if servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let dns = builder.with_options(options()).build()?;
        Ok(Self {
            own: policy.own.clone(),
            policy: RwLock::new(policy),
            names: Names::default(),
            source: Source::Dns(Box::new(dns)),
        })
    }

    #[cfg(test)]
    pub(crate) fn scripted(
        policy: Policy,
        answers: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        Self {
            own: policy.own.clone(),
            policy: RwLock::new(policy),
            names: Names::default(),
            source: Source::Scripted(Box::new(answers)),
        }
    }

    /// The addresses of a tenant's target, all of which may be called now.
    pub(crate) async fn resolve(
        &self,
        tenant: &TenantId,
        target: &Target,
    ) -> Result<Vec<SocketAddr>, Error> {
        const LOOPBACK: [IpAddr; 2] = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        let port = target.port();
        match target.host() {
            Host::Ipv4(address) => self.judge(&[IpAddr::V4(*address)], port),
            Host::Ipv6(address) => self.judge(&[IpAddr::V6(*address)], port),
            Host::Domain(name) if name == "localhost" => self.judge(&LOOPBACK, port),
            Host::Domain(name) => {
                let ask = || Box::pin(self.look_up(name));
                let answer = self.names.answer(tenant, name, ask).await;
                self.judge(&answer?, port)
            }
        }
    }

    /// Takes note of this machine's addresses: they may not be called.
    pub(crate) fn set_machine(&self, addresses: Vec<IpAddr>) {
        let mut policy = self.policy.write().unwrap_or_else(PoisonError::into_inner);
        policy.own.clone_from(&self.own);
        policy.own.extend(addresses);
    }

    /// See [`Policy::destination`].
    pub(crate) fn destination(&self, address: IpAddr) -> Option<IpAddr> {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        policy.destination(address)
    }

    /// Forgets answers that are no longer good.
    pub(crate) fn sweep(&self, now: Instant) {
        self.names.sweep(now);
    }

    fn judge(&self, addresses: &[IpAddr], port: u16) -> Result<Vec<SocketAddr>, Error> {
        if addresses.is_empty() || addresses.len() > MAX_ANSWERS {
            return Err(Error::Count(addresses.len()));
        }
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        let judged = addresses.iter().map(|address| {
            policy.check(*address)?;
            Ok(SocketAddr::new(*address, port))
        });
        judged.collect()
    }

    /// Asks, and says how long the answer is good.
    async fn look_up(&self, name: &str) -> (Answer, Duration) {
        match &self.source {
            Source::Dns(dns) => {
                // The dot keeps search lists out.
                match timeout(BUDGET, dns.lookup_ip(format!("{name}."))).await {
                    Err(_) => (Err(Error::Slow), FAILURE_TTL),
                    Ok(Err(error)) => {
                        let time_to_live = negative_ttl(&error);
                        (Err(Error::Lookup(error)), time_to_live)
                    }
                    Ok(Ok(found)) => {
                        let until = Instant::from_std(found.valid_until());
                        // One more than may be says enough.
                        let addresses = found.iter().take(MAX_ANSWERS + 1).collect();
                        (Ok(addresses), until.duration_since(Instant::now()))
                    }
                }
            }
            #[cfg(test)]
            Source::Scripted(answers) => (Ok(answers(name).into()), Duration::ZERO),
        }
    }
}

fn negative_ttl(error: &NetError) -> Duration {
    let NetError::Dns(DnsError::NoRecordsFound(none)) = error else {
        return FAILURE_TTL;
    };
    let told = none.negative_ttl.unwrap_or_default();
    Duration::from_secs(told.into()).clamp(NEGATIVE_TTL.0, NEGATIVE_TTL.1)
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.ndots = 0;
    options.timeout = BUDGET;
    options.attempts = 1;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    // `names` remembers.
    options.cache_size = 0;
    options.positive_min_ttl = Some(POSITIVE_TTL.0);
    options.positive_max_ttl = Some(POSITIVE_TTL.1);
    options
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
