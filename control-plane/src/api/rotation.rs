//! Replacing the signing secret of a subscription.

use hookfleet_contract::{name::SubscriptionName, signature::Secret};
use hookfleet_gateway::status::ApiError;
use hookfleet_proto::v1::{self, RotateSecretRequest, SignatureAlgorithm};

use super::{
    overlap, parse,
    subscription::{Subscriptions, new_secret},
};
use crate::model::subscription::{algorithms, fresh_keys};

impl Subscriptions {
    /// The subscription with its new secret, which leaves here and nowhere else.
    pub(super) async fn rotate(
        &self,
        request: RotateSecretRequest,
    ) -> Result<v1::Subscription, ApiError> {
        let name: SubscriptionName = parse("name", &request.name)?;
        let overlap = overlap(request.overlap)?;
        let asked = asked_secret(&request.signing_secret)?;
        let subject = self.subject(&name, request.etag);
        let mut secret = String::new();
        let rotated = self
            .change(&name, &subject, |subscription, now| {
                let algorithms = algorithms(&subscription.resource);
                if asked.is_some() && !algorithms.contains(&SignatureAlgorithm::HmacSha256) {
                    let description =
                        "is of no use: the subscription does not sign with HMAC_SHA256";
                    return Err(ApiError::invalid_field("signing_secret", description));
                }
                let fresh = fresh_keys(&algorithms, asked.as_ref(), now, new_secret);
                subscription.rotate(fresh, overlap, now).map_err(|error| {
                    ApiError::precondition("TOO_MANY_SIGNING_KEYS", error.to_string())
                })?;
                secret = subscription.reveal();
                Ok(true)
            })
            .await?;
        Ok(v1::Subscription {
            signing_secret: secret,
            ..rotated
        })
    }
}

fn asked_secret(text: &str) -> Result<Option<Secret>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let secret = text.parse::<Secret>().ok();
    let secret = secret.filter(|it| it.algorithm() == SignatureAlgorithm::HmacSha256);
    let description = "must be `whsec_` and base64 of 24 to 64 bytes";
    secret
        .map(Some)
        .ok_or_else(|| ApiError::invalid_field("signing_secret", description))
}
