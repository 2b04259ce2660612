//! The state as its callers see it: across restarts, kills and damage.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use hedge_tensor::{NamedTensor, Tensor};
use tempfile::TempDir;

use super::*;
use crate::audit::Audit;
use crate::audits::{AuditRefused, LostBecause};
use crate::clock::manual::ManualTime;

const DAY: Duration = Duration::from_secs(86_400);

fn config(path: &Path) -> StateConfig {
    StateConfig { path: path.join("state"), max_audits: 100, max_audit_bytes: 1 << 20, max_audit_age: DAY }
}

fn open(folder: &TempDir) -> State {
    State::open(config(folder.path())).expect("an empty folder takes a state")
}

fn audit(n: u32) -> Audit {
    let input = Tensor::from_slice(&[1, 4], &[n; 4]).unwrap();
    Audit {
        model: "m".into(),
        ticket: n.to_le_bytes().to_vec(),
        notes: vec![7],
        inputs: vec![NamedTensor::new("x", input)],
        outputs: vec![],
    }
}

/// Leases everything there is, oldest first.
fn waiting(state: &State) -> Vec<Audit> {
    std::iter::from_fn(|| state.audits().lease(|_| true).map(|leased| leased.audit)).collect()
}

fn tickets(lost: &[Lost]) -> Vec<u32> {
    lost.iter().map(|lost| u32::from_le_bytes(lost.ticket.clone().try_into().unwrap())).collect()
}

#[test]
fn a_route_that_was_saved_is_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let state = open(&folder);
    assert_eq!(state.routes().load("m"), Ok(None));
    state.routes().save_soon("m", b"older".to_vec());
    state.routes().save_now("m", b"newer".to_vec()).wait().unwrap();
    assert_eq!(state.routes().load("m"), Ok(Some(b"newer".to_vec())), "it is on disk when the wait is over");
    state.routes().save_soon("other", b"at the end".to_vec());
    state.close();
    let state = open(&folder);
    assert_eq!(state.routes().load("m"), Ok(Some(b"newer".to_vec())));
    assert_eq!(state.routes().load("other"), Ok(Some(b"at the end".to_vec())));
}

#[test]
fn saves_in_no_hurry_are_drawn_together() {
    let folder = TempDir::new().unwrap();
    let state = open(&folder);
    let started = Instant::now();
    for n in 0..10_000_u32 {
        state.routes().save_soon("m", n.to_le_bytes().to_vec());
    }
    state.close();
    let most = 2 + started.elapsed().as_secs();
    assert!((1..=most).contains(&state.routes().stats().saved), "{:?} in {most} s", state.routes().stats());
    assert_eq!(open(&folder).routes().load("m"), Ok(Some(9_999_u32.to_le_bytes().to_vec())));
}

#[test]
fn a_damaged_route_starts_from_nothing_and_harms_no_other() {
    let folder = TempDir::new().unwrap();
    let state = open(&folder);
    state.routes().save_now("m", b"state".to_vec()).wait().unwrap();
    state.routes().save_now("n", b"other".to_vec()).wait().unwrap();
    let path = state.routes().path("m");
    state.close();
    let mut content = fs::read(&path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&path, content).unwrap();
    let state = open(&folder);
    assert!(state.routes().load("m").unwrap_err().to_string().contains("\"m\" is damaged (its checksum is wrong)"));
    assert_eq!(state.routes().load("n"), Ok(Some(b"other".to_vec())));
    state.routes().save_now("m", b"again".to_vec()).wait().unwrap();
    assert_eq!(state.routes().load("m"), Ok(Some(b"again".to_vec())));
}

#[test]
fn a_disk_that_takes_no_route_is_an_error_for_who_waits() {
    let folder = TempDir::new().unwrap();
    let state = open(&folder);
    fs::remove_dir_all(folder.path().join("state/routes")).unwrap();
    let error = state.routes().save_now("m", b"state".to_vec()).wait().unwrap_err();
    assert!(error.to_string().starts_with("the route of model \"m\" was not saved"), "{error}");
    fs::create_dir(folder.path().join("state/routes")).unwrap();
    state.close();
    assert_eq!(state.routes().load("m"), Ok(Some(b"state".to_vec())), "it is tried again");
}

#[test]
fn audits_come_out_in_their_order_and_leave_when_finished() {
    let folder = TempDir::new().unwrap();
    let state = open(&folder);
    let queue = state.audits();
    (0..3).for_each(|n| queue.push(&audit(n)).unwrap());
    let (first, second) = (queue.lease(|_| true).unwrap(), queue.lease(|_| true).unwrap());
    assert_eq!([&first.audit, &second.audit], [&audit(0), &audit(1)]);
    assert!(queue.finish(second.number) && !queue.finish(second.number), "an audit is finished once");
    queue.release(first.number);
    assert_eq!(waiting(&state), [audit(0), audit(2)]);
    assert_eq!(queue.stats().waiting, 2);
}

