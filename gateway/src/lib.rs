//! Every way in: one listener for gRPC and HTTP/JSON, its bounds, health and reflection, and the forms
//! that errors, filters and pages have on the wire.
//!
//! - [`services`], [`listener`], [`readiness`]: what is served, how, and whether it is ready.
//! - [`tls`]: who is at the other end of a connection. [`peers`]: connections that this process makes.
//! - [`transcode`]: the API as HTTP/JSON.
//! - [`auth`]: who may call what. [`audit`]: who did.
//! - [`openapi`]: all that HTTP answers, as a document.
//! - [`limits`]: how much of it. [`metrics`]: what is measured.
//! - [`facade`]: subscribing by resource. [`tenant`]: whose request it is.
//! - [`verification`]: receivers that confirm that they want callbacks.
//! - [`events`]: publishing CloudEvents and plain JSON.
//! - [`status`], [`filter`], [`page`]: what every service shares.

pub mod audit;
pub mod auth;
mod body;
pub mod clock;
mod descriptors;
mod events;
mod facade;
pub mod filter;
mod idempotency;
mod intake;
pub mod limits;
pub mod listener;
mod message;
pub mod metrics;
mod openapi;
pub mod page;
pub mod peers;
pub mod readiness;
pub mod services;
pub mod status;
mod tenant;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;
pub mod tls;
pub mod transcode;
pub mod verification;

#[cfg(test)]
mod tests;
