//! The loop's parts, one sentence a test, with a real model and a link that remembers what it was given.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hedge_engine::{DeviceChoice, worker::BatchPolicy};
use hedge_gateway_core::{Admission, Limits, UploadLimits, Uploads};
use hedge_link::{Incoming, Link, LinkEvent, Outcome, Outgoing, PublishError, PublishId};
use hedge_telemetry::metrics::{Registry, render};
use hedge_wire::{GatewayId, ModelId, Refusal, Reply, RequestId, TenantId};

use super::{query, tensor, write_wide_model};
use crate::{
    health::Health,
    journal::Journal,
    models,
    service::{Identity, Service},
};

#[derive(Clone, Default)]
pub(super) struct FakeLink(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    published: Vec<Outgoing>,
    acked: usize,
    refuses: Option<PublishError>,
}

impl Link for FakeLink {
    fn is_up(&self) -> bool {
        true
    }

    fn publish(&self, message: Outgoing) -> Result<PublishId, PublishError> {
        let mut seen = self.0.lock().unwrap();
        if let Some(error) = seen.refuses {
            return Err(error);
        }
        seen.published.push(message);
        Ok(PublishId(seen.published.len() as u64))
    }

    fn ack(&self, _message: &Incoming) {
        self.0.lock().unwrap().acked += 1;
    }
}

pub(super) struct Bench {
    pub(super) service: Service<FakeLink>,
    link: FakeLink,
    registry: Registry,
    health: Arc<Health>,
}

const ONE_BY_ONE: BatchPolicy = BatchPolicy { max_batch: 1, max_wait: Duration::ZERO, queue_rows: 16 };

fn bench() -> Bench {
    bench_with(ONE_BY_ONE, 2)
}

/// As the others, on a model of so many numbers.
pub(super) fn wide_bench(width: usize) -> Bench {
    bench_with(ONE_BY_ONE, width)
}

fn bench_with(batch: BatchPolicy, width: usize) -> Bench {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("relu.onnx");
    write_wide_model(&path, width);
    let model = ModelId::from_name("relu");
    let served = models::load(&model, &path, DeviceChoice::Cpu, batch).expect("the model loads");
    let registry = Registry::new();
    let mut journal = Journal::new(&registry);
    journal.model_loaded(&model, &served, Duration::ZERO);
    let health = Arc::new(Health::starting([&model]));
    health.model_loaded(&model);
    let link = FakeLink::default();
    let identity = Identity {
        tenant: TenantId::parse("acme").expect("a good id"),
        gateway: GatewayId::parse("gw-1").expect("a good id"),
        drain: Duration::from_secs(1),
        busy_retry: Duration::from_millis(50),
    };
    let admission = Admission::new(Limits::default(), [model.clone()]);
    let uploads = Uploads::new(identity.gateway.clone(), UploadLimits { uploads: 2, ..UploadLimits::default() });
    let models = BTreeMap::from([(model, served)]);
    let core = (admission, uploads);
    let service = Service::new(identity, models, link.clone(), core, journal, Arc::clone(&health));
    Bench { service, link, registry, health }
}

impl Bench {
    pub(super) fn deliver(&mut self, message: Incoming) {
        self.service.on_link(LinkEvent::Message(message), Instant::now());
    }

    /// Waits for `count` runs and has them answered.
    pub(super) async fn finish(&mut self, count: usize) {
        for _ in 0..count {
            self.service.finish_one().await;
        }
    }

    pub(super) fn published(&self) -> Vec<Outgoing> {
        self.link.0.lock().unwrap().published.clone()
    }

    pub(super) fn acked(&self) -> usize {
        self.link.0.lock().unwrap().acked
    }

    pub(super) fn counts(&self, line: &str) {
        let text = render(&self.registry);
        assert!(text.lines().any(|other| other == line), "no line `{line}` in\n{text}");
    }
}

/// A query of the model `relu` from `device` for two numbers.
fn ask(device: &str, id: u8) -> Incoming {
    Incoming::new(format!("hedge/1/acme/q/relu/{device}"), query(id, tensor("x", 1, &[-1.0, 2.0])).encode())
}

