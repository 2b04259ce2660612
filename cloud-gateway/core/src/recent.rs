//! Replies that were given, for queries that come again: bounded by number, bytes and age, oldest out first.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    admission::{Key, Outcome},
    limits::Limits,
};

/// The remembered replies.
#[derive(Debug)]
pub(crate) struct Recent {
    replies: HashMap<Key, Stored>,
    /// Every key of `replies`, once, oldest first.
    order: VecDeque<(Instant, Key)>,
    bytes: usize,
    max_replies: usize,
    max_bytes: usize,
    max_age: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) body: Bytes,
    pub(crate) outcome: Outcome,
}

impl Recent {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            replies: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            max_replies: limits.replies,
            max_bytes: limits.reply_bytes,
            max_age: limits.reply_age,
        }
    }

    pub(crate) fn find(&self, key: &Key) -> Option<&Stored> {
        self.replies.get(key)
    }

    /// Remembers the reply to a query that is not remembered yet.
    pub(crate) fn remember(&mut self, now: Instant, key: Key, stored: Stored) {
        debug_assert!(!self.replies.contains_key(&key), "a remembered query is not run again");
        self.bytes += stored.body.len();
        self.order.push_back((now, key.clone()));
        self.replies.insert(key, stored);
        self.forget_old(now);
    }

    /// Forgets what is over a bound.
    pub(crate) fn forget_old(&mut self, now: Instant) {
        while let Some((since, _)) = self.order.front() {
            let old = now.saturating_duration_since(*since) > self.max_age;
            if !old && self.replies.len() <= self.max_replies && self.bytes <= self.max_bytes {
                return;
            }
            let (_, key) = self.order.pop_front().expect("the front was just seen");
            let stored = self.replies.remove(&key).expect("every ordered key has a reply");
            self.bytes -= stored.body.len();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.replies.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
