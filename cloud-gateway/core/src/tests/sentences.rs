//! What a gateway does, one sentence a test.

use super::*;
use hedge_wire::{Purpose, Refusal};

fn bench() -> Bench {
    Bench::new(Limits::default())
}

#[test]
fn a_query_is_acknowledged_submitted_and_answered_with_what_is_left_of_its_time() {
    let mut bench = bench();
    let long = Query { deadline_ms: 5000, ..query(1) };
    assert_eq!(told(&bench.arrive("d1", long)), "ack admitted, submit 1");
    assert_eq!(told(&bench.wait(2000).finish("d1", 1)), "reply 1 Verdict 3s");
    assert_eq!(bench.admission.queued(), 0);
    assert_eq!(bench.admission.queued_bytes(), 0);
}

#[test]
fn a_query_that_comes_again_while_it_is_worked_on_joins_and_prolongs_it() {
    let mut bench = bench();
    bench.arrive("d1", query(1));
    assert_eq!(told(&bench.wait(900).arrive("d1", query(1))), "ack joined");
    assert_eq!(told(&bench.wait(500).finish("d1", 1)), "reply 1 Verdict 1s");
}

#[test]
fn a_query_that_comes_again_later_gets_the_same_reply_and_no_second_run() {
    let mut bench = bench();
    bench.arrive("d1", query(1));
    let first = bench.finish("d1", 1);
    let second = bench.wait(100).arrive("d1", query(1));
    assert_eq!(told(&second), "ack repeated, reply 1 Verdict 1s");
    let body = |actions: &[Action]| match actions.last() {
        Some(Action::Reply { body, .. }) => body.clone(),
        other => panic!("no reply: {other:?}"),
    };
    assert_eq!(body(&first), body(&second));
}

#[test]
fn the_same_id_of_another_device_is_another_query() {
    let mut bench = bench();
    bench.arrive("d1", query(1));
    bench.finish("d1", 1);
    assert_eq!(told(&bench.arrive("d2", query(1))), "ack admitted, submit 1");
}

#[test]
fn a_model_that_is_not_served_is_refused() {
    let other = Query { model: model("other"), ..query(1) };
    assert_eq!(told(&bench().arrive("d1", other)), "ack turnedaway, reply 1 Refused(UnknownModel) 1s");
}

#[test]
fn a_body_for_another_model_than_its_topic_is_refused() {
    let mut bench = bench();
    let event = Event::Arrived { device: device("d1"), model: model("other"), query: query(1) };
    let actions = bench.admission.handle(event, bench.now);
    assert_eq!(told(&actions), "ack turnedaway, reply 1 Refused(BadInput) 1s");
}

#[test]
fn a_query_without_time_left_is_refused_unless_its_reply_is_known() {
    let mut bench = bench();
    let late = Query { deadline_ms: 0, ..query(1) };
    assert_eq!(told(&bench.arrive("d1", late.clone())), "ack turnedaway, reply 1 Refused(Expired) 1s");
    bench.arrive("d1", query(1));
    bench.finish("d1", 1);
    assert_eq!(told(&bench.arrive("d1", late)), "ack repeated, reply 1 Verdict 1s");
}

#[test]
fn a_model_that_finishes_too_late_ends_as_expired_but_its_verdict_is_kept_for_a_repetition() {
    let mut bench = bench();
    bench.arrive("d1", query(1));
    assert_eq!(told(&bench.wait(1000).finish("d1", 1)), "reply 1 Refused(Expired) 1s");
    assert_eq!(told(&bench.arrive("d1", query(1))), "ack repeated, reply 1 Verdict 1s");
}

#[test]
fn a_query_waits_while_the_engine_has_enough_and_is_submitted_in_order() {
    let mut bench = Bench::new(Limits { running_per_model: 1, ..Limits::default() });
    assert_eq!(told(&bench.arrive("d1", query(1))), "ack admitted, submit 1");
    assert_eq!(told(&bench.arrive("d1", query(2))), "ack admitted");
    assert_eq!(told(&bench.arrive("d2", query(3))), "ack admitted");
    assert_eq!(told(&bench.finish("d1", 1)), "reply 1 Verdict 1s, submit 2");
    assert_eq!(told(&bench.finish("d1", 2)), "reply 2 Verdict 1s, submit 3");
}

