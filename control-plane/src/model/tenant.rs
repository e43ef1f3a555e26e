//! A tenant: what its fields may be and how it changes.

use std::collections::HashMap;

use hookfleet_contract::{
    name::TenantName, shard::MAX_SPREAD, subscription, time::Timestamp, violation::Violations,
};
use hookfleet_proto::v1::{Tenant, tenant::State};
use prost_types::FieldMask;
use uuid::Uuid;

use super::mask::{self, Field, Masked};

/// A new tenant, of what was asked for.
///
/// # Errors
/// Everything that is wrong with it, by the paths of its fields.
pub(crate) fn create(
    asked: Tenant,
    name: &TenantName,
    uid: Uuid,
    now: Timestamp,
    slot_count: u16,
) -> Result<Tenant, Violations> {
    validate(&asked, slot_count)?;
    Ok(Tenant {
        name: name.to_string(),
        uid: uid.to_string(),
        display_name: asked.display_name,
        annotations: asked.annotations,
        state: State::Active.into(),
        create_time: Some(now.into()),
        update_time: Some(now.into()),
        etag: String::new(),
        spread: asked.spread.max(1),
    })
}

/// Changes the fields that the mask names.
///
/// # Errors
/// Everything that is wrong with the mask, or with the tenant as it would be.
pub(crate) fn update(
    tenant: &mut Tenant,
    mut patch: Tenant,
    mask: Option<&FieldMask>,
    slot_count: u16,
) -> Result<(), Violations> {
    mask::apply(tenant, &mut patch, mask)?;
    validate(tenant, slot_count)?;
    tenant.spread = tenant.spread.max(1);
    Ok(())
}

fn validate(tenant: &Tenant, slot_count: u16) -> Result<(), Violations> {
    let mut violations = Violations::default();
    let most = i32::from(slot_count.min(MAX_SPREAD.into()));
    if !(0..=most).contains(&tenant.spread) {
        let description = format!("is {}, must be 1 to {most}, or absent", tenant.spread);
        violations.push("spread", description);
    }
    subscription::display_name(&tenant.display_name, &mut violations);
    subscription::annotations(tenant.annotations.iter(), &mut violations);
    for violation in &mut violations.0 {
        violation.field.insert_str(0, "tenant.");
    }
    violations.into_result(())
}

impl Masked for Tenant {
    const FIELDS: &'static [Field<Self>] = &[
        Field {
            path: "display_name",
            is_populated: |it| !it.display_name.is_empty(),
            copy: |to, from| to.display_name.clone_from(&from.display_name),
        },
        Field {
            path: "annotations",
            is_populated: |it| !it.annotations.is_empty(),
            copy: |to, from| to.annotations.clone_from(&from.annotations),
        },
        Field {
            path: "spread",
            is_populated: |it| it.spread != 0,
            copy: |to, from| to.spread = from.spread,
        },
    ];
    const READ_ONLY: &'static [&'static str] =
        &["name", "uid", "state", "create_time", "update_time", "etag"];

    fn annotations(&mut self) -> &mut HashMap<String, String> {
        &mut self.annotations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(display_name: &str, annotations: &[(&str, &str)]) -> Tenant {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Tenant {
            display_name: display_name.to_owned(),
            annotations: annotations.iter().map(pair).collect(),
            ..Tenant::default()
        }
    }

    fn updated(patch: Tenant, paths: &[&str]) -> Result<Tenant, Violations> {
        let mut tenant = tenant("before", &[("a", "1"), ("b.c", "2")]);
        tenant.state = State::Active.into();
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        update(&mut tenant, patch, Some(&FieldMask { paths }), 1024)?;
        Ok(tenant)
    }

    #[test]
    fn without_a_mask_the_populated_fields_change() {
        let after = updated(tenant("after", &[]), &[]).unwrap();
        assert_eq!(
            (after.display_name.as_str(), after.annotations.len()),
            ("after", 2)
        );
    }

    #[test]
    fn a_star_replaces_everything_that_callers_set_and_nothing_else() {
        let after = updated(tenant("", &[("d", "4")]), &["*"]).unwrap();
        assert_eq!(after.display_name, "");
        assert_eq!(after.annotations, tenant("", &[("d", "4")]).annotations);
        assert_eq!(after.state(), State::Active);
    }

    #[test]
    fn a_path_changes_its_field_even_to_nothing() {
        let after = updated(tenant("", &[("d", "4")]), &["display_name"]).unwrap();
        assert_eq!(
            (after.display_name.as_str(), after.annotations.len()),
            ("", 2)
        );
    }

    #[test]
    fn annotations_change_one_by_one() {
        let after = updated(
            tenant("x", &[("a", "9")]),
            &["annotations.a", "annotations.`b.c`"],
        )
        .unwrap();
        assert_eq!(after.annotations, tenant("", &[("a", "9")]).annotations);
        assert_eq!(after.display_name, "before");
    }

    #[test]
    fn output_only_paths_are_passed_over_and_unknown_ones_refused() {
        let mut patch = tenant("", &[]);
        patch.state = State::Suspended.into();
        assert_eq!(
            updated(patch, &["state", "uid"]).unwrap().state(),
            State::Active
        );
        let violations = updated(tenant("", &[]), &["display_name", "nonsense", "*"]).unwrap_err();
        let fields: Vec<_> = violations.0.iter().map(|it| it.field.as_str()).collect();
        assert_eq!(fields, ["update_mask.paths[1]", "update_mask.paths[2]"]);
    }

    #[test]
    fn a_spread_is_a_number_of_slots_that_there_are() {
        let spread = |spread, slot_count| {
            let mut tenant = tenant("", &[]);
            let patch = Tenant {
                spread,
                ..Tenant::default()
            };
            let paths = vec!["spread".to_owned()];
            update(&mut tenant, patch, Some(&FieldMask { paths }), slot_count)?;
            Ok::<_, Violations>(tenant.spread)
        };
        assert_eq!((spread(0, 1024), spread(64, 1024)), (Ok(1), Ok(64)));
        assert_eq!((spread(1, 1), spread(16, 16)), (Ok(1), Ok(16)));
        for (wrong, slot_count) in [(-1, 1024), (65, 1024), (17, 16)] {
            let violations = spread(wrong, slot_count).unwrap_err();
            assert_eq!(violations.0[0].field, "tenant.spread");
        }
    }

    #[test]
    fn fields_are_checked_on_create_and_on_update() {
        let long = "x".repeat(64);
        let name = "tenants/acme".parse().unwrap();
        let refused = create(
            tenant(&long, &[("", "")]),
            &name,
            Uuid::nil(),
            Timestamp(0),
            1024,
        );
        let fields = |it: Violations| it.0.into_iter().map(|it| it.field).collect::<Vec<_>>();
        assert_eq!(
            fields(refused.unwrap_err()),
            ["tenant.display_name", "tenant.annotations[]"]
        );
        let refused = updated(tenant(&long, &[]), &["display_name"]);
        assert_eq!(fields(refused.unwrap_err()), ["tenant.display_name"]);
    }
}
