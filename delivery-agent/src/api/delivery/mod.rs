//! `DeliveryService`: wire to history and back.

#[cfg(test)]
pub(super) mod tests;

use hookfleet_contract::{
    event::Event,
    name::{DeliveryName, EventName, SubscriptionScope},
};
use hookfleet_gateway::{
    filter::Filter,
    page::{Pages, page_size},
    status::ApiError,
};
use hookfleet_proto::v1::{
    self, Attempt, Delivery, GetDeliveryRequest, GetEventRequest, ListAttemptsRequest,
    ListAttemptsResponse, ListDeliveriesRequest, ListDeliveriesResponse, Outcome,
    RedeliverDeliveryRequest, delivery::State, delivery_service_server::DeliveryService,
};
use tonic::{Request, Response, Status};

use super::publisher::{journal_error, refused};
use crate::{
    history::{self, Cursor, History, Wanted},
    ingest::redelivery::{self, Redeliverer},
    journal::StoredEvent,
    relay,
};

/// The service.
#[derive(Clone, Debug)]
pub struct Deliveries {
    redeliverer: Redeliverer,
    pages: Pages,
}

// === impl Deliveries ===

impl Deliveries {
    /// A service that reads what `redeliverer` reads.
    #[must_use]
    pub fn new(redeliverer: Redeliverer, pages: Pages) -> Self {
        Self { redeliverer, pages }
    }

    /// What it delivers again with.
    pub(super) fn redeliverer(&self) -> &Redeliverer {
        &self.redeliverer
    }

    /// Reads the history on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&History) -> Result<T, history::Error> + Send + 'static,
    ) -> Result<T, ApiError> {
        let history = self.redeliverer.history.clone();
        let read = blocking(move || read(&history)).await?;
        read.map_err(|error| history_error(&error))
    }

    async fn delivery(&self, name: DeliveryName) -> Result<Delivery, ApiError> {
        let text = name.to_string();
        let found = self.read(move |history| history.delivery(&name)).await?;
        found.ok_or_else(|| ApiError::not_found(text))
    }

    async fn event(&self, name: EventName) -> Result<v1::Event, ApiError> {
        let not_found = || ApiError::not_found(name.to_string());
        let (journal, id) = (self.redeliverer.ingest.journal.clone(), name.event);
        // Of an event that is not recent, a whole segment may have to be read.
        let stored = blocking(move || journal.find(id)).await?;
        let stored = stored.map_err(|error| journal_error(&error))?;
        // An id that was guessed tells nothing.
        let stored = stored
            .filter(|it| it.tenant == name.tenant)
            .ok_or_else(not_found)?;
        event(&name, &stored).ok_or_else(not_found)
    }
}

#[tonic::async_trait]
impl DeliveryService for Deliveries {
    async fn get_event(
        &self,
        request: Request<GetEventRequest>,
    ) -> Result<Response<v1::Event>, Status> {
        let name = parse("name", &request.get_ref().name)?;
        Ok(Response::new(self.event(name).await?))
    }

    async fn get_delivery(
        &self,
        request: Request<GetDeliveryRequest>,
    ) -> Result<Response<Delivery>, Status> {
        let name = parse("name", &request.get_ref().name)?;
        Ok(Response::new(self.delivery(name).await?))
    }

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Result<Response<ListDeliveriesResponse>, Status> {
        let request = request.into_inner();
        let scope: SubscriptionScope = parse("parent", &request.parent)?;
        let wanted = wanted(&request.filter)?;
        let limit = page_size(request.page_size)?;
        let list = ["deliveries", &request.parent, &request.filter];
        let after = self.pages.open(list[0], &list[1..], &request.page_token)?;
        let after = cursor(after, Cursor::decode)?;
        let page = self.read(move |history| history.deliveries(&scope, &wanted, after, limit));
        let (deliveries, next) = page.await?;
        let token = |it: Cursor| {
            self.pages
                .seal(list[0], &list[1..], &it.encode(), rand::random())
        };
        Ok(Response::new(ListDeliveriesResponse {
            deliveries,
            next_page_token: next.map(token).unwrap_or_default(),
            unreachable: Vec::new(),
        }))
    }

    async fn list_attempts(
        &self,
        request: Request<ListAttemptsRequest>,
    ) -> Result<Response<ListAttemptsResponse>, Status> {
        let request = request.into_inner();
        let name: DeliveryName = parse("parent", &request.parent)?;
        let admits = admits(&request.filter)?;
        let limit = page_size(request.page_size)?;
        let list = ["attempts", &request.parent, &request.filter];
        let after = self.pages.open(list[0], &list[1..], &request.page_token)?;
        let number = |it: &[u8]| it.try_into().ok().map(i32::from_be_bytes);
        let after = cursor(after, number)?.unwrap_or(0);
        self.delivery(name.clone()).await?;
        // There are at most 185.
        let mut attempts = self
            .read(move |history| history.attempts(&name, after))
            .await?;
        attempts.retain(admits);
        let has_more = attempts.len() > limit;
        attempts.truncate(limit);
        let last = attempts.last().filter(|_| has_more);
        let token = |it: &Attempt| {
            self.pages.seal(
                list[0],
                &list[1..],
                &it.number.to_be_bytes(),
                rand::random(),
            )
        };
        Ok(Response::new(ListAttemptsResponse {
            next_page_token: last.map(token).unwrap_or_default(),
            attempts,
        }))
    }