#[test]
fn a_query_that_expires_in_the_queue_is_never_run() {
    let mut bench = Bench::new(Limits { running_per_model: 1, ..Limits::default() });
    bench.arrive("d1", Query { deadline_ms: 5000, ..query(1) });
    bench.arrive("d1", query(2));
    bench.arrive("d1", Query { deadline_ms: 1500, ..query(3) });
    assert_eq!(told(&bench.wait(999).tick()), "");
    assert_eq!(told(&bench.wait(1).tick()), "reply 2 Refused(Expired) 1s");
    let finished = told(&bench.wait(1000).finish("d1", 1));
    assert_eq!(finished, "reply 1 Verdict 3s, reply 3 Refused(Expired) 1s");
    assert_eq!(bench.admission.queued(), 0);
    assert_eq!(told(&bench.arrive("d1", query(2))), "ack admitted, submit 2");
}

#[test]
fn a_full_queue_says_busy_and_the_query_may_come_again() {
    let mut bench = Bench::new(Limits { queue: 2, ..Limits::default() });
    bench.arrive("d1", query(1));
    bench.arrive("d2", query(2));
    assert_eq!(told(&bench.arrive("d3", query(3))), "ack turnedaway, reply 3 QueueFull 1s");
    bench.finish("d1", 1);
    assert_eq!(told(&bench.arrive("d3", query(3))), "ack admitted, submit 3");
}

#[test]
fn a_queue_full_of_bytes_says_busy() {
    let mut bench = Bench::new(Limits { queue_bytes: 7, ..Limits::default() });
    bench.arrive("d1", query(1));
    assert_eq!(told(&bench.arrive("d2", query(2))), "ack turnedaway, reply 2 QueueFull 1s");
}

#[test]
fn one_device_cannot_take_the_whole_queue() {
    let mut bench = Bench::new(Limits { queue_per_device: 2, ..Limits::default() });
    bench.arrive("greedy", query(1));
    bench.arrive("greedy", query(2));
    assert_eq!(told(&bench.arrive("greedy", query(3))), "ack turnedaway, reply 3 DeviceShare 1s");
    assert_eq!(told(&bench.arrive("modest", query(3))), "ack admitted, submit 3");
    bench.finish("greedy", 1);
    assert_eq!(told(&bench.arrive("greedy", query(3))), "ack admitted, submit 3");
}

#[test]
fn busy_tells_when_to_come_again() {
    let mut bench = Bench::new(Limits { queue: 0, busy_retry: Duration::from_millis(321), ..Limits::default() });
    let actions = bench.arrive("d1", query(1));
    let Some(Action::Reply { body, .. }) = actions.last() else { panic!("no reply: {actions:?}") };
    assert_eq!(Reply::decode(body).unwrap(), Reply::Busy { id: request(1), retry_ms: 321 });
}

#[test]
fn a_query_that_the_engine_had_no_room_for_is_busy_and_not_remembered() {
    let mut bench = bench();
    bench.arrive("d1", query(1));
    let actions = bench.report("d1", Reply::Busy { id: request(1), retry_ms: 5 });
    assert_eq!(told(&actions), "reply 1 QueueFull 1s");
    assert_eq!(told(&bench.arrive("d1", query(1))), "ack admitted, submit 1");
}

#[test]
fn a_refusal_of_the_model_is_final() {
    let mut bench = bench();
    bench.arrive("d1", query(1));
    let refusal = Reply::Refused { id: request(1), kind: Refusal::BadInput, message: "no input x".into() };
    assert_eq!(told(&bench.report("d1", refusal)), "reply 1 Refused(BadInput) 1s");
    assert_eq!(told(&bench.arrive("d1", query(1))), "ack repeated, reply 1 Refused(BadInput) 1s");
}

