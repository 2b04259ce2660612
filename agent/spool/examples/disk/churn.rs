//! Requests accepted, answered and erased, many of them: how large the files become.

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

/// What became of it.
#[derive(Default, Debug)]
pub(crate) struct Churn {
    pub(crate) requests: u64,
    pub(crate) took: Duration,
    pub(crate) largest: u64,
    pub(crate) last: u64,
    pub(crate) compacted: u64,
}

pub(crate) fn run(requests: u64) -> Result<Churn, String> {
    let scratch = child::scratch()?;
    let folder = scratch.path().join("store");
    let config = OutboxConfig::new(folder.clone());
    let reserve = config.reserve_bytes;
    let mut open = Open::new(config)?;
    let (mut random, mut outcome, begun) = (Random(1), Churn::default(), Instant::now());
    let mut asked: BTreeMap<WriteId, (RequestId, bool)> = BTreeMap::new();
    let mut begin = |open: &mut Open, asked: &mut BTreeMap<WriteId, (RequestId, bool)>| {
        let id = random.id();
        let write = open.persist(Change::Insert(child::head(id)), Some(child::payload(&id)));
        asked.insert(write, (id, false));
    };
    let mut started = 0;
    while started < requests.min(WIDTH as u64) {
        begin(&mut open, &mut asked);
        started += 1;
    }
    while outcome.requests < requests {
        let StoreReport::Persisted(write) = open.report(Duration::from_secs(60))? else {
            return Err("a write was not kept".to_owned());
        };
        match asked.remove(&write) {
            Some((id, false)) => {
                let write = open.persist(child::finish(id), None);
                asked.insert(write, (id, true));
            }
            Some((id, true)) => {
                open.store.note(Change::Erase(id));
                outcome.requests += 1;
                if started < requests {
                    begin(&mut open, &mut asked);
                    started += 1;
                }
                if outcome.requests % LOOK_EVERY == 0 {
                    outcome.largest = outcome.largest.max(allocated(&folder) - reserve);
                }
            }
            None => return Err("a write was reported twice".to_owned()),
        }
    }
    outcome.took = begun.elapsed();
    outcome.compacted = open.store.stats().compacted;
    open.store.close();
    outcome.last = allocated(&folder) - reserve;
    Ok(outcome)
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
        self.largest <= BOUND
    }
}

impl fmt::Display for Churn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{} requests accepted, answered and erased in {:.0} s: at most {:.1} MiB on disk beside the reserve (bound {:.0}), \
             {:.1} at the end, written anew {} times",
            self.requests,
            self.took.as_secs_f64(),
            mib(self.largest),
            mib(BOUND),
            mib(self.last),
            self.compacted
        )
    }
}
