//! Who may call what.
//!
//! - [`scope`], [`methods`]: what there is to allow, and what each method asks.
//! - [`key`], [`keyring`]: what callers hold, and what it opens.
//! - [`principal`]: who calls, once that is known.

pub mod key;
pub mod keyring;
pub mod methods;
pub mod principal;
pub mod scope;

use self::principal::Principal;
use crate::status::ApiError;

/// Who calls.
///
/// # Errors
/// `PERMISSION_DENIED` if nobody has found out, which is a fault of ours.
pub fn caller<T>(request: &tonic::Request<T>) -> Result<Principal, ApiError> {
    let caller = request.extensions().get::<Principal>();
    caller.cloned().ok_or_else(ApiError::permission_denied)
}