    async fn redeliver_delivery(
        &self,
        request: Request<RedeliverDeliveryRequest>,
    ) -> Result<Response<Delivery>, Status> {
        let name: DeliveryName = parse("name", &request.get_ref().name)?;
        let known = self.delivery(name.clone()).await?;
        let redelivered = self.redeliverer.redeliver(&name).await;
        let new = redelivered.map_err(|error| redelivery_error(error, &name))?;
        Ok(Response::new(Delivery {
            name: new.name.to_string(),
            event: known.event,
            event_type: known.event_type,
            state: State::Pending.into(),
            accept_time: Some(new.accept_time.into()),
            next_attempt_time: Some(new.accept_time.into()),
            redelivery_of: name.to_string(),
            ..Delivery::default()
        }))
    }
}

/// Does it on a thread that may block.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|_| ApiError::internal("reading failed"))
}

/// What a page token says. Beginning anew on one that cannot be read would repeat what was listed.
fn cursor<T>(
    token: Option<Vec<u8>>,
    decode: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    let invalid = || ApiError::invalid_field("page_token", "is a token of another version");
    let decode = |it: Vec<u8>| decode(&it).ok_or_else(invalid);
    token.map(decode).transpose()
}

fn parse<T: std::str::FromStr>(field: &str, text: &str) -> Result<T, ApiError>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error| ApiError::invalid_field(field, format!("{error}")))
}

fn wanted(filter: &str) -> Result<Wanted, ApiError> {
    let filter = Filter::parse(filter, &["state", "event", "event_type"])?;
    let invalid = |description: String| ApiError::invalid_field("filter", description);
    let state = |name| {
        let state = State::from_str_name(name).filter(|it| *it != State::Unspecified);
        let description = "state must be PENDING, SUCCEEDED or DEAD_LETTERED";
        state.ok_or_else(|| invalid(description.to_owned()))
    };
    let event = |name: &str| match name.parse::<EventName>() {
        Ok(name) => Ok(name.to_string()),
        Err(error) => Err(invalid(format!("event is not a name: {error}"))),
    };
    Ok(Wanted {
        state: filter.get("state").map(state).transpose()?,
        event: filter.get("event").map(event).transpose()?,
        event_type: filter.get("event_type").map(ToOwned::to_owned),
    })
}

fn admits(filter: &str) -> Result<impl Fn(&Attempt) -> bool + use<>, ApiError> {
    let filter = Filter::parse(filter, &["outcome", "status_code"])?;
    let invalid = |description: &str| ApiError::invalid_field("filter", description);
    let outcome = |name| {
        let outcome = Outcome::from_str_name(name).filter(|it| *it != Outcome::Unspecified);
        outcome.ok_or_else(|| invalid("outcome must be DELIVERED, RETRY, REJECTED or SUSPEND"))
    };
    let status_code = |text: &str| {
        let code = text.parse::<i32>();
        code.map_err(|_| invalid("status_code must be a number"))
    };
    let outcome = filter.get("outcome").map(outcome).transpose()?;
    let status_code = filter.get("status_code").map(status_code).transpose()?;
    Ok(move |attempt: &Attempt| {
        outcome.is_none_or(|it| attempt.outcome() == it)
            && status_code.is_none_or(|it| attempt.status_code == it)
    })
}

fn event(name: &EventName, stored: &StoredEvent) -> Option<v1::Event> {
    let event = Event::decode(&stored.event).ok()?;
    Some(v1::Event {
        name: name.to_string(),
        cloud_event: Some(event.into_inner()),
        accept_time: Some(stored.accept_time.into()),
        delivery_count: i32::try_from(stored.n_targets()).unwrap_or(i32::MAX),
    })
}

/// Why nothing is delivered again.
pub(super) fn redelivery_error(error: redelivery::Error, name: &DeliveryName) -> Status {
    let error = match error {
        redelivery::Error::NotKept(_) => {
            let message = format!("the event of {name} is not kept any more");
            ApiError::precondition("EVENT_NOT_KEPT", message).with("delivery", name.to_string())
        }
        redelivery::Error::SubscriptionEnded(_) => {
            let message = format!("the subscription of {name} does not exist any more");
            ApiError::precondition("SUBSCRIPTION_ENDED", message).with("delivery", name.to_string())
        }
        redelivery::Error::Relay(relay::Error::Refused(status)) => return status,
        redelivery::Error::Relay(relay::Error::OutOfReach | relay::Error::Unsettled) => {
            let message = format!("the agent that is to deliver {name} again does not answer");
            ApiError::aborted("OUTCOME_UNKNOWN", message)
        }
        redelivery::Error::Refused(error) => refused(error),
        redelivery::Error::Journal(error) => journal_error(&error),
        redelivery::Error::History(error) => history_error(&error),
    };
    error.into()
}

fn history_error(error: &history::Error) -> ApiError {
    tracing::error!(%error, "cannot read the history");
    ApiError::internal("the history cannot be read")
}
