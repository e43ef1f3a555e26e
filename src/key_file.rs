//! Key files: 32 random bytes that seal secrets, kept apart from what they seal.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};

/// Reads the key, or makes one if there is no file.
pub(crate) fn load_or_create(path: &Path) -> anyhow::Result<[u8; 32]> {
    let made: [u8; 32] = rand::random();
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match file {
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
    let context = || format!("cannot read the key file {}", path.display());
    let mode = fs::metadata(path)
        .with_context(context)?
        .permissions()
        .mode();
    ensure!(
        mode & 0o077 == 0,
        "the key file {} can be read by others; `chmod 600` it",
        path.display()
    );
    let bytes = fs::read(path).with_context(context)?;
    let Ok(key) = <[u8; 32]>::try_from(bytes.as_slice()) else {
        bail!(
            "the key file {} has {} bytes, must have 32",
            path.display(),
            bytes.len()
        );
    };
    Ok(key)
}
