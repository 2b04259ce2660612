//! A disk that fills up before a step of a script, for each step: what was accepted goes on, new work is refused at once, and
//! when there is space again it is taken by itself.

use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hedge_agent_core::outbox::{Change, Head, Saved};
use hedge_agent_spool::{Audit, OutboxConfig, State, StateConfig};
use hedge_wire::RequestId;

use crate::child::{self, Open, Random};
use crate::mount::{self, Mount};

const KIB: u64 = 16 * 1024;
/// Steps of the script.
const STEPS: u64 = 60;
/// Steps on a full disk, after which the process is started again.
const STEPS_UNTIL_RESTART: u64 = 10;
/// No step may take longer, and none the return to work.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of it.
#[derive(Default, Debug)]
pub(crate) struct Full {
    pub(crate) runs: u64,
    pub(crate) refused: u64,
    pub(crate) ended: u64,
    pub(crate) reopened: u64,
    pub(crate) longest: Duration,
    pub(crate) failures: Vec<String>,
}

/// What was asked for in one run.
#[derive(Default)]
struct Script {
    waiting: Vec<RequestId>,
    ended: Vec<RequestId>,
    refused: Vec<RequestId>,
}

/// Fills the disk before step 0, 1, … of a script, each time on a new one.
pub(crate) fn run(fills: u64, seed: u64) -> Result<Full, String> {
    if let Some(missing) = mount::missing() {
        return Err(format!("this takes {missing}"));
    }
    let scratch = child::scratch()?;
    let mut outcome = Full::default();
    for fill in 0..fills {
        let mount = Mount::tmpfs(scratch.path().join("small"), KIB)?;
        outcome.runs += 1;
        let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(fill));
        if let Err(why) = one(mount.folder(), fill % STEPS, &mut random, &mut outcome) {
            outcome.failures.push(format!("full before step {fill}: {why}"));
        }
    }
    Ok(outcome)
}

fn one(folder: &Path, fill: u64, random: &mut Random, outcome: &mut Full) -> Result<(), String> {
    // Half of them so that the journal or sled itself runs into the end of the disk.
    let least_free_bytes = if fill.is_multiple_of(2) { 0 } else { 1 << 20 };
    let journal_bytes = child::JOURNALS[fill as usize / 2 % child::JOURNALS.len()];
    let config = OutboxConfig { least_free_bytes, journal_bytes, ..child::config(&folder.join("store")) };
    let mut open = Open::new(config.clone())?;
    let mut script = Script::default();
    let filler = folder.join("filler");
    for step in 0..STEPS {
        if step == fill {
            fill_up(&filler, random.below(64 * 1024))?;
        }
        if step == fill + STEPS_UNTIL_RESTART {
            outcome.reopened += open.store.stats().reopened;
            open.store.close();
            drop(open);
            open = Open::new(config.clone()).map_err(|why| format!("a restart: {why}"))?;
            if !open.found.damage.is_empty() {
                return Err(format!("a restart found damage: {:?}", open.found.damage));
            }
        }
        let begun = Instant::now();
        script.step(&mut open, random, step >= fill, outcome)?;
        outcome.longest = outcome.longest.max(begun.elapsed());
        if begun.elapsed() > PATIENCE {
            return Err(format!("step {step} took {:?}", begun.elapsed()));
        }
    }
    fs::remove_file(&filler).map_err(|error| error.to_string())?;
    script.comes_back(&mut open, random)?;
    outcome.reopened += open.store.stats().reopened;
    open.store.close();
    drop(open);
    script.is_kept(config)
}

/// Takes all that is free, but for a few bytes.
fn fill_up(path: &Path, but: usize) -> Result<(), String> {
    let mut file = File::create(path).map_err(|error| error.to_string())?;
    let mut length = 0;
    for size in [64 * 1024, 4096, 512, 1] {
        while file.write_all(&vec![1; size]).is_ok() {
            length += size as u64;
        }
    }
    file.set_len(length.saturating_sub(but as u64)).map_err(|error| error.to_string())
}

