//! Queries in parts: loss, repetition, disorder, floods and lies.

use super::*;
use crate::{UploadAction, UploadEvent, UploadLimits, Uploads};
use bytes::Bytes;
use hedge_wire::{BodyPlan, Grant, Offer, Part, Refusal};

const PART_BYTES: usize = 4096;

/// A device's side of one upload.
struct Sender {
    device: DeviceId,
    query: Query,
    body: Bytes,
    plan: BodyPlan,
}

impl Sender {
    /// A query whose body has a few parts and does not compress.
    fn new(device_name: &str, id: u8, bytes: usize) -> Self {
        let image = Tensor::from_slice(&[1, bytes], &noise(bytes)).expect("as many elements");
        let query = Query { inputs: vec![NamedTensor::new("image", image)], deadline_ms: 30_000, ..query(id) };
        let body = Bytes::from(query.encode_upload().expect("within the caps"));
        let plan = BodyPlan::of(&body, PART_BYTES).expect("within the caps");
        Self { device: device(device_name), query, body, plan }
    }

    fn offer(&self) -> UploadEvent {
        UploadEvent::Offered { device: self.device.clone(), offer: Offer::of(&self.query, self.plan) }
    }

    fn part(&self, index: u32) -> UploadEvent {
        let part = Part::cut(self.query.id, &self.plan, &self.body, index).expect("there is such a part");
        UploadEvent::Part { device: self.device.clone(), part }
    }

    fn parts(&self) -> std::ops::Range<u32> {
        0..self.plan.parts()
    }
}

fn uploads(limits: UploadLimits) -> Uploads {
    Uploads::new(GatewayId::parse("gw-1").expect("a good id"), limits)
}

/// The one action, in a word and a number.
fn said(actions: &[UploadAction]) -> String {
    let said: Vec<String> = actions
        .iter()
        .map(|action| match action {
            UploadAction::Grant { body, .. } => {
                let grant = Grant::decode(body).expect("a grant").expect("a good one");
                format!("grant {} holding {}", grant.id.as_bytes()[0], grant.held.len())
            }
            UploadAction::Reply { key, outcome, .. } => format!("reply {} {outcome:?}", key.id.as_bytes()[0]),
            UploadAction::Assembled { query, .. } => format!("assembled {}", query.id.as_bytes()[0]),
            UploadAction::Dropped(fault) => format!("dropped {fault:?}"),
        })
        .collect();
    said.join(", ")
}

#[test]
fn parts_in_any_order_and_twice_make_the_query_that_was_offered() {
    let (sender, mut uploads, now) = (Sender::new("d1", 1, 30_000), uploads(UploadLimits::default()), Instant::now());
    assert_eq!(said(&uploads.handle(sender.offer(), now)), "grant 1 holding 0");
    let (last, rest) = (sender.plan.parts() - 1, 0..sender.plan.parts() - 1);
    for index in rest.rev() {
        assert_eq!(said(&uploads.handle(sender.part(index), now)), "");
        assert_eq!(said(&uploads.handle(sender.part(index), now)), "dropped Repeated");
    }
    let later = now + Duration::from_secs(3);
    let actions = uploads.handle(sender.part(last), later);
    let [UploadAction::Assembled { device, model, query }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((device, model), (&sender.device, &sender.query.model));
    assert_eq!(*query, Query { deadline_ms: 27_000, ..sender.query.clone() });
    assert_eq!((uploads.open(), uploads.held_bytes()), ((0, 0), 0));
    assert_eq!(said(&uploads.handle(sender.part(0), later)), "dropped NotOpen");
}

#[test]
fn whatever_is_lost_comes_after_the_grant_that_names_what_is_held() {
    for seed in 0..200 {
        let (mut state, mut now) = (seed, Instant::now());
        let (sender, mut uploads) = (Sender::new("d1", 1, 60_000), uploads(UploadLimits::default()));
        uploads.handle(sender.offer(), now);
        let (mut held, mut rounds) = (hedge_wire::PartSet::default(), 0);
        let assembled = 'sending: loop {
            rounds += 1;
            assert!(rounds < 100, "seed {seed}");
            for index in sender.parts().filter(|&index| !held.contains(index)) {
                if splitmix(&mut state).is_multiple_of(3) {
                    continue;
                }
                let actions = uploads.handle(sender.part(index), now);
                if let [UploadAction::Assembled { query, .. }] = &actions[..] {
                    break 'sending query.clone();
                }
                assert_eq!(said(&actions), "", "seed {seed}");
            }
            // Either the gateway's link broke, or it wonders where the rest is, or the device offers again.
            let event = match splitmix(&mut state) % 3 {
                0 => UploadEvent::LinkUp,
                1 => sender.offer(),
                _ => {
                    now += UploadLimits::default().regrant_after;
                    UploadEvent::Tick
                }
            };
            let actions = uploads.handle(event, now);
            let [UploadAction::Grant { body, .. }] = &actions[..] else {
                // Only time can end it.
                break 'sending sender.query.clone();
            };
            held = Grant::decode(body).expect("a grant").expect("a good one").held;
        };
        assert_eq!(assembled.inputs, sender.query.inputs, "seed {seed}");
    }
}

