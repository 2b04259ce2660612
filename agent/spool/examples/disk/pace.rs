//! What durability costs: the time until a request is accepted, and how many are a second, beside what the disk's fsync takes.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hedge_agent_core::outbox::{Change, WriteId};
use hedge_agent_spool::{OutboxConfig, StoreReport};

use crate::child::{self, Open, Random};
use crate::mount::{self, Mount};

/// Callers at a time.
const CALLERS: u64 = 64;
/// Payload of each.
const PAYLOAD: usize = 1024;
/// Rounds, and fsyncs measured in each.
const ROUNDS: u64 = 10;
const FSYNCS: usize = 40;

/// Size of the file system on a loop device.
const MIB: u64 = 1024;

/// What was measured.
#[derive(Default, Debug)]
pub(crate) struct Pace {
    pub(crate) fsync_p50: Duration,
    /// fsyncs a second, one after the other.
    pub(crate) fsyncs: f64,
    pub(crate) alone_p50: Duration,
    pub(crate) alone_p99: Duration,
    pub(crate) together: f64,
    pub(crate) together_p50: Duration,
}

/// On the disk of temporary files and, where that can be had, on an ext4 on a loop device, whose fsync takes the milliseconds
/// that an SD card's does.
pub(crate) fn run(count: u64) -> Result<Vec<(&'static str, Pace)>, String> {
    let scratch = child::scratch()?;
    let mut paces = vec![("the disk of temporary files", on(scratch.path(), count)?)];
    if mount::missing().is_none() {
        let mount = Mount::ext4(scratch.path(), MIB)?;
        paces.push(("an ext4 on a loop device", on(mount.folder(), count)?));
    }
    Ok(paces)
}

/// In rounds, because what else the machine does changes what a disk can. While fsyncs are measured the store is closed: what it
/// writes later would make them slower, and its own figures look better.
fn on(folder: &Path, count: u64) -> Result<Pace, String> {
    let mut random = Random(1);
    let (mut fsyncs, mut alone, mut together, mut spent) = (Vec::new(), Vec::new(), Vec::new(), Duration::ZERO);
    for _ in 0..ROUNDS {
        fsyncs.extend(self::fsyncs(folder)?);
        let mut open = Open::new(OutboxConfig::new(folder.join("store")))?;
        for _ in 0..(count / ROUNDS).min(200) {
            alone.push(accept(&mut open, &mut random)?);
        }
        let begun = Instant::now();
        together.extend(self::together(&mut open, &mut random, count.max(CALLERS * 4) * 8 / ROUNDS)?);
        spent += begun.elapsed();
        open.store.close();
    }
    let (fsyncs_a_second, together_a_second) = (
        fsyncs.len() as f64 / fsyncs.iter().sum::<Duration>().as_secs_f64(),
        together.len() as f64 / spent.as_secs_f64(),
    );
    Ok(Pace {
        fsync_p50: percentile(&mut fsyncs, 50),
        fsyncs: fsyncs_a_second,
        alone_p50: percentile(&mut alone, 50),
        alone_p99: percentile(&mut alone, 99),
        together: together_a_second,
        together_p50: percentile(&mut together, 50),
    })
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() - 1) * percent / 100]
}

/// As the outbox's own file grows: a page appended, then fsync.
fn fsyncs(folder: &Path) -> Result<Vec<Duration>, String> {
    let file = File::options().create(true).append(true).open(folder.join("fsync"));
    let mut file = file.map_err(|error| error.to_string())?;
    let mut sync = || {
        file.write_all(&[1; 4096])?;
        let begun = Instant::now();
        file.sync_all()?;
        Ok(begun.elapsed())
    };
    (0..FSYNCS).map(|_| sync()).collect::<Result<_, std::io::Error>>().map_err(|error| error.to_string())
}

fn accept(open: &mut Open, random: &mut Random) -> Result<Duration, String> {
    let begun = Instant::now();
    ask(open, random);
    match open.report(Duration::from_secs(30))? {
        StoreReport::Persisted(_) => Ok(begun.elapsed()),
        other => Err(format!("{other:?}")),
    }
}

fn ask(open: &mut Open, random: &mut Random) -> WriteId {
    let head = child::head_of(random.id(), PAYLOAD as u64);
    open.persist(Change::Insert(head), Some(Bytes::from_static(&[7; PAYLOAD])))
}

/// Each of the callers hands in its next request when its last one is accepted.
fn together(open: &mut Open, random: &mut Random, count: u64) -> Result<Vec<Duration>, String> {
    let (mut waiting, mut took, mut asked) = (std::collections::BTreeMap::new(), Vec::new(), 0);
    while (took.len() as u64) < count {
        while asked < count && (waiting.len() as u64) < CALLERS {
            let begun = Instant::now();
            waiting.insert(ask(open, random), begun);
            asked += 1;
        }
        match open.report(Duration::from_secs(30))? {
            StoreReport::Persisted(write) => took.extend(waiting.remove(&write).map(|begun: Instant| begun.elapsed())),
            other => return Err(format!("{other:?}")),
        }
    }
    Ok(took)
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        writeln!(f, "fsync: p50 {:.2} ms, {:.0} a second", ms(self.fsync_p50), self.fsyncs)?;
        writeln!(f, "1 caller: accepted in p50 {:.2} ms, p99 {:.2} ms", ms(self.alone_p50), ms(self.alone_p99))?;
        write!(
            f,
            "{CALLERS} callers: {:.0} accepted a second ({:.1} times the fsyncs), p50 {:.2} ms",
            self.together,
            self.together / self.fsyncs,
            ms(self.together_p50)
        )
    }
}
