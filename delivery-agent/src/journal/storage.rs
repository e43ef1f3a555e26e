//! The seam to the file system: what the log does to files, so that tests can make it fail.
//!
//! **Invariant:** a file from [`Storage::create`] has its space allocated; no call here retries.

use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io,
    path::Path,
    sync::Arc,
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// What the log asks of a directory.
pub(super) trait Storage: Debug + Send + Sync {
    /// A new file of `bytes` zeros.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn SegmentFile>>;
    /// An existing file, for reading.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    fn space(&self, dir: &Path) -> io::Result<Space>;
}

/// What the log asks of a file.
pub(super) trait SegmentFile: Debug + Send + Sync {
    /// May write less than asked.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// May read less than asked; nothing at the end.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// `fdatasync`: the content, and what is needed to read it.
    fn sync_data(&self) -> io::Result<()>;
    /// `fsync`.
    fn sync_all(&self) -> io::Result<()>;
}

/// How much room the disk has: bytes, and how many files more it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) free: u64,
    pub(super) free_files: u64,
    pub(super) total: u64,
}

/// The real one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk;

// === impl Disk ===

impl Storage for Disk {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn SegmentFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            // Some file systems cannot; a full disk is then a failed write.
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(bytes)?,
            Err(error) => {
                fs::remove_file(path)?;
                return Err(error.into());
            }
        }
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(File::open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let stat = statvfs(dir)?;
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            // Some file systems have no bound.
            free_files: if stat.f_files == 0 {
                u64::MAX
            } else {
                stat.f_favail
            },
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}

impl SegmentFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(self, bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, bytes, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }
}

/// Writes all of `bytes`. A short write goes on and an interrupted one is made again; nothing else
/// is.
pub(super) fn write_all(file: &dyn SegmentFile, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n_written) => {
                bytes = bytes.get(n_written..).unwrap_or_default();
                at += n_written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `bytes` is full or the file ends; returns how much.
pub(super) fn read_full(file: &dyn SegmentFile, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut n_read = 0;
    while n_read < bytes.len() {
        match file.read_at(&mut bytes[n_read..], at + n_read as u64) {
            Ok(0) => break,
            Ok(n) => n_read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n_read)
}
