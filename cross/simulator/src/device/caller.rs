//! The programs on a device: what they ask, how long they wait, what they try again.
//!
//! A caller of a durable request repeats it under its id until it has been accepted or told never to, and then asks for the result
//! until it has it. Some go away instead, some ask twice, some use an id for something else.

use std::time::Duration;

use hedge_agent_core::Place;
use hedge_agent_core::outbox::{Ending, NotAccepted, Standing};

use super::Device;
use super::host::Host;
use super::process::Process;
use crate::clock::BEGINNING;
use crate::counts::Happening;
use crate::dice::Dice;
use crate::id::{Kind, id};
use crate::judge::{Record, Rule};
use crate::payload::{Given, Payload, Trait};
use crate::queue::{Event, Step};
use crate::shared::Shared;

/// After so many refusals a caller gives up.
const MOST_REFUSALS: u32 = 12;

/// A caller of one durable request.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) payload: Payload,
    pub(crate) life: Duration,
    patience: Duration,
    /// Whether it goes away once it was told that the request is accepted.
    leaves: bool,
    state: State,
    posts: u32,
    refusals: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Will hand it in, again or for the first time.
    Idle,
    /// Waits for an answer to this post.
    Waiting { post: u32 },
    /// It is accepted; asks for the result now and then.
    Accepted,
    /// Has what it wanted, or gave up.
    Done,
}

/// A question that is answered in time or not at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) payload: Payload,
    pub(crate) place: Place,
    pub(crate) allowed: Duration,
}

/// Somebody at the other end of an HTTP request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Waiter {
    pub(crate) number: u16,
    pub(crate) who: Who,
    /// Whether it may be told that its request is accepted.
    pub(crate) accepted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    /// The request's own caller.
    Owner,
    /// One that repeats the request meanwhile.
    Repeater,
    /// One that uses its id for something else.
    Stranger,
}

/// What a waiter is told.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Told {
    /// 200.
    Ending(Ending<Given>),
    /// A typed error.
    Refused(NotAccepted),
    /// The connection broke.
    Nothing,
}

/// What a device's callers will do; their first steps are put into the queue.
pub(crate) fn script(device: u16, dice: &mut Dice, shared: &mut Shared) -> (Vec<Call>, Vec<Question>) {
    let (durable, plain) = (dice.below(shared.weather.durable + 1), dice.below(shared.weather.plain + 1));
    let calls = (0..durable).map(|number| call(device, small(number), dice, shared)).collect();
    let mut questions: Vec<Question> = Vec::new();
    for number in 0..plain {
        let mut question = question(device, small(number), dice);
        // Some ask what another has asked, under their own id: the cache may know it.
        if let Some(earlier) = questions.first().filter(|_| dice.chance(0.3)) {
            question.payload = earlier.payload;
        }
        questions.push(question);
    }
    for number in 0..plain {
        let event = Event::Plain { device, number: small(number) };
        shared.queue.push(sometime(dice, shared), event);
    }
    (calls, questions)
}

fn small(number: usize) -> u16 {
    u16::try_from(number).expect("a handful of requests")
}

/// A moment in the first nine tenths of the time of faults.
fn sometime(dice: &mut Dice, shared: &Shared) -> Duration {
    BEGINNING + shared.weather.span.mul_f64(0.9 * dice.fraction())
}

fn call(device: u16, number: u16, dice: &mut Dice, shared: &mut Shared) -> Call {
    let lethal = match dice.below(40) {
        0 => Trait::KillsExecution as u8,
        1 => Trait::KillsSending as u8,
        _ => 0,
    };
    let at = sometime(dice, shared);
    let push = |shared: &mut Shared, at, step| shared.queue.push(at, Event::Call { device, number, step });
    push(shared, at, Step::Post);
    if dice.chance(0.2) {
        push(shared, at + dice.millis(0..90_000), Step::PostAgain);
    }
    if dice.chance(0.1) {
        push(shared, at + dice.millis(0..30_000), Step::PostOther);
    }
    Call {
        payload: Payload::new(device, number, 0, traits(dice) | lethal, size(dice)),
        life: dice.pick(&[5, 15, 60, 300].map(Duration::from_secs)),
        patience: dice.millis(20..5000),
        leaves: dice.chance(0.1),
        state: State::Idle,
        posts: 0,
        refusals: 0,
    }
}

