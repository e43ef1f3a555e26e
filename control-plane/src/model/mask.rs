//! Which fields an update changes (AIP-134, AIP-161). What the fields mean is the resources' business.
//!
//! **Invariant:** a field that the caller may not set is never changed: output-only ones are passed over, unknown ones
//! are refused.

use std::collections::HashMap;

use hookfleet_contract::violation::Violations;
use prost_types::FieldMask;

/// A resource whose fields can be updated one by one.
pub(crate) trait Masked: Sized + 'static {
    /// The fields that callers set. Those with a dot are parts of another one.
    const FIELDS: &'static [Field<Self>];
    /// The fields that callers may name in vain.
    const READ_ONLY: &'static [&'static str];

    /// The caller's key-value pairs, which can be changed one by one.
    fn annotations(&mut self) -> &mut HashMap<String, String>;
}

/// A field that callers set.
#[derive(Debug)]
pub(crate) struct Field<T> {
    pub(crate) path: &'static str,
    pub(crate) is_populated: fn(&T) -> bool,
    pub(crate) copy: fn(&mut T, &T),
}

/// Whether the mask names a field: it does if it is absent and the field is populated, or if it is `*`.
pub(crate) fn names<T: Masked>(mask: Option<&FieldMask>, path: &str, patch: &T) -> bool {
    match mask.map_or(&[][..], |mask| &mask.paths) {
        [] => {
            let mut fields = T::FIELDS.iter();
            fields.any(|field| field.path == path && (field.is_populated)(patch))
        }
        [all] if all == "*" => true,
        paths => paths.iter().any(|it| it == path),
    }
}

/// Copies the fields that the mask names: every populated one if it is absent or empty, every one if it is `*`.
///
/// # Errors
/// Everything that is wrong with the mask.
pub(crate) fn apply<T: Masked>(
    target: &mut T,
    patch: &mut T,
    mask: Option<&FieldMask>,
) -> Result<(), Violations> {
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    let whole = || T::FIELDS.iter().filter(|field| !field.path.contains('.'));
    match paths {
        [] => {
            for field in whole().filter(|field| (field.is_populated)(patch)) {
                (field.copy)(target, patch);
            }
            return Ok(());
        }
        [all] if all == "*" => {
            for field in whole() {
                (field.copy)(target, patch);
            }
            return Ok(());
        }
        _ => {}
    }
    let mut violations = Violations::default();
    for (index, path) in paths.iter().enumerate() {
        if let Some(field) = T::FIELDS.iter().find(|field| field.path == path) {
            (field.copy)(target, patch);
        } else if let Some(key) = path.strip_prefix("annotations.") {
            let key = key.trim_matches('`');
            match patch.annotations().get(key).cloned() {
                Some(value) => target.annotations().insert(key.to_owned(), value),
                None => target.annotations().remove(key),
            };
        } else if !T::READ_ONLY.contains(&path.as_str()) {
            let description = match path.as_str() {
                "*" => "must stand alone".to_owned(),
                _ => format!("{path:?} is not a field that can be updated"),
            };
            violations.push(format!("update_mask.paths[{index}]"), description);
        }
    }
    violations.into_result(())
}
