//! One row's way from arrival to its answer.
//!
//! ```text
//! arrive -> look up -> (run locally) -> ask the router -+-> answer locally
//!                 |                                     +-> offload -> wait -> answer
//!                 +-> answer from the cache                  ^    |
//!                                                            +----+ once more: after Busy, or when no reply came
//! ```
//!
//! Invariants, held for every order of events:
//! - exactly one [`Action::Finish`] or [`Action::Leave`], at the latest on the first event at or after the deadline;
//! - `hedge.place = cloud` never ends in a local answer; `edge`, and a model that is never offloaded, never publishes;
//! - at most two publishes, under the same id; none for a row of the outbox, which asks by itself ([`Asking`]);
//! - a local answer is certified only by the router's decision, and never once the cloud was asked, nor on a stand-in;
//! - an event that does not fit the state (a late ack, a second reply) changes nothing.

use std::time::Duration;

use hedge_wire::{Digest, GatewayId, Refusal};

use crate::answer::{Answer, Failure, Origin, Reason, Source, Status};
use crate::cloud::{CloudView, Path};
use crate::route::{Ask, Decision, Ticket};

mod event;

pub use event::{
    Action, Asking, CachedVerdict, Event, Left, LocalFailure, LocalResult, NotSent, Offload, Outputs, Place, RowPolicy,
    Timing,
};

/// An offload that has less time left than this is not worth sending.
const LEAST_USEFUL: Duration = Duration::from_millis(1);

/// The state of one row.
#[derive(Debug)]
pub struct Row {
    policy: RowPolicy,
    timing: Timing,
    state: State,
    local: Option<Local>,
    /// Why the cloud is asked, once it is.
    why: Reason,
    /// What the cloud's answer is a label for.
    label: Option<Ticket>,
    /// When the cloud was first asked.
    asked_at: Option<Duration>,
    /// The local model's error, where that is why the cloud is asked.
    fault: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    New,
    Looking,
    Running,
    Deciding,
    /// A reply is due; `retry_at` is gone once the retry was used.
    Waiting {
        retry_at: Option<Duration>,
    },
    /// The gateway was busy; ask again then.
    Pausing {
        resume_at: Duration,
    },
    Done,
}

#[derive(Debug)]
struct Local {
    result: LocalResult,
    source: Source,
}

impl Row {
    /// A row that has not started; give it [`Event::Arrived`] next.
    #[must_use]
    pub fn new(policy: RowPolicy, timing: Timing) -> Self {
        Self {
            policy,
            timing,
            state: State::New,
            local: None,
            why: Reason::BelowThreshold,
            label: None,
            asked_at: None,
            fault: None,
        }
    }