fn question(device: u16, number: u16, dice: &mut Dice) -> Question {
    let payload = Payload::new(device, number, 1, traits(dice), size(dice));
    let place = dice.pick(&[Place::Auto, Place::Auto, Place::Auto, Place::Edge, Place::Cloud]);
    Question { payload, place, allowed: dice.millis(100..8000) }
}

/// Half of the inputs are sure; a few are peculiar.
fn traits(dice: &mut Dice) -> u8 {
    let sure = if dice.chance(0.4) { Trait::Sure as u8 } else { 0 };
    let peculiar = match dice.below(30) {
        0 => Trait::BadVerdict as u8,
        1 => Trait::CloudFails as u8,
        2 => Trait::CloudRefuses as u8,
        3 => Trait::EdgeFails as u8,
        _ => 0,
    };
    sure | peculiar
}

fn size(dice: &mut Dice) -> usize {
    if dice.chance(0.07) { 9000 + dice.below(25_000) } else { 16 + dice.below(300) }
}

impl Host {
    /// What the judge is to know of the durable requests.
    pub(crate) fn records(&self, shared: &Shared) -> Vec<Record> {
        let most = shared.weather.outbox.life;
        self.calls.iter().map(|call| Record::new(call.payload, call.life.min(most))).collect()
    }

    /// A waiter gets its answer.
    pub(crate) fn tell(&mut self, waiter: Waiter, told: &Told, shared: &mut Shared) {
        let (device, number) = (self.index, waiter.number);
        if let Told::Ending(ending) = told {
            shared.judge.told(device, number, ending, shared.now);
        }
        match waiter.who {
            Who::Owner => self.tell_owner(number, told, shared),
            Who::Repeater => {}
            Who::Stranger => {
                let right = matches!(told, Told::Refused(NotAccepted::OtherRequest) | Told::Nothing);
                let what = || format!("d{device} #{number}: other inputs under its id were met with {told:?}");
                shared.require(right, Rule::OneRequest, what);
            }
        }
    }

    fn tell_owner(&mut self, number: u16, told: &Told, shared: &mut Shared) {
        let device = self.index;
        shared.say(|| format!("d{device} #{number} its caller is told {told:?}"));
        match told {
            Told::Ending(_) => self.call(number).state = State::Done,
            Told::Nothing => self.again(number, shared),
            Told::Refused(why) => self.refused(number, *why, shared),
        }
    }

    fn refused(&mut self, number: u16, why: NotAccepted, shared: &mut Shared) {
        let device = self.index;
        match why {
            NotAccepted::OtherRequest => {
                let what = format!("d{device} #{number} was refused as another request");
                shared.judge.violated(Rule::OneRequest, shared.now, what);
            }
            NotAccepted::Gone => {
                let erased = shared.judge.record(device, number).erased;
                let what = || format!("d{device} #{number} is called gone and was not dropped");
                shared.require(erased, Rule::NothingLost, what);
                self.call(number).state = State::Done;
            }
            NotAccepted::TooMany { .. }
            | NotAccepted::TooLarge { .. }
            | NotAccepted::Unfetched { .. }
            | NotAccepted::DiskFull => {
                let call = self.call(number);
                call.refusals += 1;
                match call.refusals < MOST_REFUSALS {
                    true => self.again(number, shared),
                    false => self.call(number).state = State::Done,
                }
            }
        }
    }

    fn again(&mut self, number: u16, shared: &mut Shared) {
        self.call(number).state = State::Idle;
        let wait = self.dice.millis(100..2500);
        self.step_after(wait, number, Step::Post, shared);
    }

    fn step_after(&self, wait: Duration, number: u16, step: Step, shared: &mut Shared) {
        shared.queue.push(shared.now + wait, Event::Call { device: self.index, number, step });
    }

    fn call(&mut self, number: u16) -> &mut Call {
        &mut self.calls[usize::from(number)]
    }

    fn poll_later(&mut self, number: u16, shared: &mut Shared) {
        let wait = self.dice.millis(1000..6000);
        self.step_after(wait, number, Step::Poll, shared);
    }

    /// Whether every caller has what it wanted.
    pub(crate) fn callers_are_done(&self) -> bool {
        self.calls.iter().all(|call| call.state == State::Done)
    }
}

