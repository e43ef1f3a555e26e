//! The files of a log: lines are appended to the newest, and when that is large another begins, with the same chain.
//! Nothing is ever removed or overwritten.
//!
//! **Invariant:** a record that was appended is on stable storage, and so is its place in the chain.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{chain::Head, record::Record};

/// A file that has so many bytes is the last but one.
const MAX_FILE_BYTES: u64 = 64 << 20;
const PREFIX: &str = "audit-";
const SUFFIX: &str = ".jsonl";

/// The log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process writes it.
    #[error("{0} is written by another process: each has an audit log of its own")]
    InUse(PathBuf),
    /// The disk does not do it.
    #[error("cannot use {path}")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An open log.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    file: File,
    n_bytes: u64,
    head: Head,
    max_file_bytes: u64,
    /// Held for as long as the log is.
    _lock: File,
}

// === impl Log ===

impl Log {
    /// Goes on with the log in a directory, or begins one.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        Self::with_files_of(dir, MAX_FILE_BYTES)
    }

    pub(super) fn with_files_of(dir: &Path, max_file_bytes: u64) -> Result<Self, Error> {
        let fails = |source| Error::Io {
            path: dir.to_owned(),
            source,
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(fails)?;
        let lock = open(&dir.join("lock")).map_err(fails)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(Error::InUse(dir.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(fails(error)),
        }
        let newest = Newest::find(dir).map_err(fails)?;
        let mut log = Self {
            dir: dir.to_owned(),
            file: open(&newest.path).map_err(fails)?,
            n_bytes: newest.n_bytes,
            head: newest.head,
            max_file_bytes,
            _lock: lock,
        };
        if newest.is_torn {
            // What a crash has left is nobody's record; it ends here, so that the next line is whole.
            log.write(b"\n").map_err(fails)?;
        }
        sync_dir(dir).map_err(fails)?;
        Ok(log)
    }

    /// The last record.
    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Appends records. If this fails the log is of no use any more, and is to be opened again.
    pub(crate) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if self.n_bytes >= self.max_file_bytes {
            self.file = open(&path(&self.dir, self.head.sequence + 1))?;
            self.n_bytes = 0;
            sync_dir(&self.dir)?;
        }
        let mut head = self.head.clone();
        let mut lines = String::new();
        for record in records {
            let (line, next) = head.seal(record);
            lines.push_str(&line);
            lines.push('\n');
            head = next;
        }
        self.write(lines.as_bytes())?;
        self.head = head;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.file.sync_data()?;
        self.n_bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Where a log goes on.
struct Newest {
    path: PathBuf,
    head: Head,
    n_bytes: u64,
    is_torn: bool,
}

// === impl Newest ===

impl Newest {
    fn find(dir: &Path) -> io::Result<Self> {
        let files = files(dir)?;
        let mut newest = None;
        for path in files.iter().rev() {
            let bytes = fs::read(path)?;
            let (name, n_bytes, is_torn) = newest.take().unwrap_or((
                path.clone(),
                bytes.len() as u64,
                bytes.last().is_some_and(|it| *it != b'\n'),
            ));
            // A line that is no record is passed by; whoever checks the log is told of it.
            let mut lines = bytes.split(|it| *it == b'\n').rev();
            let last = lines.find_map(|it| Some((it, Head::before(it).ok()?)));
            if let Some((line, before)) = last
                && let Ok(head) = before.follow(line)
            {
                return Ok(Self {
                    path: name,
                    head,
                    n_bytes,
                    is_torn,
                });
            }
            newest = Some((name, n_bytes, is_torn));
        }
        let (path, n_bytes, is_torn) = newest.unwrap_or((path(dir, 1), 0, false));
        Ok(Self {
            path,
            head: Head::begin(),
            n_bytes,
            is_torn,
        })
    }
}

/// The files of a log, oldest first.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|it| it.to_str());
        if name.is_some_and(|it| it.starts_with(PREFIX) && it.ends_with(SUFFIX)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{first:020}{SUFFIX}"))
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
