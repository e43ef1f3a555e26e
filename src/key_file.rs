//! Key files: 32 random bytes that seal secrets, kept apart from what they seal, and API keys. Nobody but their owner may
//! read them; where somebody else owns them, as Kubernetes does what it mounts, our group may.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, bail};
use hookfleet_gateway::{auth::key::ApiKey, tls::files::read_private};
use zeroize::Zeroizing;

/// Reads the key, or makes one if there is no file.
pub(crate) fn load_or_create(path: &Path) -> anyhow::Result<[u8; 32]> {
    let made: [u8; 32] = rand::random();
    match create(path) {
        Ok(mut file) => {
            file.write_all(&made)
                .and_then(|()| file.sync_all())
                .with_context(|| format!("cannot write the key file {}", path.display()))?;
            Ok(made)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => load(path),
        Err(error) => {
            Err(error).with_context(|| format!("cannot create the key file {}", path.display()))
        }
    }
}

/// Reads the key.
pub(crate) fn load(path: &Path) -> anyhow::Result<[u8; 32]> {
    let bytes = read(path)?;
    let Ok(key) = <[u8; 32]>::try_from(bytes.as_slice()) else {
        bail!(
            "the key file {} has {} bytes, must have 32",
            path.display(),
            bytes.len()
        );
    };
    Ok(key)
}

/// Writes an API key into a new file.
///
/// # Errors
/// Also if the file exists.
pub(crate) fn write_api_key(path: &Path, key: &ApiKey) -> io::Result<()> {
    let mut file = create(path)?;
    writeln!(file, "{}", *key.reveal())?;
    file.sync_all()
}

/// Reads an API key.
pub(crate) fn load_api_key(path: &Path) -> anyhow::Result<ApiKey> {
    let text = Zeroizing::new(read(path)?);
    let key = std::str::from_utf8(&text)
        .ok()
        .and_then(|it| it.trim().parse().ok());
    key.with_context(|| format!("{} has no API key", path.display()))
}

/// A new file that nobody else can read.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// Reads a file that nobody else can read.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let context = || format!("cannot read the key file {}", path.display());
    read_private(path).with_context(context)
}
