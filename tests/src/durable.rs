//! Durable requests by the thousand: handed in whatever happens to the agent, and at the end held to what was promised.
//!
//! A request counts as accepted once the agent has said so (200 or 202). Of each, every answer that was ever given is compared with
//! the first: so one that was lost, or answered twice and differently, is found.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::digits;
use crate::http::{Client, Response};

/// How long to wait before a request is handed in again that was not accepted.
const PAUSE: Duration = Duration::from_millis(20);

/// The requests of a run.
#[derive(Debug)]
pub struct Requests {
    images: Vec<Vec<u8>>,
    agent: RwLock<SocketAddr>,
    records: Mutex<Vec<Record>>,
    next: AtomicUsize,
    stop: AtomicBool,
    broken: Mutex<Vec<String>>,
}

/// Has the clients of a test that panics go, so that the test ends.
#[derive(Debug)]
pub struct StopOnPanic<'a>(pub &'a Requests);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

/// What is known of one request.
#[derive(Debug, Clone, Default)]
struct Record {
    accepted: bool,
    /// The first answer that was given, or the first error that ended it.
    end: Option<(u16, Vec<u8>)>,
}

/// What became of all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Those that the agent has accepted.
    pub accepted: usize,
    /// Of these, those that it knows nothing of any more, or that never ended.
    pub lost: usize,
    /// Those that got two different ends.
    pub twice: usize,
    /// Those that ended with an error.
    pub failed: usize,
    /// Those answered by the cloud.
    pub by_cloud: usize,
    /// What was not as promised, in words; the first few.
    pub broken: Vec<String>,
}

impl Requests {
    /// `count` requests to the agent at this address, of different images.
    #[must_use]
    pub fn new(seed: u64, count: usize, agent: SocketAddr) -> Self {
        Self {
            images: digits::images(seed, count),
            agent: RwLock::new(agent),
            records: Mutex::new(vec![Record::default(); count]),
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            broken: Mutex::default(),
        }
    }

    /// The agent is to be reached there from now on.
    pub fn moved_to(&self, agent: SocketAddr) {
        *self.agent.write().unwrap_or_else(PoisonError::into_inner) = agent;
    }

    /// No request is begun any more, and none that was not accepted is tried again.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// How many were begun.
    pub fn begun(&self) -> usize {
        self.next.load(Ordering::SeqCst).min(self.images.len())
    }

    /// Hands requests in, one after the other, until there is none left or [`Requests::stop`] is called. Each waits for its answer
    /// for `deadline`, and `pause` passes before the next. Several threads may do this at once.
    pub fn hand_in_all(&self, deadline: Duration, pause: Duration) {
        let mut caller = Caller::default();
        while !self.stop.load(Ordering::SeqCst) {
            let index = self.next.fetch_add(1, Ordering::SeqCst);
            if index >= self.images.len() {
                return;
            }
            self.hand_in(&mut caller, index, deadline);
            std::thread::sleep(pause);
        }
    }

    /// Hands one in, over and over until it is accepted or [`Requests::stop`] is called: under the same id, as the API asks for.
    fn hand_in(&self, caller: &mut Caller, index: usize, deadline: Duration) {
        let mut request = digits::request(&id(index), &[self.images[index].clone()]);
        request["parameters"] = json!({ "hedge.durable": true, "hedge.deadline_ms": deadline.as_millis() as u64 });
        let body = request.to_string();
        while !self.stop.load(Ordering::SeqCst) {
            match caller.client(self.agent()).post("/v2/models/digits/infer", &[], body.as_bytes()) {
                Ok(response) if self.took(index, &response) => return,
                Ok(_) => {}
                // It may have been accepted all the same: the next try joins it.
                Err(_) => caller.lost(),
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether the agent has taken the request over, or ended it.
    fn took(&self, index: usize, response: &Response) -> bool {
        match response.status {
            202 => self.records()[index].accepted = true,
            200 => self.ended(index, response),
            _ if response.json()["id"].is_string() => self.ended(index, response),
            429 | 503 => return false,
            status => self.breaks(&format!("request {index} got {status}: {}", response.text())),
        }
        true
    }

    fn ended(&self, index: usize, response: &Response) {
        let (end, mut records) = ((response.status, response.body.clone()), self.records());
        let record = &mut records[index];
        record.accepted = true;
        if record.end.as_ref().is_some_and(|first| *first != end) {
            let first = record.end.clone();
            drop(records);
            return self.breaks(&format!("request {index} ended twice: {first:?}, and with {}", response.text()));
        }
        let is_news = record.end.replace(end).is_none();
        drop(records);
        if is_news && response.status != 200 {
            self.breaks(&format!("request {index} failed with {}: {}", response.status, response.text()));
        }
    }

    /// Asks for the end of every request that was accepted, of those that have one as well, until all have one or `limit` passes.
    #[must_use]
    pub fn collect(&self, limit: Duration) -> Outcome {
        let (mut caller, until) = (Caller::default(), Instant::now() + limit);
        let accepted: Vec<usize> = (0..self.begun()).filter(|&index| self.records()[index].accepted).collect();
        let lost = accepted.iter().filter(|&&index| !self.is_answered(&mut caller, index, until)).count();
        let records = self.records();
        let ends = records.iter().filter_map(|record| record.end.as_ref());
        let by_cloud = |end: &&(u16, Vec<u8>)| String::from_utf8_lossy(&end.1).contains("\"hedge.source\":\"cloud\"");
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Outcome {
            accepted: accepted.len(),
            lost,
            twice: broken.iter().filter(|what| what.contains("ended twice")).count(),
            failed: ends.clone().filter(|end| end.0 != 200).count(),
            by_cloud: ends.filter(by_cloud).count(),
            broken,
        }
    }

    fn is_answered(&self, caller: &mut Caller, index: usize, until: Instant) -> bool {
        let path = format!("/hedge/v1/requests/{}", id(index));
        loop {
            match caller.client(self.agent()).get(&path) {
                Ok(response) if matches!(response.status, 404 | 410) => {
                    self.breaks(&format!("request {index} is lost: {}", response.text()));
                    return false;
                }
                Ok(response)
                    if response.status == 200 || response.json()["id"].is_string() && response.status != 202 =>
                {
                    self.ended(index, &response);
                    return true;
                }
                Ok(_) => {}
                Err(_) => caller.lost(),
            }
            if Instant::now() >= until {
                self.breaks(&format!("request {index} has no answer"));
                return false;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn breaks(&self, what: &str) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).push(what.to_owned());
    }

    fn agent(&self) -> SocketAddr {
        *self.agent.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outcome {
    /// Whether everything was kept that was promised, and no request failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.twice == 0 && self.failed == 0 && self.broken.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, lost, twice, failed, by_cloud, broken } = self;
        write!(
            f,
            "{accepted} accepted, {lost} lost, {twice} answered twice, {failed} failed, {by_cloud} answered by the cloud"
        )?;
        broken.iter().take(5).try_for_each(|what| write!(f, "\n{what}"))
    }
}

/// A connection to the agent wherever it is.
#[derive(Default)]
struct Caller(Option<(SocketAddr, Client)>);

impl Caller {
    fn client(&mut self, agent: SocketAddr) -> &mut Client {
        if self.0.as_ref().is_none_or(|(server, _)| *server != agent) {
            self.0 = Some((agent, Client::new(agent)));
        }
        &mut self.0.as_mut().expect("it was just put there").1
    }

    fn lost(&mut self) {
        self.0 = None;
    }
}

fn id(index: usize) -> String {
    format!("request-{index}")
}
