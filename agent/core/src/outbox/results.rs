//! Which results are kept, for how long, and which ids had one: the store has the results themselves.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use hedge_wire::{Digest, RequestId};

use super::Standing;

/// Ids remembered after their result was dropped, in memory only.
const GONE: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Results {
    kept: HashMap<RequestId, Kept>,
    by_expiry: BTreeSet<(Duration, RequestId)>,
    /// Those fetched, in that order.
    fetched: BTreeMap<u64, RequestId>,
    fetches: u64,
    gone: Gone,
}

#[derive(Debug)]
struct Kept {
    digest: Digest,
    expires: Duration,
    fetched: Option<u64>,
}

impl Results {
    pub(super) fn insert(&mut self, id: RequestId, digest: Digest, expires: Duration) {
        self.kept.insert(id, Kept { digest, expires, fetched: None });
        self.by_expiry.insert((expires, id));
    }

    /// The digest of the payload whose result is kept under `id`.
    pub(super) fn digest(&self, id: &RequestId) -> Option<Digest> {
        self.kept.get(id).map(|kept| kept.digest)
    }

    /// True if that is news.
    pub(super) fn fetch(&mut self, id: &RequestId) -> bool {
        let Some(kept) = self.kept.get_mut(id).filter(|kept| kept.fetched.is_none()) else { return false };
        self.fetches += 1;
        kept.fetched = Some(self.fetches);
        self.fetched.insert(self.fetches, *id);
        true
    }

    pub(super) fn standing(&self, id: &RequestId) -> Standing {
        match (self.kept.contains_key(id), self.gone.contains(id)) {
            (true, _) => Standing::Done,
            (false, true) => Standing::Gone,
            (false, false) => Standing::Unknown,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn unfetched(&self) -> usize {
        self.kept.len() - self.fetched.len()
    }

    pub(super) fn next_expiry(&self) -> Option<Duration> {
        self.by_expiry.first().map(|&(at, _)| at)
    }

    /// Takes out what has been kept for long enough, and the earliest fetched of more than `most` of these.
    pub(super) fn drop_old(&mut self, now: Duration, most: usize) -> Vec<RequestId> {
        let mut dropped = Vec::new();
        while let Some(&(_, id)) = self.by_expiry.first().filter(|(expires, _)| *expires <= now) {
            self.remove(&id);
            dropped.push(id);
        }
        while self.fetched.len() > most {
            let (_, id) = self.fetched.pop_first().expect("more than `most` are not none");
            self.remove(&id);
            dropped.push(id);
        }
        dropped
    }

    fn remove(&mut self, id: &RequestId) {
        let kept = self.kept.remove(id).expect("every expiry and every fetch is of a kept result");
        self.by_expiry.remove(&(kept.expires, *id));
        kept.fetched.map(|at| self.fetched.remove(&at));
        self.gone.insert(*id);
    }
}

/// The last ids whose result was dropped.
#[derive(Debug, Default)]
struct Gone {
    ids: HashSet<RequestId>,
    order: VecDeque<RequestId>,
}

impl Gone {
    fn contains(&self, id: &RequestId) -> bool {
        self.ids.contains(id)
    }

    fn insert(&mut self, id: RequestId) {
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > GONE {
            let oldest = self.order.pop_front().expect("more than none");
            self.ids.remove(&oldest);
        }
    }
}
