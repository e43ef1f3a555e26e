//! The HTTP rules of the API, as its descriptors have them.

use http::Method;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, ReflectMessage as _, Value,
};

use super::{Error, annotation, template::Template};

/// How one method maps to HTTP.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) method: Method,
    pub(super) template: Template,
    pub(super) body: Body,
    pub(super) input: MessageDescriptor,
    pub(super) output: MessageDescriptor,
    /// `/package.Service/Method`.
    pub(super) grpc_path: String,
}

/// What the HTTP body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing.
    None,
    /// The request, but for what the path binds.
    All,
    /// One field of the request.
    Field(String),
}

/// The rules of the named services. Methods without a rule, and streams, have none.
pub(super) fn collect(pool: &DescriptorPool, services: &[&str]) -> Result<Vec<Rule>, Error> {
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
    Some(Rule {
        method: http_method,
        template: Template::parse(&template)?,
        body: match text("body").as_deref() {
            None => Body::None,
            Some("*") => Body::All,
            Some(field) => Body::Field(field.to_owned()),
        },
        input: method.input(),
        output: method.output(),
        grpc_path: format!("/{}/{}", method.parent_service().full_name(), method.name()),
    })
}