#[test]
fn parts_that_do_not_fit_their_place_are_dropped() {
    let (sender, mut uploads, now) = (Sender::new("d1", 1, 30_000), uploads(UploadLimits::default()), Instant::now());
    assert_eq!(said(&uploads.handle(sender.part(0), now)), "dropped NotOpen", "nothing was offered");
    uploads.handle(sender.offer(), now);
    let mut with = |index, data: &'static [u8]| {
        let part = Part { id: sender.query.id, index, data: Bytes::from_static(data) };
        said(&uploads.handle(UploadEvent::Part { device: sender.device.clone(), part }, now))
    };
    assert_eq!(with(0, &[0; PART_BYTES - 1]), "dropped WrongLength");
    assert_eq!(with(0, &[0; PART_BYTES + 1]), "dropped WrongLength");
    assert_eq!(with(sender.plan.parts() - 1, &[0; PART_BYTES]), "dropped WrongLength");
    assert_eq!(with(sender.plan.parts(), &[0; PART_BYTES]), "dropped NoSuchPart");
    assert_eq!(with(u32::MAX, &[]), "dropped NoSuchPart");
    assert_eq!(uploads.held_bytes(), 0);
    let other = Sender { device: device("d2"), ..Sender::new("d2", 1, 30_000) };
    assert_eq!(said(&uploads.handle(other.part(0), now)), "dropped NotOpen", "another device's upload");
}

#[test]
fn a_body_that_is_not_the_one_offered_is_refused() {
    let now = Instant::now();
    let send = |sender: &Sender, offer: UploadEvent| {
        let mut uploads = uploads(UploadLimits::default());
        uploads.handle(offer, now);
        let last = sender.parts().map(|index| said(&uploads.handle(sender.part(index), now))).last();
        (last.expect("there are parts"), uploads.open())
    };
    let honest = Sender::new("d1", 1, 30_000);
    // A byte is another; the checksum of its part is right.
    let mut body = honest.body.to_vec();
    body[20_000] ^= 1;
    let changed = Sender { body: body.into(), ..Sender::new("d1", 1, 30_000) };
    assert_eq!(send(&changed, honest.offer()), ("reply 1 Refused(BadInput)".to_owned(), (0, 0)));
    // The offer is for one model or purpose, and the body for another.
    let offered = |change: fn(&mut Offer)| {
        let mut offer = Offer::of(&honest.query, honest.plan);
        change(&mut offer);
        UploadEvent::Offered { device: honest.device.clone(), offer }
    };
    for offer in [offered(|offer| offer.model = model("other")), offered(|offer| offer.purpose = Purpose::Audit)] {
        assert_eq!(send(&honest, offer).0, "reply 1 Refused(BadInput)");
    }
    // No CBOR at all.
    let noise = Bytes::from(noise(20_000));
    let plan = BodyPlan::of(&noise, PART_BYTES).expect("within the caps");
    let noisy = Sender { body: noise, plan, ..Sender::new("d1", 1, 4) };
    assert_eq!(send(&noisy, noisy.offer()).0, "reply 1 Refused(BadInput)");
}

