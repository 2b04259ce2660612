//! The short versions of what `examples/disk` shows: power cuts, flipped bits, full disks, many requests.
//!
//! Where file systems cannot be mounted, a test says in one line that it was skipped; with `mount` in the environment variable
//! `HEDGE_REQUIRE` it fails instead.

#[path = "../examples/disk/child.rs"]
mod child;
#[path = "../examples/disk/churn.rs"]
mod churn;
#[path = "../examples/disk/flips.rs"]
mod flips;
#[path = "../examples/disk/full.rs"]
mod full;
#[path = "../examples/disk/journal.rs"]
mod journal;
#[path = "../examples/disk/mount.rs"]
mod mount;
#[path = "../examples/disk/pace.rs"]
mod pace;
#[path = "../examples/disk/power.rs"]
mod power;

use std::io::Write as _;

const SEED: u64 = 7;

/// Not a test of its own: the others start this program with this one's name to have a writer or a reader.
#[test]
fn plays_a_child() {
    if let Some(done) = child::run_if_asked() {
        done.unwrap();
    }
}

/// Whether file systems can be mounted.
fn can_mount() -> bool {
    let Some(missing) = mount::missing() else { return true };
    let required =
        std::env::var("HEDGE_REQUIRE").is_ok_and(|words| words.split_whitespace().any(|word| word == "mount"));
    assert!(!required, "HEDGE_REQUIRE asks to mount file systems, which takes {missing}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Past libtest's capture: a skipped test is not to look like one that passed.
    let _ = writeln!(std::io::stderr().lock(), "skipped {test}: needs {missing}");
    false
}

#[test]
fn what_was_acknowledged_survives_power_cuts() {
    if can_mount() {
        let cuts = power::cut(power::Store::Outbox, 5, SEED).unwrap();
        println!("{cuts}");
        assert!(cuts.acknowledged >= 5 * 70);
        assert_eq!((cuts.lost, cuts.wrong, cuts.not_opened, cuts.false_alarms), (0, 0, 0, 0));
    }
}

#[test]
fn sled_without_the_barrier_loses_what_it_acknowledged() {
    if can_mount() {
        let cuts = power::cut(power::Store::PlainFlush, 5, SEED).unwrap();
        println!("{cuts}");
        assert!(cuts.lost > 0 || cuts.not_opened > 0, "else the cuts above show nothing");
    }
}

#[test]
fn no_flipped_bit_loses_a_request_silently() {
    let flips = flips::run(20, SEED, 200).unwrap();
    println!("{flips}");
    assert_eq!((flips.undetected, flips.not_opened), (0, 0));
}

#[test]
fn a_disk_that_fills_up_delays_what_was_accepted_and_loses_nothing() {
    if can_mount() {
        let full = full::run(12, SEED).unwrap();
        println!("{full}");
        assert_eq!(full.failures, Vec::<String>::new());
    }
}

#[test]
fn audits_are_dropped_before_a_durable_request_is_refused() {
    if can_mount() {
        assert!(full::audits_first().unwrap() > 0);
    }
}

#[test]
fn the_files_stay_small_however_many_requests_come_and_go() {
    let churn = churn::run(5_000).unwrap();
    println!("{churn}");
    assert!(churn.is_bounded());
}

#[test]
fn requests_of_many_callers_share_barriers() {
    for (disk, pace) in pace::run(200).unwrap() {
        println!("{disk}\n{pace}");
        assert!(pace.together > pace.fsyncs, "64 callers would wait for one another");
    }
}
