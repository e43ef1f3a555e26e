//! Who may call this process, and what it shows the processes that it calls.

use std::{io, path::Path};

use anyhow::Context as _;
use hookfleet_control_plane::{
    ControlPlane,
    bootstrap::{Bootstrap, FirstKeys},
};
use hookfleet_gateway::{
    auth::{
        Auth,
        key::ApiKey,
        keyring::Keyring,
        principal::{Principal, Reach},
        scope::Scope,
    },
    clock::Clock,
    peers::Authorization,
};

use crate::key_file;

/// Both.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) auth: Auth,
    pub(crate) authorization: Authorization,
}

// === impl Access ===

impl Access {
    /// Whoever reaches the listener may do everything.
    pub(crate) fn open() -> Self {
        Self {
            auth: Auth::off(),
            authorization: Authorization::default(),
        }
    }

    /// Of a process that calls nobody but itself, with a key that lives as long as it does. The first key for others is
    /// written into `first_key_file`.
    pub(crate) async fn standalone(
        control_plane: &ControlPlane,
        first_key_file: &Path,
    ) -> anyhow::Result<Self> {
        let write = |keys: &FirstKeys| key_file::write_api_key(first_key_file, &keys.operator);
        first_keys(control_plane, first_key_file, write).await?;
        Ok(Self::own(control_plane.keyring()))
    }

    /// Of the parts of this process among themselves.
    pub(crate) fn within() -> Self {
        Self::own(Keyring::default())
    }

    fn own(keyring: Keyring) -> Self {
        let own = ApiKey::generate(rand::random);
        let scopes = [Scope::AgentsRegister].into_iter().collect();
        let principal = Principal::new("this process", Reach::Fleet, scopes);
        Self {
            auth: Auth::on(keyring, Clock::system()).with_own_key(&own, principal),
            authorization: Authorization::with(&own),
        }
    }

    /// Of a control plane. The very first one writes both files; others need a copy of the fleet's, unless they show
    /// certificates.
    pub(crate) async fn control_plane(
        control_plane: &ControlPlane,
        first_key_file: &Path,
        fleet_key_file: &Path,
        shows_certificate: bool,
    ) -> anyhow::Result<Self> {
        let write = |keys: &FirstKeys| {
            key_file::write_api_key(first_key_file, &keys.operator)?;
            key_file::write_api_key(fleet_key_file, &keys.fleet)
        };
        if first_keys(control_plane, first_key_file, write).await? == Bootstrap::Lost {
            std::fs::remove_file(fleet_key_file).context("cannot remove a key of no use")?;
        }
        Ok(Self {
            auth: Auth::on(control_plane.keyring(), Clock::system()),
            authorization: of_fleet(fleet_key_file, shows_certificate)?,
        })
    }
}

/// What a part of a fleet shows the others on each call: nothing if its connections show a certificate.
pub(crate) fn of_fleet(
    fleet_key_file: &Path,
    shows_certificate: bool,
) -> anyhow::Result<Authorization> {
    if shows_certificate {
        return Ok(Authorization::default());
    }
    let key = key_file::load_api_key(fleet_key_file);
    let key = key.context(
        "processes of a fleet call each other with the key that the first control plane has written: copy it, or make one \
         with `hookfleet key create --scope agents.register`",
    )?;
    Ok(Authorization::with(&key))
}

async fn first_keys(
    control_plane: &ControlPlane,
    first_key_file: &Path,
    write: impl FnOnce(&FirstKeys) -> io::Result<()>,
) -> anyhow::Result<Bootstrap> {
    let became = control_plane.first_keys(write).await?;
    match became {
        Bootstrap::Made => {
            let file = first_key_file.display();
            tracing::warn!(%file, "made the first key: it opens everything, and nobody else has it");
        }
        Bootstrap::Lost => {
            std::fs::remove_file(first_key_file).context("cannot remove a key of no use")?;
            tracing::info!("another control plane made the first keys");
        }
        Bootstrap::Before => {}
    }
    Ok(became)
}
