//! Whether somebody may call something. Pure: no header, body or store is seen here.
//!
//! **Invariant:** what is not allowed is denied.

use std::sync::Arc;

use hookfleet_contract::name::TenantId;

use super::{
    methods::{Method, Methods, Place},
    principal::{Principal, Reach},
};

/// Told to load balancers, who have no credential.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// The schema of the API.
const REFLECTION: &str = "/grpc.reflection.";

/// What a path asks of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// Nothing.
    Open,
    /// To be somebody.
    Known,
    /// What a method of ours asks.
    Method(&'a Method),
    /// Nobody has said: nobody may.
    Closed,
}

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may go on.
    Allowed,
    /// It may go on with messages that are about this tenant.
    AllowedFor(TenantId, Arc<[Place]>),
    /// It may not.
    Denied,
}

// === impl Access ===

impl<'a> Access<'a> {
    /// What the gRPC method at a path asks.
    #[must_use]
    pub fn of(methods: &'a Methods, path: &str) -> Self {
        match methods.get(path) {
            Some(method) => Self::Method(method),
            None if path.starts_with(HEALTH) => Self::Open,
            None if path.starts_with(REFLECTION) => Self::Known,
            None => Self::Closed,
        }
    }

    /// Whether somebody may; `None` is nobody.
    #[must_use]
    pub fn decide(&self, caller: Option<&Principal>) -> Decision {
        match (self, caller) {
            (Self::Open, _) | (Self::Known, Some(_)) => Decision::Allowed,
            (Self::Method(method), Some(caller)) if caller.scopes().allow(method.scope) => {
                match caller.reach() {
                    Reach::Fleet => Decision::Allowed,
                    Reach::Tenant(_) if method.owners.is_empty() => Decision::Denied,
                    Reach::Tenant(tenant) => {
                        Decision::AllowedFor(tenant.clone(), Arc::clone(&method.owners))
                    }
                }
            }
            (Self::Known | Self::Method(_), _) | (Self::Closed, _) => Decision::Denied,
        }
    }
}

#[cfg(test)]
mod tests {
    use hookfleet_proto::DESCRIPTORS;

    use super::*;
    use crate::auth::scope::{Scope, Scopes};

    fn principal(reach: Reach, scope: Scope) -> Principal {
        Principal::new("somebody", reach, [scope].into_iter().collect())
    }

    #[test]
    fn each_scope_opens_its_methods_and_no_others() {
        let methods = Methods::read(DESCRIPTORS).unwrap();
        for (path, method) in methods.iter() {
            let access = Access::of(&methods, path);
            assert_eq!(access.decide(None), Decision::Denied, "{path}");
            for scope in Scope::ALL {
                let opens = [scope].into_iter().collect::<Scopes>().allow(method.scope);
                assert!(opens || scope != method.scope && scope != Scope::SystemAdmin);
                let operator = access.decide(Some(&principal(Reach::Fleet, scope)));
                assert_eq!(operator == Decision::Allowed, opens, "{path} by {scope}");
                let acme = Reach::Tenant("acme".parse().unwrap());
                let tenant = access.decide(Some(&principal(acme, scope)));
                let opens = scope == method.scope && scope.is_for_tenants();
                match tenant {
                    Decision::AllowedFor(tenant, places) => {
                        assert!(opens && !places.is_empty(), "{path} by {scope}");
                        assert_eq!(tenant.as_str(), "acme");
                    }
                    Decision::Denied => assert!(!opens, "{path} by {scope}"),
                    Decision::Allowed => panic!("{path} is not bound to the tenant"),
                }
            }
        }
    }

    #[test]
    fn paths_that_are_no_methods_of_ours_have_rules_of_their_own() {
        let methods = Methods::read(DESCRIPTORS).unwrap();
        let (nobody, somebody) = (None, Some(&principal(Reach::Fleet, Scope::EventsPublish)));
        for (path, caller, expected) in [
            ("/grpc.health.v1.Health/Check", nobody, Decision::Allowed),
            (
                "/grpc.reflection.v1.ServerReflection/X",
                nobody,
                Decision::Denied,
            ),
            (
                "/grpc.reflection.v1.ServerReflection/X",
                somebody,
                Decision::Allowed,
            ),
            (
                "/hookfleet.v1.TenantService/Nonsense",
                somebody,
                Decision::Denied,
            ),
            ("/", somebody, Decision::Denied),
        ] {
            assert_eq!(
                Access::of(&methods, path).decide(caller),
                expected,
                "{path}"
            );
        }
    }
}