#[test]
fn an_upload_ends_with_its_deadline_and_at_the_latest_after_a_minute() {
    let (mut uploads, now) = (uploads(UploadLimits::default()), Instant::now());
    let (short, mut long) = (Sender::new("d1", 1, 30_000), Sender::new("d1", 2, 30_000));
    long.query.deadline_ms = 3_600_000;
    uploads.handle(short.offer(), now);
    uploads.handle(long.offer(), now);
    uploads.handle(short.part(0), now);
    let after = |secs| now + Duration::from_secs(secs);
    assert_eq!(said(&uploads.handle(UploadEvent::Tick, after(5))), "grant 1 holding 1, grant 2 holding 0");
    assert_eq!(said(&uploads.handle(UploadEvent::Tick, after(6))), "", "not more often than that");
    assert_eq!(said(&uploads.handle(UploadEvent::Tick, after(30))), "reply 1 Refused(Expired), grant 2 holding 0");
    assert_eq!(said(&uploads.handle(UploadEvent::Tick, after(60))), "reply 2 Refused(Expired)");
    assert_eq!((uploads.open(), uploads.held_bytes()), ((0, 0), 0));
}

#[test]
fn a_flood_of_offers_and_parts_holds_no_more_than_the_limits() {
    let limits = UploadLimits {
        uploads: 10,
        bytes: 200_000,
        uploads_per_device: 3,
        bytes_per_device: 100_000,
        ..UploadLimits::default()
    };
    for seed in 0..20 {
        let (mut uploads, mut now, mut state) = (uploads(limits.clone()), Instant::now(), seed);
        let senders: Vec<Sender> = (0..60)
            .map(|number| {
                Sender::new(&format!("d{}", number % 7), number, 1 + (splitmix(&mut state) % 60_000) as usize)
            })
            .collect();
        for _ in 0..3000 {
            let sender = &senders[splitmix(&mut state) as usize % senders.len()];
            let index = (splitmix(&mut state) % 20) as u32;
            let event = match splitmix(&mut state) % 8 {
                0 => sender.offer(),
                1 => UploadEvent::Tick,
                _ if index < sender.plan.parts() => sender.part(index),
                _ => UploadEvent::LinkUp,
            };
            now += Duration::from_millis(splitmix(&mut state) % 300);
            uploads.handle(event, now);
            let (open, bytes) = uploads.open();
            assert!(open <= limits.uploads && bytes <= limits.bytes, "seed {seed}: {open} {bytes}");
            assert!(uploads.held_bytes() <= bytes, "seed {seed}");
        }
        now += limits.max_age;
        uploads.handle(UploadEvent::Tick, now);
        assert_eq!(uploads.open(), (0, 0), "seed {seed}: everything ends");
        let honest = Sender::new("d1", 99, 60_000);
        uploads.handle(honest.offer(), now);
        let last = honest.parts().map(|index| said(&uploads.handle(honest.part(index), now))).last();
        assert_eq!(last.as_deref(), Some("assembled 99"), "seed {seed}");
    }
}

#[test]
fn an_offer_without_room_is_told_when_to_come_again_and_one_device_cannot_take_all_room() {
    let limits = UploadLimits { uploads: 3, uploads_per_device: 2, ..UploadLimits::default() };
    let (mut uploads, now) = (uploads(limits), Instant::now());
    let mut offer = |device, id| said(&uploads.handle(Sender::new(device, id, 9000).offer(), now));
    assert_eq!([offer("d1", 1), offer("d1", 2)].concat(), "grant 1 holding 0grant 2 holding 0");
    assert_eq!(offer("d1", 3), "reply 3 DeviceShare");
    assert_eq!(offer("d2", 4), "grant 4 holding 0");
    assert_eq!(offer("d3", 5), "reply 5 QueueFull");
}

#[test]
fn another_body_under_the_same_id_replaces_the_one_that_is_half_there() {
    let (mut uploads, now) = (uploads(UploadLimits::default()), Instant::now());
    let (old, new) = (Sender::new("d1", 1, 9000), Sender::new("d1", 1, 9001));
    uploads.handle(old.offer(), now);
    uploads.handle(old.part(0), now);
    assert_eq!(said(&uploads.handle(new.offer(), now)), "grant 1 holding 0");
    assert_eq!(uploads.open(), (1, new.plan.size()));
    let last = new.parts().map(|index| said(&uploads.handle(new.part(index), now))).last();
    assert_eq!(last.as_deref(), Some("assembled 1"));
    assert_eq!(uploads.open(), (0, 0));
}

