//! How much of all requests together may be in memory while they arrive. A request that finds no
//! room is refused with advice, and one that comes too slowly makes room; those that stream are bounded by whoever reads them.
//!
//! A request takes room ahead of what arrives, up to what it says it has. So under an overload a few come through whole,
//! and the others are refused at their first bytes, where a little of each would fill the room and none come through. How far
//! ahead goes by what has arrived: whoever only says much holds little.
//!
//! **Invariant:** what is held is given back when the request has been read, or is gone.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{BoxError, body::Body};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost_reflect::DescriptorPool;
use tonic::Status;

use crate::{
    auth::layer::is_grpc,
    limits::{memory::Memory, patience::BodyPace},
    message::{self, HEAD_BYTES},
    status::ApiError,
};

/// The most bytes of requests that have arrived in part.
const MAX_BYTES: usize = 128 << 20;
/// When to come back: about as long as it takes to store what is here.
const PAUSE: Duration = Duration::from_millis(250);
/// A request may take so many times the room of what has arrived.
const AHEAD: usize = 4;
/// Who says more is refused by whoever reads it, with better reason.
const MAX_SAID: usize = message::MAX_BYTES + HEAD_BYTES;

/// The room for requests; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    used: Arc<AtomicUsize>,
    max: usize,
    /// The paths of methods whose requests are streams.
    streams: Arc<HashSet<String>>,
}

/// A request's body that takes room as it arrives.
struct Metered {
    body: Body,
    pace: BodyPace,
    used: Arc<AtomicUsize>,
    max: usize,
    n_read: usize,
    /// How many bytes it says to have, as far as that is known.
    said: Option<usize>,
    is_grpc: bool,
    held: usize,
}

// === impl Intake ===

impl Intake {
    /// Room for the requests of the API in `pool`, in so much memory.
    pub(crate) fn new(pool: &DescriptorPool, memory: Memory) -> Self {
        let methods = pool.services().flat_map(|service| {
            let name = service.full_name().to_owned();
            let methods: Vec<_> = service.methods().collect();
            methods.into_iter().map(move |it| (name.clone(), it))
        });
        let streams = methods
            .filter(|(_, it)| it.is_client_streaming())
            .map(|(service, it)| format!("/{service}/{}", it.name()));
        Self {
            used: Arc::default(),
            max: memory.share(MAX_BYTES),
            streams: Arc::new(streams.collect()),
        }
    }

    /// The request with a body that takes room.
    pub(crate) fn meter(&self, request: http::Request<Body>) -> http::Request<Body> {
        let path = request.uri().path();
        if self.streams.contains(path) || path.starts_with("/grpc.reflection.") {
            return request;
        }
        let is_grpc = is_grpc(request.headers());
        request.map(|body| {
            Body::new(Metered {
                said: exact_bytes(&body),
                body,
                pace: BodyPace::new(),
                used: Arc::clone(&self.used),
                max: self.max,
                n_read: 0,
                is_grpc,
                held: 0,
            })
        })
    }
}

// === impl Metered ===

impl Metered {
    /// Takes room for what has arrived, and for what is said to come. Whether there is any.
    fn take(&mut self, data: &Bytes) -> bool {
        if self.n_read == 0 && self.is_grpc && self.said.is_none() {
            self.said = message::head(data).map(|it| it.length.saturating_add(HEAD_BYTES));
        }
        self.n_read += data.len();
        let said = self.said.filter(|&it| it <= MAX_SAID).unwrap_or(0);
        let ahead = said.min(AHEAD.saturating_mul(self.n_read));
        let more = self.n_read.max(ahead).saturating_sub(self.held);
        let before = self.used.fetch_add(more, Ordering::Relaxed);
        let has_room = more == 0 || before + more <= self.max;
        if has_room {
            self.held += more;
        } else {
            self.used.fetch_sub(more, Ordering::Relaxed);
        }
        has_room
    }
}