#[test]
fn outputs_beyond_a_message_become_a_refusal() {
    let mut bench = bench();
    bench.arrive("d1", query(1));
    let actions = bench.report("d1", verdict(1, hedge_wire::MAX_REPLY_BYTES + 1));
    assert_eq!(told(&actions), "reply 1 Refused(Internal) 1s");
}

#[test]
fn a_query_reported_twice_is_answered_once() {
    let mut bench = bench();
    bench.arrive("d1", query(1));
    bench.finish("d1", 1);
    assert_eq!(told(&bench.finish("d1", 1)), "");
    assert_eq!(told(&bench.finish("d9", 9)), "");
}

#[test]
fn a_report_about_a_query_that_still_waits_changes_nothing() {
    let mut bench = Bench::new(Limits { running_per_model: 1, ..Limits::default() });
    bench.arrive("d1", query(1));
    bench.arrive("d1", query(2));
    assert_eq!(told(&bench.finish("d1", 2)), "");
    assert_eq!(told(&bench.finish("d1", 1)), "reply 1 Verdict 1s, submit 2");
}

#[test]
fn a_draining_gateway_finishes_what_it_has_and_admits_nothing() {
    let mut bench = Bench::new(Limits { running_per_model: 1, ..Limits::default() });
    bench.arrive("d1", query(1));
    bench.arrive("d1", query(2));
    bench.admission.handle(Event::Drain, bench.now);
    assert_eq!(told(&bench.arrive("d1", query(3))), "ack turnedaway, reply 3 Draining 1s");
    assert_eq!(told(&bench.arrive("d1", query(2))), "ack joined");
    assert_eq!(told(&bench.finish("d1", 1)), "reply 1 Verdict 1s, submit 2");
    assert_eq!(told(&bench.finish("d1", 2)), "reply 2 Verdict 1s");
}

#[test]
fn a_deadline_beyond_reason_is_cut() {
    let mut bench = Bench::new(Limits { max_deadline: Duration::from_secs(2), ..Limits::default() });
    bench.arrive("d1", Query { deadline_ms: u32::MAX, ..query(1) });
    assert_eq!(told(&bench.finish("d1", 1)), "reply 1 Verdict 2s");
}

#[test]
fn replies_are_forgotten_by_number_bytes_and_age() {
    let one = match verdict(1, 4).encode_checked() {
        Ok(body) => body.len(),
        Err(error) => panic!("{error}"),
    };
    let by_number = Limits { replies: 2, ..Limits::default() };
    let by_bytes = Limits { reply_bytes: 2 * one, ..Limits::default() };
    for limits in [by_number, by_bytes] {
        let mut bench = Bench::new(limits);
        for id in 1..=3 {
            bench.arrive("d1", query(id));
            bench.finish("d1", id);
        }
        assert_eq!(bench.admission.remembered(), (2, 2 * one));
        assert_eq!(arrival(&bench.arrive("d1", query(3))), Arrival::Repeated);
        assert_eq!(arrival(&bench.arrive("d1", query(1))), Arrival::Admitted);
    }
    let mut bench = Bench::new(Limits { reply_age: Duration::from_secs(10), ..Limits::default() });
    bench.arrive("d1", query(1));
    bench.finish("d1", 1);
    bench.wait(10_000).tick();
    assert_eq!(bench.admission.remembered(), (1, one));
    bench.wait(1).tick();
    assert_eq!(bench.admission.remembered(), (0, 0));
}

fn audit(id: u8) -> Query {
    Query { purpose: Purpose::Audit, ..query(id) }
}

#[test]
fn an_audit_runs_when_nothing_else_waits_for_its_model() {
    let mut bench = Bench::new(Limits { running_per_model: 1, ..Limits::default() });
    assert_eq!(told(&bench.arrive("d1", audit(1))), "ack admitted, submit 1");
    assert_eq!(told(&bench.arrive("d1", audit(2))), "ack admitted");
    assert_eq!(told(&bench.arrive("d2", query(3))), "ack admitted");
    assert_eq!(told(&bench.arrive("d2", query(4))), "ack admitted");
    assert_eq!(told(&bench.finish("d1", 1)), "reply 1 Verdict 1s, submit 3");
    assert_eq!(told(&bench.finish("d2", 3)), "reply 3 Verdict 1s, submit 4");
    assert_eq!(told(&bench.finish("d2", 4)), "reply 4 Verdict 1s, submit 2");
}

