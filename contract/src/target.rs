//! The callback URL in the one spelling that is accepted. Whether its addresses may be called is
//! judged where connections are made, at every attempt.
//!
//! **Invariant:** what was checked is what is called: the parsed form is kept and the text is never
//! parsed by anything else.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::Url;

/// The longest URL.
const MAX_BYTES: usize = 2048;
/// Names that no receiver on the internet has.
const INTERNAL_TLDS: [&str; 18] = [
    "localhost",
    "local",
    "localdomain",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "private",
    "arpa",
    "onion",
    "invalid",
    "test",
    "example",
    "svc",
    "consul",
    "k8s",
    "cluster",
];
/// Ports from 1024 up that speak something other than HTTP: WHATWG's bad ports, datastores, control
/// planes.
const REFUSED_PORTS: [u16; 37] = [
    1433, 1521, 1719, 1720, 1723, 2049, 2375, 2376, 2379, 2380, 3306, 3389, 3659, 4045, 4190, 4222,
    5060, 5061, 5432, 5984, 6000, 6379, 6443, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 9092,
    9200, 10080, 10250, 11211, 27017,
];

/// Which URLs are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Plain http as well as https.
    pub allow_http: bool,
    /// `localhost`, `127.0.0.0/8` and `::1`, with plain http and on every port from 1024 up.
    pub allow_loopback: bool,
    /// Our own public names: a callback there would be a loop.
    pub own_names: Vec<String>,
    /// Internal top-level names that are accepted all the same.
    pub allowed_tlds: Vec<String>,
}

/// A URL that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The URL. There is one for each subscription, so it is kept as a text, with what it is made of.
    text: Box<str>,
    host: Host,
    port: u16,
    /// It is not the scheme's.
    has_own_port: bool,
    /// Where the path begins.
    path_at: u16,
}

/// Whom to call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name, lower case, without a trailing dot.
    Domain(String),
    /// An address.
    Ipv4(Ipv4Addr),
    /// An address.
    Ipv6(Ipv6Addr),
}

/// Why a URL is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

fn error<T>(reason: impl Into<String>) -> Result<T, Error> {
    Err(Error(reason.into()))
}

// === impl Target ===

impl Target {
    /// Checks a URL.
    ///
    /// # Errors
    /// The first thing that is wrong with it, for its owner to mend.
    pub fn parse(text: &str, rules: &Rules) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return error(format!("has {} bytes, may have {MAX_BYTES}", text.len()));
        }
        if !text
            .bytes()
            .all(|it| (0x21..=0x7E).contains(&it) && it != b'\\')
        {
            return error(not_ascii(text));
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("https" | "http"), rest)) => (scheme, rest),
            _ => return error("must begin with https://"),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let authority = &rest[..end];
        if authority.contains('@') {
            return error("must not contain a user or password");
        }
        if authority.contains('%') {
            return error("must not contain percent-escapes in its host");
        }
        let host_text = host_text(authority)?;
        let Ok(url) = Url::parse(text) else {
            return error("is not a URL");
        };
        if url.fragment().is_some() {
            return error("must not contain a fragment");
        }
        let canonical = url.host_str().unwrap_or_default();
        if host_text.to_ascii_lowercase() != canonical {
            return error(format!("must spell its host as {canonical}"));
        }
        let host = match url.host() {
            Some(url::Host::Domain(name)) => {
                Host::Domain(name.strip_suffix('.').unwrap_or(name).to_owned())
            }
            Some(url::Host::Ipv4(address)) => Host::Ipv4(address),
            Some(url::Host::Ipv6(address)) => Host::Ipv6(address),
            None => return error("must have a host"),
        };
        let is_loopback = rules.allow_loopback && host.is_loopback();
        if scheme == "http" && !rules.allow_http && !is_loopback {
            return error("must begin with https://");
        }
        if let Host::Domain(name) = &host
            && !is_loopback
        {
            check_name(name, rules)?;
        }
        let port = url.port_or_known_default().unwrap_or_default();
        check_port(port, scheme, is_loopback)?;
        let authority = &url[..url::Position::BeforePath];
        let Ok(path_at) = u16::try_from(authority.len()) else {
            return error(format!("may have {MAX_BYTES} bytes"));
        };
        Ok(Self {
            text: url.as_str().into(),
            host,
            port,
            has_own_port: url.port().is_some(),
            path_at,
        })
    }

    /// The URL as it is called.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.text
    }

    /// The same with more at the end of its query.
    #[must_use]
    pub(crate) fn with_query(&self, pairs: &[(&str, &str)]) -> Self {
        let separator = if self.text.contains('?') { '&' } else { '?' };
        let pairs = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(pairs)
            .finish();
        Self {
            text: format!("{}{separator}{pairs}", self.text).into(),
            ..self.clone()
        }
    }

    /// Whom to call.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, that of the scheme if the URL has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether TLS is spoken.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.text.starts_with("https:")
    }

    /// Scheme, host and port: what shares an endpoint's health.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = if self.is_https() { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    /// The value of `host`: without the port if it is the scheme's.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.has_own_port {
            true => format!("{}:{}", self.host, self.port),
            false => self.host.to_string(),
        }
    }

    /// What stands in the request line.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.text[usize::from(self.path_at)..]
    }
}

