//! Requests accepted, answered and erased, many of them, and a backlog that grows and is worked off: how large the files become.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use hedge_agent_core::outbox::{Change, WriteId};
use hedge_agent_spool::{OutboxConfig, StoreReport};
use hedge_wire::RequestId;

use crate::child::{self, Open, Random};

/// Requests on their way at a time.
const WIDTH: usize = 256;
/// How often the folder is measured.
const LOOK_EVERY: u64 = 2_000;
/// What the folder may take at most.
const BOUND: u64 = 192 << 20;

/// Requests of the backlog, for each hundred of the others.
const BACKLOG_PERCENT: u64 = 5;

/// What became of it.
#[derive(Default, Debug)]
pub(crate) struct Churn {
    pub(crate) requests: u64,
    pub(crate) took: Duration,
    /// Bytes written to the disk meanwhile, where the system counts them.
    pub(crate) written: Option<u64>,
    pub(crate) largest: u64,
    /// With the backlog, and the bytes of its payloads.
    pub(crate) backlog: (u64, u64),
    /// How long it took to open with it.
    pub(crate) start: Duration,
    pub(crate) last: u64,
    /// Requests that are there at the end.
    pub(crate) left: u64,
    pub(crate) compacted: u64,
}

pub(crate) fn run(requests: u64) -> Result<Churn, String> {
    let scratch = child::scratch()?;
    let folder = scratch.path().join("store");
    let config = OutboxConfig::new(folder.clone());
    let reserve = config.reserve_bytes;
    let open = Open::new(config.clone())?;
    let mut mill = Mill { open, random: Random(1), asked: BTreeMap::new(), backlog: Vec::new() };
    let begun = Instant::now();
    let mut largest = 0;
    let measure = |done: u64| {
        if done.is_multiple_of(LOOK_EVERY) {
            largest = largest.max(allocated(&folder).saturating_sub(reserve));
        }
    };
    let before = written();
    mill.turn(requests, measure)?;
    let written = written().zip(before).map(|(after, before)| after - before);
    mill.pile_up(requests * BACKLOG_PERCENT / 100)?;
    let backlog = (allocated(&folder).saturating_sub(reserve), mill.open.store.stats().payload_bytes);
    let start = mill.start_again(config)?;
    mill.work_off()?;
    mill.turn(requests * BACKLOG_PERCENT / 100, |_| {})?;
    let stats = mill.open.store.stats();
    mill.open.store.close();
    let last = allocated(&folder).saturating_sub(reserve);
    Ok(Churn {
        requests,
        took: begun.elapsed(),
        written,
        largest,
        backlog,
        start,
        last,
        left: stats.waiting,
        compacted: stats.compacted,
    })
}

/// What requests go through.
struct Mill {
    open: Open,
    random: Random,
    asked: BTreeMap<WriteId, (RequestId, bool)>,
    backlog: Vec<RequestId>,
}

impl Mill {
    /// So many requests, from the first to the last byte of each.
    fn turn(&mut self, requests: u64, mut done: impl FnMut(u64)) -> Result<(), String> {
        let (mut begun, mut ended) = (0, 0);
        while ended < requests {
            while begun < requests && self.asked.len() < WIDTH {
                self.accept();
                begun += 1;
            }
            match self.kept()? {
                (id, false) => self.answer(id)?,
                (id, true) => {
                    self.open.store.note(Change::Erase(id));
                    ended += 1;
                    done(ended);
                }
            }
        }
        Ok(())
    }

    /// So many requests that wait.
    fn pile_up(&mut self, requests: u64) -> Result<(), String> {
        let mut begun = 0;
        while (self.backlog.len() as u64) < requests {
            while begun < requests && self.asked.len() < WIDTH {
                self.accept();
                begun += 1;
            }
            let (id, _) = self.kept()?;
            self.backlog.push(id);
        }
        Ok(())
    }

    fn start_again(&mut self, config: OutboxConfig) -> Result<Duration, String> {
        self.open.store.close();
        let begun = Instant::now();
        self.open = Open::new(config)?;
        match self.open.found.saved.len() == self.backlog.len() && self.open.found.damage.is_empty() {
            true => Ok(begun.elapsed()),
            false => Err(format!("of {} requests {} are there", self.backlog.len(), self.open.found.saved.len())),
        }
    }

    fn work_off(&mut self) -> Result<(), String> {
        while !self.backlog.is_empty() || !self.asked.is_empty() {
            while self.asked.len() < WIDTH {
                let Some(id) = self.backlog.pop() else { break };
                self.answer(id)?;
            }
            let (id, _) = self.kept()?;
            self.open.store.note(Change::Erase(id));
        }
        Ok(())
    }

    fn accept(&mut self) {
        let id = self.random.id();
        let write = self.open.persist(Change::Insert(child::head(id)), Some(child::payload(&id)));
        self.asked.insert(write, (id, false));
    }

    /// Reads the payload, as who executes it does, while the outbox's thread writes.
    fn answer(&mut self, id: RequestId) -> Result<(), String> {
        let payload = self.open.store.payload(&id).map_err(|error| error.to_string())?;
        if payload != Some(child::payload(&id)) {
            return Err(format!("the payload of {id} is not what it was"));
        }
        let write = self.open.persist(child::finish(id), None);
        self.asked.insert(write, (id, true));
        Ok(())
    }

    /// The next write that was kept: which request's, and whether it ended by it.
    fn kept(&mut self) -> Result<(RequestId, bool), String> {
        match self.open.report(Duration::from_secs(60))? {
            StoreReport::Persisted(write) => self.asked.remove(&write).ok_or("a write was reported twice".to_owned()),
            other => Err(format!("{other:?}")),
        }
    }
}

/// Bytes that this process had written to disks, as Linux counts them.
fn written() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}

/// Bytes of blocks below a folder.
fn allocated(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .map(|file| match file.metadata() {
            Ok(meta) if meta.is_dir() => allocated(&file.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

impl Churn {
    pub(crate) fn is_bounded(&self) -> bool {
        // What a backlog took is given back when it is gone.
        let none_waits = self.left == 0;
        none_waits && self.largest <= BOUND && self.last <= BOUND
    }
}

impl fmt::Display for Churn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        if let Some(written) = self.written {
            writeln!(f, "{} bytes written to the disk for each request", written / self.requests.max(1))?;
        }
        write!(
            f,
            "{} requests accepted, answered and erased: at most {:.1} MiB on disk beside the reserve (bound {:.0}); with a backlog \
             of {:.1} MiB of payloads {:.1}, opened in {:.1} s, when it was worked off {:.1}; written anew {} times; {:.0} s",
            self.requests,
            mib(self.largest),
            mib(BOUND),
            mib(self.backlog.1),
            mib(self.backlog.0),
            self.start.as_secs_f64(),
            mib(self.last),
            self.compacted,
            self.took.as_secs_f64()
        )
    }
}
