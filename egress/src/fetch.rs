//! Documents that the operator has named, as the keys of an identity provider: a few in an hour, by reqwest. Where they are
//! is not judged, because nobody but the operator says it and providers stand in private networks; what they are, and how
//! long they take, is bounded.
//!
//! **Invariant:** nothing is followed to where it points, and nothing goes in clear but on this machine, if that is allowed.

use std::{path::PathBuf, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use reqwest::{Client, redirect};
use url::{Host, Url};

use crate::{connect::client_config, exchange::chain};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For all of it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest document.
const MAX_BYTES: usize = 256 << 10;

/// How documents are fetched.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// PEM files of certificate authorities to trust beside the public ones.
    pub ca_files: Vec<PathBuf>,
    /// Plain http is taken on loopback.
    pub allow_loopback_http: bool,
}

/// Fetches documents; cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    allow_loopback_http: bool,
}

/// A document was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not where documents may be.
    #[error("the URL must begin with https://, or with http:// on loopback where that is allowed")]
    Url,
    /// The certificate authorities cannot be used.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// There is no answer.
    #[error("no answer: {}", chain(.0))]
    Http(#[from] reqwest::Error),
    /// The answer is not the document.
    #[error("the answer is {0}")]
    Status(StatusCode),
    /// The document is too large.
    #[error("more than {MAX_BYTES} bytes")]
    TooLarge,
}

// === impl Config ===

impl Config {
    /// Whether a document may be fetched from a URL.
    ///
    /// # Errors
    /// [`Error::Url`].
    pub fn check(&self, url: &str) -> Result<(), Error> {
        check(url, self.allow_loopback_http)
    }
}

// === impl Fetcher ===

impl Fetcher {
    /// A fetcher.
    ///
    /// # Errors
    /// [`Error::Tls`].
    pub fn new(config: &Config) -> Result<Self, Error> {
        let tls = client_config(&config.ca_files).map_err(Error::Tls)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT);
        Ok(Self {
            client: client.build()?,
            allow_loopback_http: config.allow_loopback_http,
        })
    }

    /// Fetches a document.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, url: &str) -> Result<Bytes, Error> {
        check(url, self.allow_loopback_http)?;
        let request = self.client.get(url);
        let request = request.header(header::ACCEPT, "application/json");
        let mut response = request.send().await?;
        if response.status() != StatusCode::OK {
            return Err(Error::Status(response.status()));
        }
        let mut document = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            if document.len() + chunk.len() > MAX_BYTES {
                return Err(Error::TooLarge);
            }
            document.extend_from_slice(&chunk);
        }
        Ok(document.freeze())
    }
}

fn check(url: &str, allow_loopback_http: bool) -> Result<(), Error> {
    let url = Url::parse(url).map_err(|_| Error::Url)?;
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback && allow_loopback_http => Ok(()),
        _ => Err(Error::Url),
    }
}
