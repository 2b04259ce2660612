//! The outbox's promises, event by event. Random histories with a faulty store are the simulator's.

use super::*;
use crate::answer::Reason;
use crate::row::NotSent;
use hedge_wire::{Digest, Refusal};

const BOOT: BootId = BootId(1);
const LIFE: Duration = Duration::from_secs(3600);

struct Bench {
    outbox: Outbox<&'static str>,
    now: Duration,
}

impl Bench {
    fn new(settings: OutboxSettings) -> Self {
        Self { outbox: Outbox::new(settings, BOOT, 7), now: Duration::from_secs(100) }
    }

    fn restored(saved: Vec<Saved>) -> (Self, String) {
        Self::killed(saved, None)
    }

    /// After a process that was killed with this under way.
    fn killed(saved: Vec<Saved>, under_way: Option<&UnderWay>) -> (Self, String) {
        let now = Duration::from_secs(100);
        let (outbox, actions) = Outbox::restore(OutboxSettings::default(), BOOT, 7, saved, under_way, now);
        (Self { outbox, now }, told(&actions))
    }

    fn wait(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self
    }

    /// The actions of one event, in words; wake-ups are left out.
    fn on(&mut self, event: OutboxEvent<&'static str>) -> String {
        told(&self.outbox.on(event, self.now))
    }

    fn accept(&mut self, number: u8) -> String {
        self.on(accept(number, 1))
    }

    /// Hands in request `number` and executes it as far as `ran`, each write kept at once.
    fn run(&mut self, number: u8, ran: Ran<&'static str>) -> String {
        self.accept(number);
        self.keep();
        self.on(OutboxEvent::Ran { id: id(number), ran })
    }

    /// The next write is kept.
    fn keep(&mut self) -> String {
        let write = self.outbox.writes.keys().min().copied().expect("a write is on its way");
        self.on(OutboxEvent::Persisted(write))
    }

    /// The next write finds no space.
    fn full(&mut self) -> String {
        let write = self.outbox.writes.keys().min().copied().expect("a write is on its way");
        self.on(OutboxEvent::NotPersisted(write))
    }

    /// Waits until a jittered retry must be due, and lets time act.
    fn retry(&mut self) -> String {
        self.wait(30_000).on(OutboxEvent::Timer)
    }
}

fn id(number: u8) -> RequestId {
    RequestId::from_bytes([number; 16])
}

fn accept(number: u8, digest: u8) -> OutboxEvent<&'static str> {
    OutboxEvent::Accept { id: id(number), digest: Digest([digest; 32]), bytes: 10, life: LIFE }
}

fn verdict(number: u8) -> OutboxEvent<&'static str> {
    OutboxEvent::Verdict { id: id(number), answer: "cloud" }
}

fn head(number: u8, attempts: u8, placed: bool) -> Head {
    let expiry = Expiry { boot: BOOT, at: Duration::from_secs(1000), left: Duration::from_secs(900) };
    Head { id: id(number), digest: Digest([1; 32]), bytes: 10, attempts, placed, expiry }
}

fn told(actions: &[OutboxAction<&'static str>]) -> String {
    let number = |id: &RequestId| id.as_bytes()[0];
    let change = |change: &Change<&'static str>| match change {
        Change::Insert(head) => format!("insert {} attempts {}", number(&head.id), head.attempts),
        Change::Update(head) => {
            format!(
                "update {} attempts {}{}",
                number(&head.id),
                head.attempts,
                if head.placed { " placed" } else { "" }
            )
        }
        Change::Finish { head, ending } => format!("finish {} {ending:?}", number(&head.id)),
        Change::Fetched(id) => format!("fetched {}", number(id)),
        Change::Erase(id) => format!("erase {}", number(id)),
    };
    let told = actions.iter().filter_map(|action| {
        Some(match action {
            OutboxAction::Persist { change: what, .. } => format!("persist {}", change(what)),
            OutboxAction::Note(what) => format!("note {}", change(what)),
            OutboxAction::Accepted(id) => format!("accepted {}", number(id)),
            OutboxAction::Refuse { id, why } => format!("refuse {} {why:?}", number(id)),
            OutboxAction::Known(id) => format!("known {}", number(id)),
            OutboxAction::Execute { id, mode, .. } => format!("execute {} {mode:?}", number(id)),
            OutboxAction::Publish { id, attempt, left, .. } => format!("publish {} #{attempt} {left:?}", number(id)),
            OutboxAction::Deliver { id, ending } => format!("deliver {} {ending:?}", number(id)),
            OutboxAction::WakeAt(_) => return None,
        })
    });
    told.collect::<Vec<_>>().join(", ")
}

