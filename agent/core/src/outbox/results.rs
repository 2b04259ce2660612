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
    /// Of the answers, of all and of those not fetched.
    bytes: u64,
    unfetched_bytes: u64,
    gone: Gone,
}

#[derive(Debug)]
struct Kept {
    digest: Digest,
    bytes: u64,
    expires: Duration,
    fetched: Option<u64>,
}

impl Results {
    pub(super) fn insert(&mut self, id: RequestId, digest: Digest, bytes: u64, expires: Duration) {
        self.kept.insert(id, Kept { digest, bytes, expires, fetched: None });
        self.bytes += bytes;
        self.unfetched_bytes += bytes;
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
        self.unfetched_bytes -= kept.bytes;
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

    /// Bytes of the answers that nobody fetched.
    pub(super) fn unfetched_bytes(&self) -> u64 {
        self.unfetched_bytes
    }

    pub(super) fn next_expiry(&self) -> Option<Duration> {
        self.by_expiry.first().map(|&(at, _)| at)
    }

    /// Takes out what has been kept for long enough, and the earliest fetched while there are more than `most` of these or all
    /// answers together have more than `most_bytes`.
    pub(super) fn drop_old(&mut self, now: Duration, most: usize, most_bytes: u64) -> Vec<RequestId> {
        let mut dropped = Vec::new();
        while let Some(&(_, id)) = self.by_expiry.first().filter(|(expires, _)| *expires <= now) {
            self.remove(&id);
            dropped.push(id);
        }
        while let Some((_, &id)) = self.fetched.first_key_value() {
            if self.fetched.len() <= most && self.bytes <= most_bytes {
                break;
            }
            self.remove(&id);
            dropped.push(id);
        }
        dropped
    }

    fn remove(&mut self, id: &RequestId) {
        let kept = self.kept.remove(id).expect("every expiry and every fetch is of a kept result");
        self.by_expiry.remove(&(kept.expires, *id));
        self.bytes -= kept.bytes;
        match kept.fetched {
            Some(at) => drop(self.fetched.remove(&at)),
            None => self.unfetched_bytes -= kept.bytes,
        }
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
