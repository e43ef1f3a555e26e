//! The options of `google.api` that methods and fields have in their descriptors.

use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MethodDescriptor, Value};

/// How a method maps to HTTP: its `google.api.http`.
pub(crate) fn http(pool: &DescriptorPool, method: &MethodDescriptor) -> Option<DynamicMessage> {
    let extension = pool.get_extension_by_name("google.api.http")?;
    let options = method.options();
    let value = options
        .has_extension(&extension)
        .then(|| options.get_extension(&extension).into_owned());
    value?.as_message().cloned()
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