#[test]
fn audits_survive_a_restart_and_leases_do_not() {
    let folder = TempDir::new().unwrap();
    let state = open(&folder);
    (0..5).for_each(|n| state.audits().push(&audit(n)).unwrap());
    let (_, second) = (state.audits().lease(|_| true).unwrap(), state.audits().lease(|_| true).unwrap());
    state.audits().finish(second.number);
    state.close();
    assert_eq!(state.audits().push(&audit(9)), Err(AuditRefused), "what is closed takes nothing");
    let state = open(&folder);
    assert_eq!(state.audits().stats().damaged, 0, "a finished one in the middle is no damage");
    assert_eq!(waiting(&state), [audit(0), audit(2), audit(3), audit(4)]);
}

#[test]
fn beyond_the_quota_the_oldest_are_dropped_and_told() {
    let folder = TempDir::new().unwrap();
    let state = State::open(StateConfig { max_audits: 3, ..config(folder.path()) }).unwrap();
    (0..5).for_each(|n| state.audits().push(&audit(n)).unwrap());
    let lost = state.audits().take_lost();
    assert_eq!((tickets(&lost), lost[0].why), (vec![0, 1], LostBecause::Room));
    assert_eq!(state.audits().take_lost(), []);
    let cost = state.audits().stats().bytes / 3;
    state.close();
    let state = State::open(StateConfig { max_audit_bytes: 2 * cost, ..config(folder.path()) }).unwrap();
    state.audits().push(&audit(5)).unwrap();
    assert_eq!(waiting(&state), [audit(4), audit(5)]);
    assert_eq!(state.audits().stats().dropped, 2);
}

#[test]
fn audits_that_give_way_are_dropped_and_told_and_so_is_their_space() {
    let folder = TempDir::new().unwrap();
    let state = open(&folder);
    let queue = state.audits();
    (0..3).for_each(|n| queue.push(&audit(n)).unwrap());
    queue.sync();
    queue.shed();
    assert_eq!((queue.stats().waiting, queue.stats().dropped), (0, 3));
    let lost = queue.take_lost();
    assert_eq!(tickets(&lost), [0, 1, 2]);
    assert!(lost.iter().all(|lost| lost.why == LostBecause::Room));
    assert!(!folder.path().join("state/audits").exists());
    queue.push(&audit(3)).unwrap();
    assert_eq!(waiting(&state), [audit(3)], "others wait in memory");
}

#[test]
fn old_audits_are_dropped_even_where_the_clock_begins_in_1970() {
    let folder = TempDir::new().unwrap();
    let time = ManualTime::at(1_780_000_000);
    let state = State::open_at(config(folder.path()), Box::new(time.clone())).unwrap();
    state.audits().push(&audit(0)).unwrap();
    time.pass(60);
    state.audits().push(&audit(1)).unwrap();
    state.close();
    let time = ManualTime::at(0);
    let state = State::open_at(config(folder.path()), Box::new(time.clone())).unwrap();
    time.pass(DAY.as_secs() - 30);
    assert_eq!(waiting(&state), [audit(1)]);
    let lost = state.audits().take_lost();
    assert_eq!((tickets(&lost), lost[0].why), (vec![0], LostBecause::Age));
}

#[test]
fn the_audits_of_a_model_can_be_withdrawn() {
    let folder = TempDir::new().unwrap();
    let state = open(&folder);
    state.audits().push(&Audit { model: "private".into(), ..audit(0) }).unwrap();
    state.audits().push(&audit(1)).unwrap();
    let leased = state.audits().lease(|model| model == "m").unwrap();
    assert_eq!(leased.audit, audit(1), "another model's may be asked about meanwhile");
    state.audits().release(leased.number);
    state.audits().withdraw(|model| model == "private");
    assert_eq!(waiting(&state), [audit(1)]);
    assert_eq!(state.audits().take_lost()[0].why, LostBecause::Withdrawn);
}

