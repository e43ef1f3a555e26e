//! `PublishStream`: credit first, then an acknowledgement for each event, and in time the request to begin another stream.
//!
//! A publisher that sends too much, for us or for its tenant's quota, is not read further: HTTP/2 tells it to wait.
//!
//! **Invariant:** an event that was read is acknowledged before the stream ends.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, future::Either, stream};
use hookfleet_gateway::{
    limits::{limiter::Limiter, memory::Memory},
    status::ApiError,
};
use hookfleet_proto::v1::{
    PublishAck, PublishCredit, PublishGoaway, PublishStreamRequest, PublishStreamResponse,
    publish_stream_response::Message,
};
use prost::Message as _;
use tokio::{sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::lifecycle::Stages;
use crate::ingest::OVERLOAD_PAUSE;

/// The most events of one stream without an acknowledgement.
const MAX_OUTSTANDING: usize = 1024;
/// The most bytes of events without an acknowledgement, over all streams.
const MAX_OUTSTANDING_BYTES: usize = 64 << 20;
/// How long a publisher that was asked to end its stream may go on.
const GRACE: Duration = Duration::from_secs(10);

/// What the server says on a stream.
pub(super) type Responses =
    Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

/// What streams share; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    stages: Stages,
    /// How long one may last, give or take a fifth.
    lifetime: Duration,
    limiter: Limiter,
    outstanding: Arc<Semaphore>,
}

// === impl Streams ===

impl Streams {
    pub(super) fn new(
        stages: Stages,
        lifetime: Duration,
        limiter: Limiter,
        memory: Memory,
    ) -> Self {
        Self {
            stages,
            lifetime,
            limiter,
            outstanding: Arc::new(Semaphore::new(memory.share(MAX_OUTSTANDING_BYTES))),
        }
    }

    /// Reads events and publishes each with `publish`, which gets the tenant's name with it.
    pub(super) fn serve<F>(
        &self,
        requests: impl Stream<Item = Result<PublishStreamRequest, Status>> + Send + 'static,
        publish: impl Fn(Arc<str>, PublishStreamRequest) -> F + Send + 'static,
    ) -> Responses
    where
        F: Future<Output = PublishAck> + Send + 'static,
    {
        let credit = Message::Credit(PublishCredit {
            max_outstanding_events: i32::try_from(MAX_OUTSTANDING).unwrap_or(i32::MAX),
        });
        let lifetime = self.lifetime.mul_f64(rand::random_range(0.8..1.2));
        let (leaving, closed) = (self.stages.leaving.clone(), self.stages.closed.clone());
        let is_time = async move {
            tokio::select! {
                () = sleep(lifetime) => {}
                () = leaving.cancelled() => {}
            }
        };
        let is_time = is_time.shared();
        // Whether the publisher ended the stream, rather than we.
        let half_closed = CancellationToken::new();
        let acknowledged = CancellationToken::new();

        let goaway = is_time
            .clone()
            .map(|()| Ok(Message::Goaway(PublishGoaway {})));
        let goaway = stream::once(goaway).take_until(acknowledged.clone().cancelled_owned());
        let too_late = async move {
            tokio::select! {
                () = is_time.then(|()| sleep(GRACE)) => {}
                () = closed.cancelled() => {}
            }
        };
        let acks = requests
            .chain(on_end(half_closed.clone()))
            .take_until(too_late)
            .boxed();
        let acks = self.acknowledge(acks, publish).chain(on_end(acknowledged));
        let end = stream::once(async move {
            let message = "this stream has lasted long enough; begin another";
            let error = ApiError::unavailable("STREAM_ENDED", message, OVERLOAD_PAUSE);
            (!half_closed.is_cancelled()).then(|| Err(error.into()))
        });
        let messages = stream::iter([Ok(credit)])
            .chain(stream::select(acks, goaway))
            .chain(end.filter_map(async |end| end));
        let responses = messages.map(|message: Result<Message, Status>| {
            message.map(|it| PublishStreamResponse { message: Some(it) })
        });
        Box::pin(responses)
    }

    /// Publishes what is read, no more than may be outstanding.
    fn acknowledge<F>(
        &self,
        requests: impl Stream<Item = Result<PublishStreamRequest, Status>> + Send + 'static,
        publish: impl Fn(Arc<str>, PublishStreamRequest) -> F + Send + 'static,
    ) -> impl Stream<Item = Result<Message, Status>> + Send + 'static
    where
        F: Future<Output = PublishAck> + Send + 'static,
    {
        let Self {
            outstanding,
            limiter,
            ..
        } = self.clone();
        let mut parent: Arc<str> = "".into();
        requests
            .map_ok(move |request| {
                if !request.parent.is_empty() {
                    parent = request.parent.as_str().into();
                }
                (Arc::clone(&parent), request)
            })
            // Reads no further while the events of the tenant, or those of all streams, are too many.
            .and_then(move |(parent, request)| {
                let (outstanding, limiter) = (Arc::clone(&outstanding), limiter.clone());
                async move {
                    let n_bytes = request.encoded_len();
                    limiter.paced(&parent, n_bytes).await;
                    let n_bytes = u32::try_from(n_bytes).unwrap_or(u32::MAX);
                    let held = outstanding.acquire_many_owned(n_bytes).await;
                    Ok((parent, request, held))
                }
            })
            .map(move |read| {
                let (parent, request, held) = match read {
                    Ok(read) => read,
                    Err(status) => return Either::Left(async { Err(status) }),
                };
                let publish = publish(parent, request);
                Either::Right(async move {
                    let ack = publish.await;
                    drop(held);
                    Ok(Message::Ack(ack))
                })
            })
            // Reads no further than this many without an acknowledgement.
            .buffered(MAX_OUTSTANDING)
    }
}