#[test]
fn audits_leave_most_of_the_engine_free_for_answers_to_come() {
    let mut bench = Bench::new(Limits { running_per_model: 8, ..Limits::default() });
    assert_eq!(told(&bench.arrive("d1", audit(1))), "ack admitted, submit 1");
    assert_eq!(told(&bench.arrive("d1", audit(2))), "ack admitted, submit 2");
    assert_eq!(told(&bench.arrive("d1", audit(3))), "ack admitted");
    assert_eq!(told(&bench.arrive("d2", query(4))), "ack admitted, submit 4");
    assert_eq!(told(&bench.finish("d1", 1)), "reply 1 Verdict 1s, submit 3");
}

#[test]
fn an_answer_that_finds_no_room_takes_the_place_of_the_latest_audit_that_waits() {
    let mut bench = Bench::new(Limits { queue: 3, running_per_model: 1, ..Limits::default() });
    bench.arrive("d1", query(1));
    bench.arrive("d1", audit(2));
    bench.arrive("d1", audit(3));
    assert_eq!(told(&bench.arrive("d1", audit(4))), "ack turnedaway, reply 4 Audit 1s");
    assert_eq!(told(&bench.arrive("d2", query(5))), "ack admitted, reply 3 Audit 1s");
    assert_eq!(told(&bench.arrive("d2", query(6))), "ack admitted, reply 2 Audit 1s");
    assert_eq!(told(&bench.arrive("d2", query(7))), "ack turnedaway, reply 7 QueueFull 1s");
    assert_eq!(bench.admission.queued(), 3);
}

#[test]
fn no_audit_is_turned_away_for_an_answer_of_a_device_whose_share_is_used_up() {
    let limits = Limits { queue: 2, queue_per_device: 1, running_per_model: 1, ..Limits::default() };
    let mut bench = Bench::new(limits);
    bench.arrive("d1", query(1));
    bench.arrive("d1", audit(2));
    assert_eq!(told(&bench.arrive("d1", query(3))), "ack turnedaway, reply 3 DeviceShare 1s");
    assert_eq!(bench.admission.queued(), 2);
}

#[test]
fn no_audit_is_turned_away_for_an_answer_that_does_not_fit_even_then() {
    let mut bench = Bench::new(Limits { queue_bytes: 11, running_per_model: 1, ..Limits::default() });
    bench.arrive("d1", query(1));
    bench.arrive("d1", audit(2));
    let mut large = query(3);
    large.inputs.extend(query(3).inputs);
    assert_eq!(told(&bench.arrive("d2", large)), "ack turnedaway, reply 3 QueueFull 1s");
    assert_eq!(bench.admission.queued(), 2);
}

#[test]
fn audits_have_a_share_of_the_queue_and_a_device_a_share_of_theirs() {
    let limits = Limits { audits: 3, audits_per_device: 2, queue_per_device: 1, ..Limits::default() };
    let mut bench = Bench::new(limits);
    bench.arrive("d1", audit(1));
    bench.arrive("d1", audit(2));
    assert_eq!(told(&bench.arrive("d1", audit(3))), "ack turnedaway, reply 3 Audit 1s");
    assert_eq!(told(&bench.arrive("d1", query(4))), "ack admitted, submit 4");
    assert_eq!(told(&bench.arrive("d2", audit(5))), "ack admitted, submit 5");
    assert_eq!(told(&bench.arrive("d3", audit(6))), "ack turnedaway, reply 6 Audit 1s");
    bench.finish("d1", 1);
    assert_eq!(told(&bench.arrive("d3", audit(6))), "ack admitted, submit 6");
}
