//! Names to addresses that may be called. Every answer is judged; one bad answer refuses the name,
//! because mixed answers are an attack or a mistake.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
        ResolverOpts,
    },
    net::{NetError, runtime::TokioRuntimeProvider},
};
use hookfleet_contract::target::{Host, Target};
use tokio::time::timeout;

use crate::address::{Policy, Refused};

/// For A and AAAA together.
const BUDGET: Duration = Duration::from_secs(2);
/// More answers than any honest name has.
const MAX_ANSWERS: usize = 16;

/// Why a target has no address that may be called. Tenants are not told which it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the name does not resolve")]
    Lookup(#[source] NetError),
    #[error("the name did not resolve within {BUDGET:?}")]
    Slow,
    #[error("the name has {0} addresses, may have 1 to {MAX_ANSWERS}")]
    Count(usize),
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Finds addresses.
pub(crate) struct Resolver {
    policy: Policy,
    names: Names,
}

#[cfg(test)]
type Script = Box<dyn Fn(&str) -> Vec<IpAddr> + Send + Sync>;

enum Names {
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
            policy,
            names: Names::Dns(Box::new(dns)),
        })
    }

    #[cfg(test)]
    pub(crate) fn scripted(
        policy: Policy,
        answers: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        Self {
            policy,
            names: Names::Scripted(Box::new(answers)),
        }
    }

    /// The addresses of a target, all of which may be called.
    pub(crate) async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Error> {
        let addresses = match target.host() {
            Host::Ipv4(address) => vec![IpAddr::V4(*address)],
            Host::Ipv6(address) => vec![IpAddr::V6(*address)],
            Host::Domain(name) if name == "localhost" && self.policy.allow_loopback => {
                vec![
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ]
            }
            Host::Domain(name) => self.look_up(name).await?,
        };
        if addresses.is_empty() || addresses.len() > MAX_ANSWERS {
            return Err(Error::Count(addresses.len()));
        }
        for address in &addresses {
            self.policy.check(*address)?;
        }
        let port = target.port();
        Ok(addresses
            .into_iter()
            .map(|it| SocketAddr::new(it, port))
            .collect())
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Error> {
        match &self.names {
            Names::Dns(dns) => {
                // The dot keeps search lists out.
                let found = timeout(BUDGET, dns.lookup_ip(format!("{name}."))).await;
                let found = found.map_err(|_| Error::Slow)?.map_err(Error::Lookup)?;
                Ok(found.iter().collect())
            }
            #[cfg(test)]
            Names::Scripted(answers) => Ok(answers(name)),
        }
    }
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
    options.cache_size = 65_536;
    options.positive_min_ttl = Some(Duration::from_secs(5));
    options.positive_max_ttl = Some(Duration::from_secs(300));
    options.negative_min_ttl = Some(Duration::from_secs(5));
    options.negative_max_ttl = Some(Duration::from_secs(30));
    options
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
