//! Who an agent is over restarts: a file in its data directory that is written once.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use hookfleet_contract::name::AgentId;

const FILE: &str = "identity";

/// Who an agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Unique in the fleet.
    pub agent_id: AgentId,
    /// Which journal is its own.
    pub journal_id: u128,
}

/// The identity cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refuses.
    #[error("cannot read or write the agent's identity")]
    Io(#[from] io::Error),
    /// The file is not an identity.
    #[error("the file with the agent's identity is damaged")]
    Damaged,
    /// The data is another agent's.
    #[error("the data directory belongs to agent {found}, not {asked}")]
    Other {
        /// Whose it is.
        found: AgentId,
        /// Who asks.
        asked: AgentId,
    },
}

impl Identity {
    /// The identity in `dir`. At the first start it is made: `agent_id`, or one of `random`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn load_or_create(
        dir: &Path,
        agent_id: Option<AgentId>,
        random: u128,
    ) -> Result<Self, Error> {
        fs::create_dir_all(dir)?;
        let path = dir.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let found = Self::parse(&text).ok_or(Error::Damaged)?;
                match agent_id {
                    Some(asked) if asked != found.agent_id => Err(Error::Other {
                        found: found.agent_id,
                        asked,
                    }),
                    Some(_) | None => Ok(found),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = || format!("agent-{:08x}", random >> 96).parse().ok();
                let identity = Self {
                    agent_id: agent_id.or_else(made).ok_or(Error::Damaged)?,
                    journal_id: random,
                };
                identity.write(dir, &path)?;
                Ok(identity)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (agent_id, journal_id) = text.trim_end().split_once(' ')?;
        Some(Self {
            agent_id: agent_id.parse().ok()?,
            journal_id: u128::from_str_radix(journal_id, 16).ok()?,
        })
    }

    fn write(&self, dir: &Path, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&new)?;
        writeln!(file, "{} {:032x}", self.agent_id, self.journal_id)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        fs::File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let made = Identity::load_or_create(dir.path(), None, 7).unwrap();
        assert_eq!(Identity::load_or_create(dir.path(), None, 8).unwrap(), made);
        let other = Identity::load_or_create(dir.path(), Some("other".parse().unwrap()), 9);
        assert!(matches!(other, Err(Error::Other { .. })));
    }
}
