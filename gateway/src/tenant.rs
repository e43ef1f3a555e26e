//! Whose request it is, where the path does not say. The one place that decides it.

use hookfleet_contract::name::TenantId;
use http::request::Parts;

use crate::{auth::layer, status::ApiError};

/// The header that names the tenant.
pub(crate) const HEADER: &str = "hookfleet-tenant";
/// Who is meant by a request that names none.
pub(crate) const DEFAULT: &str = "default";

/// The tenant's name, `tenants/{tenant}`: of the header `Hookfleet-Tenant`, or the one whose credential the request
/// shows, or `tenants/default`. Whether there is such a tenant is for the services to say, and whether the caller may speak
/// for it is not decided here.
///
/// # Errors
/// `INVALID_ARGUMENT` if the header is not one text.
pub(crate) fn of(head: &Parts) -> Result<String, ApiError> {
    let mut values = head.headers.get_all(HEADER).iter();
    let own = layer::tenant_of_caller();
    let tenant = match (values.next(), values.next()) {
        (None, _) => Some(own.as_ref().map_or(DEFAULT, TenantId::as_str)),
        (Some(value), None) => value.to_str().ok(),
        (Some(_), Some(_)) => None,
    };
    let tenant = tenant.filter(|it| !it.is_empty());
    let tenant = tenant.ok_or_else(|| ApiError::invalid_field(HEADER, "must name one tenant"))?;
    Ok(format!("tenants/{tenant}"))
}