/// Nothing, but `token` is cancelled when it comes to it.
fn on_end<T: Send + 'static>(token: CancellationToken) -> impl Stream<Item = T> + Send + 'static {
    stream::once(async move { token.cancel() }).filter_map(async |()| None)
}

#[cfg(test)]
mod tests {
    use hookfleet_contract::time::Timestamp;
    use hookfleet_gateway::{clock::Clock, limits::limiter::Rates};
    use hookfleet_proto::v1::publish_stream_response::Message;
    use tokio::{sync::mpsc, time::timeout};
    use tokio_stream::wrappers::UnboundedReceiverStream;
    use tonic::Code;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(60);

    /// A publisher's end of a stream.
    struct Publisher {
        events: Option<mpsc::UnboundedSender<Result<PublishStreamRequest, Status>>>,
        responses: Responses,
        stages: Stages,
    }

    impl Publisher {
        async fn start() -> Self {
            Self::start_with(Limiter::off()).await
        }

        async fn start_with(limiter: Limiter) -> Self {
            let stages = Stages::default();
            let (sender, events) = mpsc::unbounded_channel();
            let publish = |parent: Arc<str>, request: PublishStreamRequest| async move {
                assert_eq!(&*parent, "tenants/acme");
                PublishAck {
                    sequence: request.sequence,
                    result: None,
                }
            };
            let streams = Streams::new(stages.clone(), LIFETIME, limiter, Memory::default());
            let mut publisher = Self {
                events: Some(sender),
                responses: streams.serve(UnboundedReceiverStream::new(events), publish),
                stages,
            };
            assert!(matches!(publisher.heard().await, Message::Credit(_)));
            publisher
        }

        fn publish(&self, sequence: i64) {
            let request = PublishStreamRequest {
                sequence,
                parent: if sequence == 0 { "tenants/acme" } else { "" }.to_owned(),
                event: None,
            };
            self.events.as_ref().unwrap().send(Ok(request)).unwrap();
        }

        async fn heard(&mut self) -> Message {
            let response = self.responses.next().await.expect("a message");
            response.unwrap().message.unwrap()
        }

        async fn acknowledged(&mut self) -> i64 {
            match self.heard().await {
                Message::Ack(ack) => ack.sequence,
                other @ (Message::Credit(_) | Message::Goaway(_)) => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_that_is_asked_to_go_on_elsewhere_gets_all_its_acknowledgements() {
        let mut publisher = Publisher::start().await;
        publisher.publish(0);
        assert_eq!(publisher.acknowledged().await, 0);
        let begin = tokio::time::Instant::now();
        assert!(matches!(publisher.heard().await, Message::Goaway(_)));
        let lasted = begin.elapsed();
        assert!(lasted >= LIFETIME.mul_f64(0.79) && lasted <= LIFETIME.mul_f64(1.21));
        publisher.publish(1);
        publisher.publish(2);
        publisher.events = None;
        assert_eq!(publisher.acknowledged().await, 1);
        assert_eq!(publisher.acknowledged().await, 2);
        assert!(
            publisher.responses.next().await.is_none(),
            "it ends with OK"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_that_does_not_listen_is_cut_off_after_its_acknowledgements() {
        let mut publisher = Publisher::start().await;
        publisher.publish(0);
        assert_eq!(publisher.acknowledged().await, 0);
        publisher.stages.leaving.cancel();
        assert!(matches!(publisher.heard().await, Message::Goaway(_)));
        publisher.publish(1);
        assert_eq!(publisher.acknowledged().await, 1);
        let end = publisher.responses.next().await.unwrap().unwrap_err();
        assert_eq!(end.code(), Code::Unavailable);
        assert!(publisher.events.as_ref().unwrap().is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_over_its_quota_is_read_no_further_and_loses_nothing() {
        let clock = Clock::fixed(Timestamp(1_000_000));
        let rates = Rates {
            tenant_events: 1000,
            ..Rates::default()
        };
        let mut publisher = Publisher::start_with(Limiter::new(rates, clock.clone())).await;
        for sequence in 0..1500 {
            publisher.publish(sequence);
        }
        publisher.events = None;
        for sequence in 0..1000 {
            assert_eq!(publisher.acknowledged().await, sequence);
        }
        // No more, not even a refusal, until time has passed.
        let more = timeout(LIFETIME / 2, publisher.heard()).await;
        assert!(more.is_err(), "{more:?}");
        clock.set(Timestamp(1_000_500));
        for sequence in 1000..1500 {
            assert_eq!(publisher.acknowledged().await, sequence);
        }
        assert!(publisher.responses.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_the_publisher_ends_is_over() {
        let mut publisher = Publisher::start().await;
        publisher.publish(0);
        publisher.events = None;
        assert_eq!(publisher.acknowledged().await, 0);
        assert!(publisher.responses.next().await.is_none());
    }
}
