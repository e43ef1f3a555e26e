//! HTTP/2 as an attacker speaks it (shape L11 of the load shapes): a connection is closed or served, memory does not grow,
//! and others are served meanwhile.

use std::{iter::repeat_n, time::Duration};

use tokio::time::timeout;

use crate::harness::{
    api::{create_tenant_in_force, event, publish},
    frames::{
        Attack, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, PING,
        RST_STREAM, SETTINGS, attack, frame, head, preface,
    },
    process::{Process, standalone},
};

/// How long nothing may move before an attacker gives up.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a bystander waits, on a machine that is attacked.
const SERVED_WITHIN: Duration = Duration::from_secs(20);
/// What an allocator may keep of what it had.
const MAX_GROWTH: usize = 24 << 20;
/// `ENHANCE_YOUR_CALM`.
const CALM_DOWN: Option<u32> = Some(11);
/// How much is said at once.
const CHUNK: usize = 64 << 10;

/// A server, and a publisher that has nothing to do with what happens to it.
struct Scene {
    server: Process,
    _dir: tempfile::TempDir,
    n_published: usize,
}

impl Scene {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = standalone(dir.path());
        create_tenant_in_force(&server.channel(), "acme").await;
        let mut scene = Self {
            server,
            _dir: dir,
            n_published: 0,
        };
        // It has done everything once before its memory is measured.
        for _ in 0..100 {
            scene.publish().await;
        }
        scene
    }

    async fn publish(&mut self) {
        let event = event(&format!("e{}", self.n_published), "a.b", "{}");
        let channel = self.server.channel();
        let published = publish(&channel, "acme", vec![event]);
        let published = timeout(SERVED_WITHIN, published).await.expect("served");
        published.expect("published");
        self.n_published += 1;
    }

    /// Attacks on some connections at once while the bystander publishes.
    async fn attacked(
        &mut self,
        first: Vec<u8>,
        next: impl Iterator<Item = Vec<u8>> + Clone + Send + 'static,
        is_read: bool,
    ) -> Vec<Attack> {
        let before = self.server.resident_bytes();
        let address = self.server.address;
        let mut attacks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            attacks.spawn(attack(
                address,
                first.clone(),
                next.clone(),
                is_read,
                PATIENCE,
            ));
        }
        let (mut most, mut done) = (before, Vec::new());
        while !attacks.is_empty() {
            self.publish().await;
            most = most.max(self.server.resident_bytes());
            let ended = timeout(Duration::from_millis(20), attacks.join_next()).await;
            if let Ok(Some(ended)) = ended {
                done.push(ended.unwrap());
            }
        }
        let grown = most - before;
        assert!(grown < MAX_GROWTH, "memory grew by {grown} bytes");
        done
    }
}

/// A frame as often as fits into what is said at once.
fn often(frame: &[u8]) -> Vec<u8> {
    frame.repeat(CHUNK / frame.len())
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    let flags = END_HEADERS | END_STREAM;
    frame(HEADERS, flags, stream, &head("GET", path, &[]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_end_the_connection() {
    let mut scene = Scene::start().await;
    let resets = (0..400_u32).map(|number| {
        let streams = (0..500).map(|it| (number * 500 + it) * 2 + 1);
        let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        let frames = streams.flat_map(|it| [get(it, "/v1/tenants"), reset(it)].concat());
        frames.collect()
    });
    for attack in scene.attacked(preface(&[]), resets, true).await {
        assert!(attack.is_over && attack.goaway == CALM_DOWN, "{attack:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_an_end_end_the_connection() {
    let mut scene = Scene::start().await;
    let begin = frame(HEADERS, END_STREAM, 1, &head("GET", "/v1/tenants", &[]));
    let first = [preface(&[]), begin].concat();
    let field = [&[0, 1, b'x', 100][..], &[b'x'; 100]].concat();
    let more = frame(CONTINUATION, 0, 1, &field.repeat(16_000 / field.len()));
    let flood = repeat_n(often(&more), 1000);
    for attack in scene.attacked(first.clone(), flood, true).await {
        assert!(attack.is_over && attack.n_sent < 8 << 20, "{attack:?}");
    }
    let nothing = repeat_n(often(&frame(CONTINUATION, 0, 1, &[])), 100);
    for attack in scene.attacked(first, nothing, true).await {
        assert!(attack.is_over, "{attack:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_pings_and_settings_cost_no_memory() {
    let mut scene = Scene::start().await;
    let floods = [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])];
    for flood in floods {
        let flood = repeat_n(often(&flood), 100);
        scene.attacked(preface(&[]), flood.clone(), true).await;
        // Of whom does not read the answers no more is read, either.
        for attack in scene.attacked(preface(&[]), flood, false).await {
            assert!(!attack.is_over, "{attack:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_nothing_without_an_end_costs_no_memory() {
    let mut scene = Scene::start().await;
    let begin = frame(HEADERS, END_HEADERS, 1, &head("POST", "/v1/tenants", &[]));
    let first = [preface(&[]), begin].concat();
    let flood = repeat_n(often(&frame(DATA, 0, 1, &[])), 100);
    scene.attacked(first, flood, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_its_answers_byte_by_byte_costs_no_more_than_they_are() {
    let mut scene = Scene::start().await;
    let first = preface(&[(INITIAL_WINDOW_SIZE, 1)]);
    let asked = (0..250).map(|it| get(it * 2 + 1, "/v1/tenants"));
    for attack in scene.attacked(first, asked, true).await {
        assert!(!attack.is_over, "{attack:?}");
    }
}
