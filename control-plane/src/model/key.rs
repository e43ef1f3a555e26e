//! A caller's key: what its fields may be, who may give it, and how it gets new secrets.

use std::time::Duration;

use hookfleet_contract::{
    name::{KeyName, TenantName},
    subscription,
    time::Timestamp,
    violation::Violations,
};
use hookfleet_gateway::auth::{
    principal::Principal,
    scope::{Scope, Scopes},
};
use hookfleet_proto::{
    fleet::{StoredApiKey, StoredDigest},
    v1::Key,
};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a key lives if nobody says, and at most. One that leaks and is forgotten ends by itself.
const LIFETIME: (Duration, Duration) = (YEAR, Duration::from_secs(2 * 365 * 24 * 3600));
/// More secrets of one key than this are not rotations any more.
const MAX_SECRETS: usize = 4;

/// All the secrets that a key may have open still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_SECRETS} secrets of the key open already; an overlap of 0 ends them")]
pub(crate) struct TooManySecrets;

/// A new key, of what was asked for, and the tenant that it is of.
///
/// # Errors
/// Everything that is wrong with it, by the paths of its fields.
pub(crate) fn create(
    asked: Key,
    name: &KeyName,
    now: Timestamp,
) -> Result<(Key, Option<TenantName>), Violations> {
    let mut violations = Violations::default();
    subscription::display_name(&asked.display_name, &mut violations);
    let tenant = match asked.tenant.as_str() {
        "" => None,
        tenant => match tenant.parse::<TenantName>() {
            Ok(tenant) => Some(tenant),
            Err(error) => {
                violations.push("tenant", error.to_string());
                None
            }
        },
    };
    let scopes = scopes(&asked, &mut violations);
    let (usual, most) = LIFETIME;
    let expire = asked.expire_time.map_or(now + usual, Timestamp::from);
    if expire <= now || expire > now + most {
        violations.push("expire_time", "must be in the future, within two years");
    }
    for violation in &mut violations.0 {
        violation.field.insert_str(0, "key.");
    }
    let key = Key {
        name: name.to_string(),
        display_name: asked.display_name,
        tenant: asked.tenant,
        scopes: scopes.iter().map(|it| it.as_str().to_owned()).collect(),
        create_time: Some(now.into()),
        expire_time: Some(expire.into()),
        rotate_time: Some(now.into()),
        secret: String::new(),
        etag: String::new(),
    };
    violations.into_result((key, tenant))
}

/// The first key, which opens everything. It lives for as long as a key may.
pub(crate) fn first(name: &KeyName, display_name: &str, scope: Scope, now: Timestamp) -> Key {
    Key {
        name: name.to_string(),
        display_name: display_name.to_owned(),
        scopes: vec![scope.to_string()],
        create_time: Some(now.into()),
        expire_time: Some((now + LIFETIME.1).into()),
        rotate_time: Some(now.into()),
        ..Key::default()
    }
}

fn scopes(asked: &Key, violations: &mut Violations) -> Scopes {
    if asked.scopes.is_empty() {
        violations.push("scopes", "must name what the key allows");
    }
    let mut scopes = Vec::new();
    for (index, text) in asked.scopes.iter().enumerate() {
        let field = format!("scopes[{index}]");
        match text.parse::<Scope>() {
            Ok(scope) if asked.tenant.is_empty() || scope.is_for_tenants() => scopes.push(scope),
            Ok(scope) => violations.push(field, format!("{scope} is not for tenants")),
            Err(error) => violations.push(field, error.to_string()),
        }
    }
    scopes.into_iter().collect()
}

/// Whether somebody may give or take this key: who manages tenants has their keys, and only who may do everything has
/// those that go beyond one tenant.
pub(crate) fn is_theirs(key: &Key, caller: &Principal) -> bool {
    let needed = match key.tenant.as_str() {
        "" => Scope::SystemAdmin,
        _ => Scope::TenantsAdmin,
    };
    caller.scopes().allow(needed)
}

