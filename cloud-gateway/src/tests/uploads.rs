//! Queries that come in parts, on a link that remembers what it was given.

use std::time::Instant;

use bytes::Bytes;
use hedge_link::{Incoming, LinkEvent, Outgoing};
use hedge_wire::{BodyPlan, Grant, Offer, Part, Query, Refusal, Reply};

use super::service::{refusal, wide_bench};
use super::{query, tensor};

/// Enough that a query takes a few of the smallest parts.
const WIDTH: usize = 3000;
const PART_BYTES: usize = 4096;

/// A device's side of one upload.
struct Device {
    query: Query,
    body: Bytes,
    plan: BodyPlan,
}

impl Device {
    fn new(id: u8) -> Self {
        // Bytes that zstd cannot make smaller.
        let mut state = u32::from(id);
        let values: Vec<f32> = (0..WIDTH)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state as f32
            })
            .collect();
        let query = query(id, tensor("x", 1, &values));
        let body = Bytes::from(query.encode_upload().expect("within the caps"));
        let plan = BodyPlan::of(&body, PART_BYTES).expect("within the caps");
        assert_eq!(plan.parts(), 3);
        Self { query, body, plan }
    }

    fn offer(&self) -> Incoming {
        Incoming::new("hedge/1/acme/q/relu/d1", Offer::of(&self.query, self.plan).encode())
    }

    fn part(&self, index: u32) -> Incoming {
        let part = Part::cut(self.query.id, &self.plan, &self.body, index).expect("there is such a part");
        Incoming::new("hedge/1/acme/u/gw-1/d1", part.encode())
    }
}

fn grant(message: &Outgoing) -> Grant {
    assert_eq!(message.topic, "hedge/1/acme/r/d1");
    Grant::decode(&message.payload).expect("a grant").expect("a good one")
}

#[tokio::test]
async fn a_query_in_parts_is_granted_put_together_and_answered_like_any_other() {
    let (mut bench, device) = (wide_bench(WIDTH), Device::new(1));
    bench.deliver(device.offer());
    let granted = grant(&bench.published()[0]);
    assert_eq!((granted.id, granted.gateway.as_str()), (device.query.id, "gw-1"));
    assert!(granted.held.is_empty());
    for index in [2, 0, 0, 1] {
        bench.deliver(device.part(index));
    }
    assert_eq!(bench.acked(), 5);
    bench.finish(1).await;
    let Reply::Verdict(verdict) = Reply::decode(&bench.published()[1].payload).unwrap() else { panic!("no verdict") };
    assert_eq!(verdict.outputs[0].tensor, device.query.inputs[0].tensor);
    // Offered again, it is answered from memory.
    bench.deliver(device.offer());
    assert_eq!(bench.published()[2].payload, bench.published()[1].payload);
    bench.counts("hedge_gateway_uploads_total{event=\"granted\"} 1");
    bench.counts("hedge_gateway_uploads_total{event=\"assembled\"} 1");
    bench.counts("hedge_gateway_parts_total 4");
    bench.counts("hedge_gateway_parts_dropped_total{reason=\"repeated\"} 1");
    bench.counts("hedge_gateway_uploads_open 0.0");
    bench.counts("hedge_gateway_upload_bytes 0.0");
    bench.counts("hedge_gateway_requests_total{outcome=\"verdict\"} 1");
}

#[tokio::test]
async fn after_its_link_was_lost_a_gateway_says_what_it_holds() {
    let (mut bench, device) = (wide_bench(WIDTH), Device::new(1));
    bench.deliver(device.offer());
    bench.deliver(device.part(1));
    bench.counts(&format!("hedge_gateway_upload_bytes {:.1}", device.body.len() as f64));
    bench.service.on_link(LinkEvent::Down { reason: "cut".into() }, Instant::now());
    let limits = hedge_link::BrokerLimits {
        max_packet_bytes: 1 << 20,
        inflight: 50,
        max_qos: hedge_link::Qos::AtLeastOnce,
        retain: true,
        shared_subscriptions: true,
        keepalive: std::time::Duration::from_secs(30),
        session_present: false,
    };
    bench.service.on_link(LinkEvent::Up { limits }, Instant::now());
    let again = grant(bench.published().last().unwrap());
    assert!(again.held.contains(1) && again.held.len() == 1);
}

#[tokio::test]
async fn offers_without_room_are_told_to_wait_and_lies_are_refused() {
    let mut bench = wide_bench(WIDTH);
    for id in 1..=3 {
        bench.deliver(Device::new(id).offer());
    }
    let busy = Reply::decode(&bench.published()[2].payload).unwrap();
    assert!(matches!(busy, Reply::Busy { .. }), "{busy:?}");
    bench.counts("hedge_gateway_requests_total{outcome=\"busy_queue\"} 1");
    // Another body: a byte of it is not the one that was offered.
    let offered = Device::new(1);
    let mut body = offered.body.to_vec();
    body[5000] ^= 1;
    let other = Device { body: body.into(), ..offered };
    (0..3).for_each(|index| bench.deliver(other.part(index)));
    let (kind, message) = refusal(bench.published().last().unwrap());
    assert_eq!(kind, Refusal::BadInput);
    assert!(message.contains("not the one that was offered"), "{message}");
}

#[tokio::test]
async fn parts_for_another_gateway_and_parts_that_cannot_be_read_are_dropped() {
    let (mut bench, device) = (wide_bench(WIDTH), Device::new(1));
    bench.deliver(device.offer());
    let mut foreign = device.part(0);
    foreign.topic = "hedge/1/acme/u/gw-2/d1".into();
    bench.deliver(foreign);
    let mut flipped = device.part(0).payload.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    bench.deliver(Incoming::new("hedge/1/acme/u/gw-1/d1", flipped));
    assert_eq!(bench.acked(), 3);
    bench.counts("hedge_gateway_requests_total{outcome=\"malformed\"} 2");
    bench.counts("hedge_gateway_upload_bytes 0.0");
}
