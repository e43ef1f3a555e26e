//! What every method of the API asks of its caller: a scope, and the places in its request that name a tenant. Read
//! from the descriptors, so that no method can be served that nobody thought about.
//!
//! **Invariant:** every method of every service of ours has a scope, or there is no table.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    Value,
};

use super::scope::{NotAScope, Scope};

/// Our own packages begin so; other services have rules of their own.
const OURS: &str = "hookfleet.";
/// Names of what belongs to a tenant begin so.
const TENANTS: &str = "tenants/";

/// The descriptors do not say what is needed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A method has no `(hookfleet.v1.scope)`.
    #[error("method {0} has no scope")]
    NoScope(String),
    /// A method's scope is not one.
    #[error("method {method} has no usable scope")]
    Scope {
        /// Which.
        method: String,
        /// Why.
        #[source]
        source: NotAScope,
    },
    /// The descriptors cannot be read.
    #[error("the descriptors cannot be read")]
    Descriptors(#[from] prost_reflect::DescriptorError),
}

/// What a method asks of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// What the credential must allow.
    pub scope: Scope,
    /// Where a request names a tenant. A method without such a place is for operators.
    pub owners: Arc<[Place]>,
    /// Whether its requests are a stream.
    pub is_stream: bool,
    /// Whether it changes something that lasts.
    pub is_change: bool,
}

/// A field of a message, by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the field.
    pub number: u32,
    /// The places in it, if it is a message; it is a name if there are none.
    pub within: Arc<[Self]>,
}

/// Every method of ours, by its path `/package.Service/Method`.
#[derive(Clone, Debug)]
pub struct Methods(HashMap<String, Method>);

/// What is asked of the descriptors.
struct Reader {
    pool: DescriptorPool,
    /// The types of resources that belong to a tenant.
    owned: HashSet<String>,
}

// === impl Methods ===

impl Methods {
    /// Reads the table.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(descriptors: &[u8]) -> Result<Self, Error> {
        let reader = Reader::new(descriptors)?;
        let services = reader.pool.services();
        let methods = services.flat_map(|it| it.methods().collect::<Vec<_>>());
        let ours = methods.filter(|it| it.full_name().starts_with(OURS));
        let methods = ours.map(|method| {
            let service = method.parent_service();
            let path = format!("/{}/{}", service.full_name(), method.name());
            Ok((path, reader.method(&method)?))
        });
        methods.collect::<Result<_, _>>().map(Self)
    }

    /// What the method at a path asks; `None` if it is not ours.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Method> {
        self.0.get(path)
    }

    /// All of them with their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Method)> {
        self.0.iter().map(|(path, method)| (path.as_str(), method))
    }
}

// === impl Reader ===

impl Reader {
    fn new(descriptors: &[u8]) -> Result<Self, Error> {
        let pool = DescriptorPool::decode(descriptors)?;
        let mut reader = Self {
            owned: HashSet::new(),
            pool,
        };
        let resources = reader
            .pool
            .all_messages()
            .filter_map(|it| reader.resource(&it));
        let owned = resources.filter(|it| {
            strings(it, "pattern")
                .iter()
                .any(|it| it.starts_with(TENANTS))
        });
        reader.owned = owned.flat_map(|it| strings(&it, "type")).collect();
        Ok(reader)
    }

    fn method(&self, method: &MethodDescriptor) -> Result<Method, Error> {
        let name = || method.full_name().to_owned();
        let scope = self.option(method.options(), "hookfleet.v1.scope");
        let scope = scope.ok_or_else(|| Error::NoScope(name()))?;
        let scope = scope.as_str().unwrap_or_default().parse();
        let scope = scope.map_err(|source| Error::Scope {
            method: name(),
            source,
        })?;
        // Reading is a GET; what has no HTTP rule is the business of the fleet, or publishing.
        let http = self.option(method.options(), "google.api.http");
        let is_change = http.is_some_and(|it| {
            let rule = it.as_message();
            rule.is_some_and(|it| strings(it, "get").is_empty())
        });
        Ok(Method {
            scope,
            owners: self.places(&method.input(), &mut Vec::new()).into(),
            is_stream: method.is_client_streaming(),
            is_change: is_change && scope != Scope::EventsPublish,
        })
    }

