//! The baseline: a bare HTTP client that posts the same bytes with the same headers to the same endpoints
//! of the same sink, one after the other, as fast as it can. Its own process, like the server that it is
//! compared with.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{clock, scenario, sink::Sample, usage::Usage};
use crate::output;

/// What to do.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Bare {
    /// The port of the sink.
    pub(super) port: u16,
    /// How many endpoints take turns.
    pub(super) n_endpoints: usize,
    /// Requests at a time.
    pub(super) n_at_once: usize,
    /// For so long.
    pub(super) seconds: f64,
}

/// What it did.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Done {
    /// Posts that were answered, in a second.
    pub(super) per_second: f64,
    /// What each of them cost, in microseconds of CPU.
    pub(super) cpu_micros: f64,
}

/// Posts, and prints what it did.
pub(super) async fn run(bare: Bare) -> anyhow::Result<()> {
    let client = super::http_client()?;
    let url = |index, path| format!("http://{}:{}/{path}", scenario::host(index), bare.port);
    let sample = client.get(url(0, "sample")).send().await?;
    let sample: Option<Sample> = sample.json().await?;
    let sample = sample.context("nothing was received yet that could be repeated")?;
    let body = Bytes::from(sample.body);
    let mut headers = reqwest::header::HeaderMap::new();
    for (name, value) in &sample.headers {
        let name: reqwest::header::HeaderName = name.parse()?;
        headers.insert(name, value.parse()?);
    }
    let urls = (0..bare.n_endpoints).map(|index| reqwest::Url::parse(&url(index, "bare")));
    let urls: Arc<[_]> = urls.collect::<Result<_, _>>()?;
    let turn = Arc::new(AtomicUsize::new(0));
    let (n_posts, over) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
    let before = (Usage::of(std::process::id())?, clock::micros());
    let loops = (0..bare.n_at_once).map(|_| {
        let (client, headers, body) = (client.clone(), headers.clone(), body.clone());
        let (urls, turn) = (Arc::clone(&urls), Arc::clone(&turn));
        let (n_posts, over) = (Arc::clone(&n_posts), over.clone());
        tokio::spawn(async move {
            while !over.is_cancelled() {
                let turn = turn.fetch_add(1, Ordering::Relaxed);
                let request = client
                    .post(urls[turn % urls.len()].clone())
                    .headers(headers.clone())
                    .body(body.clone());
                request.send().await?.bytes().await?;
                n_posts.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), reqwest::Error>(())
        })
    });
    let loops: Vec<_> = loops.collect();
    sleep(Duration::from_secs_f64(bare.seconds)).await;
    let n_posts = n_posts.load(Ordering::Relaxed) as f64;
    let after = (Usage::of(std::process::id())?, clock::micros());
    over.cancel();
    for ended in join_all(loops).await {
        ended??;
    }
    let done = Done {
        per_second: n_posts * 1e6 / (after.1 - before.1) as f64,
        cpu_micros: (after.0.cpu_micros - before.0.cpu_micros) as f64 / n_posts.max(1.0),
    };
    output::line(serde_json::to_string(&done)?);
    Ok(())
}
