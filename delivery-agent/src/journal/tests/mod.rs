//! The journal on a real disk and a real database.

mod appending;
mod damage;
mod faults;
mod model;
mod reserve;
mod segments;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Condvar,
    time::Duration,
};

use bytes::Bytes;
use hookfleet_contract::{
    id::{DeliveryId, WebhookId},
    partition::UNORDERED,
    retry::Progress,
    time::Timestamp,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    storage::{SegmentFile, Space},
    *,
};
use crate::clock::Clock;

const JOURNAL: u128 = 0xfee1;
const SUBSCRIPTION: [u8; 16] = [1; 16];

/// A data directory that outlives the journals opened in it.
struct Home {
    dir: Arc<TempDir>,
    database: fjall::Database,
    config: Config,
}

struct Open {
    journal: Journal,
    recovered: Recovered,
    accepted: mpsc::Receiver<Arc<StoredEvent>>,
    fatal: CancellationToken,
    /// The folder lasts as long as anyone uses it.
    _dir: Arc<TempDir>,
}

impl Home {
    fn new() -> Self {
        let dir = Arc::new(TempDir::new().unwrap());
        let database = fjall::Database::builder(dir.path().join("database"))
            .open()
            .unwrap();
        let fatal = CancellationToken::new();
        let config = Config {
            segment_bytes: 4096,
            min_free_bytes: Some(0),
            ..Config::new(dir.path().join("journal"), JOURNAL, Clock::system(), fatal)
        };
        Self {
            dir,
            database,
            config,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    fn open(&self) -> Open {
        self.open_on(Arc::new(Disk)).unwrap()
    }

    fn open_on(&self, storage: Arc<dyn Storage>) -> Result<Open, Error> {
        let (sender, accepted) = mpsc::channel(1 << 16);
        let fatal = CancellationToken::new();
        let config = Config {
            fatal: fatal.clone(),
            ..self.config.clone()
        };
        let (journal, recovered) = Journal::open_on(storage, config, &self.database, sender)?;
        Ok(Open {
            journal,
            recovered,
            accepted,
            fatal,
            _dir: Arc::clone(&self.dir),
        })
    }

    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(&self.config.dir)
            .unwrap()
            .map(|it| it.unwrap().path())
            .filter(|it| it.extension().is_some_and(|it| it == extension))
            .collect();
        files.sort();
        files
    }
}

/// Events differ by their numbers, which are also their webhook ids and accept times.
fn event(number: u64) -> NewEvent {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    NewEvent {
        tenant: "acme".parse().unwrap(),
        webhook_id: WebhookId(id),
        accept_time: Clock::system().now(),
        targets: vec![Target {
            uid: SUBSCRIPTION,
            partition: UNORDERED,
            subscription: "orders".parse().unwrap(),
        }],
        origin: Origin::Published,
        stands: Vec::new(),
        event: Bytes::from(format!("event {number}")),
    }
}

fn large_event(number: u64, n_bytes: usize) -> NewEvent {
    NewEvent {
        event: Bytes::from(vec![0x5a; n_bytes]),
        ..event(number)
    }
}

fn delivery(seq: u64) -> DeliveryId {
    DeliveryId { seq, target: 0 }
}

fn settled(seq: u64) -> Outcome {
    Outcome {
        delivery: delivery(seq),
        progress: Progress {
            attempts: 1,
            step: 0,
        },
        standing: Standing::Succeeded,
        at: Timestamp(1),
    }
}

fn deferred(seq: u64, attempts: u32, due: u64) -> Outcome {
    Outcome {
        progress: Progress { attempts, step: 0 },
        standing: Standing::Deferred {
            due: Timestamp(due),
        },
        ..settled(seq)
    }
}

/// What waits, by event.
fn waiting(journal: &Journal) -> Vec<(DeliveryId, Progress)> {
    let end = Timestamp(u64::MAX);
    let taken = journal
        .deferred()
        .take_due(SUBSCRIPTION.into(), end, usize::MAX)
        .unwrap();
    let mut taken: Vec<_> = taken.iter().map(|it| (it.delivery, it.progress)).collect();
    taken.sort_by_key(|(delivery, _)| *delivery);
    taken
}

fn waiting_seqs(journal: &Journal) -> Vec<u64> {
    waiting(journal).iter().map(|(it, _)| it.seq).collect()
}

/// Polls until `condition` holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let met = tokio::time::timeout(Duration::from_secs(20), poll).await;
    assert!(met.is_ok(), "{what} did not happen");
}

/// A disk that fails when told to.
#[derive(Debug, Default)]
struct Faulty {
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    state: Mutex<Fault>,
    n_syncs: AtomicU64,
    /// How many tests want syncs to wait.
    n_holding: Mutex<usize>,
    released: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// Files cannot be synced.
    Sync,
    /// Files cannot be written.
    Write,
    /// Three bytes are written at a time, and every other call is interrupted.
    ShortWrites { interrupt: bool },
    /// No file can be created.
    NoSpace,
    /// So much is left.
    Free(u64),
    /// So much would be left without the reserve.
    FreeButForReserve(u64),
    /// Files cannot be renamed, nor folders synced.
    Names,
}

#[derive(Debug)]
struct FaultyFile {
    file: Arc<dyn SegmentFile>,
    faults: Arc<Faults>,
}

/// Syncs wait for as long as this is alive.
struct Holding(Arc<Faults>);

impl Drop for Holding {
    fn drop(&mut self) {
        *self.0.n_holding.lock().unwrap() -= 1;
        self.0.released.notify_all();
    }
}

impl Faults {
    fn hold_syncs(self: &Arc<Self>) -> Holding {
        *self.n_holding.lock().unwrap() += 1;
        Holding(Arc::clone(self))
    }

    fn wait_while_held(&self) {
        let n_holding = self.n_holding.lock().unwrap();
        drop(self.released.wait_while(n_holding, |it| *it > 0).unwrap());
    }

    fn fail_on(&self, fault: Fault) -> io::Result<()> {
        match self.get() == fault {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    }

    fn set(&self, fault: Fault) {
        *self.state.lock().unwrap() = fault;
    }

    fn get(&self) -> Fault {
        *self.state.lock().unwrap()
    }
}

impl Storage for Faulty {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn SegmentFile>> {
        if self.faults.get() == Fault::NoSpace {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(Arc::new(FaultyFile {
            file: Disk.create(path, bytes)?,
            faults: Arc::clone(&self.faults),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>> {
        Disk.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.faults.fail_on(Fault::Names)?;
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.faults.fail_on(Fault::Names)?;
        Disk.sync_dir(dir)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let space = Disk.space(dir)?;
        let free = match self.faults.get() {
            Fault::Free(free) => Some(free),
            Fault::FreeButForReserve(free) => Some(free - reserve::bytes(dir)),
            Fault::None
            | Fault::Sync
            | Fault::Write
            | Fault::ShortWrites { .. }
            | Fault::NoSpace
            | Fault::Names => None,
        };
        Ok(Space {
            free: free.unwrap_or(space.free),
            ..space
        })
    }
}

impl SegmentFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.faults.fail_on(Fault::Write)?;
        if let Fault::ShortWrites { interrupt } = self.faults.get() {
            self.faults.set(Fault::ShortWrites {
                interrupt: !interrupt,
            });
            if interrupt {
                return Err(io::ErrorKind::Interrupted.into());
            }
            return self.file.write_at(&bytes[..bytes.len().min(3)], offset);
        }
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.wait_while_held();
        self.faults.n_syncs.fetch_add(1, Ordering::SeqCst);
        self.faults.fail_on(Fault::Sync)?;
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}
