//! Whether receivers are asked before they are called: the settings, and what they make.

use hookfleet_control_plane::config;
use serde::{Deserialize, Serialize};

use crate::config::Validate;

/// Whether, and with what, receivers are asked if they want callbacks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Verification {
    /// Nobody is called who has not agreed: subscriptions must be verified.
    pub(crate) require_verification: bool,
    /// The DNS name that introduces this system to receivers; that of `public_url` if empty.
    pub(crate) origin: String,
    /// Where receivers outside reach `/v1/verifications/`: `https://host`. If empty, nobody can confirm later.
    pub(crate) public_url: String,
}

// === impl Verification ===

impl Verification {
    /// The host of the public URL, if it is a URL.
    fn public_host(&self) -> Option<String> {
        let uri: http::Uri = self.public_url.parse().ok()?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let host = uri.host().filter(|_| is_http && uri.query().is_none());
        host.map(ToOwned::to_owned)
    }

    /// How receivers are asked. Who has a public URL is introduced by its host.
    pub(crate) fn rules(&self) -> config::Verification {
        let set = |text: &str| Some(text.to_owned()).filter(|it| !it.is_empty());
        config::Verification {
            origin: set(&self.origin).or_else(|| self.public_host()),
            public_url: set(self.public_url.trim_end_matches('/')),
            is_required: self.require_verification,
        }
    }
}

impl Validate for Verification {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let is_label = |it: &str| {
            let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=63).contains(&it.len()) && it.bytes().all(is_legal)
        };
        if !self.origin.is_empty() && !self.origin.split('.').all(is_label) {
            problems.push("origin: must be a DNS name, without a scheme and a port".to_owned());
        }
        if !self.public_url.is_empty() && self.public_host().is_none() {
            let problem = "public_url: must begin with http:// or https://, without a query";
            problems.push(problem.to_owned());
        }
        problems
    }
}
