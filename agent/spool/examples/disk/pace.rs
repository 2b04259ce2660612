//! What durability costs: the time until a request is accepted, and how many are a second, beside what the disk's fsync takes.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hedge_agent_core::outbox::Change;
use hedge_agent_spool::{OutboxConfig, StoreReport};

use crate::child::{self, Open, Random};

/// Callers at a time.
const CALLERS: u64 = 64;
/// Payload of each.
const PAYLOAD: usize = 1024;
/// fsyncs measured, before and after.
const FSYNCS: usize = 200;

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

pub(crate) fn run(count: u64) -> Result<Pace, String> {
    let scratch = child::scratch()?;
    let mut pace = Pace::default();
    let mut fsyncs = fsyncs(scratch.path())?;
    let mut open = Open::new(OutboxConfig::new(scratch.path().join("store")))?;
    let mut random = Random(1);
    let mut alone: Vec<Duration> =
        (0..count.min(1000)).map(|_| accept(&mut open, &mut random)).collect::<Result<_, _>>()?;
    alone.sort();
    (pace.alone_p50, pace.alone_p99) = (alone[alone.len() / 2], alone[alone.len() * 99 / 100]);
    together(&mut open, &mut random, count.max(CALLERS * 4) * 8, &mut pace)?;
    open.store.close();
    fsyncs.extend(self::fsyncs(scratch.path())?);
    fsyncs.sort();
    pace.fsync_p50 = fsyncs[fsyncs.len() / 2];
    pace.fsyncs = fsyncs.len() as f64 / fsyncs.iter().sum::<Duration>().as_secs_f64();
    Ok(pace)
}

/// As the outbox's own file grows: a page appended, then fsync.
fn fsyncs(folder: &Path) -> Result<Vec<Duration>, String> {
    let mut file = File::create(folder.join("fsync")).map_err(|error| error.to_string())?;
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
    match ask(open, random).and_then(|()| open.report(Duration::from_secs(30)))? {
        StoreReport::Persisted(_) => Ok(begun.elapsed()),
        other => Err(format!("{other:?}")),
    }
}

fn ask(open: &mut Open, random: &mut Random) -> Result<(), String> {
    open.persist(Change::Insert(child::head(random.id())), Some(Bytes::from_static(&[7; PAYLOAD])));
    Ok(())
}

/// Each of the callers hands in its next request when its last one is accepted.
fn together(open: &mut Open, random: &mut Random, count: u64, pace: &mut Pace) -> Result<(), String> {
    let mut began = std::collections::BTreeMap::new();
    let begun = Instant::now();
    let mut took = Vec::new();
    let mut asked = 0;
    while took.len() < count as usize {
        while asked < count && began.len() < CALLERS as usize {
            let id = random.id();
            let write = open.persist(Change::Insert(child::head(id)), Some(Bytes::from_static(&[7; PAYLOAD])));
            began.insert(write, Instant::now());
            asked += 1;
        }
        match open.report(Duration::from_secs(30))? {
            StoreReport::Persisted(write) => took.extend(began.remove(&write).map(|at| at.elapsed())),
            other => return Err(format!("{other:?}")),
        }
    }
    pace.together = count as f64 / begun.elapsed().as_secs_f64();
    took.sort();
    pace.together_p50 = took[took.len() / 2];
    Ok(())
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
