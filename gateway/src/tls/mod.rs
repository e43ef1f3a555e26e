//! TLS, on both sides: what listeners show and whom they let in, and what this process shows those that it calls.
//!
//! - [`files`]: certificates and keys on disk, read again when they change.
//! - [`server`]: the listener's side. [`peer`]: the caller's.
//! - [`identity`]: whom a certificate names. A certificate that names nobody of the fleet is nobody.

pub mod files;
pub mod identity;
pub mod peer;
pub mod server;

use std::path::{Path, PathBuf};

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read, or others can read it who must not.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file has not what it should.
    #[error("{path} has no {what}")]
    Missing {
        /// Which.
        path: PathBuf,
        /// What it should have.
        what: &'static str,
    },
    /// What the files say does not go together.
    #[error("the certificate, its key and the authorities cannot be used")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    fn missing(path: &Path, what: &'static str) -> Self {
        let path = path.to_owned();
        Self::Missing { path, what }
    }

    fn unusable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unusable(source.into())
    }
}
