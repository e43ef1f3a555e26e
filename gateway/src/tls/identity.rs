//! Whom a client certificate names: by exactly one URI, `spiffe://{trust domain}/agent/{id}` or `…/control/{id}`, and by
//! nothing else of it. Pure.
//!
//! **Invariant:** what is not exactly of this form names nobody; a common name never does.

use std::{fmt, str::FromStr, sync::Arc};

use hookfleet_contract::{
    name::{AgentId, ControlPlaneId},
    time::Timestamp,
};
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

use crate::auth::principal::Principal;

/// Within which identities are given: that of another domain is somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomain(Arc<str>);

/// The text is not a trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 255 of a-z, 0-9, ., - and _")]
pub struct NotATrustDomain;

/// A part of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// An agent.
    Agent(AgentId),
    /// A control plane.
    ControlPlane(ControlPlaneId),
}

/// A certificate of a client that TLS has verified. Goes with each request of its connection, in its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Whom it names, if that is a part of the fleet.
    pub identity: Option<Identity>,
    /// When it is over.
    pub not_after: Timestamp,
}

// === impl TrustDomain ===

impl FromStr for TrustDomain {
    type Err = NotATrustDomain;

    fn from_str(text: &str) -> Result<Self, NotATrustDomain> {
        let is_legal =
            |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b".-_".contains(&it);
        if (1..=255).contains(&text.len()) && text.bytes().all(is_legal) {
            Ok(Self(text.into()))
        } else {
            Err(NotATrustDomain)
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Identity ===

impl Identity {
    /// Whom the URIs of a certificate name.
    #[must_use]
    pub fn of(uris: &[&str], domain: &TrustDomain) -> Option<Self> {
        let &[uri] = uris else {
            return None;
        };
        let path = uri.strip_prefix("spiffe://")?.strip_prefix(&*domain.0)?;
        // Ids are labels: they have no `/`, `.` or `%`.
        if let Some(id) = path.strip_prefix("/agent/") {
            return id.parse().ok().map(Self::Agent);
        }
        let id = path.strip_prefix("/control/")?;
        id.parse().ok().map(Self::ControlPlane)
    }

    /// Who that is to the services.
    #[must_use]
    pub fn principal(&self) -> Principal {
        match self {
            Self::Agent(agent) => Principal::agent(agent),
            Self::ControlPlane(control_plane) => Principal::control_plane(control_plane),
        }
    }
}

// === impl ClientCertificate ===

impl ClientCertificate {
    /// Reads a certificate; `None` if it is none.
    #[must_use]
    pub fn read(der: &[u8], domain: &TrustDomain) -> Option<Self> {
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let not_after = certificate.validity().not_after.timestamp();
        Some(Self {
            identity: Identity::of(&uris(&certificate), domain),
            not_after: Timestamp(u64::try_from(not_after).unwrap_or(0).saturating_mul(1000)),
        })
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Vec<&'a str> {
    // More than one extension of names is an error, and names nobody.
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    let uris = names.filter_map(|name| {
        let GeneralName::URI(uri) = name else {
            return None;
        };
        Some(*uri)
    });
    uris.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(uris: &[&str]) -> Option<String> {
        let domain = "example.org".parse().unwrap();
        let identity = Identity::of(uris, &domain)?;
        Some(identity.principal().subject().to_owned())
    }

    #[test]
    fn agents_and_control_planes_have_one_form_each() {
        let agent = named(&["spiffe://example.org/agent/a-1"]);
        assert_eq!(agent.unwrap(), "agents/a-1");
        let control_plane = named(&["spiffe://example.org/control/east"]);
        assert_eq!(control_plane.unwrap(), "control-planes/east");
    }

    /// A18.
    #[test]
    fn whatever_else_a_certificate_says_names_nobody() {
        let good = "spiffe://example.org/agent/a";
        for uris in [
            &[][..],
            &[""],
            &[good, good],
            &[good, "https://example.org/"],
            &["spiffe://example.com/agent/a"],
            &["spiffe://example.org.evil/agent/a"],
            &["spiffe://evil.example.org/agent/a"],
            &["spiffe://example.org:443/agent/a"],
            &["spiffe://root@example.org/agent/a"],
            &["spiffe://EXAMPLE.org/agent/a"],
            &["SPIFFE://example.org/agent/a"],
            &["Spiffe://example.org/agent/a"],
            &["https://example.org/agent/a"],
            &["spiffe:/example.org/agent/a"],
            &["spiffe://example.org"],
            &["spiffe://example.org/"],
            &["spiffe://example.org/agent"],
            &["spiffe://example.org/agent/"],
            &["spiffe://example.org/agent/a/"],
            &["spiffe://example.org//agent/a"],
            &["spiffe://example.org/agent//a"],
            &["spiffe://example.org/agent/a/b"],
            &["spiffe://example.org/agent/.."],
            &["spiffe://example.org/agent/../control/x"],
            &["spiffe://example.org/control/../agent/a"],
            &["spiffe://example.org/agent/%61"],
            &["spiffe://example.org/%61gent/a"],
            &["spiffe://example.org/agent/a?x"],
            &["spiffe://example.org/agent/a#x"],
            &["spiffe://example.org/agent/A"],
            &["spiffe://example.org/agent/a "],
            &[" spiffe://example.org/agent/a"],
            &["spiffe://example.org/agent/a\0"],
            &["spiffe://example.org/Agent/a"],
            &["spiffe://example.org/tenant/a"],
        ] {
            assert_eq!(named(uris), None, "{uris:?}");
        }
    }

    #[test]
    fn a_trust_domain_is_a_plain_name() {
        for good in ["hookfleet", "example.org", "a_b-c.0"] {
            assert_eq!(good.parse::<TrustDomain>().unwrap().to_string(), good);
        }
        for bad in ["", "Example.org", "example.org/", "a b", "a:1", "ä", "%61"] {
            assert_eq!(bad.parse::<TrustDomain>(), Err(NotATrustDomain), "{bad}");
        }
        assert!("x".repeat(256).parse::<TrustDomain>().is_err());
    }

    #[test]
    fn a_certificate_is_read_by_its_uri_and_its_end_and_not_by_its_name() {
        let domain = "example.org".parse().unwrap();
        let der = |uris: &[&str]| {
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            let name = "spiffe://example.org/agent/cn";
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            params.not_after = rcgen::date_time_ymd(2040, 1, 1);
            let uris = uris
                .iter()
                .map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap()));
            params.subject_alt_names = uris.collect();
            let key = rcgen::KeyPair::generate().unwrap();
            params.self_signed(&key).unwrap().der().to_vec()
        };
        let read = |uris: &[&str]| ClientCertificate::read(&der(uris), &domain).unwrap();
        let agent = read(&["spiffe://example.org/agent/a"]);
        assert_eq!(agent.identity, Some(Identity::Agent("a".parse().unwrap())));
        assert_eq!(agent.not_after, Timestamp(2_208_988_800_000));
        assert_eq!(read(&[]).identity, None);
        let two = [
            "spiffe://example.org/agent/a",
            "spiffe://example.org/agent/b",
        ];
        assert_eq!(read(&two).identity, None);
        assert_eq!(ClientCertificate::read(b"nonsense", &domain), None);
    }
}