pub(super) fn refusal(message: &Outgoing) -> (Refusal, String) {
    match Reply::decode(&message.payload).unwrap() {
        Reply::Refused { kind, message, .. } => (kind, message),
        other => panic!("not a refusal: {other:?}"),
    }
}

#[tokio::test]
async fn a_query_is_answered_to_the_device_of_its_topic_whatever_response_topic_it_asks_for() {
    let mut bench = bench();
    let mut message = ask("d1", 7);
    message.response_topic = Some("hedge/1/acme/r/victim".into());
    bench.deliver(message);
    assert_eq!(bench.acked(), 1);
    bench.finish(1).await;
    let published = bench.published();
    let [reply] = published.as_slice() else { panic!("{published:?}") };
    assert_eq!(reply.topic, "hedge/1/acme/r/d1");
    assert_eq!(reply.correlation.as_deref(), Some([7; 16].as_slice()));
    assert!(!reply.retain);
    let expiry = reply.expiry.unwrap();
    assert!(expiry > Duration::from_secs(5) && expiry <= Duration::from_secs(10), "{expiry:?}");
    let Reply::Verdict(verdict) = Reply::decode(&reply.payload).unwrap() else { panic!("no verdict") };
    assert_eq!(verdict.id, RequestId::from_bytes([7; 16]));
    assert_eq!(verdict.gateway.as_str(), "gw-1");
    assert_eq!(verdict.outputs, [tensor("y", 1, &[0.0, 2.0])]);
    bench.counts("hedge_gateway_requests_total{outcome=\"verdict\"} 1");
    bench.counts("hedge_gateway_queue_depth 0.0");
}

#[tokio::test]
async fn the_time_that_a_query_lay_at_the_broker_counts() {
    let mut bench = bench();
    let mut message = ask("d1", 1);
    message.expiry = Some(Duration::from_secs(2));
    bench.deliver(message);
    bench.finish(1).await;
    let expiry = bench.published()[0].expiry.unwrap();
    assert!(expiry > Duration::from_secs(2) && expiry <= Duration::from_secs(3), "{expiry:?}");
}

#[tokio::test]
async fn a_query_that_comes_again_is_answered_from_memory_and_counted_once() {
    let mut bench = bench();
    bench.deliver(ask("d1", 1));
    bench.deliver(ask("d1", 1));
    bench.finish(1).await;
    bench.deliver(ask("d1", 1));
    let published = bench.published();
    assert_eq!(published.len(), 2);
    assert_eq!(published[0].payload, published[1].payload);
    assert_eq!(bench.acked(), 3);
    bench.counts("hedge_gateway_requests_total{outcome=\"verdict\"} 1");
    bench.counts("hedge_gateway_repeats_total{kind=\"joined\"} 1");
    bench.counts("hedge_gateway_repeats_total{kind=\"resent\"} 1");
    bench.counts("hedge_gateway_batch_rows_count{model=\"relu\"} 1");
}

#[tokio::test]
async fn queries_of_several_devices_share_a_batch() {
    let mut bench = bench_with(BatchPolicy { max_batch: 4, max_wait: Duration::from_secs(10), queue_rows: 16 }, 2);
    for device in ["d1", "d2", "d3", "d4"] {
        bench.deliver(ask(device, 1));
    }
    bench.finish(4).await;
    assert_eq!(bench.published().len(), 4);
    bench.counts("hedge_gateway_batch_rows_sum{model=\"relu\"} 16.0");
}

#[tokio::test]
async fn inputs_that_do_not_fit_are_refused_by_name() {
    let mut bench = bench();
    let send = |input| Incoming::new("hedge/1/acme/q/relu/d1", query(1, input).encode());
    bench.deliver(send(tensor("z", 1, &[1.0, 2.0])));
    let (kind, message) = refusal(&bench.published()[0]);
    assert_eq!(kind, Refusal::BadInput);
    assert!(message.contains("\"z\""), "{message}");
    for (id, input) in [
        (2, tensor("x", 1, &[1.0, 2.0, 3.0])),
        (3, tensor("x", 1, &[1.0, f32::NAN])),
        (4, tensor("x", 2, &[1.0, 2.0, 3.0, 4.0])),
    ] {
        bench.deliver(Incoming::new("hedge/1/acme/q/relu/d1", query(id, input).encode()));
        assert_eq!(refusal(bench.published().last().unwrap()).0, Refusal::BadInput);
    }
    bench.counts("hedge_gateway_requests_total{outcome=\"refused_bad_input\"} 4");
    assert_eq!(bench.acked(), 4);
}