/// The host of an authority as it was written, and a check of the port's spelling.
fn host_text(authority: &str) -> Result<&str, Error> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => match rest.find(']') {
            Some(at) => at + 2,
            None => return error("must close its bracket"),
        },
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end);
    if host.is_empty() {
        return error("must have a host");
    }
    let digits = match port.strip_prefix(':') {
        Some(digits) => digits,
        None if port.is_empty() => return Ok(host),
        None => return error("must have nothing behind its host but a port"),
    };
    let is_number = (1..=5).contains(&digits.len()) && digits.bytes().all(|it| it.is_ascii_digit());
    if !is_number || digits.starts_with('0') {
        return error("must spell its port as a number without leading zeros");
    }
    Ok(host)
}

fn check_name(name: &str, rules: &Rules) -> Result<(), Error> {
    let labels: Vec<&str> = name.split('.').collect();
    let is_legal = |label: &&str| {
        let is_legal =
            |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b"_-".contains(&it);
        (1..=63).contains(&label.len())
            && label.bytes().all(is_legal)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let Some(&last) = labels.last() else {
        return error("must have a host");
    };
    if name.len() > 253 || !labels.iter().all(is_legal) {
        return error("must name a host that DNS can know");
    }
    let is_own = |own: &String| {
        name == own
            || name
                .strip_suffix(own.as_str())
                .is_some_and(|it| it.ends_with('.'))
    };
    if rules.own_names.iter().any(is_own) {
        return error("must not name this service itself");
    }
    if rules.allowed_tlds.iter().any(|it| it == last) {
        return Ok(());
    }
    if labels.len() < 2 {
        return error("must name its host in full");
    }
    if last.bytes().all(|it| it.is_ascii_digit()) || INTERNAL_TLDS.contains(&last) {
        return error(format!(
            "must not end with .{last}, which is not on the internet"
        ));
    }
    Ok(())
}

fn check_port(port: u16, scheme: &str, is_loopback: bool) -> Result<(), Error> {
    let is_usual = port == 443 || (port == 80 && scheme == "http");
    let is_refused = REFUSED_PORTS.contains(&port);
    if is_usual || (port >= 1024 && (is_loopback || !is_refused)) {
        Ok(())
    } else {
        error(format!("must not use port {port}"))
    }
}

/// Names in other scripts have a spelling in ASCII; say it.
fn not_ascii(text: &str) -> String {
    let plain = "must be visible ASCII without backslashes";
    match Url::parse(text) {
        Ok(url) if !text.is_ascii() && !text.chars().any(char::is_control) => {
            format!("{plain}: use {url}")
        }
        _ => plain.to_owned(),
    }
}

// === impl Host ===

impl Host {
    /// Whether it is this machine, by name or by address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Domain(name) => name == "localhost",
            Self::Ipv4(address) => address.is_loopback(),
            Self::Ipv6(address) => address.is_loopback(),
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Domain(name) => f.write_str(name),
            Self::Ipv4(address) => address.fmt(f),
            Self::Ipv6(address) => write!(f, "[{address}]"),
        }
    }
}
