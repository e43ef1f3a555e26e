//! Puts whole revisions together from the messages of a watch.
//!
//! Pure. A message of a fragmented response may end inside a transaction, its header then says nothing about what was
//! delivered, and old servers repeat events. Invariant: what is handed out is whole revisions, each once, in order.

use crate::store::{Batch, Change, Revision};

#[derive(Debug)]
pub(super) struct Assembly {
    /// Everything up to here was handed out.
    last: Revision,
    /// The newest revision of a fragment, of which there may be more.
    held: Vec<Change>,
}

impl Assembly {
    pub(super) const fn new(after: Revision) -> Self {
        Self {
            last: after,
            held: Vec::new(),
        }
    }

    /// Where to watch from.
    pub(super) const fn last(&self) -> Revision {
        self.last
    }

    /// Forgets the beginning of a revision whose rest was lost with its stream.
    pub(super) fn restart(&mut self) {
        self.held.clear();
    }

    /// Takes the events of a message; `fragment` says that the response goes on in the next one.
    pub(super) fn take(
        &mut self,
        events: impl IntoIterator<Item = Change>,
        fragment: bool,
    ) -> Option<Batch> {
        let last = self.last;
        let new = events
            .into_iter()
            .filter(|change| change.mod_revision() > last);
        self.held.extend(new);
        let newest = self.held.last()?.mod_revision();
        let n_whole = if fragment {
            self.held
                .partition_point(|change| change.mod_revision() < newest)
        } else {
            self.held.len()
        };
        let changes: Vec<_> = self.held.drain(..n_whole).collect();
        self.last = changes.last()?.mod_revision();
        Some(Batch {
            changes,
            revision: self.last,
        })
    }

    /// Takes the server's word that it has sent everything up to `revision`.
    pub(super) fn progress(&mut self, revision: Revision) -> Option<Batch> {
        if revision <= self.last || !self.held.is_empty() {
            return None;
        }
        self.last = revision;
        Some(Batch {
            changes: Vec::new(),
            revision,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delete(key: &str, mod_revision: Revision) -> Change {
        let key = key.to_owned();
        Change::Delete { key, mod_revision }
    }

    fn batch(changes: &[Change], revision: Revision) -> Option<Batch> {
        let changes = changes.to_vec();
        Some(Batch { changes, revision })
    }

    #[test]
    fn a_revision_that_a_fragment_splits_is_handed_out_whole() {
        let [a, b, c, d] = [("a", 5), ("b", 6), ("c", 6), ("d", 7)].map(|(k, r)| delete(k, r));
        let mut assembly = Assembly::new(4);
        assert_eq!(assembly.take([a.clone(), b.clone()], true), batch(&[a], 5));
        assert_eq!(assembly.last(), 5, "revision 6 may go on");
        assert_eq!(assembly.take([c.clone()], true), None);
        assert_eq!(assembly.take([d.clone()], false), batch(&[b, c, d], 7));
    }

    #[test]
    fn what_was_held_when_the_stream_broke_comes_again_once() {
        let [a, b] = [("a", 5), ("b", 5)].map(|(k, r)| delete(k, r));
        let mut assembly = Assembly::new(4);
        assert_eq!(assembly.take([a.clone()], true), None);
        assembly.restart();
        assert_eq!(assembly.last(), 4);
        let both = [a, b];
        assert_eq!(assembly.take(both.clone(), false), batch(&both, 5));
    }

    #[test]
    fn repeated_events_are_dropped() {
        let [a, b] = [("a", 5), ("b", 6)].map(|(k, r)| delete(k, r));
        let mut assembly = Assembly::new(5);
        assert_eq!(assembly.take([a.clone()], false), None);
        assert_eq!(assembly.take([a, b.clone()], false), batch(&[b], 6));
    }

    #[test]
    fn progress_never_overtakes_a_held_revision_and_never_goes_back() {
        let mut assembly = Assembly::new(4);
        assert_eq!(assembly.progress(4), None);
        assert_eq!(assembly.progress(9), batch(&[], 9));
        assert_eq!(assembly.take([delete("a", 10)], true), None);
        assert_eq!(assembly.progress(12), None);
        assert_eq!(assembly.last(), 9);
    }
}