#[tokio::test]
async fn a_body_that_is_no_query_is_acknowledged_counted_and_refused_where_it_says_which_it_was() {
    let mut bench = bench();
    let whole = ask("d1", 1).payload;
    for cut in 0..whole.len() {
        bench.deliver(Incoming::new("hedge/1/acme/q/relu/d1", whole.slice(..cut)));
    }
    assert_eq!(bench.acked(), whole.len());
    assert!(bench.published().is_empty());
    bench.counts(&format!("hedge_gateway_requests_total{{outcome=\"malformed\"}} {}", whole.len()));

    let mut named = Incoming::new("hedge/1/acme/q/relu/d1", "zzz");
    named.correlation = Some(vec![9; 16].into());
    bench.deliver(named);
    let published = bench.published();
    assert_eq!(published[0].correlation.as_deref(), Some([9; 16].as_slice()));
    assert_eq!(refusal(&published[0]).0, Refusal::BadInput);
}

#[tokio::test]
async fn a_message_on_a_topic_of_someone_else_is_acknowledged_and_dropped() {
    let mut bench = bench();
    for topic in ["hedge/1/other/q/relu/d1", "hedge/1/acme/r/d1", "hedge/1/acme/q/relu/BAD", "", "hedge/9/acme/q/a/b"] {
        bench.deliver(Incoming::new(topic, ask("d1", 1).payload));
    }
    assert_eq!(bench.acked(), 5);
    assert!(bench.published().is_empty());
    bench.counts("hedge_gateway_requests_total{outcome=\"malformed\"} 5");
}

#[tokio::test]
async fn a_reply_that_cannot_be_sent_is_given_when_the_query_comes_again() {
    let mut bench = bench();
    bench.link.0.lock().unwrap().refuses = Some(PublishError::Down);
    bench.deliver(ask("d1", 1));
    bench.finish(1).await;
    bench.counts("hedge_gateway_undelivered_total{reason=\"link_down\"} 1");
    bench.link.0.lock().unwrap().refuses = None;
    bench.deliver(ask("d1", 1));
    assert_eq!(bench.published().len(), 1);
    bench.counts("hedge_gateway_batch_rows_count{model=\"relu\"} 1");
}

#[tokio::test]
async fn a_drain_waits_for_the_broker_to_confirm_the_replies() {
    let mut bench = bench();
    bench.deliver(ask("d1", 1));
    bench.service.begin_drain();
    assert!(!bench.service.is_drained());
    bench.deliver(ask("d1", 2));
    assert_eq!(Reply::decode(&bench.published()[0].payload).unwrap().id(), RequestId::from_bytes([2; 16]));
    bench.counts("hedge_gateway_requests_total{outcome=\"busy_draining\"} 1");
    bench.finish(1).await;
    assert!(!bench.service.is_drained());
    for id in 1..=2 {
        let published = LinkEvent::Published { id: PublishId(id), outcome: Outcome::Delivered };
        bench.service.on_link(published, Instant::now());
    }
    assert!(bench.service.is_drained());
    assert!(bench.health.reasons().contains(&"the gateway is stopping".to_owned()));
}

#[tokio::test]
async fn the_link_going_down_is_told_and_forgets_what_was_unconfirmed() {
    let mut bench = bench();
    bench.deliver(ask("d1", 1));
    bench.finish(1).await;
    bench.service.on_link(LinkEvent::Down { reason: "connection refused".into() }, Instant::now());
    assert!(bench.service.is_drained());
    assert_eq!(bench.health.reasons(), ["the link is down: connection refused"]);
    bench.counts("hedge_link_up 0.0");
}
