//! Whose request it is, where the path does not say. The one place that decides it.

use http::request::Parts;

use crate::status::ApiError;

/// The header that names the tenant.
pub(crate) const HEADER: &str = "hookfleet-tenant";
/// Who is meant by a request that names none.
pub(crate) const DEFAULT: &str = "default";

/// The tenant's name, `tenants/{tenant}`: of the header `Hookfleet-Tenant`, or `tenants/default`. Whether there is
/// such a tenant is for the services to say.
///
/// # Errors
/// `INVALID_ARGUMENT` if the header is not one text.
pub(crate) fn of(head: &Parts) -> Result<String, ApiError> {
    let mut values = head.headers.get_all(HEADER).iter();
    let tenant = match (values.next(), values.next()) {
        (None, _) => Some(DEFAULT),
        (Some(value), None) => value.to_str().ok(),
        (Some(_), Some(_)) => None,
    };
    let tenant = tenant.filter(|it| !it.is_empty());
    let tenant = tenant.ok_or_else(|| ApiError::invalid_field(HEADER, "must name one tenant"))?;
    Ok(format!("tenants/{tenant}"))
}