/// The simulator found that a device which restarted offered another body, and was refused for good.
#[test]
fn a_device_that_restarts_half_way_offers_the_same_body_and_sends_only_what_lacks() {
    let (mut uploads, now) = (uploads(UploadLimits::default()), Instant::now());
    let first = Sender::new("d1", 1, 9000);
    let query = Query { boot: BootId(2), attempt: 1, deadline_ms: 7000, ..first.query.clone() };
    let body = Bytes::from(query.encode_upload().expect("within the caps"));
    let plan = BodyPlan::of(&body, PART_BYTES).expect("within the caps");
    let second = Sender { device: device("d1"), query, body, plan };
    uploads.handle(first.offer(), now);
    uploads.handle(first.part(0), now);
    assert_eq!(said(&uploads.handle(second.offer(), now)), "grant 1 holding 1");
    uploads.handle(second.part(1), now);
    let actions = uploads.handle(second.part(2), now);
    let [UploadAction::Assembled { query, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(*query, Query { deadline_ms: 30_000, ..second.query }, "attempt and run are those of the latest offer");
}

#[test]
fn an_offer_of_what_is_known_or_would_be_turned_away_is_not_granted() {
    let mut bench = Bench::new(Limits::default());
    let offered = |bench: &mut Bench, query: &Query| {
        let plan = BodyPlan::of(&[0; 9000], PART_BYTES).expect("within the caps");
        let (offer, now) = (Offer::of(query, plan), bench.now);
        bench.admission.offered(&device("d1"), &model("digits"), &offer, now).map(|actions| told(&actions))
    };
    assert_eq!(offered(&mut bench, &query(1)), None);
    bench.arrive("d1", query(1));
    assert_eq!(offered(&mut bench, &query(1)).as_deref(), Some("ack joined"));
    bench.finish("d1", 1);
    assert_eq!(offered(&mut bench, &query(1)).as_deref(), Some("ack repeated, reply 1 Verdict 1s"));
    let refused = |kind: Refusal| format!("ack turnedaway, reply 2 Refused({kind:?}) 1s");
    let late = Query { deadline_ms: 0, ..query(2) };
    assert_eq!(offered(&mut bench, &late), Some(refused(Refusal::Expired)));
    let foreign = Query { model: model("other"), ..query(2) };
    assert_eq!(offered(&mut bench, &foreign), Some(refused(Refusal::BadInput)));
    bench.admission.handle(Event::Drain, bench.now);
    assert_eq!(offered(&mut bench, &query(2)).as_deref(), Some("ack turnedaway, reply 2 Draining 1s"));
}

#[test]
fn a_retry_whose_first_attempt_is_not_known_here_is_run_and_told_apart() {
    let mut bench = Bench::new(Limits { replies: 1, ..Limits::default() });
    bench.arrive("d1", query(1));
    bench.finish("d1", 1);
    let retry = |id| Query { attempt: 1, ..query(id) };
    assert_eq!(told(&bench.arrive("d1", retry(1))), "ack repeated, reply 1 Verdict 1s");
    // Another reply pushes the first out of memory: the retry is not lost, it is run again, and that is counted.
    bench.arrive("d1", query(2));
    bench.finish("d1", 2);
    assert_eq!(told(&bench.arrive("d1", retry(1))), "ack readmitted, submit 1");
    assert_eq!(told(&bench.finish("d1", 1)), "reply 1 Verdict 1s");
    // By age as well, and by a gateway that began after the first attempt.
    bench.wait(Limits::default().reply_age.as_millis() as u64 + 1).tick();
    assert_eq!(told(&bench.arrive("d1", retry(1))), "ack readmitted, submit 1");
    assert_eq!(told(&Bench::new(Limits::default()).arrive("d1", retry(1))), "ack readmitted, submit 1");
}
