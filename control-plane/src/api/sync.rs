//! `SyncService`: takes the Hello of an agent that is who it says, and leaves the rest to the session.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use hookfleet_contract::name::AgentId;
use hookfleet_gateway::{
    auth::{self, principal::Principal},
    status::ApiError,
};
use hookfleet_proto::fleet::{
    Hello, SyncRequest, SyncResponse, sync_request::Message, sync_service_server::SyncService,
};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::sync::server::Server;

/// How long an agent may take to say who it is.
const HELLO: Duration = Duration::from_secs(5);

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Sync(pub(crate) Arc<Server>);

// === impl Sync ===

impl Sync {
    async fn hello(&self, said: &mut Streaming<SyncRequest>) -> Result<Hello, ApiError> {
        self.0.check_ready()?;
        let first = timeout(HELLO, said.message()).await;
        match first
            .ok()
            .and_then(Result::ok)
            .flatten()
            .and_then(|it| it.message)
        {
            Some(Message::Hello(hello)) => Ok(hello),
            Some(
                Message::Ack(_)
                | Message::Heartbeat(_)
                | Message::SuspendReport(_)
                | Message::VerificationReport(_),
            )
            | None => Err(ApiError::invalid_field(
                "hello",
                "must be the first message, within 5 seconds",
            )),
        }
    }
}

#[tonic::async_trait]
impl SyncService for Sync {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<SyncResponse, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let caller = auth::caller(&request)?;
        let mut said = request.into_inner();
        let hello = self.hello(&mut said).await?;
        check_identity(&caller, &hello)?;
        // A stream that breaks ends like one that was closed.
        let said = tokio_stream::StreamExt::map_while(said, Result::ok);
        let told = self.0.open(hello, said).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(told).map(Ok))))
    }
}

/// Whoever comes as one agent must not be told what another's business is.
fn check_identity(caller: &Principal, hello: &Hello) -> Result<(), ApiError> {
    // What is no id at all is refused with the rest of the Hello.
    let claimed: Option<AgentId> = hello.agent_id.parse().ok();
    match claimed {
        Some(agent) if !caller.may_be(&agent) => Err(ApiError::permission_denied()),
        Some(_) | None => Ok(()),
    }
}