    /// The places in a message that name what belongs to a tenant. `above` are the messages that it is in.
    fn places(&self, message: &MessageDescriptor, above: &mut Vec<String>) -> Vec<Place> {
        let name = message.full_name().to_owned();
        if !name.starts_with(OURS) || above.contains(&name) {
            return Vec::new();
        }
        let is_owned = self
            .resource(message)
            .is_some_and(|it| self.is_owned(&it, "type"));
        above.push(name);
        let places = message.fields().filter_map(|field| {
            let number = field.number();
            if let Kind::Message(inner) = field.kind() {
                let within: Arc<[_]> = self.places(&inner, above).into();
                return (!within.is_empty()).then_some(Place { number, within });
            }
            let is_name = (is_owned && field.name() == "name") || self.refers(&field);
            is_name.then_some(Place {
                number,
                within: Arc::default(),
            })
        });
        let places = places.collect();
        above.pop();
        places
    }

    /// Whether a field holds the name of something that belongs to a tenant, or of its parent.
    fn refers(&self, field: &FieldDescriptor) -> bool {
        let reference = self.option(field.options(), "google.api.resource_reference");
        let reference = reference.as_ref().and_then(Value::as_message);
        reference.is_some_and(|it| self.is_owned(it, "type") || self.is_owned(it, "child_type"))
    }

    fn is_owned(&self, message: &DynamicMessage, field: &str) -> bool {
        strings(message, field)
            .iter()
            .any(|it| self.owned.contains(it))
    }

    fn resource(&self, message: &MessageDescriptor) -> Option<DynamicMessage> {
        let resource = self.option(message.options(), "google.api.resource")?;
        resource.as_message().cloned()
    }

    fn option(&self, options: DynamicMessage, name: &str) -> Option<Value> {
        let extension = self.pool.get_extension_by_name(name)?;
        let has_it = options.has_extension(&extension);
        has_it.then(|| options.get_extension(&extension).into_owned())
    }
}

/// The texts in a field that are not empty.
fn strings(message: &DynamicMessage, field: &str) -> Vec<String> {
    let value = message.get_field_by_name(field);
    let value = value.as_deref();
    let one = value.and_then(Value::as_str);
    let many = value.and_then(Value::as_list).unwrap_or_default();
    let all = many.iter().filter_map(Value::as_str).chain(one);
    all.filter(|it| !it.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use hookfleet_proto::DESCRIPTORS;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn name(number: u32) -> Place {
        Place {
            number,
            within: Arc::default(),
        }
    }

    #[test]
    fn the_table_says_what_the_protos_say() {
        let methods = Methods::read(DESCRIPTORS).unwrap();
        let method = |path: &str| methods.get(path).unwrap().clone();
        let create = method("/hookfleet.v1.SubscriptionService/CreateSubscription");
        assert_eq!(create.scope, Scope::SubscriptionsWrite);
        assert!(create.is_change && !create.is_stream);
        let subscription = Place {
            number: 2,
            within: Arc::new([name(1)]),
        };
        assert_eq!(*create.owners, [name(1), subscription]);
        let list = method("/hookfleet.v1.TenantService/ListTenants");
        assert_eq!((list.scope, list.owners.len()), (Scope::TenantsAdmin, 0));
        let stream = method("/hookfleet.v1.PublisherService/PublishStream");
        assert_eq!((&*stream.owners, stream.is_stream), (&[name(2)][..], true));
        let forward = method("/hookfleet.fleet.v1.RelayService/Forward");
        let publish = Place {
            number: 1,
            within: Arc::new([name(1)]),
        };
        assert_eq!(*forward.owners, [publish]);
        assert!(methods.get("/grpc.health.v1.Health/Check").is_none());
    }

    #[test]
    fn what_a_tenant_may_do_is_about_something_of_a_tenant() {
        let methods = Methods::read(DESCRIPTORS).unwrap();
        for (path, method) in methods.iter() {
            let is_for_tenants = method.scope.is_for_tenants();
            assert!(!is_for_tenants || !method.owners.is_empty(), "{path}");
        }
        assert!(methods.iter().count() > 20);
    }

    #[test]
    fn a_method_without_a_scope_is_not_served() {
        let mut files = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        // prost's own descriptors lose what they do not know, and with it the scopes.
        let stripped = files.encode_to_vec();
        assert!(matches!(Methods::read(&stripped), Err(Error::NoScope(_))));
        for file in &mut files.file {
            file.service.clear();
        }
        assert_eq!(
            Methods::read(&files.encode_to_vec())
                .unwrap()
                .iter()
                .count(),
            0
        );
    }
}
