//! The options of `google.api` that methods and fields have in their descriptors.

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, MethodDescriptor, Value,
};

/// How a method maps to HTTP: its `google.api.http`.
pub(crate) fn http(pool: &DescriptorPool, method: &MethodDescriptor) -> Option<DynamicMessage> {
    let extension = pool.get_extension_by_name("google.api.http")?;
    let options = method.options();
    let value = options
        .has_extension(&extension)
        .then(|| options.get_extension(&extension).into_owned());
    value?.as_message().cloned()
}

/// What a resource is called, if a message is one: many of them, and one, as in `tenants` and `tenant`.
pub(crate) fn resource(message: &MessageDescriptor) -> Option<(String, String)> {
    let extension = message
        .parent_pool()
        .get_extension_by_name("google.api.resource")?;
    let options = message.options();
    let resource = options.get_extension(&extension);
    let text = |name| {
        Some(
            resource
                .as_message()?
                .get_field_by_name(name)?
                .as_str()?
                .to_owned(),
        )
    };
    let names: (String, String) = (text("plural")?, text("singular")?);
    (!names.0.is_empty()).then_some(names)
}

/// Whether a field has a `google.api.field_behavior`, such as `REQUIRED`.
pub(crate) fn has_behavior(field: &FieldDescriptor, wanted: &str) -> bool {
    let pool = field.parent_pool();
    let has = || {
        let extension = pool.get_extension_by_name("google.api.field_behavior")?;
        let names = extension.kind();
        let wanted = names.as_enum()?.get_value_by_name(wanted)?.number();
        let options = field.options();
        let value = options.get_extension(&extension);
        Some(value.as_list()?.contains(&Value::EnumNumber(wanted)))
    };
    has().unwrap_or(false)
}
