//! What a caller who handed in a request holds: news of its rows as they come.

use bytes::Bytes;
use hedge_agent_core::outbox::{Ending, NotAccepted};
use hedge_wire::{Digest, RequestId};
use tokio::sync::{mpsc, watch};

/// News of one row: it is accepted, then it ends. (A refusal, or the news of an earlier result, comes alone.)
const NEWS_OF_A_ROW: usize = 2;

/// A row that is handed in.
#[derive(Clone, Debug)]
pub(crate) struct Handed {
    pub(crate) id: RequestId,
    /// Of the payload.
    pub(crate) digest: Digest,
    pub(crate) payload: Bytes,
}

/// What became of a row.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// It will be answered, whatever happens.
    Accepted,
    /// Nothing of it is kept.
    Refused(NotAccepted),
    /// It ended.
    Ended(Ending<Bytes>),
    /// It had ended before; its result is in the store.
    Known,
}

/// How far a request has come.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Of each row; none before it is accepted.
    rows: Vec<Option<Row>>,
    news: mpsc::Receiver<(usize, News)>,
    closing: watch::Receiver<bool>,
}

/// A row that was accepted.
#[derive(Clone, Debug)]
pub(crate) enum Row {
    Waits,
    Ended(Ending<Bytes>),
    /// Its end is in the store.
    Known,
}

/// What waiting came to.
#[derive(Debug)]
pub(crate) enum Waited {
    /// Every row has ended.
    Ended(Vec<Row>),
    /// Every row is accepted.
    Accepted,
    /// The agent is about to stop, or is gone.
    Closing,
    /// A row was refused, and so is the request.
    Refused(NotAccepted),
}

/// Room for all that can be told about so many rows.
pub(super) fn news_of(rows: usize) -> usize {
    (rows * NEWS_OF_A_ROW).max(1)
}

impl Handed {
    pub(crate) fn new(id: RequestId, payload: Bytes) -> Self {
        Self { id, digest: Digest::of(&payload), payload }
    }
}

impl Ticket {
    pub(super) fn new(rows: usize, news: mpsc::Receiver<(usize, News)>, closing: watch::Receiver<bool>) -> Self {
        Self { rows: vec![None; rows], news, closing }
    }

    /// Whether every row is accepted: then the request is.
    pub(crate) fn is_accepted(&self) -> bool {
        self.rows.iter().all(Option::is_some)
    }

    /// Waits until the request has ended; nothing is lost when it is dropped while it waits.
    pub(crate) async fn ended(&mut self) -> Waited {
        loop {
            if let Some(ended) = self.all_ended() {
                return Waited::Ended(ended);
            }
            let accepted = self.is_accepted();
            let news = tokio::select! {
                biased;
                news = self.news.recv() => news,
                // A dropped sender means the same. What is being accepted is waited for: it takes one write.
                _ = self.closing.wait_for(|closing| *closing), if accepted => return Waited::Closing,
            };
            if let Err(waited) = self.take(news) {
                return waited;
            }
        }
    }

    /// Waits until the request is accepted; nothing is lost when it is dropped while it waits.
    pub(crate) async fn accepted(&mut self) -> Waited {
        while !self.is_accepted() {
            let news = self.news.recv().await;
            if let Err(waited) = self.take(news) {
                return waited;
            }
        }
        Waited::Accepted
    }

    /// Takes in news; what waiting came to where they are the last.
    fn take(&mut self, news: Option<(usize, News)>) -> Result<(), Waited> {
        let (row, state) = match news.ok_or(Waited::Closing)? {
            (_, News::Refused(why)) => return Err(Waited::Refused(why)),
            (row, News::Accepted) => (row, Row::Waits),
            (row, News::Ended(ending)) => (row, Row::Ended(ending)),
            (row, News::Known) => (row, Row::Known),
        };
        self.rows[row] = Some(state);
        Ok(())
    }

    fn all_ended(&self) -> Option<Vec<Row>> {
        let ended = self.rows.iter().map(|row| row.clone().filter(|row| !matches!(row, Row::Waits)));
        ended.collect()
    }
}
