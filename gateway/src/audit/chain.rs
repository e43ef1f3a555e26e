//! How records hold on to each other: each line has the hash of the line before, and its own. Pure.
//!
//! **Invariant:** whoever changes, removes, adds or moves a line changes the hash of every line after it.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::record::Record;

/// What the hash of a line stands behind, and what is behind it.
const BEFORE: &str = ",\"hash\":\"";
const AFTER: &str = "\"}";
const HASH_CHARACTERS: usize = 64;

/// The last record of a chain: its number, counted from 1, and its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number; 0 before the first.
    pub sequence: u64,
    /// SHA-256 in hexadecimal.
    pub hash: String,
}

/// Why a line does not go on with a chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It does not end as records do.
    #[error("is not a whole record")]
    Torn,
    /// It is not what was written.
    #[error("was altered")]
    Altered,
    /// It was written, after another than the one before it.
    #[error(
        "is record {found} and not {expected}, or follows another record than the one before it"
    )]
    Order {
        /// The number that it has.
        found: u64,
        /// The number that follows.
        expected: u64,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    previous: &'a str,
    #[serde(flatten)]
    record: &'a Record,
}

#[derive(Deserialize)]
struct Place {
    sequence: u64,
    previous: String,
}

// === impl Head ===

impl Head {
    /// Before the first record.
    #[must_use]
    pub fn begin() -> Self {
        Self {
            sequence: 0,
            hash: "0".repeat(HASH_CHARACTERS),
        }
    }

    /// The line of the next record, and the head that it is.
    pub(crate) fn seal(&self, record: &Record) -> (String, Self) {
        let sequence = self.sequence + 1;
        let line = Line {
            sequence,
            previous: &self.hash,
            record,
        };
        let Ok(mut line) = serde_json::to_string(&line) else {
            unreachable!("texts and numbers can be written as JSON")
        };
        let hash = hash(&line);
        line.truncate(line.len() - 1);
        line.push_str(&format!("{BEFORE}{hash}{AFTER}"));
        (line, Self { sequence, hash })
    }

    /// The head that a line is, if it goes on with the chain.
    ///
    /// # Errors
    /// See [`Broken`].
    pub fn follow(&self, line: &[u8]) -> Result<Self, Broken> {
        let (place, head) = read(line)?;
        if head.sequence != self.sequence + 1 || place.previous != self.hash {
            return Err(Broken::Order {
                found: head.sequence,
                expected: self.sequence + 1,
            });
        }
        Ok(head)
    }

    /// What was before a line, as it says itself: for a chain whose beginning is elsewhere.
    ///
    /// # Errors
    /// See [`Broken`].
    pub fn before(line: &[u8]) -> Result<Self, Broken> {
        let (place, head) = read(line)?;
        Ok(Self {
            sequence: head.sequence.saturating_sub(1),
            hash: place.previous,
        })
    }
}

/// Where a line says that it is, and the head that it is by its own words.
fn read(line: &[u8]) -> Result<(Place, Head), Broken> {
    let line = std::str::from_utf8(line).map_err(|_| Broken::Altered)?;
    let rest = line.strip_suffix(AFTER).ok_or(Broken::Torn)?;
    let split = rest.len().checked_sub(HASH_CHARACTERS);
    let (rest, said) = split
        .and_then(|at| rest.split_at_checked(at))
        .ok_or(Broken::Torn)?;
    let record = rest.strip_suffix(BEFORE).ok_or(Broken::Torn)?.to_owned() + "}";
    if hash(&record) != said {
        return Err(Broken::Altered);
    }
    let place: Place = serde_json::from_str(&record).map_err(|_| Broken::Altered)?;
    let head = Head {
        sequence: place.sequence,
        hash: said.to_owned(),
    };
    Ok((place, head))
}

fn hash(text: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(text).into();
    digest.iter().map(|it| format!("{it:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many lines, one after another.
    fn lines(count: u64) -> Vec<String> {
        let mut head = Head::begin();
        let seal = |number| {
            let record = Record::unrecorded(format!("time {number}"), number);
            let (line, next) = head.seal(&record);
            head = next;
            line
        };
        (0..count).map(seal).collect()
    }

    fn follow(lines: &[String]) -> Result<Head, Broken> {
        lines
            .iter()
            .try_fold(Head::begin(), |head, line| head.follow(line.as_bytes()))
    }

    #[test]
    fn a_chain_is_followed_to_its_head() {
        let lines = lines(5);
        let head = follow(&lines).unwrap();
        assert_eq!(head.sequence, 5);
        assert!(lines[4].ends_with(&format!("\"{}\"}}", head.hash)));
        let before = Head::before(lines[3].as_bytes()).unwrap();
        assert_eq!(before, follow(&lines[..3]).unwrap());
    }

    #[test]
    fn every_byte_counts() {
        let lines = lines(3);
        for index in 0..lines[1].len() {
            let mut changed = lines[1].clone().into_bytes();
            changed[index] ^= 1;
            let head = follow(&lines[..1]).unwrap();
            let followed = head.follow(&changed);
            assert!(followed.is_err(), "byte {index}");
        }
    }

    #[test]
    fn what_is_removed_moved_or_forged_breaks_the_chain() {
        let lines = lines(4);
        let order = |lines: &[&String]| {
            let lines: Vec<_> = lines.iter().map(|it| (*it).clone()).collect();
            matches!(follow(&lines), Err(Broken::Order { .. }))
        };
        let [a, b, c, d] = &lines[..] else { panic!() };
        assert!(order(&[a, c, d]), "removed");
        assert!(order(&[b, c, d]), "removed at the beginning");
        assert!(order(&[a, c, b, d]), "moved");
        assert!(order(&[a, b, b]), "repeated");
        // A record whose own hash is right is found out by the next.
        let (forged, _) = follow(&lines[..1])
            .unwrap()
            .seal(&Record::unrecorded("another time".to_owned(), 9));
        assert!(order(&[a, &forged, c]), "forged");
        let torn = &lines[1].as_bytes()[..lines[1].len() - 1];
        assert_eq!(follow(&lines[..1]).unwrap().follow(torn), Err(Broken::Torn));
    }
}