#[test]
fn a_request_is_accepted_once_it_is_on_disk_and_delivered_once_its_answer_is() {
    let mut bench = Bench::new(OutboxSettings::default());
    assert_eq!(bench.accept(1), "persist insert 1 attempts 1");
    assert_eq!(bench.outbox.standing(&id(1)), Standing::Accepting);
    assert_eq!(bench.keep(), "accepted 1, execute 1 Routed");
    let finish = bench.on(OutboxEvent::Ran { id: id(1), ran: Ran::Final("edge") });
    assert_eq!(finish, r#"persist finish 1 Answered("edge")"#);
    assert_eq!(bench.outbox.standing(&id(1)), Standing::Waiting);
    assert_eq!(bench.keep(), r#"deliver 1 Answered("edge")"#);
    assert_eq!(bench.outbox.standing(&id(1)), Standing::Done);
}

#[test]
fn what_the_cloud_is_to_answer_is_asked_under_one_id_until_a_final_reply() {
    let mut bench = Bench::new(OutboxSettings::default());
    bench.on(OutboxEvent::CloudUp);
    let placed = "note update 1 attempts 0 placed";
    assert_eq!(bench.run(1, Ran::Offload), format!("{placed}, persist update 1 attempts 1 placed"));
    assert_eq!(bench.keep(), "publish 1 #0 5s");
    assert_eq!(bench.on(OutboxEvent::Sent(id(1))), placed, "an acknowledgement ends nothing");
    assert_eq!(bench.retry(), "");
    assert_eq!(bench.retry(), "publish 1 #1 10s", "silence");
    let busy = OutboxEvent::Busy { id: id(1), retry: Duration::from_secs(1) };
    assert_eq!(bench.on(busy), "");
    assert_eq!(bench.retry(), "publish 1 #2 20s");
    for refusal in [Refusal::Expired, Refusal::UnknownModel] {
        assert_eq!(bench.on(OutboxEvent::Refused { id: id(1), refusal }), "", "{refusal:?} is not final");
        assert!(bench.retry().starts_with("publish 1"));
    }
    assert_eq!(bench.on(verdict(1)), r#"persist finish 1 Answered("cloud")"#);
    assert_eq!(bench.on(verdict(1)), "", "a second reply changes nothing");
    assert_eq!(bench.keep(), r#"deliver 1 Answered("cloud")"#);
    assert_eq!(bench.on(verdict(1)), "", "nor does a late one");
}

#[test]
fn without_a_cloud_it_waits_and_goes_out_when_the_cloud_is_back() {
    let mut bench = Bench::new(OutboxSettings::default());
    assert_eq!(bench.run(1, Ran::Offload), "note update 1 attempts 0 placed");
    assert_eq!(bench.retry(), "");
    bench.on(OutboxEvent::CloudUp);
    assert_eq!(bench.wait(200).on(OutboxEvent::Timer), "persist update 1 attempts 1 placed");
    assert_eq!(bench.keep(), "publish 1 #0 5s");
    assert_eq!(bench.on(OutboxEvent::CloudDown), "note update 1 attempts 0 placed");
    assert_eq!(bench.retry(), "", "nothing is sent into a cut");
    bench.on(OutboxEvent::CloudUp);
    assert_eq!(bench.wait(200).on(OutboxEvent::Timer), "publish 1 #1 5s");
}

#[test]
fn when_its_life_is_over_it_is_executed_without_the_cloud() {
    let mut bench = Bench::new(OutboxSettings::default());
    bench.run(1, Ran::Offload);
    let over = bench.wait(3_600_000).on(OutboxEvent::Timer);
    assert!(over.ends_with("persist update 1 attempts 1 placed"), "{over}");
    assert_eq!(bench.keep(), "execute 1 Local(Deadline)");
    let local = bench.on(OutboxEvent::Ran { id: id(1), ran: Ran::Final("edge, uncertified") });
    assert_eq!(local, r#"persist finish 1 Answered("edge, uncertified")"#);
}

#[test]
fn a_final_refusal_and_what_no_message_can_carry_are_executed_without_the_cloud() {
    let cases = [
        (OutboxEvent::Refused { id: id(1), refusal: Refusal::Internal }, Reason::CloudRefused),
        (OutboxEvent::Refused { id: id(1), refusal: Refusal::BadInput }, Reason::CloudRefused),
        (OutboxEvent::BadVerdict(id(1)), Reason::BadVerdict),
        (OutboxEvent::NotSent { id: id(1), why: NotSent::TooLarge }, Reason::TooLarge),
    ];
    for (event, why) in cases {
        let mut bench = Bench::new(OutboxSettings::default());
        bench.on(OutboxEvent::CloudUp);
        bench.run(1, Ran::Offload);
        bench.keep();
        bench.on(OutboxEvent::Sent(id(1)));
        assert_eq!(bench.on(event), "persist update 1 attempts 1 placed");
        assert_eq!(bench.keep(), format!("execute 1 Local({why:?})"));
    }
}

#[test]
fn a_caller_that_repeats_an_id_joins_and_one_that_uses_it_for_something_else_is_told() {
    let mut bench = Bench::new(OutboxSettings::default());
    bench.accept(1);
    assert_eq!(bench.accept(1), "", "the write that is on its way will do for both");
    assert_eq!(bench.on(accept(1, 2)), "refuse 1 OtherRequest");
    bench.keep();
    assert_eq!(bench.accept(1), "accepted 1");
    bench.on(OutboxEvent::Ran { id: id(1), ran: Ran::Final("edge") });
    bench.keep();
    assert_eq!(bench.accept(1), "known 1");
    assert_eq!(bench.on(accept(1, 2)), "refuse 1 OtherRequest");
    bench.wait(24 * 3_600_000);
    assert_eq!(bench.on(OutboxEvent::Timer), "note erase 1");
    assert_eq!(bench.accept(1), "refuse 1 Gone");
}

#[test]
fn a_full_outbox_refuses_new_work_until_results_are_fetched() {
    let settings = OutboxSettings { entries: 2, results: 1, ..OutboxSettings::default() };
    let mut bench = Bench::new(settings);
    for number in [1, 2] {
        bench.run(number, Ran::Final("edge"));
        bench.keep();
    }
    assert_eq!(bench.accept(3), "refuse 3 TooMany { held: 2, limit: 2 }");
    assert_eq!(bench.on(OutboxEvent::Fetched(id(1))), "note fetched 1");
    assert_eq!(bench.on(OutboxEvent::Fetched(id(1))), "");
    assert_eq!(bench.accept(3), "persist insert 3 attempts 1");
    assert_eq!(
        bench.on(OutboxEvent::Fetched(id(2))),
        "note fetched 2, note erase 1",
        "the earliest fetched makes room"
    );
}

#[test]
fn answers_have_so_many_bytes_those_fetched_make_room_and_those_not_fetched_refuse_new_work() {
    let mut bench = Bench::new(OutboxSettings { result_bytes: 8, ..OutboxSettings::default() });
    for number in [1, 2] {
        bench.run(number, Ran::Final("edge"));
        bench.keep();
    }
    assert_eq!(bench.accept(3), "refuse 3 Unfetched { held: 8, limit: 8 }");
    assert_eq!(bench.on(OutboxEvent::Fetched(id(1))), "note fetched 1", "there is room for both");
    bench.run(3, Ran::Final("edge"));
    assert_eq!(bench.keep(), r#"deliver 3 Answered("edge"), note erase 1"#);
    assert_eq!(bench.outbox.results(), (2, 2));
}

#[test]
fn new_work_is_refused_from_eighty_percent_of_the_quota_on() {
    let mut bench = Bench::new(OutboxSettings { quota: 25, ..OutboxSettings::default() });
    bench.accept(1);
    bench.accept(2);
    assert_eq!(bench.accept(3), "refuse 3 TooLarge { held: 20, limit: 20 }");
}

#[test]
fn a_full_disk_refuses_new_work_and_delays_what_was_accepted() {
    let mut bench = Bench::new(OutboxSettings { running: 1, ..OutboxSettings::default() });
    bench.accept(1);
    assert_eq!(bench.full(), "refuse 1 DiskFull");
    assert_eq!(bench.outbox.standing(&id(1)), Standing::Unknown);

    bench.run(2, Ran::Final("edge"));
    assert_eq!(bench.full(), "note update 2 attempts 0", "the answer is not given before it is kept");
    assert_eq!(bench.wait(1_000).on(OutboxEvent::Timer), r#"persist finish 2 Answered("edge")"#);
    bench.accept(3);
    bench.accept(4);
    assert_eq!(bench.keep(), r#"deliver 2 Answered("edge")"#);
    assert_eq!(bench.keep(), "accepted 3, execute 3 Routed");
    assert_eq!(bench.keep(), "accepted 4");
    let finish = bench.on(OutboxEvent::Ran { id: id(3), ran: Ran::Final("edge") });
    assert_eq!(finish, r#"persist finish 3 Answered("edge"), persist update 4 attempts 1"#);
    bench.keep();
    assert_eq!(bench.full(), "", "the attempt was not written down: nothing is executed");
    assert_eq!(bench.wait(1_000).on(OutboxEvent::Timer), "persist update 4 attempts 1");
}

#[test]
fn what_was_survived_is_not_blamed_when_its_ending_finds_no_space() {
    let (mut bench, _) = Bench::restored(vec![Saved::Entry(head(1, 1, false))]);
    bench.on(OutboxEvent::Timer);
    assert_eq!(bench.keep(), "execute 1 Routed");
    let ended = OutboxEvent::Ran { id: id(1), ran: Ran::Final("edge") };
    assert_eq!(bench.on(ended), r#"persist finish 1 Answered("edge")"#);
    assert_eq!(bench.full(), "note update 1 attempts 0", "the process may be stopped before there is space");
    assert_eq!(bench.wait(1_000).on(OutboxEvent::Timer), r#"persist finish 1 Answered("edge")"#);
    assert_eq!(bench.full(), "", "one note is enough");
}

#[test]
fn executions_and_messages_at_a_time_are_bounded() {
    let mut bench = Bench::new(OutboxSettings { running: 2, in_flight: 1, ..OutboxSettings::default() });
    bench.on(OutboxEvent::CloudUp);
    for number in 1..=3 {
        bench.accept(number);
    }
    for _ in 0..3 {
        bench.keep();
    }
    assert_eq!((bench.outbox.running(), bench.outbox.in_flight()), (2, 0));
    let first = bench.on(OutboxEvent::Ran { id: id(1), ran: Ran::Offload });
    assert_eq!(
        first,
        "note update 1 attempts 0 placed, persist update 3 attempts 1, persist update 1 attempts 1 placed"
    );
    let second = bench.on(OutboxEvent::Ran { id: id(2), ran: Ran::Offload });
    assert_eq!(second, "note update 2 attempts 0 placed");
    let third = bench.on(verdict(1));
    assert_eq!(third, r#"persist finish 1 Answered("cloud"), persist update 2 attempts 1 placed"#);
}

#[test]
fn what_was_being_executed_when_the_process_died_is_tried_alone_and_then_given_up() {
    let (mut bench, begun) = Bench::restored(vec![
        Saved::Entry(head(1, 0, false)),
        Saved::Entry(head(2, 1, false)),
        Saved::Entry(head(3, 2, false)),
        Saved::Damaged(head(4, 0, false)),
    ]);
    let gone = "persist finish 3 Poisoned { attempts: 2 }, persist finish 4 Damaged";
    assert_eq!(begun, format!("{gone}, persist update 2 attempts 2"));
    assert!(bench.outbox.tries_a_suspect());
    assert_eq!(bench.keep(), "deliver 3 Poisoned { attempts: 2 }");
    assert_eq!(bench.keep(), "deliver 4 Damaged");
    assert_eq!(bench.keep(), "execute 2 Routed");
    assert_eq!(bench.accept(5), "persist insert 5 attempts 0");
    assert_eq!(bench.keep(), "accepted 5", "nobody else is executed meanwhile");
    let ended = bench.on(OutboxEvent::Ran { id: id(2), ran: Ran::Offload });
    assert_eq!(ended, "note update 2 attempts 0 placed, persist update 1 attempts 1, persist update 5 attempts 1");
}

#[test]
fn the_first_message_of_a_process_is_an_attempt_and_its_retries_are_not() {
    let (mut bench, begun) = Bench::restored(vec![Saved::Entry(head(1, 0, true))]);
    assert_eq!(begun, "");
    bench.on(OutboxEvent::CloudUp);
    assert_eq!(bench.wait(200).on(OutboxEvent::Timer), "persist update 1 attempts 1 placed");
    assert_eq!(bench.keep(), "publish 1 #1 5s");
    assert_eq!(bench.on(OutboxEvent::Sent(id(1))), "note update 1 attempts 0 placed");
    bench.retry();
    // The first of what a new process writes down of a life.
    assert_eq!(bench.retry(), "note update 1 attempts 0 placed, publish 1 #2 10s");
}

#[test]
fn a_machine_that_is_restarted_every_other_minute_uses_up_lives_all_the_same() {
    let (mut bench, _) = Bench::restored(vec![Saved::Entry(head(1, 0, true))]);
    assert_eq!(bench.wait(59_000).on(OutboxEvent::Timer), "");
    assert_eq!(bench.wait(1_000).on(OutboxEvent::Timer), "note update 1 attempts 0 placed");
}

/// The simulator found that what died in sending was not counted where the same process had executed it.
#[test]
fn what_kills_only_when_it_is_sent_is_given_up_after_two_deaths_as_well() {
    let mut bench = Bench::new(OutboxSettings::default());
    bench.on(OutboxEvent::CloudUp);
    let ran = bench.run(1, Ran::Offload);
    assert_eq!(ran, "note update 1 attempts 0 placed, persist update 1 attempts 1 placed", "before it is sent");
    let (mut bench, _) = Bench::restored(vec![Saved::Entry(head(1, 1, true))]);
    bench.on(OutboxEvent::CloudUp);
    assert_eq!(bench.wait(200).on(OutboxEvent::Timer), "persist update 1 attempts 2 placed");
    let (_, begun) = Bench::restored(vec![Saved::Entry(head(1, 2, true))]);
    assert_eq!(begun, "persist finish 1 Poisoned { attempts: 2 }");
}

#[test]
fn an_attempt_that_did_not_take_place_is_taken_back() {
    let (mut bench, _) = Bench::restored(vec![Saved::Entry(head(1, 1, true))]);
    bench.on(OutboxEvent::CloudUp);
    assert_eq!(bench.wait(200).on(OutboxEvent::Timer), "persist update 1 attempts 2 placed");
    bench.on(OutboxEvent::CloudDown);
    assert_eq!(bench.keep(), "note update 1 attempts 1 placed", "the link was cut before it could be sent");
}

#[test]
fn what_was_not_under_way_when_the_process_was_killed_did_not_kill_it() {
    let saved = vec![Saved::Entry(head(1, 1, false)), Saved::Entry(head(2, 2, false)), Saved::Entry(head(3, 1, false))];
    // The mark of 2 is that of its first attempt: the second was on the disk and had not begun.
    let under_way = UnderWay::from([(id(2), 1), (id(3), 1)]);
    assert_eq!(held(&saved, Some(&under_way)), UnderWay::from([(id(2), 1), (id(3), 1)]));
    assert_eq!(held(&saved, None), UnderWay::from([(id(1), 1), (id(2), 2), (id(3), 1)]), "after a reboot");
    let (mut bench, begun) = Bench::killed(saved, Some(&under_way));
    let taken_back = "note update 1 attempts 0, note update 2 attempts 1";
    assert_eq!(begun, format!("{taken_back}, persist update 2 attempts 2"), "2 and 3 are suspect, one after the other");
    assert_eq!(bench.keep(), "execute 2 Routed");

    let poison = vec![Saved::Entry(head(2, 2, false))];
    let (_, begun) = Bench::killed(poison, Some(&UnderWay::from([(id(2), 2)])));
    assert_eq!(begun, "persist finish 2 Poisoned { attempts: 2 }");
}

/// The simulator found a request that was called poisoned after one death: its life had ended while its attempt was written.
#[test]
fn an_attempt_that_came_too_late_to_be_sent_is_taken_back() {
    let (mut bench, _) = Bench::restored(vec![Saved::Entry(head(1, 0, true))]);
    bench.on(OutboxEvent::CloudUp);
    assert_eq!(bench.wait(200).on(OutboxEvent::Timer), "persist update 1 attempts 1 placed");
    let late = bench.wait(3_600_000).keep();
    assert_eq!(late, "note update 1 attempts 0 placed, persist update 1 attempts 1 placed");
    assert_eq!(bench.keep(), "execute 1 Local(Deadline)");
}

#[test]
fn a_life_goes_on_over_a_restart_and_over_a_reboot_by_what_was_left() {
    for (boot, left) in [(BOOT, 900), (BootId(2), 800)] {
        let mut saved = head(1, 0, true);
        saved.expiry.left = Duration::from_secs(800);
        let saved = vec![Saved::Entry(saved)];
        let now = Duration::from_secs(100);
        let (mut outbox, _) = Outbox::<&str>::restore(OutboxSettings::default(), boot, 7, saved, None, now);
        let end = now + Duration::from_secs(left);
        let before = outbox.on(OutboxEvent::Timer, end - Duration::from_secs(1));
        assert!(!told(&before).contains("persist"), "{boot}: {}", told(&before));
        assert_eq!(told(&outbox.on(OutboxEvent::Timer, end)), "persist update 1 attempts 1 placed", "{boot}");
    }
}

#[test]
fn what_is_left_of_a_life_is_written_down_as_it_passes() {
    let mut bench = Bench::new(OutboxSettings::default());
    bench.run(1, Ran::Offload);
    assert_eq!(bench.wait(449_000).on(OutboxEvent::Timer), "");
    assert_eq!(bench.wait(1_000).on(OutboxEvent::Timer), "note update 1 attempts 0 placed");
    assert_eq!(bench.wait(1_000).on(OutboxEvent::Timer), "");
}

#[test]
fn the_result_of_an_earlier_process_is_known_and_not_found_out_again() {
    let expiry = head(1, 0, false).expiry;
    let result = ResultHead { id: id(1), digest: Digest([1; 32]), bytes: 4, fetched: true, expiry };
    let (mut bench, begun) = Bench::restored(vec![Saved::Entry(head(1, 0, false)), Saved::Result(result)]);
    assert_eq!(begun, "", "a result beside its entry stands");
    assert_eq!(bench.accept(1), "known 1");
    assert_eq!(bench.outbox.results(), (0, 1));
}

#[test]
fn a_process_that_ends_in_order_holds_nothing_against_what_it_had_begun() {
    let mut bench = Bench::new(OutboxSettings { running: 2, ..OutboxSettings::default() });
    for number in 1..=3 {
        bench.accept(number);
    }
    assert_eq!(bench.keep(), "accepted 1, execute 1 Routed");
    let stopped = bench.on(OutboxEvent::Stop);
    assert_eq!(
        stopped, "note update 2 attempts 0, note update 1 attempts 0",
        "the insertion of 2 had counted an attempt"
    );
    assert_eq!(bench.keep(), "accepted 2");
    assert_eq!(bench.keep(), "accepted 3");
    assert_eq!(bench.accept(4), "persist insert 4 attempts 0");
    let ended = bench.on(OutboxEvent::Ran { id: id(1), ran: Ran::Final("edge") });
    assert_eq!(ended, r#"persist finish 1 Answered("edge")"#, "what comes to an end still counts");
}

#[test]
fn an_attempt_that_is_being_written_when_the_process_ends_is_taken_back_and_not_made() {
    let (mut bench, _) = Bench::restored(vec![Saved::Entry(head(1, 1, true))]);
    bench.on(OutboxEvent::CloudUp);
    assert_eq!(bench.wait(200).on(OutboxEvent::Timer), "persist update 1 attempts 2 placed");
    assert_eq!(bench.on(OutboxEvent::Stop), "note update 1 attempts 1 placed");
    assert_eq!(bench.keep(), "");
}

#[test]
fn whether_several_requests_have_room_is_known_before_any_is_handed_in() {
    let settings = OutboxSettings { entries: 3, quota: 125, ..OutboxSettings::default() };
    let mut bench = Bench::new(settings);
    bench.accept(1);
    assert_eq!(bench.outbox.room_for(2, 90), Ok(()));
    assert_eq!(bench.outbox.room_for(3, 30), Err(NotAccepted::TooMany { held: 1, limit: 3 }));
    assert_eq!(bench.outbox.room_for(1, 91), Err(NotAccepted::TooLarge { held: 10, limit: 100 }));
}

/// The simulator found that no room was taken for proof, so that a suspect killed a third process.
#[test]
fn a_suspect_that_finds_no_room_stays_one() {
    let (mut bench, begun) = Bench::restored(vec![Saved::Entry(head(1, 1, false))]);
    assert_eq!(begun, "persist update 1 attempts 2");
    assert_eq!(bench.keep(), "execute 1 Routed");
    let again = bench.on(OutboxEvent::Ran { id: id(1), ran: Ran::Again });
    assert_eq!(again, "note update 1 attempts 1", "as if it had not been tried");
    assert_eq!(bench.retry(), "persist update 1 attempts 2");
    assert_eq!(bench.keep(), "execute 1 Routed");
    assert!(bench.outbox.tries_a_suspect());
}

/// The simulator found a request that outlived its life in the executor, and was to be woken before now.
#[test]
fn what_is_overdue_is_done_with_any_event_and_nobody_is_woken_in_the_past() {
    let mut bench = Bench::new(OutboxSettings::default());
    bench.accept(1);
    bench.keep();
    let over = bench.wait(3_600_000).on(OutboxEvent::Ran { id: id(1), ran: Ran::Offload });
    assert!(over.ends_with("persist update 1 attempts 1 placed"), "{over}");
    assert_eq!(bench.keep(), "execute 1 Local(Deadline)");
    let now = bench.now;
    let actions = bench.outbox.on(accept(2, 1), now);
    let early = actions.iter().any(|action| matches!(action, OutboxAction::WakeAt(at) if *at <= now));
    assert!(!early, "{actions:?}");
}