/// What `content-length` says.
fn exact_bytes(body: &Body) -> Option<usize> {
    usize::try_from(body.size_hint().exact()?).ok()
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let n_read = self.n_read;
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            ready!(self.pace.poll_late(context, n_read));
            let error = ApiError::invalid_field("", "the body comes too slowly");
            let status = Status::from(error.because("BODY_TOO_SLOW"));
            return Poll::Ready(Some(Err(status.into())));
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !self.take(data)
        {
            let message = "too many requests are arriving at once";
            let status = Status::from(ApiError::exhausted("OVERLOADED", message, PAUSE));
            return Poll::Ready(Some(Err(status.into())));
        }
        Poll::Ready(frame.map(|it| it.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.used.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio_stream::StreamExt as _;
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::descriptors;

    fn request(path: &str, n_bytes: usize) -> http::Request<Body> {
        let body = Body::from(vec![0; n_bytes]);
        http::Request::post(path).body(body).unwrap()
    }

    #[tokio::test]
    async fn room_is_taken_while_a_request_arrives_and_given_back() {
        let intake = Intake::new(descriptors::pool(), Memory::default());
        let path = "/hookfleet.v1.PublisherService/Publish";
        let mut large = intake.meter(request(path, MAX_BYTES));
        large.body_mut().frame().await.unwrap().unwrap();

        let mut refused = intake.meter(request(path, 1));
        let error = refused.body_mut().frame().await.unwrap().unwrap_err();
        let status = Status::from_error(error.into_inner());
        assert_eq!(status.code(), Code::ResourceExhausted);

        drop((large, refused));
        let mut next = intake.meter(request(path, 1));
        next.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(intake.used.load(Ordering::Relaxed), 1);
    }

    /// A call that says it has so many bytes, of which so many arrive.
    fn begun(intake: &Intake, said: usize, n_bytes: usize) -> http::Request<Body> {
        let mut first = vec![0];
        first.extend(u32::try_from(said - HEAD_BYTES).unwrap().to_be_bytes());
        first.resize(n_bytes, 0);
        let frames = tokio_stream::iter([Ok::<_, BoxError>(Bytes::from(first))]);
        let path = "/hookfleet.v1.PublisherService/Publish";
        let request = http::Request::post(path).header("content-type", "application/grpc");
        intake.meter(request.body(Body::from_stream(frames)).unwrap())
    }

    #[tokio::test]
    async fn what_is_said_to_come_has_its_room_and_what_has_none_is_refused_at_its_first_bytes() {
        const SAID: usize = 8 << 20;
        let intake = Intake::new(descriptors::pool(), Memory::default());
        let mut taken = Vec::new();
        for _ in 0..MAX_BYTES / SAID {
            let mut request = begun(&intake, SAID, SAID / AHEAD);
            request.body_mut().frame().await.unwrap().unwrap();
            taken.push(request);
        }
        let mut refused = begun(&intake, SAID, HEAD_BYTES);
        refused.body_mut().frame().await.unwrap().unwrap_err();
        let used = intake.used.load(Ordering::Relaxed);
        assert_eq!(used, MAX_BYTES, "who is refused holds none");

        // That it may not have so much is for others to say.
        taken.pop();
        let mut absurd = begun(&intake, usize::try_from(u32::MAX).unwrap(), HEAD_BYTES);
        absurd.body_mut().frame().await.unwrap().unwrap();
        drop((taken, refused, absurd));
        assert_eq!(intake.used.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn whoever_only_says_much_holds_little() {
        let intake = Intake::new(descriptors::pool(), Memory::default());
        let mut stalled = Vec::new();
        for _ in 0..1000 {
            let mut request = begun(&intake, 8 << 20, HEAD_BYTES);
            request.body_mut().frame().await.unwrap().unwrap();
            stalled.push(request);
        }
        let used = intake.used.load(Ordering::Relaxed);
        assert_eq!(used, 1000 * AHEAD * HEAD_BYTES);
    }

    #[tokio::test]
    async fn whoever_reads_a_whole_body_learns_that_there_is_no_room() {
        let intake = Intake::new(descriptors::pool(), Memory::default());
        let path = "/v1/tenants/acme/events";
        let mut large = intake.meter(request(path, MAX_BYTES));
        large.body_mut().frame().await.unwrap().unwrap();
        let (head, body) = intake.meter(request(path, 1)).into_parts();
        let status = crate::body::read(&head.headers, body).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(!status.details().is_empty(), "with advice");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_too_slowly_gives_its_room_back() {
        let intake = Intake::new(descriptors::pool(), Memory::default());
        let dripping = tokio_stream::iter(0..1000).then(async |_| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, BoxError>(Bytes::from_static(&[0; 100]))
        });
        let request = http::Request::post("/v1/tenants/acme/events");
        let request = request.body(Body::from_stream(dripping)).unwrap();
        let (head, body) = intake.meter(request).into_parts();
        let begin = tokio::time::Instant::now();
        let status = crate::body::read(&head.headers, body).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.get_details_error_info().unwrap().reason,
            "BODY_TOO_SLOW"
        );
        assert_eq!(begin.elapsed(), Duration::from_secs(20));
        assert_eq!(intake.used.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn streams_are_not_counted() {
        let intake = Intake::new(descriptors::pool(), Memory::default());
        let path = "/hookfleet.v1.PublisherService/PublishStream";
        let mut stream = intake.meter(request(path, 10));
        stream.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(intake.used.load(Ordering::Relaxed), 0);
    }
}