/// Puts a new secret in force. The others open for the overlap at most.
pub(crate) fn rotate(
    stored: &mut StoredApiKey,
    fresh: StoredDigest,
    overlap: Duration,
    now: Timestamp,
) -> Result<(), TooManySecrets> {
    let end = now + overlap;
    let ends = |it: &StoredDigest| it.expire_time.map(Timestamp::from);
    for secret in &mut stored.secrets {
        if ends(secret).is_none_or(|it| it > end) {
            secret.expire_time = Some(end.into());
        }
    }
    stored
        .secrets
        .retain(|it| ends(it).is_none_or(|it| it > now));
    if stored.secrets.len() >= MAX_SECRETS {
        return Err(TooManySecrets);
    }
    stored.secrets.insert(0, fresh);
    stored.key.get_or_insert_default().rotate_time = Some(now.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use hookfleet_gateway::auth::principal::Reach;

    use super::*;

    const NOW: Timestamp = Timestamp(1_767_323_045_000);

    fn asked(tenant: &str, scopes: &[&str]) -> Key {
        Key {
            tenant: tenant.to_owned(),
            scopes: scopes.iter().map(|it| (*it).to_owned()).collect(),
            ..Key::default()
        }
    }

    fn violations(asked: Key) -> Vec<String> {
        let refused = create(asked, &"keys/k1".parse().unwrap(), NOW).unwrap_err();
        refused.0.into_iter().map(|it| it.field).collect()
    }

    #[test]
    fn a_key_lives_for_a_year_and_two_at_most() {
        let name = "keys/k1".parse().unwrap();
        let (key, tenant) = create(asked("tenants/acme", &["events.publish"]), &name, NOW).unwrap();
        assert_eq!(key.expire_time.map(Timestamp::from), Some(NOW + YEAR));
        assert_eq!(tenant.unwrap().to_string(), "tenants/acme");
        for expire in [Timestamp(0), NOW, NOW + YEAR * 2 + Duration::from_millis(1)] {
            let mut asked = asked("", &["system.admin"]);
            asked.expire_time = Some(expire.into());
            assert_eq!(violations(asked), ["key.expire_time"]);
        }
    }

    #[test]
    fn a_tenants_key_has_no_scope_of_operators() {
        for scope in Scope::ALL {
            let asked = asked("tenants/acme", &[scope.as_str()]);
            let made = create(asked, &"keys/k1".parse().unwrap(), NOW);
            assert_eq!(made.is_ok(), scope.is_for_tenants(), "{scope}");
        }
        let fields = violations(asked("acme", &["events.publish", "everything"]));
        assert_eq!(fields, ["key.tenant", "key.scopes[1]"]);
        assert_eq!(violations(asked("", &[])), ["key.scopes"]);
    }

    #[test]
    fn nobody_gives_more_than_they_have() {
        let caller = |scope| Principal::new("me", Reach::Fleet, [scope].into_iter().collect());
        let (own, fleets) = (asked("tenants/acme", &[]), asked("", &[]));
        assert!(is_theirs(&own, &caller(Scope::TenantsAdmin)));
        assert!(!is_theirs(&fleets, &caller(Scope::TenantsAdmin)));
        assert!(is_theirs(&fleets, &caller(Scope::SystemAdmin)));
        assert!(!is_theirs(&own, &caller(Scope::SubscriptionsWrite)));
    }

    #[test]
    fn old_secrets_open_for_the_overlap() {
        let digest = |byte| StoredDigest {
            sealed_digest: vec![byte],
            expire_time: None,
        };
        let mut stored = StoredApiKey {
            secrets: vec![digest(1)],
            ..StoredApiKey::default()
        };
        let hour = Duration::from_secs(3600);
        rotate(&mut stored, digest(2), hour, NOW).unwrap();
        let ends = |stored: &StoredApiKey| -> Vec<_> {
            let ends = stored.secrets.iter();
            ends.map(|it| it.expire_time.map(Timestamp::from)).collect()
        };
        assert_eq!(ends(&stored), [None, Some(NOW + hour)]);
        rotate(&mut stored, digest(3), hour, NOW).unwrap();
        rotate(&mut stored, digest(4), hour, NOW).unwrap();
        assert_eq!(
            rotate(&mut stored, digest(5), hour, NOW),
            Err(TooManySecrets)
        );
        rotate(&mut stored, digest(5), Duration::ZERO, NOW).unwrap();
        assert_eq!(ends(&stored), [None]);
    }
}
