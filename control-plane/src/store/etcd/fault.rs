//! What an error of etcd's client means for the call: ask another endpoint, or give up.
//!
//! Decides by codes and types, never by texts. Invariant: [`Fault::NotSent`] is said only of a request that no server saw.

use std::error::Error as StdError;

use tonic::{Code, Status};

use crate::store::{BoxError, Error};

/// Why a try brought no answer, or the wrong one.
#[derive(Debug)]
pub(super) enum Fault {
    /// No connection: the server never saw the request.
    NotSent(BoxError),
    /// The server may have seen it, and may yet perform it.
    Lost(BoxError),
    /// The server's own answer.
    Answered(Code, BoxError),
}

impl Fault {
    /// What this means for a caller who gives up.
    pub(super) fn into_error(self, operation: &'static str) -> Error {
        match self {
            Self::NotSent(source) | Self::Lost(source) => Error::Unavailable {
                operation,
                source: Some(source),
            },
            Self::Answered(Code::ResourceExhausted, source) => Error::Full { operation, source },
            Self::Answered(_, source) => Error::Refused { operation, source },
        }
    }
}

impl From<etcd_client::Error> for Fault {
    fn from(error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::from(status),
            error @ (etcd_client::Error::TransportError(_)
            | etcd_client::Error::IoError(_)
            | etcd_client::Error::WatchError(_)
            | etcd_client::Error::Internal(_)) => Self::Lost(error.into()),
            // The server answers a renewal of a lease that is gone with a time to live of 0.
            error @ etcd_client::Error::LeaseKeepAliveError(_) => {
                Self::Answered(Code::NotFound, error.into())
            }
            error @ (etcd_client::Error::InvalidArgs(_)
            | etcd_client::Error::InvalidUri(_)
            | etcd_client::Error::Utf8Error(_)
            | etcd_client::Error::ElectError(_)
            | etcd_client::Error::InvalidMetadataValue(_)
            | etcd_client::Error::EndpointError(_)
            | etcd_client::Error::EndpointsNotManaged) => {
                Self::Answered(Code::InvalidArgument, error.into())
            }
        }
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unavailable if is_connect_error(&status) => Self::NotSent(status.into()),
            // No leader, leader changed, request timed out; a broken connection; a dying server.
            Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal => Self::Lost(status.into()),
            code @ (Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated) => Self::Answered(code, status.into()),
        }
    }
}

fn is_connect_error(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
