//! What the outbox survives: power cuts, flipped bits, full disks, a million requests; and what it costs.
//!
//! ```text
//! cargo run --release -p hedge-agent-spool --example disk -- COMMAND [COUNT [SEED]]
//!   power-cut   COUNT cuts of an ext4 on a loop device under load (root; 300)
//!   control     the same on a plain sled that is only flushed: it loses (root; 60)
//!   flips       COUNT bits, each flipped in a store that was closed or killed (200)
//!   full-disk   a small file system that fills up before each of COUNT steps of a script (root; 60)
//!   audits-first  audits on a disk that is full, and a durable request (root)
//!   churn       COUNT requests accepted, answered and erased (1,000,000)
//!   pace        COUNT accepted by one caller, then by 64, beside the disk's fsync (2,000); as root on a loop device, too
//! ```
//!
//! Writers and readers are processes of their own (child.rs), because a cut ends a writer and damage may end a reader. What
//! was acknowledged is written down outside of the disk under test. `cargo test` runs short versions (tests/disk.rs).

#![allow(clippy::print_stdout, reason = "it is a program that reports")]

mod child;
mod churn;
mod flips;
mod full;
mod journal;
mod mount;
mod pace;
mod power;

use std::process::ExitCode;
use std::time::Duration;

use pace::Pace;

/// The longest that one caller waits beyond an fsync.
const BEYOND_AN_FSYNC: Duration = Duration::from_millis(6);
/// What the callers together are to reach, as a multiple of the disk's fsyncs.
const TIMES_THE_FSYNCS: f64 = 20.0;

fn main() -> ExitCode {
    if let Some(done) = child::run_if_asked() {
        // Who started it looks at what was written, not at words.
        return if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let seed = number(2).unwrap_or(1);
    let outcome = match arguments.first().map(String::as_str) {
        Some("power-cut") => power::cut(power::Store::Outbox, number(1).unwrap_or(300), seed).map(|cuts| {
            println!("{cuts}");
            cuts.lost == 0 && cuts.not_opened == 0 && cuts.false_alarms == 0
        }),
        Some("control") => power::cut(power::Store::PlainFlush, number(1).unwrap_or(60), seed).map(|cuts| {
            println!("{cuts}");
            cuts.lost > 0
        }),
        Some("flips") => flips::run(number(1).unwrap_or(200), seed, 1_500).map(|flips| {
            println!("{flips}");
            flips.undetected == 0 && flips.not_opened == 0
        }),
        Some("full-disk") => full::run(number(1).unwrap_or(60), seed).map(|full| {
            println!("{full}");
            full.failures.is_empty()
        }),
        Some("audits-first") => full::audits_first().map(|dropped| {
            println!("a full disk: {dropped} audits dropped, no durable request refused");
            dropped > 0
        }),
        Some("churn") => churn::run(number(1).unwrap_or(1_000_000)).map(|churn| {
            println!("{churn}");
            churn.is_bounded()
        }),
        Some("pace") => pace::run(number(1).unwrap_or(2_000)).map(|paces| {
            paces.iter().for_each(|(disk, pace)| println!("{disk}\n{pace}"));
            paces.iter().all(|(_, pace)| holds(pace))
        }),
        _ => Err("name a command: power-cut, control, flips, full-disk, audits-first, churn or pace".to_owned()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn holds(pace: &Pace) -> bool {
    pace.alone_p50 <= pace.fsync_p50 + BEYOND_AN_FSYNC && pace.together >= TIMES_THE_FSYNCS * pace.fsyncs
}
