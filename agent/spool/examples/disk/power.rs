//! Power cuts under load: an ext4 on a loop device is shut down in the middle of a writer's work, mounted again, and read.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::child::{self, Random};
use crate::journal::{Dump, Journal};
use crate::mount::{self, Mount};

/// Acknowledgements that are waited for before a cut.
const LEAST: u64 = 70;
/// The longest to wait for them.
const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 384;

/// What is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// The outbox as it is.
    Outbox,
    /// Plain sled, where `flush` counts as a barrier.
    PlainFlush,
}

/// What became of it.
#[derive(Default, Debug)]
pub(crate) struct Cuts {
    pub(crate) cuts: u64,
    pub(crate) acknowledged: u64,
    pub(crate) lost: u64,
    pub(crate) wrong: u64,
    pub(crate) not_opened: u64,
    /// Damage reported where there was none.
    pub(crate) false_alarms: u64,
    pub(crate) details: Vec<String>,
}

/// Cuts the power so many times; a store that lost something is begun anew, so that it is counted once.
pub(crate) fn cut(store: Store, cuts: u64, seed: u64) -> Result<Cuts, String> {
    if let Some(missing) = mount::missing() {
        return Err(format!("this takes {missing}"));
    }
    let scratch = child::scratch()?;
    let mount = Mount::ext4(scratch.path(), MIB)?;
    let mut random = Random(seed);
    let mut outcome = Cuts::default();
    for _ in 0..cuts {
        one(store, &mount, scratch.path(), &mut random, &mut outcome)?;
    }
    Ok(outcome)
}

fn one(store: Store, mount: &Mount, scratch: &Path, random: &mut Random, outcome: &mut Cuts) -> Result<(), String> {
    let (folder, journal, dump) = (mount.folder().join("store"), scratch.join("journal"), child::dump_path(scratch));
    let (write, read) = match store {
        Store::Outbox => ("write", "read"),
        Store::PlainFlush => ("control-write", "control-read"),
    };
    let before = Journal::read(&journal);
    let seed = random.next();
    let role = format!("{write} {} {} {seed} {}", folder.display(), journal.display(), u64::MAX);
    let mut writer = child::start(&role);
    let begun = Instant::now();
    while Journal::read(&journal).acknowledged < before.acknowledged + LEAST && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_micros(random.next() % 150_000));
    let cut = mount.cut();
    let _ = writer.kill();
    let _ = writer.wait();
    cut?;
    mount.remount()?;
    let known = Journal::read(&journal);
    outcome.cuts += 1;
    outcome.acknowledged += known.acknowledged - before.acknowledged;
    let _ = fs::remove_file(&dump);
    let opened = child::read_in_a_child(&format!("{read} {} {}", folder.display(), dump.display()));
    match Dump::read(&dump).filter(|_| opened) {
        Some(found) => judged(&known, &found, &journal, &folder, outcome),
        None => {
            outcome.not_opened += 1;
            outcome.details.push(format!("cut {}: it does not open", outcome.cuts));
            begin_anew(&journal, &folder)
        }
    }
}

fn judged(known: &Journal, found: &Dump, journal: &Path, folder: &Path, outcome: &mut Cuts) -> Result<(), String> {
    let verdict = known.judge(found);
    outcome.lost += verdict.lost.len() as u64;
    outcome.wrong += verdict.wrong.len() as u64;
    outcome.false_alarms += found.reported.len() as u64;
    let told = found.reported.iter().map(|told| format!("cut {}: {told}", outcome.cuts));
    outcome.details.extend(told);
    if !verdict.lost.is_empty() || !verdict.wrong.is_empty() {
        outcome.details.push(format!(
            "cut {}: {} lost, {} wrong, the first {:?}",
            outcome.cuts,
            verdict.lost.len(),
            verdict.wrong.len(),
            verdict.lost.iter().chain(&verdict.wrong).next()
        ));
        return begin_anew(journal, folder);
    }
    go_on(known, found, journal)
}

fn begin_anew(journal: &Path, folder: &Path) -> Result<(), String> {
    fs::write(journal, "").map_err(|error| error.to_string())?;
    match folder.exists() {
        true => fs::remove_dir_all(folder).map_err(|error| error.to_string()),
        false => Ok(()),
    }
}

/// What is there now, acknowledged or not, must be there from now on.
fn go_on(known: &Journal, found: &Dump, journal: &Path) -> Result<(), String> {
    let mut lines = String::new();
    let acknowledged = known.acknowledged;
    for id in &found.entries {
        lines.push_str(&format!("I {id}\n"));
    }
    for id in &found.results {
        lines.push_str(&format!("I {id}\nf {id}\nF {id}\n"));
    }
    debug_assert!(acknowledged > 0);
    fs::write(journal, lines).map_err(|error| error.to_string())
}

impl fmt::Display for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.details.iter().take(20).try_for_each(|detail| writeln!(f, "{detail}"))?;
        write!(
            f,
            "{} cuts, {} acknowledged: {} lost, {} wrong, {} times not opened, {} false alarms",
            self.cuts, self.acknowledged, self.lost, self.wrong, self.not_opened, self.false_alarms
        )
    }
}
