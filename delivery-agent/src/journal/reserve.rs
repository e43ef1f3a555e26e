//! What is kept of the disk for the time when others fill it: the reserve, files of nothing that are given up then, and
//! room for the logs of the databases, which those would take only as they write.
//!
//! The journal's own segments have their space from the start. A database has not, and takes no write any more after
//! one that failed, so the process would have to end.
//!
//! **Invariant:** the reserve goes after everything else, and comes back once it leaves the bound of events free.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use fjall::{Database, PersistMode};
use hookfleet_contract::time::Timestamp;
use rustix::fs::{FallocateFlags, fallocate, fstat};

use super::{
    Config, Error,
    error::is_no_space,
    log::SPARE,
    room::{self, MIN_FREE_FILES, Room},
    storage::Storage,
};

/// Half of it is what the database writes at once.
pub(super) const BYTES: u64 = 64 << 20;
/// The reserve is of files too, which a disk may have no more of while it has bytes.
const FILES: u64 = 16;
/// How much the log of a database has before the next is begun.
const DATABASE_LOG: u64 = 64 << 20;
const BLOCK: u64 = 512;

/// The reserve of a journal.
#[derive(Debug)]
pub(super) struct Reserve {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    database_dirs: Vec<PathBuf>,
    is_held: bool,
    /// It was said already.
    is_failing: bool,
    looked: Timestamp,
}

/// What to do with the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Stay,
    Release,
    /// Of so many bytes.
    Make(u64),
}

/// The bytes and files that are free, and the bytes that should be.
#[derive(Clone, Copy, Debug)]
struct Left {
    bytes: u64,
    files: u64,
    min_bytes: u64,
}

/// The reserve goes below a quarter of itself, which is below the bound of events.
fn step(left: Left, is_held: bool) -> Step {
    let bytes = left.min_bytes.min(BYTES);
    let is_out = left.bytes < bytes / 4 || left.files < FILES;
    let has_room = left.bytes >= left.min_bytes + bytes && left.files >= MIN_FREE_FILES + FILES;
    match is_held {
        true if is_out => Step::Release,
        false if has_room && bytes > 0 => Step::Make(bytes),
        _ => Step::Stay,
    }
}

/// Gives up the reserve of an earlier run of the journal in `dir`, so that a start on a full disk has room for the
/// database. The journal makes it again.
///
/// # Errors
/// What the disk said.
pub fn release_reserve(dir: &Path) -> io::Result<()> {
    for number in 0..FILES {
        match fs::remove_file(path(dir, number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Recovery removes it as it does all spares.
fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("reserve-{number}.{SPARE}"))
}

// === impl Reserve ===

impl Reserve {
    pub(super) fn new(storage: Arc<dyn Storage>, config: &Config) -> Self {
        Self {
            storage,
            dir: config.dir.clone(),
            database_dirs: config.database_dirs.clone(),
            is_held: false,
            is_failing: false,
            looked: Timestamp(0),
        }
    }

    /// Looks how much room there is, and whether the database has failed, a few times a second.
    pub(super) fn look(
        &mut self,
        room: &Room,
        database: &Database,
        now: Timestamp,
    ) -> Result<(), Error> {
        if now.since(self.looked) < room::INTERVAL {
            return Ok(());
        }
        self.looked = now;
        room.look();
        // A start that was refused, because this process runs, may have given it up.
        self.is_held &= path(&self.dir, FILES - 1).exists();
        let adjusted = self.adjust(room);
        if let Err(error) = &adjusted
            && !self.is_failing
        {
            tracing::warn!(%error, "cannot keep a reserve of the disk");
        }
        self.is_failing = adjusted.is_err();
        // One that could not write once takes nothing any more. A start mends that, and has the reserve.
        Ok(database.persist(PersistMode::Buffer)?)
    }

    /// Makes the reserve, or gives it up, as the disk has room.
    fn adjust(&mut self, room: &Room) -> io::Result<()> {
        let left = Left {
            bytes: room.free(),
            files: room.free_files(),
            min_bytes: room.min(),
        };
        match step(left, self.is_held) {
            Step::Stay => {}
            Step::Release => {
                release_reserve(&self.dir)?;
                self.is_held = false;
                tracing::warn!("the disk is full: the reserve is given up");
                room.look();
            }
            Step::Make(bytes) => {
                self.is_held = self.make(bytes)?;
                room.look();
            }
        }
        let mut allocated = Ok(());
        for dir in &self.database_dirs {
            if room.free() >= room.min() + DATABASE_LOG {
                match allocate_log(dir) {
                    Ok(true) => room.look(),
                    Ok(false) => {}
                    Err(error) => allocated = Err(error),
                }
            }
        }
        allocated
    }

    /// Whether there was room for all of it.
    fn make(&self, bytes: u64) -> io::Result<bool> {
        // Of one that could not be made as a whole some files are left.
        release_reserve(&self.dir)?;
        for number in 0..FILES {
            match self.storage.create(&path(&self.dir, number), bytes / FILES) {
                Ok(_) => {}
                Err(error) if is_no_space(&error) => {
                    release_reserve(&self.dir)?;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Gives the log that a database writes now the space that it will need; that is the one with the highest number. Its
/// length does not change. Answers whether that took any.
fn allocate_log(dir: &Path) -> io::Result<bool> {
    let mut newest = None;
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let number = path
            .file_name()
            .and_then(|it| it.to_str()?.strip_suffix(".jnl")?.parse::<u64>().ok());
        newest = newest.max(number.map(|number| (number, path)));
    }
    let Some((_, path)) = newest else {
        return Ok(false);
    };
    let file = match File::options().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    if fstat(&file)?.st_blocks.unsigned_abs() * BLOCK >= DATABASE_LOG {
        return Ok(false);
    }
    match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, DATABASE_LOG) {
        // Some file systems cannot, and others have filled the disk meanwhile.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
            Ok(false)
        }
        allocated => Ok(allocated.map(|()| true)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: u64 = 192 << 20;

    fn left(bytes: u64, files: u64) -> Left {
        Left {
            bytes,
            files,
            min_bytes: MIN,
        }
    }

    #[test]
    fn the_reserve_is_given_up_below_the_bound_of_events_and_made_again_above_it() {
        let of = |bytes, is_held| step(left(bytes, u64::MAX), is_held);
        assert_eq!(of(MIN + BYTES, false), Step::Make(BYTES));
        assert_eq!(of(MIN, true), Step::Stay, "what was made stays");
        assert_eq!(of(BYTES / 4, true), Step::Stay);
        assert_eq!(of(BYTES / 4 - 1, true), Step::Release);
        assert_eq!(of(0, false), Step::Stay, "it is gone already");
        assert_eq!(of(MIN + BYTES - 1, false), Step::Stay);
    }

    #[test]
    fn the_reserve_is_of_files_too() {
        let of = |files, is_held| step(left(u64::MAX / 2, files), is_held);
        assert_eq!(of(FILES - 1, true), Step::Release);
        assert_eq!(of(FILES, true), Step::Stay);
        assert_eq!(of(MIN_FREE_FILES + FILES - 1, false), Step::Stay);
        assert_eq!(of(MIN_FREE_FILES + FILES, false), Step::Make(BYTES));
    }

    #[test]
    fn who_wants_nothing_to_stay_free_has_no_reserve() {
        let left = Left {
            min_bytes: 0,
            ..left(u64::MAX / 2, u64::MAX)
        };
        assert_eq!(step(left, false), Step::Stay);
    }
}
