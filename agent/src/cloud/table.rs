//! Who waits for what from the cloud: questions by the id of their request, and the messages that the broker has not
//! confirmed.
//!
//! A question that is asked anew while an earlier one of its id is on its way out takes the place over: a [`Seat`] knows which
//! of the two it is, so that leaving it does not take the later one's place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hedge_link::{Outcome, PublishId};
use hedge_wire::{GatewayId, Grant, Reply, RequestId};
use tokio::sync::mpsc;

/// News that may wait for one question: the replies and acks of two attempts, two parts, and some to spare.
pub(super) const NEWS_PER_QUESTION: usize = 16;

/// What a question hears.
#[derive(Clone, Debug)]
pub(super) enum News {
    Reply(Reply),
    Granted(Grant),
    /// The broker's word on one of its messages.
    Published(Message, Outcome),
    /// This gateway is not there any more.
    GatewayGone(GatewayId),
    LinkDown,
}

/// A message of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// The query, or the offer of it.
    Question,
    /// A part of the query.
    Part(u32),
}

/// All questions under way.
#[derive(Default)]
pub(super) struct Table(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    questions: HashMap<RequestId, Entry>,
    publishes: HashMap<PublishId, (RequestId, Message)>,
    entered: u64,
}

struct Entry {
    number: u64,
    news: mpsc::Sender<News>,
}

/// A question's place in the table; leaving it makes later replies late.
pub(super) struct Seat {
    table: Arc<Table>,
    id: RequestId,
    number: u64,
    news: mpsc::Receiver<News>,
}

impl Table {
    /// Enters a question, before its first message.
    pub(super) fn enter(self: &Arc<Self>, id: RequestId) -> Seat {
        let (sender, news) = mpsc::channel(NEWS_PER_QUESTION);
        let mut entries = self.entries();
        entries.entered += 1;
        let number = entries.entered;
        entries.questions.insert(id, Entry { number, news: sender });
        drop(entries);
        Seat { table: Arc::clone(self), id, number, news }
    }

    /// Sends a message by `publish`, under the lock, so that the broker's word on it cannot come before the entry.
    pub(super) fn send<E>(
        &self,
        id: RequestId,
        message: Message,
        publish: impl FnOnce() -> Result<PublishId, E>,
    ) -> Result<(), E> {
        let mut entries = self.entries();
        let publish = publish()?;
        entries.publishes.insert(publish, (id, message));
        Ok(())
    }

    /// Tells one question; false where nobody waits under the id, or so much waits to be heard there that this cannot.
    pub(super) fn tell(&self, id: &RequestId, news: News) -> bool {
        let sender = self.entries().questions.get(id).map(|entry| entry.news.clone());
        sender.is_some_and(|sender| sender.try_send(news).is_ok())
    }

    /// Tells every question.
    pub(super) fn tell_all(&self, news: &News) {
        let senders: Vec<_> = self.entries().questions.values().map(|entry| entry.news.clone()).collect();
        for sender in senders {
            let _ = sender.try_send(news.clone());
        }
    }

    /// The broker's word on a message.
    pub(super) fn published(&self, publish: PublishId, outcome: Outcome) {
        let sent = self.entries().publishes.remove(&publish);
        if let Some((id, message)) = sent {
            self.tell(&id, News::Published(message, outcome));
        }
    }

    /// The broker will say nothing more about what was sent.
    pub(super) fn forget_publishes(&self) {
        self.entries().publishes.clear();
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Table {
    /// Questions, and messages without the broker's word.
    pub(super) fn len(&self) -> (usize, usize) {
        let entries = self.entries();
        (entries.questions.len(), entries.publishes.len())
    }
}

impl Seat {
    pub(super) fn id(&self) -> RequestId {
        self.id
    }

    /// The next news; pending for ever once another question has taken the place over.
    pub(super) async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut entries = self.table.entries();
        if entries.questions.get(&self.id).is_some_and(|entry| entry.number == self.number) {
            entries.questions.remove(&self.id);
        }
    }
}