    /// When the row must be answered.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.timing.arrived.saturating_add(self.timing.allowed)
    }

    /// Whether the row has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes in an event and says what to do.
    pub fn on(&mut self, event: Event, view: &CloudView, now: Duration) -> Vec<Action> {
        if self.is_done() {
            return Vec::new();
        }
        if now >= self.deadline() && !Self::answers(&event) {
            return self.on_deadline(now);
        }
        match (self.state, event) {
            (State::New, Event::Arrived) => self.arrive(view),
            (State::Looking, Event::Looked { local, cloud }) => self.looked(local, cloud, view, now),
            (State::Running, Event::Ran(result)) => self.ran(result, view, now),
            (State::Deciding, Event::Decided(decision)) => self.decided(decision, view, now),
            (State::Looking | State::Running | State::Deciding, Event::Timer) => {
                vec![Action::WakeAt(self.deadline())]
            }
            (State::Waiting { .. } | State::Pausing { .. }, event) => self.in_the_cloud(event, view, now),
            _ => Vec::new(),
        }
    }

    /// Whether the event may end the row with a better answer than the deadline would, at no further wait.
    fn answers(event: &Event) -> bool {
        matches!(event, Event::Looked { .. } | Event::Ran(_) | Event::Decided(_) | Event::Verdict { .. })
    }

    fn arrive(&mut self, view: &CloudView) -> Vec<Action> {
        let model = &self.policy.cloud_model;
        let look_up = match (self.policy.place, self.policy.offload) {
            (Place::Cloud, Offload::Never) => return self.fail(Failure::NeverOffload),
            (Place::Cloud, Offload::Auto) => {
                // Even a cached verdict is given only while the cloud is there: the caller asked for the cloud.
                if let Err(reason) = self.may_offload(view) {
                    // A life that is over is no deadline of this execution.
                    let too_large = reason == Reason::TooLarge;
                    return self.fail(if too_large { Failure::TooLarge } else { Failure::NoCloud(reason) });
                }
                self.why = Reason::Caller;
                Action::LookUp { local: false, cloud: view.current_digest(model) }
            }
            (Place::Edge, _) | (Place::Auto, Offload::Never) => Action::LookUp { local: true, cloud: None },
            (Place::Auto, Offload::Auto) => Action::LookUp { local: true, cloud: view.current_digest(model) },
        };
        self.state = State::Looking;
        vec![Action::WakeAt(self.deadline()), look_up]
    }

    fn looked(
        &mut self,
        local: Option<LocalResult>,
        cloud: Option<CachedVerdict>,
        view: &CloudView,
        now: Duration,
    ) -> Vec<Action> {
        // What was not asked for does not count.
        let cloud = cloud.filter(|_| self.policy.place != Place::Edge && self.policy.offload == Offload::Auto);
        let local = local.filter(|_| self.policy.place != Place::Cloud);
        if let Some(verdict) = cloud {
            return self.finish(Answer {
                outputs: verdict.outputs,
                source: Source::Cache,
                status: Status::Cloud,
                reason: self.why,
                confidence: verdict.score,
                origin: Origin::Cloud { digest: verdict.digest, gateway: None },
            });
        }
        if let Some(result) = local {
            self.local = Some(Local { result, source: Source::Cache });
            return self.judge(view, now);
        }
        if now >= self.deadline() {
            return self.on_deadline(now);
        }
        if self.policy.place == Place::Cloud {
            return self.offload(view, now);
        }
        self.state = State::Running;
        vec![Action::RunLocal]
    }

    fn ran(&mut self, result: Result<LocalResult, LocalFailure>, view: &CloudView, now: Duration) -> Vec<Action> {
        match result {
            Ok(result) => {
                let mut actions = vec![Action::StoreLocal(result.clone())];
                self.local = Some(Local { result, source: Source::Edge });
                actions.extend(self.judge(view, now));
                actions
            }
            Err(LocalFailure::QueueFull) => self.fail(Failure::Overloaded),
            Err(LocalFailure::Fault(fault)) => {
                let helped = self.policy.place == Place::Auto && self.policy.offload == Offload::Auto;
                if !helped {
                    return self.fail(Failure::Engine(fault));
                }
                self.why = Reason::DeviceFault;
                self.fault = Some(fault);
                self.offload(view, now)
            }
        }
    }

    /// A local result is there: whether it is the answer is for the router to say.
    fn judge(&mut self, view: &CloudView, now: Duration) -> Vec<Action> {
        let Some(Local { result, .. }) = &self.local else {
            return Vec::new();
        };
        let ask = Ask {
            features: result.features,
            place: self.policy.place,
            stand_in: result.stand_in,
            may_offload: self.may_offload(view),
            time_left: (self.policy.asking == Asking::Now).then(|| self.deadline().saturating_sub(now)),
        };
        self.state = State::Deciding;
        vec![Action::Decide(ask)]
    }

    fn decided(&mut self, decision: Decision, view: &CloudView, now: Duration) -> Vec<Action> {
        match decision {
            Decision::Local { status, reason, audit } => {
                let local = self.local.as_ref().map(|local| local.result.clone());
                let audit = audit.zip(local).filter(|_| self.may_leave());
                let mut actions: Vec<Action> =
                    audit.map(|(ticket, local)| Action::Audit { ticket, local }).into_iter().collect();
                actions.extend(self.answer_locally(status, reason));
                actions
            }
            // The router was told what the caller wants; should it not have heeded it, the row does.
            Decision::Offload { .. } if !self.may_leave() => self.give_up(Reason::Caller, now),
            Decision::Offload { reason, label } => {
                self.why = reason;
                self.label = label;
                self.offload(view, now)
            }
        }
    }

    fn may_leave(&self) -> bool {
        self.policy.place == Place::Auto && self.policy.offload == Offload::Auto
    }

    /// Whether the cloud may be asked about this row, or why not.
    fn may_offload(&self, view: &CloudView) -> Result<(), Reason> {
        match self.policy.asking {
            Asking::Now => view.may_offload(&self.policy.cloud_model),
            Asking::Later if view.path() == Path::None => Err(Reason::NoGateway),
            Asking::Later => Ok(()),
            Asking::Never(reason) => Err(reason),
        }
    }

    fn offload(&mut self, view: &CloudView, now: Duration) -> Vec<Action> {
        match (self.policy.asking, self.may_offload(view)) {
            (Asking::Now, _) => self.publish(0, view, now),
            (Asking::Later, Ok(())) => self.leave(),
            (Asking::Later, Err(reason)) | (Asking::Never(reason), _) => self.give_up(reason, now),
        }
    }

    fn leave(&mut self) -> Vec<Action> {
        self.state = State::Done;
        let label = self.label.take().zip(self.local.take()).map(|(ticket, local)| (ticket, local.result));
        vec![Action::Leave(Left { why: self.why, label })]
    }

    fn publish(&mut self, attempt: u8, view: &CloudView, now: Duration) -> Vec<Action> {
        if let Err(reason) = view.may_offload(&self.policy.cloud_model) {
            return self.give_up(reason, now);
        }
        let left = self.deadline().saturating_sub(now);
        if left < LEAST_USEFUL {
            return self.give_up(Reason::Deadline, now);
        }
        let spread = self.timing.retry_after.mul_f64(0.75 + 0.5 * self.timing.jitter.clamp(0.0, 1.0));
        let retry_at = now.saturating_add(spread);
        let retry_at = (attempt == 0 && retry_at + LEAST_USEFUL <= self.deadline()).then_some(retry_at);
        self.state = State::Waiting { retry_at };
        self.asked_at.get_or_insert(now);
        vec![Action::WakeAt(retry_at.unwrap_or(self.deadline())), Action::Publish { attempt, left }]
    }

    /// An event while the cloud has been asked.
    fn in_the_cloud(&mut self, event: Event, view: &CloudView, now: Duration) -> Vec<Action> {
        match event {
            Event::Verdict { outputs, score, digest, gateway } => {
                self.take_verdict(outputs, score, digest, gateway, now)
            }
            Event::Busy { retry } => self.busy(retry, now),
            Event::Timer => self.timer(view, now),
            Event::NotSent(NotSent::Down) | Event::LinkDown => self.give_up(Reason::LinkDown, now),
            Event::NotSent(NotSent::QueueFull) => self.give_up(Reason::CloudBusy, now),
            Event::NotSent(NotSent::TooLarge) => self.give_up(Reason::TooLarge, now),
            Event::NoSubscribers => self.give_up(Reason::NoGateway, now),
            Event::BadVerdict => self.give_up(Reason::BadVerdict, now),
            Event::Refused(Refusal::Expired) => self.give_up(Reason::Deadline, now),
            Event::Refused(Refusal::UnknownModel) => self.give_up(Reason::NoGateway, now),
            Event::Rejected | Event::Refused(Refusal::BadInput | Refusal::Internal) => {
                self.give_up(Reason::CloudRefused, now)
            }
            Event::Arrived | Event::Looked { .. } | Event::Ran(_) | Event::Decided(_) => Vec::new(),
        }
    }

    fn take_verdict(
        &mut self,
        outputs: Outputs,
        score: Option<f32>,
        digest: Digest,
        gateway: GatewayId,
        now: Duration,
    ) -> Vec<Action> {
        let mut actions = vec![Action::StoreVerdict { outputs: outputs.clone(), digest }];
        actions.extend(self.heard(Ok(()), now));
        if let Some((ticket, local)) = self.label.take().zip(self.local.take()) {
            actions.push(Action::Label { ticket, local: local.result, verdict: outputs.clone(), cloud: digest });
        }
        actions.extend(self.finish(Answer {
            outputs,
            source: Source::Cloud,
            status: Status::Cloud,
            reason: self.why,
            confidence: score,
            origin: Origin::Cloud { digest, gateway: Some(gateway) },
        }));
        actions
    }

    fn busy(&mut self, retry: Duration, now: Duration) -> Vec<Action> {
        let State::Waiting { retry_at: Some(_) } = self.state else {
            // The retry is used up, or too late; while pausing, a second Busy says nothing new.
            return if matches!(self.state, State::Pausing { .. }) {
                Vec::new()
            } else {
                self.give_up(Reason::CloudBusy, now)
            };
        };
        let pause = retry.mul_f64(1.0 + 0.5 * self.timing.jitter.clamp(0.0, 1.0));
        let resume_at = now.saturating_add(pause);
        if resume_at.saturating_add(LEAST_USEFUL) > self.deadline() {
            return self.give_up(Reason::CloudBusy, now);
        }
        self.state = State::Pausing { resume_at };
        vec![Action::WakeAt(resume_at)]
    }

    fn timer(&mut self, view: &CloudView, now: Duration) -> Vec<Action> {
        let due = match self.state {
            State::Waiting { retry_at } => retry_at,
            State::Pausing { resume_at } => Some(resume_at),
            _ => None,
        };
        match due {
            Some(due) if now >= due => self.publish(1, view, now),
            Some(due) => vec![Action::WakeAt(due)],
            None => vec![Action::WakeAt(self.deadline())],
        }
    }

    fn on_deadline(&mut self, now: Duration) -> Vec<Action> {
        match self.state {
            State::Deciding | State::Waiting { .. } | State::Pausing { .. } => self.give_up(Reason::Deadline, now),
            _ => self.fail(Failure::Deadline(self.timing.allowed)),
        }
    }

    /// The cloud will not answer: the local result does, if there is one.
    fn give_up(&mut self, reason: Reason, now: Duration) -> Vec<Action> {
        let mut actions = self.heard(Err(reason), now);
        actions.extend(self.end_without_cloud(reason));
        actions
    }

    fn end_without_cloud(&mut self, reason: Reason) -> Vec<Action> {
        if self.local.is_some() {
            return self.answer_locally(Status::Uncertified, reason);
        }
        if let Some(fault) = self.fault.take() {
            return self.fail(Failure::Engine(fault));
        }
        match reason {
            Reason::Deadline => self.fail(Failure::Deadline(self.timing.allowed)),
            Reason::TooLarge => self.fail(Failure::TooLarge),
            reason => self.fail(Failure::NoCloud(reason)),
        }
    }

    /// What the router learns of an offload, if there was one.
    fn heard(&mut self, outcome: Result<(), Reason>, now: Duration) -> Vec<Action> {
        let asked_at = self.asked_at.take();
        asked_at.map(|at| Action::Heard { outcome, waited: now.saturating_sub(at) }).into_iter().collect()
    }

    fn answer_locally(&mut self, status: Status, reason: Reason) -> Vec<Action> {
        let Some(Local { result, source }) = self.local.take() else {
            return self.fail(Failure::Deadline(self.timing.allowed));
        };
        // That the device failed is the rarer news, and the one to act upon; and no certificate is about the CPU in its place.
        let (status, reason) =
            if result.stand_in { (Status::Uncertified, Reason::DeviceFault) } else { (status, reason) };
        self.finish(Answer {
            outputs: result.outputs,
            source,
            // Only a cloud model's outputs are the cloud's.
            status: if status == Status::Certified { status } else { Status::Uncertified },
            reason,
            confidence: result.score,
            origin: Origin::Edge { stand_in: result.stand_in },
        })
    }

    fn finish(&mut self, answer: Answer) -> Vec<Action> {
        self.state = State::Done;
        vec![Action::Finish(Ok(answer))]
    }

    fn fail(&mut self, failure: Failure) -> Vec<Action> {
        self.state = State::Done;
        vec![Action::Finish(Err(failure))]
    }
}

#[cfg(test)]
mod tests;