impl Device {
    /// A caller takes its next step.
    pub(crate) fn on_call(&mut self, number: u16, step: Step, shared: &mut Shared) {
        let Self { host, process } = self;
        let Some(process) = process else { return host.unreachable(number, step, shared) };
        match step {
            Step::Post => host.post(number, Who::Owner, process, shared),
            Step::PostAgain => host.post(number, Who::Repeater, process, shared),
            Step::PostOther => host.post_other(number, process, shared),
            Step::Patience { post } => host.out_of_patience(number, post, process, shared),
            Step::Poll => host.poll(number, process, shared),
        }
    }
}

impl Host {
    /// Nobody listens.
    fn unreachable(&mut self, number: u16, step: Step, shared: &mut Shared) {
        match step {
            Step::Post => self.again(number, shared),
            Step::Poll => self.poll_later(number, shared),
            Step::PostAgain | Step::PostOther | Step::Patience { .. } => {}
        }
    }

    fn post(&mut self, number: u16, who: Who, process: &mut Process, shared: &mut Shared) {
        let (payload, life, patience) = {
            let call = self.call(number);
            (call.payload, call.life, call.patience)
        };
        let unknown = process.standing(number, self) == Standing::Unknown;
        if who == Who::Owner {
            let call = self.call(number);
            if call.state != State::Idle {
                return;
            }
            call.posts += 1;
            let post = call.posts;
            call.state = State::Waiting { post };
            self.step_after(patience, number, Step::Patience { post }, shared);
        } else if unknown && !shared.judge.record(self.index, number).erased {
            // Nobody but the owner begins a request, as long as the device owes its result.
            return;
        }
        if unknown {
            self.begin(number, shared);
        }
        process.post(Waiter { number, who, accepted: false }, payload, life, self, shared);
    }

    /// The device knows nothing of the id, and may only where it owes nothing.
    fn begin(&self, number: u16, shared: &mut Shared) {
        let (device, record) = (self.index, shared.judge.record(self.index, number));
        let (owed, erased) = (record.is_owed(), record.erased);
        shared.require(!owed, Rule::NothingLost, || format!("d{device} #{number} was accepted and is not known"));
        if erased {
            shared.count(Happening::BegunAnew);
        }
        shared.judge.begins(device, number, shared.now);
    }

    fn post_other(&mut self, number: u16, process: &mut Process, shared: &mut Shared) {
        let known = matches!(process.standing(number, self), Standing::Waiting | Standing::Done);
        if known && shared.judge.record(self.index, number).is_owed() {
            let (payload, life) = (self.call(number).payload.other(), self.call(number).life);
            process.post(Waiter { number, who: Who::Stranger, accepted: false }, payload, life, self, shared);
        }
    }

    fn out_of_patience(&mut self, number: u16, post: u32, process: &mut Process, shared: &mut Shared) {
        if self.call(number).state != (State::Waiting { post }) {
            return;
        }
        match process.stop_waiting(number, self) {
            Some(Waiter { accepted: true, .. }) => {
                let leaves = self.call(number).leaves;
                self.call(number).state = if leaves { State::Done } else { State::Accepted };
                if !leaves {
                    self.poll_later(number, shared);
                }
            }
            _ => self.again(number, shared),
        }
    }

    fn poll(&mut self, number: u16, process: &mut Process, shared: &mut Shared) {
        let device = self.index;
        let standing = process.standing(number, self);
        match standing {
            Standing::Accepting | Standing::Waiting => self.poll_later(number, shared),
            Standing::Done => {
                self.call(number).state = State::Done;
                let ending = self.store.result(&id(Kind::Durable, device, number.into()));
                let what = || format!("d{device} #{number} is done and its result is not in the store");
                shared.require(ending.is_some(), Rule::NothingLost, what);
                let Some(ending) = ending else { return };
                shared.count(Happening::Fetched);
                shared.judge.told(device, number, &ending, shared.now);
                process.fetched(number, self, shared);
            }
            Standing::Unknown | Standing::Gone => {
                let erased = shared.judge.record(device, number).erased;
                let what = || format!("d{device} #{number} was accepted and is {standing:?}");
                shared.require(erased, Rule::NothingLost, what);
                self.call(number).state = State::Done;
            }
        }
    }
}
