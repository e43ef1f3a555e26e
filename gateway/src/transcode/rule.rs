//! The HTTP rules of the API, as its descriptors have them.

use http::Method;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, ReflectMessage as _, Value};

use super::{Error, annotation, template::Template};

/// How one method maps to HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) method: Method,
    pub(crate) template: Template,
    pub(crate) body: Body,
    /// The method of gRPC.
    pub(crate) descriptor: MethodDescriptor,
}

/// What the HTTP body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Nothing.
    None,
    /// The request, but for what the path binds.
    All,
    /// One field of the request.
    Field(String),
}

// === impl Rule ===

impl Rule {
    /// `/package.Service/Method`.
    pub(crate) fn grpc_path(&self) -> String {
        let service = self.descriptor.parent_service();
        format!("/{}/{}", service.full_name(), self.descriptor.name())
    }
}

/// The rules of the named services. Methods without a rule, and streams, have none.
pub(crate) fn collect(pool: &DescriptorPool, services: &[&str]) -> Result<Vec<Rule>, Error> {
    let mut rules = Vec::new();
    for service in pool
        .services()
        .filter(|it| services.contains(&it.full_name()))
    {
        for method in service.methods() {
            if method.is_client_streaming() || method.is_server_streaming() {
                continue;
            }
            if let Some(annotation) = annotation::http(pool, &method) {
                let rule = rule(&method, &annotation);
                rules.push(rule.ok_or_else(|| Error::Rule(method.full_name().to_owned()))?);
            }
        }
    }
    Ok(rules)
}

fn rule(method: &MethodDescriptor, annotation: &DynamicMessage) -> Option<Rule> {
    let text = |name| {
        let value = annotation.get_field_by_name(name)?;
        value
            .as_str()
            .filter(|it| !it.is_empty())
            .map(ToOwned::to_owned)
    };
    let (http_method, template) =
        annotation
            .descriptor()
            .oneofs()
            .next()?
            .fields()
            .find_map(|field| {
                if !annotation.has_field(&field) {
                    return None;
                }
                let Value::String(template) = annotation.get_field(&field).into_owned() else {
                    return None;
                };
                let http_method = field.name().to_ascii_uppercase();
                Some((http_method.parse().ok()?, template))
            })?;
    // No method of this API has them; one that did would be served in part.
    for unused in ["response_body", "additional_bindings"] {
        if annotation.has_field_by_name(unused) {
            return None;
        }
    }
    Some(Rule {
        method: http_method,
        template: Template::parse(&template)?,
        body: match text("body").as_deref() {
            None => Body::None,
            Some("*") => Body::All,
            Some(field) => Body::Field(field.to_owned()),
        },
        descriptor: method.clone(),
    })
}
