//! Certificates and keys on disk, read again when they change. What is made of them is not known here.
//!
//! **Invariant:** what is in force was read whole, and goes on until the files say something else that can be used.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use zeroize::Zeroizing;

use super::Error;

/// Certificates live for hours; whoever replaces files waits for nothing. Reading three small ones takes microseconds.
const POLL: Duration = Duration::from_secs(1);

/// Where the files are, all of them PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The certificate to show, its issuers after it, and the file of its key.
    pub own: Option<(PathBuf, PathBuf)>,
    /// The authorities whose certificates are believed.
    pub authorities: Option<PathBuf>,
}

/// What they say.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pem {
    pub(super) own: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    pub(super) authorities: Option<Vec<u8>>,
}

/// What was made of files, as they are now. Cheap to clone; the files are looked at as long as there is one.
pub(super) struct Reloaded<T>(watch::Receiver<Arc<T>>);

/// Makes something of what files say.
type Make<T> = fn(&Files, &Pem) -> Result<T, Error>;

/// Reads a file that nobody but its owner can read; where somebody else owns it, as Kubernetes does what it mounts, our
/// group may.
///
/// # Errors
/// `PermissionDenied` if others can.
pub fn read_private(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    let others = if is_ours { 0o077 } else { 0o007 };
    if metadata.mode() & others != 0 {
        let message = "it can be read by others; `chmod 600` it";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

// === impl Files ===

impl Files {
    fn read(&self) -> Result<Pem, Error> {
        let own = self.own.as_ref().map(|(certificate, key)| {
            let key = named(key, read_private(key))?;
            let certificate = named(certificate, std::fs::read(certificate))?;
            Ok((certificate, Zeroizing::new(key)))
        });
        let authorities = self.authorities.as_ref();
        let authorities = authorities.map(|path| named(path, std::fs::read(path)));
        Ok(Pem {
            own: own.transpose()?,
            authorities: authorities.transpose()?,
        })
    }

    /// The authorities, of which there must be one at least.
    pub(super) fn authorities(&self, pem: &Pem) -> Result<Option<RootCertStore>, Error> {
        let Some((path, pem)) = self.authorities.as_ref().zip(pem.authorities.as_ref()) else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(Error::unusable)?;
            roots.add(certificate).map_err(Error::unusable)?;
        }
        if roots.is_empty() {
            return Err(Error::missing(path, "certificate"));
        }
        Ok(Some(roots))
    }
}

fn named<T>(path: &Path, read: io::Result<T>) -> Result<T, Error> {
    read.map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

// === impl Reloaded ===

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Makes something of the files, and again whenever they change. Must be called within a runtime.
    ///
    /// # Errors
    /// [`Error`], of the files as they are now.
    pub(super) fn start(files: Files, make: Make<T>) -> Result<Self, Error> {
        let pem = files.read()?;
        let (made, current) = watch::channel(Arc::new(make(&files, &pem)?));
        tokio::spawn(follow(files, pem, make, made));
        Ok(Self(current))
    }

    /// What no file says and never changes.
    pub(super) fn fixed(value: T) -> Self {
        Self(watch::channel(Arc::new(value)).1)
    }

    /// What is in force now.
    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits until something else is in force.
    pub(super) async fn changed_from(&self, old: &Arc<T>) {
        let mut current = self.0.clone();
        let is_new = |it: &Arc<T>| !Arc::ptr_eq(it, old);
        if current.wait_for(is_new).await.is_err() {
            // What is fixed never changes.
            std::future::pending::<()>().await;
        }
    }
}

/// Looks at the files until nobody needs what is made of them.
async fn follow<T>(files: Files, mut known: Pem, make: Make<T>, made: watch::Sender<Arc<T>>) {
    let mut seen = known.clone();
    let mut complaint = None;
    loop {
        tokio::select! {
            () = made.closed() => return,
            () = sleep(POLL) => {}
        }
        let reader = files.clone();
        let Ok(read) = spawn_blocking(move || reader.read()).await else {
            return;
        };
        let new = match read {
            Ok(pem) if pem == known => {
                complaint = None;
                continue;
            }
            // Whoever writes the files may be in the middle of it.
            Ok(pem) if pem != seen => {
                seen = pem;
                continue;
            }
            read => read.and_then(|pem| Ok((make(&files, &pem)?, pem))),
        };
        match new {
            Ok((new, pem)) => {
                tracing::info!(?files, "new certificates are in force");
                made.send_replace(Arc::new(new));
                (known, complaint) = (pem, None);
            }
            Err(error) => {
                let error = with_cause(&error);
                if complaint.as_ref() != Some(&error) {
                    tracing::warn!(?files, error, "the certificates as they were stay in force");
                    complaint = Some(error);
                }
            }
        }
    }
}

fn with_cause(error: &Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl<T> Clone for Reloaded<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Keys are not printed.
impl<T> std::fmt::Debug for Reloaded<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reloaded")
    }
}
