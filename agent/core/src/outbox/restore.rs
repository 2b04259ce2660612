//! An outbox from what the store holds after a restart.

use std::collections::HashMap;
use std::time::Duration;

use hedge_wire::{BootId, RequestId};

use super::Outbox;
use super::entry::{Entry, RESTAMP_AT_LEAST, Stage};
use super::event::{Ending, HasBytes, Head, OutboxAction, ResultHead};
use super::settings::OutboxSettings;

/// What the store found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Saved {
    /// An entry.
    Entry(Head),
    /// An entry whose payload is damaged.
    Damaged(Head),
    /// A result. One that cannot be read is a result as well: it was given, and is not to be found out a second time.
    Result(ResultHead),
}

/// What was being executed or sent when the last process ended, each with its attempts as the action had them. Only a process
/// that was killed leaves this behind; after a reboot nobody knows.
pub type UnderWay = HashMap<RequestId, u8>;

/// The attempts that are held against requests when a process begins, by what was under way when the last one was killed. Its own
/// marks begin with them: they stand, whatever becomes of this process, until the request is tried again.
#[must_use]
pub fn held(saved: &[Saved], under_way: Option<&UnderWay>) -> UnderWay {
    let heads = saved.iter().filter_map(|saved| match saved {
        Saved::Entry(head) => Some((head.id, held_against(head, under_way))),
        Saved::Damaged(_) | Saved::Result(_) => None,
    });
    heads.filter(|&(_, attempts)| attempts > 0).collect()
}

/// The last attempt is none if it is known not to have been under way.
fn held_against(head: &Head, under_way: Option<&UnderWay>) -> u8 {
    let was_under_way = under_way.is_none_or(|marks| marks.get(&head.id) == Some(&head.attempts));
    head.attempts.saturating_sub(u8::from(!was_under_way))
}

impl<A: HasBytes> Outbox<A> {
    /// Goes on from what the store holds, in the order in which it was accepted. The cloud counts as not reachable until
    /// [`CloudUp`](super::OutboxEvent::CloudUp).
    ///
    /// The store has made a barrier before: what a killed process wrote and nobody synced would be read here, told to a caller,
    /// and lost with the next power cut.
    ///
    /// An attempt is on the disk from before it begins until its end is: a process that is killed meanwhile, by whomever, need
    /// not have died of it. So an attempt that was not `under_way` is none; where that is not known, all of them count.
    pub fn restore(
        settings: OutboxSettings,
        boot: BootId,
        seed: u64,
        saved: Vec<Saved>,
        under_way: Option<&UnderWay>,
        now: Duration,
    ) -> (Self, Vec<OutboxAction<A>>) {
        let (mut outbox, mut actions) = (Self::new(settings, boot, seed), Vec::new());
        let mut entries = Vec::new();
        for item in saved {
            match item {
                Saved::Result(head) => outbox.restore_result(&head, now),
                Saved::Entry(head) => entries.push((head, true)),
                Saved::Damaged(head) => entries.push((head, false)),
            }
        }
        for (head, intact) in entries {
            // An id has a result or an entry, never both; should a store forget that, what was delivered stands.
            if outbox.results.digest(&head.id).is_none() {
                outbox.restore_entry(head, intact, under_way, now, &mut actions);
            }
        }
        outbox.settle(now, &mut actions);
        (outbox, actions)
    }

    fn restore_result(&mut self, head: &ResultHead, now: Duration) {
        self.results.insert(head.id, head.digest, head.bytes, head.expiry.resume(self.boot, now));
        if head.fetched {
            self.results.fetch(&head.id);
        }
    }

    fn restore_entry(
        &mut self,
        mut head: Head,
        intact: bool,
        under_way: Option<&UnderWay>,
        now: Duration,
        actions: &mut Vec<OutboxAction<A>>,
    ) {
        let expires = head.expiry.resume(self.boot, now);
        let held = held_against(&head, under_way);
        let is_less = std::mem::replace(&mut head.attempts, held) != held;
        let mut entry = Entry::new(&head, expires, now, Stage::Turn);
        entry.suspect = head.attempts > 0;
        // Soon, so that a machine that is restarted over and over uses up lives all the same.
        entry.restamp_at = now + RESTAMP_AT_LEAST;
        // What was placed may have been sent.
        entry.sends = u8::from(head.placed);
        let poisoned = head.attempts >= self.settings.poison_after;
        let seq = self.insert(entry);
        if !intact {
            self.finish(seq, Ending::Damaged, now, actions);
        } else if poisoned {
            self.finish(seq, Ending::Poisoned { attempts: head.attempts }, now, actions);
        } else if is_less {
            self.note(seq, now, actions);
        }
    }
}