impl Script {
    fn step(&mut self, open: &mut Open, random: &mut Random, is_full: bool, outcome: &mut Full) -> Result<(), String> {
        let roll = random.below(10);
        if roll < 5 || self.waiting.is_empty() {
            let id = random.id();
            let kept = open.done(Change::Insert(child::head(id)), Some(child::payload(&id)))?;
            if kept {
                self.waiting.push(id);
            } else {
                self.refused.push(id);
            }
            outcome.refused += u64::from(!kept);
            return if kept || is_full { Ok(()) } else { Err("refused although there was space".to_owned()) };
        }
        let at = random.below(self.waiting.len());
        let id = self.waiting[at];
        if roll < 7 {
            let placed = Change::Update(Head { placed: true, ..child::head(id) });
            return open.done(placed, None)?.then_some(()).ok_or("an attempt was not written".to_owned());
        }
        if !open.done(child::finish(id), None)? {
            return Err("an accepted request could not end".to_owned());
        }
        outcome.ended += 1;
        self.ended.push(self.waiting.swap_remove(at));
        Ok(())
    }

    fn comes_back(&mut self, open: &mut Open, random: &mut Random) -> Result<(), String> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let id = random.id();
            if open.done(Change::Insert(child::head(id)), Some(child::payload(&id)))? {
                self.waiting.push(id);
                return Ok(());
            }
            self.refused.push(id);
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("nothing was taken {PATIENCE:?} after there was space"))
    }

    fn is_kept(&self, config: OutboxConfig) -> Result<(), String> {
        let open = Open::new(config)?;
        if !open.found.damage.is_empty() {
            return Err(format!("{:?}", open.found.damage));
        }
        let (mut entries, mut results) = (0, 0);
        for saved in &open.found.saved {
            match saved {
                Saved::Entry(head) if self.waiting.contains(&head.id) => {
                    let payload = open.store.payload(&head.id).map_err(|error| error.to_string())?;
                    entries += u64::from(payload == Some(child::payload(&head.id)));
                }
                Saved::Result(head) if self.ended.contains(&head.id) => results += 1,
                other => return Err(format!("{other:?} is there")),
            }
        }
        let expected = (self.waiting.len() as u64, self.ended.len() as u64);
        match (entries, results) == expected {
            true => Ok(()),
            false => Err(format!("{entries} entries and {results} results of {expected:?} are there")),
        }
    }
}

/// Audits on a disk that is full, and a durable request: how many of them are dropped so that it is taken.
pub(crate) fn audits_first() -> Result<u64, String> {
    if let Some(missing) = mount::missing() {
        return Err(format!("this takes {missing}"));
    }
    let scratch = child::scratch()?;
    let mount = Mount::tmpfs(scratch.path().join("small"), 2 * KIB)?;
    let state = StateConfig {
        path: mount.folder().join("state"),
        max_audits: 1000,
        max_audit_bytes: 6 << 20,
        max_audit_age: Duration::from_secs(3600),
    };
    let state = State::open(state).map_err(|error| error.to_string())?;
    let audits = state.audits();
    for number in 0..80_u8 {
        let audit =
            Audit { model: "m".into(), ticket: vec![number], notes: vec![1; 50_000], inputs: vec![], outputs: vec![] };
        audits.push(&audit).map_err(|error| error.to_string())?;
    }
    audits.sync();
    let config = OutboxConfig { audits: Some(audits.clone()), ..child::config(&mount.folder().join("store")) };
    let mut open = Open::new(config)?;
    fill_up(&mount.folder().join("filler"), 0)?;
    let id = Random(1).id();
    let taken = open.done(Change::Insert(child::head(id)), Some(child::payload(&id)))?;
    open.store.close();
    match (taken, audits.stats()) {
        (true, stats) if stats.waiting == 0 => Ok(stats.dropped),
        (taken, stats) => Err(format!("taken: {taken}, {stats:?}")),
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failures.iter().try_for_each(|failure| writeln!(f, "{failure}"))?;
        write!(
            f,
            "{} disks that filled up: {} requests refused, {} accepted ones ended, {} databases opened anew, longest step {:.0} ms, \
             {} failures",
            self.runs,
            self.refused,
            self.ended,
            self.reopened,
            self.longest.as_secs_f64() * 1e3,
            self.failures.len()
        )
    }
}
