//! The tasks of a process, and how they end: each after those that it is of use to.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hookfleet_control_plane::{ControlPlane, store::Embedded};
use hookfleet_delivery_agent::app::Agent;
use hookfleet_gateway::{
    limits::connections::Connections,
    listener::{self, Lifetimes},
    readiness::Readiness,
    services::Services,
    tls::server::ServerTls,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::output;

/// Requests are short; streams are told to end.
const LIFETIMES: Lifetimes = Lifetimes {
    connection: Duration::from_secs(30 * 60),
    head: Duration::from_secs(10),
    drain: Duration::from_secs(5),
};
/// The condition of readiness that an agent keeps up to date.
pub(crate) const SUBSCRIPTIONS: &str = "subscriptions";

/// A running process.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    url: String,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The tasks of a process in the order in which they end: each is of use to those before it.
pub(crate) struct Parts {
    parts: Vec<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
}

// === impl Running ===

impl Running {
    /// Says where it listens and runs until a signal, or until a part of it fails. A second signal
    /// ends the process at once; what was acknowledged is durable at any time.
    pub(crate) async fn until_signal(mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Whoever reads this may end it at once, and in order.
        output::line(format_args!("listening on {}", self.url));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            ended = &mut self.task => return ended?,
        }
        tracing::info!("shutting down");
        tokio::select! {
            ended = self.stop() => ended,
            _ = terminate.recv() => std::process::exit(1),
            _ = interrupt.recv() => std::process::exit(1),
        }
    }

    /// Ends it in order and waits for that.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.task.await?
    }
}

// === impl Parts ===

impl Parts {
    pub(crate) fn new() -> Self {
        Self { parts: Vec::new() }
    }

    pub(crate) fn run_agent(&mut self, agent: Agent, readiness: Readiness) {
        self.add(async move |shutdown| {
            let (ready, ending) = (agent.ready(), shutdown.clone());
            let telling = tokio::spawn(async move {
                ready.cancelled().await;
                readiness.set(SUBSCRIPTIONS, true);
                // Who ends is sent nothing new.
                ending.cancelled().await;
                readiness.set(SUBSCRIPTIONS, false);
            });
            let ended = agent.run(shutdown).await;
            telling.abort();
            Ok(ended?)
        });
    }

    pub(crate) fn run_control_plane(&mut self, control_plane: ControlPlane) {
        self.add(async move |shutdown| {
            control_plane.run(shutdown).await;
            Ok(())
        });
    }

    /// The process ends with its store.
    pub(crate) fn watch_store(&mut self, store: Arc<Embedded>) {
        self.add(async move |shutdown| {
            tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                () = store.failed() => Err(anyhow::anyhow!("the store has failed")),
            }
        });
    }

    pub(crate) fn serve(
        &mut self,
        listener: TcpListener,
        tls: Option<ServerTls>,
        services: Services,
        connections: Connections,
    ) -> anyhow::Result<()> {
        let router = services.into_router()?;
        self.add(async move |shutdown| {
            listener::serve(listener, tls, router, LIFETIMES, connections, shutdown).await;
            Ok(())
        });
        Ok(())
    }

    fn add<F, T>(&mut self, part: F)
    where
        F: FnOnce(CancellationToken) -> T,
        T: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(part(shutdown.clone()));
        self.parts.push((shutdown, task));
    }

    /// All of them together, reached at `url`.
    pub(crate) fn running(self, address: SocketAddr, url: String) -> Running {
        let shutdown = CancellationToken::new();
        let asked = shutdown.clone();
        let task = tokio::spawn(async move {
            let mut parts = self.parts;
            // One part without the others is of no use.
            let failed = {
                let ends = parts.iter_mut().map(|(_, task)| task);
                let any = futures::future::select_all(ends);
                tokio::select! {
                    () = asked.cancelled() => None,
                    (ended, index, _) = any => Some((ended, index)),
                }
            };
            let mut result = Ok(());
            if let Some((ended, index)) = failed {
                drop(parts.remove(index));
                result = ended?;
            }
            for (shutdown, task) in parts {
                shutdown.cancel();
                result = result.and(task.await?);
            }
            result
        });
        Running {
            address,
            url,
            shutdown,
            task,
        }
    }
}
