//! The fields of a subscription that its owner sets, one by one.

use std::collections::HashMap;

use hookfleet_proto::v1::{RetryPolicy, Subscription, retry_policy::Schedule};

use crate::model::mask::{Field, Masked};

/// A field of the subscription itself.
macro_rules! field {
    ($name:ident, $is_populated:expr) => {
        Field {
            path: stringify!($name),
            is_populated: $is_populated,
            copy: |to: &mut Subscription, from: &Subscription| to.$name.clone_from(&from.$name),
        }
    };
}

/// A field of the retry policy: only by its own path, since the policy as a whole has it otherwise.
macro_rules! policy_field {
    ($name:ident) => {
        Field {
            path: concat!("retry_policy.", stringify!($name)),
            is_populated: |_| false,
            copy: |to: &mut Subscription, from: &Subscription| {
                let from = from.retry_policy.clone().unwrap_or_default();
                to.retry_policy.get_or_insert_default().$name = from.$name;
            },
        }
    };
}

impl Masked for Subscription {
    const FIELDS: &'static [Field<Self>] = &[
        field!(display_name, |it| !it.display_name.is_empty()),
        field!(annotations, |it| !it.annotations.is_empty()),
        field!(callback_url, |it| !it.callback_url.is_empty()),
        field!(event_types, |it| !it.event_types.is_empty()),
        field!(body_mode, |it| it.body_mode != 0),
        field!(headers, |it| !it.headers.is_empty()),
        field!(retry_policy, |it| it.retry_policy.is_some()),
        field!(timeout, |it| it.timeout.is_some()),
        field!(max_in_flight, |it| it.max_in_flight != 0),
        field!(max_requests_per_second, |it| it.max_requests_per_second
            != 0.0),
        field!(ordering, |it| it.ordering != 0),
        field!(verification, |it| it.verification != 0),
        field!(signature_algorithms, |it| !it
            .signature_algorithms
            .is_empty()),
        policy_field!(ttl),
        policy_field!(preset),
        policy_field!(non_retryable_status_codes),
        Field {
            path: "retry_policy.delays",
            is_populated: |_| false,
            copy: |to, from| {
                let is_delays = |it: &Schedule| matches!(it, Schedule::Delays(_));
                copy_schedule(to, from, is_delays);
            },
        },
        Field {
            path: "retry_policy.exponential",
            is_populated: |_| false,
            copy: |to, from| {
                let is_exponential = |it: &Schedule| matches!(it, Schedule::Exponential(_));
                copy_schedule(to, from, is_exponential);
            },
        },
    ];
    const READ_ONLY: &'static [&'static str] = &[
        "name",
        "uid",
        "signing_keys",
        "state",
        "suspend_reason",
        "verification_status",
        "grant",
        "create_time",
        "update_time",
        "etag",
    ];

    fn annotations(&mut self) -> &mut HashMap<String, String> {
        &mut self.annotations
    }
}

/// One alternative of the schedule: sets it, or clears it if it is the one that is set.
fn copy_schedule(to: &mut Subscription, from: &Subscription, is_meant: fn(&Schedule) -> bool) {
    let schedule = |policy: &RetryPolicy| policy.schedule.clone();
    let from = from
        .retry_policy
        .as_ref()
        .and_then(schedule)
        .filter(is_meant);
    let to = to.retry_policy.get_or_insert_default();
    if from.is_some() || to.schedule.as_ref().is_some_and(is_meant) {
        to.schedule = from;
    }
}
