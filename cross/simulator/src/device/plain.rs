//! Plain rows: carried out as the agent does it, one answer or failure each, at the latest at the deadline.

use std::collections::VecDeque;
use std::time::Duration;

use hedge_agent_core::{
    Action, Answer, Asking, CachedVerdict, Decision, Event, Failure, LocalFailure, LocalResult, Reason, RouteEvent,
    Row, RowPolicy, Source, Status, Timing,
};
use hedge_agent_core::{Ask, Offload};
use hedge_wire::{Purpose, Reply};

use super::caller::Question;
use super::host::Host;
use super::process::Process;
use super::{planted, router};
use crate::counts::Happening;
use crate::id::{Kind, id};
use crate::judge::{Rule, Site};
use crate::net::packet::Outcome;
use crate::payload::{Given, Payload, RunId, Trait, outputs, read_outputs};
use crate::plant::Plant;
use crate::queue::DeviceEvent;
use crate::shared::{CLOUD, Shared};

/// How long a row waits for its reply before it asks once more.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Rows that the local model takes at a time.
const ENGINE_QUEUE: usize = 3;

/// A row under way.
#[derive(Debug)]
pub(super) struct PlainRow {
    number: u16,
    row: Row,
    payload: Payload,
    running: bool,
    wake: Duration,
    wakes: u32,
    /// Whether replies find it.
    is_asked: bool,
    sent: u8,
}

impl PlainRow {
    /// Its process died, and its caller's connection with it.
    pub(super) fn cut_off(self, host: &Host, shared: &mut Shared) {
        shared.count(Happening::PlainCutOff);
        shared.judge.row_ended(host.index, self.number, shared.now);
    }
}

impl Process {
    /// A plain question is asked.
    pub(crate) fn begin_row(&mut self, number: u16, question: Question, host: &mut Host, shared: &mut Shared) {
        let Question { payload, place, allowed } = question;
        let policy =
            RowPolicy { place, offload: Offload::Auto, cloud_model: shared.model.clone(), asking: Asking::Now };
        let timing = Timing {
            arrived: host.now(shared),
            allowed,
            retry_after: RETRY_AFTER.min(allowed / 2),
            jitter: host.dice.fraction(),
        };
        let wake = timing.arrived + allowed;
        let row = PlainRow {
            number,
            row: Row::new(policy, timing),
            payload,
            running: false,
            wake,
            wakes: 0,
            is_asked: false,
            sent: 0,
        };
        self.rows.insert(number, row);
        host.at(wake, DeviceEvent::RowWake { row: number.into(), asked: 0 }, shared);
        self.feed_row(number, Event::Arrived, host, shared);
    }

