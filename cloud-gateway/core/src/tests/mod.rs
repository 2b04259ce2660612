//! A gateway under a clock of the test's own.

mod fleet;
mod pool;
mod random;
mod sentences;
mod upload;

use std::time::{Duration, Instant};

use hedge_tensor::{NamedTensor, Tensor};
use hedge_wire::{BootId, DeviceId, Digest, GatewayId, ModelId, Purpose, Query, Reply, RequestId, Verdict};

use crate::{Action, Admission, Arrival, Event, Key, Limits, Outcome};

pub(super) struct Bench {
    admission: Admission,
    now: Instant,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Self { admission: Admission::new(limits, [model("digits")]), now: Instant::now() }
    }

    fn wait(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self
    }

    fn arrive(&mut self, device_name: &str, query: Query) -> Vec<Action> {
        let model = query.model.clone();
        self.admission.handle(Event::Arrived { device: device(device_name), model, query }, self.now)
    }

    fn finish(&mut self, device: &str, id: u8) -> Vec<Action> {
        self.report(device, verdict(id, 4))
    }

    fn report(&mut self, device_name: &str, reply: Reply) -> Vec<Action> {
        let key = Key { device: device(device_name), id: reply.id() };
        self.admission.handle(Event::Finished { key, reply }, self.now)
    }

    fn tick(&mut self) -> Vec<Action> {
        self.admission.handle(Event::Tick, self.now)
    }
}

fn model(name: &str) -> ModelId {
    ModelId::from_name(name)
}

fn device(name: &str) -> DeviceId {
    DeviceId::parse(name).expect("a good id")
}

fn request(id: u8) -> RequestId {
    RequestId::from_bytes([id; 16])
}

/// A query of 4 tensor bytes with a second left.
fn query(id: u8) -> Query {
    Query {
        id: request(id),
        model: model("digits"),
        edge: Digest([0; 32]),
        attempt: 0,
        deadline_ms: 1000,
        boot: BootId(1),
        inputs: vec![NamedTensor::new("image", Tensor::from_slice(&[1, 4], &[1u8, 2, 3, 4]).expect("four elements"))],
        purpose: Purpose::Answer,
    }
}

fn verdict(id: u8, elements: usize) -> Reply {
    let logits = Tensor::from_slice(&[1, elements], &noise(elements)).expect("as many elements");
    Reply::Verdict(Verdict {
        id: request(id),
        cloud: Digest([1; 32]),
        gateway: GatewayId::parse("gw-1").expect("a good id"),
        outputs: vec![NamedTensor::new("logits", logits)],
        queue_us: 10,
        model_us: 20,
    })
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1;
    (0..length).map(|_| splitmix(&mut state).to_le_bytes()[0]).collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough randomness for a test, without a dependency.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The actions in a line: `ack admitted, submit 1, reply 1 verdict 1.0s`.
fn told(actions: &[Action]) -> String {
    let told: Vec<String> = actions
        .iter()
        .map(|action| match action {
            Action::Ack(arrival) => format!("ack {}", format!("{arrival:?}").to_lowercase()),
            Action::Submit { key, .. } => format!("submit {}", key.id.as_bytes()[0]),
            Action::Reply { key, expiry, outcome, body } => {
                assert_eq!(Reply::decode(body).expect("a reply").id(), key.id);
                format!("reply {} {outcome:?} {expiry:?}", key.id.as_bytes()[0])
            }
        })
        .collect();
    told.join(", ")
}

fn arrival(actions: &[Action]) -> Arrival {
    match actions.first() {
        Some(Action::Ack(arrival)) => *arrival,
        other => panic!("an arrival is acknowledged first: {other:?}"),
    }
}

fn outcomes(actions: &[Action]) -> Vec<(Key, Outcome)> {
    let reply = |action: &Action| match action {
        Action::Reply { key, outcome, .. } => Some((key.clone(), *outcome)),
        _ => None,
    };
    actions.iter().filter_map(reply).collect()
}
