//! Whether a log is whole: follows its chain from the beginning.
//!
//! What nobody can see in a log alone is that its last records are missing: for that, [`Report`] has the last number and
//! hash, to be compared with what was written down elsewhere before.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    chain::{Broken, Head},
    log,
};

/// What a log has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The last record.
    pub head: Head,
    /// The number of the first record.
    pub first: u64,
    /// Lines that crashes have cut off before they were records.
    pub n_torn: u64,
}

/// A log is not whole, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A line is not the one that was written there.
    #[error("{path}: line {line} {why}", path = path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        why: Broken,
    },
    /// There is nothing to check.
    #[error("{0} has no audit log")]
    Nothing(PathBuf),
    /// The disk does not do it.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Checks the files of a directory, which begin with record `first`, or one file, which begins anywhere.
///
/// # Errors
/// See [`Error`].
pub fn check(path: &Path, first: u64) -> Result<Report, Error> {
    let fails = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let is_dir = path.is_dir();
    let files = match is_dir {
        true => log::files(path).map_err(fails(path))?,
        false => vec![path.to_owned()],
    };
    let mut walk = Walk {
        head: (is_dir && first == 1).then(Head::begin),
        first,
        n_torn: 0,
        torn: None,
        n_open: 0,
    };
    for file in &files {
        let bytes = fs::read(file).map_err(fails(file))?;
        walk.file(file, &bytes, is_dir)?;
    }
    walk.end(path)
}

/// How far the chain was followed.
struct Walk {
    head: Option<Head>,
    first: u64,
    n_torn: u64,
    /// Lines that are no records, since the last that is one, and where the first of them is: they are of crashes, each
    /// of another, if the chain goes on after them.
    torn: Option<(PathBuf, usize)>,
    n_open: u64,
}

// === impl Walk ===

impl Walk {
    fn file(&mut self, path: &Path, bytes: &[u8], is_bound: bool) -> Result<(), Error> {
        let mut lines: Vec<_> = bytes.split(|it| *it == b'\n').collect();
        // What is behind the last line end was never whole.
        let rest = lines.pop().unwrap_or_default();
        for (index, line) in lines.into_iter().enumerate() {
            let broken = |why| Error::Broken {
                path: path.to_owned(),
                line: index + 1,
                why,
            };
            let head = match self.head.take() {
                Some(head) => head,
                None => self.begin(line, is_bound).map_err(broken)?,
            };
            self.head = Some(match head.follow(line) {
                Ok(next) => {
                    self.torn = None;
                    self.n_torn += std::mem::take(&mut self.n_open);
                    next
                }
                Err(Broken::Torn) => {
                    self.n_open += 1;
                    self.torn
                        .get_or_insert_with(|| (path.to_owned(), index + 1));
                    head
                }
                Err(why) => return Err(broken(why)),
            });
        }
        self.n_torn += u64::from(!rest.is_empty());
        Ok(())
    }

    /// What is before the first line that there is.
    fn begin(&mut self, line: &[u8], is_bound: bool) -> Result<Head, Broken> {
        let before = Head::before(line)?;
        let found = before.sequence + 1;
        if is_bound && found != self.first {
            let expected = self.first;
            return Err(Broken::Order { found, expected });
        }
        self.first = found;
        Ok(before)
    }

    fn end(self, path: &Path) -> Result<Report, Error> {
        if let Some((path, line)) = self.torn {
            let why = Broken::Torn;
            return Err(Error::Broken { path, line, why });
        }
        match self.head {
            Some(head) if head.sequence >= self.first => Ok(Report {
                head,
                first: self.first,
                n_torn: self.n_torn,
            }),
            _ => Err(Error::Nothing(path.to_owned())),
        }
    }
}