    /// Gives a row an event and carries out what it wants, until it has to wait.
    fn feed_row(&mut self, number: u16, event: Event, host: &mut Host, shared: &mut Shared) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = host.now(shared);
            let Some(row) = self.rows.get_mut(&number) else { return };
            let index = host.index;
            shared.say(|| format!("d{index} row {number}: {event:?}"));
            for action in row.row.on(event, &self.view, now) {
                let next = self.perform_row(number, action, host, shared);
                events.extend(next);
            }
            self.check_row(number, now, host, shared);
        }
    }

    fn check_row(&self, number: u16, now: Duration, host: &Host, shared: &mut Shared) {
        let Some(row) = self.rows.get(&number) else { return };
        let deadline = row.row.deadline();
        let in_time = row.row.is_done() || now < deadline && row.wake <= deadline && row.sent <= 2;
        let what = || {
            let (wake, sent) = (row.wake, row.sent);
            format!(
                "d{} row {number} waits at {now:?} until {wake:?}, its deadline is {deadline:?}, sent {sent} times",
                host.index
            )
        };
        shared.require(in_time, Rule::RowInTime, what);
    }

    fn perform_row(&mut self, number: u16, action: Action, host: &mut Host, shared: &mut Shared) -> Option<Event> {
        let index = host.index;
        shared.say(|| format!("d{index} row {number} wants: {action:?}"));
        let payload = self.rows.get(&number)?.payload;
        match action {
            Action::LookUp { local, cloud } => Some(self.look_up(payload, local, cloud.is_some())),
            Action::RunLocal => self.run_row(number, host, shared),
            Action::StoreLocal(result) => {
                self.cached_results.extend(read_outputs(&result.outputs));
                None
            }
            Action::StoreVerdict { outputs, .. } => {
                self.cached_verdicts.extend(read_outputs(&outputs));
                None
            }
            Action::Decide(ask) => Some(self.decide_row(&ask, payload, host, shared)),
            Action::Audit { ticket, local } => {
                if let Some(features) = local.features {
                    self.audit(payload, ticket, features, host, shared);
                }
                None
            }
            Action::Label { ticket, local, cloud, .. } => {
                if let Some(features) = local.features {
                    let cloud = hedge_certify::Fingerprint(cloud.0);
                    self.tell_router(RouteEvent::Labelled { ticket, features, differs: false, cloud }, host, shared);
                }
                None
            }
            Action::Heard { outcome, waited } => {
                self.tell_router(RouteEvent::Heard { outcome, waited }, host, shared);
                None
            }
            Action::Publish { attempt, left } => self.publish_row(number, payload, attempt, left, host, shared),
            Action::WakeAt(at) => {
                self.wake_row_at(number, at, host, shared);
                None
            }
            Action::Leave(_) => unreachable!("rows that ask by themselves do not leave"),
            Action::Finish(end) => {
                self.finish_row(number, payload, &end, host, shared);
                None
            }
        }
    }

    fn wake_row_at(&mut self, number: u16, at: Duration, host: &mut Host, shared: &mut Shared) {
        let (index, now) = (host.index, host.now(shared));
        shared.require(at > now, Rule::WakesAhead, || format!("d{index} row {number} asks at {now:?} for {at:?}"));
        let Some(row) = self.rows.get_mut(&number) else { return };
        (row.wake, row.wakes) = (at, row.wakes + 1);
        let event = DeviceEvent::RowWake { row: number.into(), asked: row.wakes };
        host.at(at, event, shared);
    }

    fn look_up(&self, payload: Payload, local: bool, cloud: bool) -> Event {
        let verdict = self.cached_verdicts.get(&payload).filter(|_| cloud);
        let result = self.cached_results.get(&payload).filter(|_| local && verdict.is_none());
        Event::Looked {
            local: result.map(|&run| local_result(payload, run)),
            cloud: verdict.map(|&run| CachedVerdict {
                outputs: outputs(payload, run),
                score: Some(1.0),
                digest: CLOUD,
            }),
        }
    }

    fn run_row(&mut self, number: u16, host: &mut Host, shared: &mut Shared) -> Option<Event> {
        if self.rows.values().filter(|row| row.running).count() >= ENGINE_QUEUE {
            return Some(Event::Ran(Err(LocalFailure::QueueFull)));
        }
        self.rows.get_mut(&number)?.running = true;
        let took = host.dice.millis(1..30);
        host.after(took, DeviceEvent::RowRan { row: number.into() }, shared);
        None
    }

    pub(super) fn row_ran(&mut self, row: u32, host: &mut Host, shared: &mut Shared) {
        let number = u16::try_from(row).expect("rows have small numbers");
        let Some(row) = self.rows.get_mut(&number) else { return };
        row.running = false;
        let payload = row.payload;
        let result = match payload.has(Trait::EdgeFails) {
            true => Err(LocalFailure::Fault("the input has this trait".to_owned())),
            false => Ok(local_result(payload, shared.judge.run(None, payload, Site::Edge))),
        };
        self.feed_row(number, Event::Ran(result), host, shared);
    }

    fn decide_row(&mut self, ask: &Ask, payload: Payload, host: &Host, shared: &Shared) -> Event {
        let decision = self.decide(ask, payload, host, shared);
        Event::Decided(match decision {
            Decision::Local { status, reason, audit } => {
                Decision::Local { status: planted::status(status, host, shared), reason, audit }
            }
            Decision::Offload { .. } => decision,
        })
    }

    fn publish_row(
        &mut self,
        number: u16,
        payload: Payload,
        attempt: u8,
        left: Duration,
        host: &mut Host,
        shared: &mut Shared,
    ) -> Option<Event> {
        let row = self.rows.get_mut(&number)?;
        row.is_asked = true;
        row.sent += 1;
        if attempt > 0 {
            shared.count(Happening::PlainAskedAgain);
        }
        let id = id(Kind::Plain, host.index, number.into());
        let asked = self.ask(id, payload, attempt, left, Purpose::Answer, host, shared);
        asked.err().map(Event::NotSent)
    }

    pub(super) fn row_woken(&mut self, row: u32, asked: u32, host: &mut Host, shared: &mut Shared) {
        let number = u16::try_from(row).expect("rows have small numbers");
        if self.rows.get(&number).is_some_and(|row| row.wakes == asked) {
            self.feed_row(number, Event::Timer, host, shared);
        }
    }

    pub(super) fn rows_lose_their_link(&mut self, host: &mut Host, shared: &mut Shared) {
        let asked: Vec<u16> = self.rows.values().filter(|row| row.is_asked).map(|row| row.number).collect();
        asked.into_iter().for_each(|number| self.feed_row(number, Event::LinkDown, host, shared));
    }

    pub(super) fn on_row_published(&mut self, number: u16, outcome: Outcome, host: &mut Host, shared: &mut Shared) {
        let event = match outcome {
            Outcome::Delivered => return,
            Outcome::NoSubscribers => Event::NoSubscribers,
            Outcome::Rejected => Event::Rejected,
        };
        self.feed_row(number, event, host, shared);
    }

    pub(super) fn on_row_reply(&mut self, number: u16, reply: Reply, host: &mut Host, shared: &mut Shared) {
        if shared.has(Plant::SecondAnswer) && !self.rows.contains_key(&number) {
            shared.judge.row_ended(host.index, number, shared.now);
        }
        if !self.rows.get(&number).is_some_and(|row| row.is_asked) {
            return;
        }
        let event = match reply {
            Reply::Busy { retry_ms, .. } => Event::Busy { retry: Duration::from_millis(retry_ms.into()) },
            Reply::Refused { kind, .. } => Event::Refused(kind),
            Reply::Verdict(verdict) if read_outputs(&verdict.outputs).is_some() => Event::Verdict {
                outputs: verdict.outputs,
                score: Some(1.0),
                digest: verdict.cloud,
                gateway: verdict.gateway,
            },
            Reply::Verdict(_) => {
                shared.count(Happening::BadVerdicts);
                Event::BadVerdict
            }
        };
        self.feed_row(number, event, host, shared);
    }

    fn finish_row(
        &mut self,
        number: u16,
        payload: Payload,
        end: &Result<Answer, Failure>,
        host: &mut Host,
        shared: &mut Shared,
    ) {
        let id = id(Kind::Plain, host.index, number.into());
        self.rows.remove(&number);
        self.uploads.remove(&id);
        shared.judge.row_ended(host.index, number, shared.now);
        match end {
            Ok(answer) => {
                let given = given(answer);
                shared.judge.check_answer(host.index, payload, &given, shared.now);
                if answer.source == Source::Cloud {
                    shared.judge.check_id(host.index, id, &given, shared.now);
                }
                let certified = host.is_certified(shared);
                let what = || format!("d{} row {number} is certified, and nothing certifies it", host.index);
                shared.require(answer.status != Status::Certified || certified, Rule::Certified, what);
                count_answer(answer, shared);
            }
            Err(_) => shared.count(Happening::PlainFailed),
        }
        let why = match end {
            Ok(answer) => Some(answer.reason),
            Err(Failure::NoCloud(reason)) => Some(*reason),
            Err(Failure::Deadline(_)) => Some(Reason::Deadline),
            Err(_) => None,
        };
        count_reason(why, shared);
    }
}

fn local_result(payload: Payload, run: RunId) -> LocalResult {
    LocalResult {
        outputs: outputs(payload, run),
        score: Some(router::score(payload)),
        features: Some(router::features(payload)),
        stand_in: false,
    }
}

fn given(answer: &Answer) -> Given {
    let (payload, run) = read_outputs(&answer.outputs).expect("only outputs that fit become answers");
    Given::Answer { payload, run, status: answer.status, reason: answer.reason }
}

fn count_answer(answer: &Answer, shared: &mut Shared) {
    shared.count(match answer.source {
        Source::Edge => Happening::PlainByEdge,
        Source::Cache => Happening::PlainByCache,
        Source::Cloud => Happening::PlainByCloud,
    });
    if answer.status == Status::Certified {
        shared.count(Happening::PlainCertified);
    }
}

fn count_reason(why: Option<Reason>, shared: &mut Shared) {
    let what = match why {
        Some(Reason::Deadline) => Happening::PlainLate,
        Some(Reason::LinkDown) => Happening::PlainLinkDown,
        Some(Reason::NoGateway) => Happening::PlainNobody,
        Some(Reason::CloudBusy) => Happening::PlainBusy,
        _ => return,
    };
    shared.count(what);
}