#[test]
fn a_damaged_record_costs_itself() {
    let folder = TempDir::new().unwrap();
    let state = open(&folder);
    (0..3).for_each(|n| state.audits().push(&audit(n)).unwrap());
    state.close();
    let database = Store::open(&folder.path().join("state/audits"), u64::MAX).unwrap();
    let mut value = database.read(&1_u64.to_be_bytes()).unwrap().unwrap();
    value[20] ^= 1;
    database.write(&1_u64.to_be_bytes(), &value).unwrap();
    database.remove(&2_u64.to_be_bytes()).unwrap();
    database.write(&3_u64.to_be_bytes(), &crate::audit::encode(3, &audit(3), 0).unwrap()).unwrap();
    database.write(b"foreign", b"").unwrap();
    database.close().unwrap();
    let state =
        State::open(StateConfig { max_audit_age: Duration::from_secs(u64::MAX), ..config(folder.path()) }).unwrap();
    assert_eq!(state.audits().stats().damaged, 3, "one flipped, one missing, one foreign");
    assert_eq!(waiting(&state), [audit(0), audit(3)]);
    state.close();
    assert_eq!(open(&folder).audits().stats().damaged, 0, "and they are not met again");
}

#[test]
fn a_queue_that_does_not_open_is_made_anew_and_the_routes_stay() {
    let folder = TempDir::new().unwrap();
    let state = open(&folder);
    state.audits().push(&audit(0)).unwrap();
    state.routes().save_now("m", b"state".to_vec()).wait().unwrap();
    state.close();
    let database = folder.path().join("state/audits");
    fs::remove_dir_all(&database).unwrap();
    fs::write(&database, b"nonsense").unwrap();
    let state = open(&folder);
    assert_eq!(state.audits().stats().rebuilt, 1);
    assert_eq!(state.routes().load("m"), Ok(Some(b"state".to_vec())));
    state.audits().push(&audit(1)).unwrap();
    state.close();
    assert_eq!(waiting(&open(&folder)), [audit(1)]);
}

#[test]
fn a_state_in_use_is_not_opened_twice() {
    let folder = TempDir::new().unwrap();
    let state = open(&folder);
    assert!(matches!(State::open(config(folder.path())), Err(StateError::InUse { .. })));
    drop(state);
}

#[test]
fn a_state_without_a_disk_keeps_audits_in_memory_and_no_route() {
    let folder = TempDir::new().unwrap();
    let state = State::volatile(config(folder.path())).unwrap();
    state.audits().push(&audit(0)).unwrap();
    state.audits().sync();
    let error = state.routes().save_now("m", b"state".to_vec()).wait().unwrap_err();
    assert!(error.to_string().contains("nothing is kept"), "{error}");
    assert_eq!((waiting(&state), state.routes().load("m")), (vec![audit(0)], Ok(None)));
    state.close();
    assert!(!folder.path().join("state").exists());
}

/// Set for the process that is to be killed.
const VICTIM: &str = "HEDGE_STATE_VICTIM";

#[test]
fn what_was_synced_survives_kill_9_in_its_order() {
    if let Some(folder) = std::env::var_os(VICTIM) {
        return until_killed(Path::new(&folder));
    }
    let folder = TempDir::new().unwrap();
    let (mut finished, mut synced) = (0, 0);
    for round in 0..5 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "state::tests::what_was_synced_survives_kill_9_in_its_order", "--nocapture"])
            .env(VICTIM, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
        let words = lines.filter_map(|line| Some(line.strip_prefix("synced ")?.to_owned()));
        for word in words.take(7 + round) {
            let numbers: Vec<u32> = word.split(' ').map(|number| number.parse().unwrap()).collect();
            (finished, synced) = (numbers[0], numbers[1]);
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    let state = open(&folder);
    let left: Vec<u32> =
        waiting(&state).iter().map(|audit| audit.inputs[0].tensor.to_vec::<u32>().unwrap()[0]).collect();
    assert_eq!(state.audits().stats().damaged, 0);
    assert!(left.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no gap, no order lost: {left:?}");
    assert!(left[0] >= finished && *left.last().unwrap() >= synced, "{finished}..={synced} of {left:?}");
}

/// Pushes numbered audits and finishes the oldest, and says what must survive.
fn until_killed(folder: &Path) {
    let state = State::open(config(folder)).unwrap();
    let queue = state.audits();
    let mut next = 0;
    while let Some(leased) = queue.lease(|_| true) {
        next = u32::from_le_bytes(leased.audit.ticket.try_into().unwrap()) + 1;
    }
    drop(queue);
    state.close();
    drop(state);
    let state = State::open(config(folder)).unwrap();
    let queue = state.audits();
    for n in next.. {
        queue.push(&audit(n)).unwrap();
        let mut oldest = 0;
        if queue.stats().waiting > 20 {
            let leased = queue.lease(|_| true).unwrap();
            oldest = u32::from_le_bytes(leased.audit.ticket.clone().try_into().unwrap()) + 1;
            queue.finish(leased.number);
        }
        queue.sync();
        println!("synced {oldest} {n}");
    }
}
