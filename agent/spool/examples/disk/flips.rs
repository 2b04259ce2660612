//! Flipped bits: one at a time, in a store that was closed or killed, and what the next two starts make of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::child::{self, Random};
use crate::journal::{Dump, Journal};

/// Sectors of zeros hold nothing.
const SECTOR: usize = 512;
/// Flips in one store.
const PER_STORE: u64 = 20;

/// What became of it.
#[derive(Default, Debug)]
pub(crate) struct Flips {
    pub(crate) flips: u64,
    /// Per kind of file: flips, those that were noticed, and requests that were lost or damaged by name.
    pub(crate) kinds: BTreeMap<String, (u64, u64, u64)>,
    pub(crate) requests: u64,
    pub(crate) undetected: u64,
    pub(crate) not_opened: u64,
    pub(crate) details: Vec<String>,
}

/// So many flips, in stores that took so many steps twice.
pub(crate) fn run(flips: u64, seed: u64, steps: u64) -> Result<Flips, String> {
    let scratch = child::scratch()?;
    let mut random = Random(seed);
    let mut outcome = Flips::default();
    while outcome.flips < flips {
        let (sound, journal) = store(scratch.path(), &mut random, steps)?;
        let known = Journal::read(&journal);
        for _ in 0..PER_STORE.min(flips - outcome.flips) {
            one(&sound, &known, scratch.path(), &mut random, &mut outcome)?;
        }
    }
    Ok(outcome)
}

/// A store that was closed, or killed in the middle.
fn store(scratch: &Path, random: &mut Random, steps: u64) -> Result<(PathBuf, PathBuf), String> {
    let (folder, journal) = (scratch.join("sound"), scratch.join("journal"));
    remove(&folder)?;
    let _ = fs::remove_file(&journal);
    let kill = random.below(2) == 0;
    let mut role = |steps: u64| format!("write {} {} {} {steps}", folder.display(), journal.display(), random.next());
    // Twice, because sled writes a snapshot at the second start.
    child::start(&role(steps)).wait().map_err(|error| error.to_string())?;
    let mut writer = child::start(&role(if kill { u64::MAX } else { steps }));
    if kill {
        let before = Journal::read(&journal).acknowledged;
        while Journal::read(&journal).acknowledged < before + steps / 2 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let _ = writer.kill();
    }
    writer.wait().map_err(|error| error.to_string())?;
    child::write_slots(&folder)?;
    Ok((folder, journal))
}

fn one(sound: &Path, known: &Journal, scratch: &Path, random: &mut Random, outcome: &mut Flips) -> Result<(), String> {
    let damaged = scratch.join("damaged");
    remove(&damaged)?;
    copy(sound, &damaged)?;
    let (kind, place) = flip(&damaged, random)?;
    outcome.flips += 1;
    outcome.requests += known.ids.len() as u64;
    let tally = outcome.kinds.entry(kind).or_default();
    tally.0 += 1;
    // The second start must find what the first one made of it, in order.
    for start in 1..=2 {
        let dump = child::dump_path(scratch);
        let _ = fs::remove_file(&dump);
        let opened = child::read_in_a_child(&format!("read {} {}", damaged.display(), dump.display()));
        let Some(found) = Dump::read(&dump).filter(|_| opened) else {
            outcome.not_opened += 1;
            outcome.details.push(format!("{place}: start {start} failed"));
            return Ok(());
        };
        let verdict = known.judge(&found);
        if start == 1 {
            tally.1 += u64::from(!found.reported.is_empty() || verdict.named > 0);
            tally.2 += verdict.named;
            let silent = verdict.lost.len() + verdict.wrong.len();
            outcome.undetected += silent as u64;
            if silent > 0 {
                outcome.details.push(format!("{place}: {silent} undetected: {verdict:?} {:?}", found.reported));
            }
            let reported = found.reported.iter().map(|told| format!("{place}: {told}"));
            outcome.details.extend(reported);
        } else if !found.reported.is_empty() {
            outcome.not_opened += 1;
            outcome.details.push(format!("{place}: reported again: {:?}", found.reported));
        }
    }
    Ok(())
}

/// Flips a bit of a sector that is not all zeros, in a file of a kind drawn first, so that small files have their share.
fn flip(folder: &Path, random: &mut Random) -> Result<(String, String), String> {
    let mut kinds: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    files(folder, folder, &mut kinds)?;
    let names: Vec<&String> = kinds.keys().collect();
    // The database and the journal are what most bytes are in.
    let kind = match random.below(4) {
        0 => "database/db".to_owned(),
        1 => "journal-*".to_owned(),
        _ => names[random.below(names.len())].clone(),
    };
    let files = &kinds[&kind];
    let path = &files[random.below(files.len())];
    let mut content = fs::read(path).map_err(|error| error.to_string())?;
    let sectors: Vec<usize> = (0..content.len().div_ceil(SECTOR))
        .filter(|sector| content[sector * SECTOR..].iter().take(SECTOR).any(|&byte| byte != 0))
        .collect();
    if sectors.is_empty() {
        return Ok((kind, "an empty file".to_owned()));
    }
    let sector = sectors[random.below(sectors.len())];
    let byte = (sector * SECTOR + random.below(SECTOR)).min(content.len() - 1);
    let bit = random.below(8);
    content[byte] ^= 1 << bit;
    fs::write(path, content).map_err(|error| error.to_string())?;
    let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
    Ok((kind, format!("bit {bit} of byte {byte} of {name}")))
}

/// Files by kind: those of a folder are one, sled's snapshots are one, the halves of the journal are one.
fn files(root: &Path, folder: &Path, kinds: &mut BTreeMap<String, Vec<PathBuf>>) -> Result<(), String> {
    for file in fs::read_dir(folder).map_err(|error| error.to_string())? {
        let path = file.map_err(|error| error.to_string())?.path();
        if path.is_dir() {
            files(root, &path, kinds)?;
            continue;
        }
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let kind = match name.as_str() {
            // The content of the reserve and of the lock means nothing.
            "reserve" | "reserve-start" | "lock" => continue,
            name if name.starts_with("bodies/") => "bodies/*",
            name if name.starts_with("slots/") => "slots/*",
            name if name.starts_with("database/snap") => "database/snap*",
            name if name.starts_with("journal-") => "journal-*",
            name => name,
        };
        kinds.entry(kind.to_owned()).or_default().push(path);
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::create_dir_all(to).map_err(|error| error.to_string())?;
    for file in fs::read_dir(from).map_err(|error| error.to_string())? {
        let path = file.map_err(|error| error.to_string())?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        match path.is_dir() {
            true => copy(&path, &target)?,
            false => drop(fs::copy(&path, &target).map_err(|error| error.to_string())?),
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<(), String> {
    if folder.exists() { fs::remove_dir_all(folder).map_err(|error| error.to_string()) } else { Ok(()) }
}

impl fmt::Display for Flips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.details.iter().try_for_each(|detail| writeln!(f, "{detail}"))?;
        for (kind, (flips, noticed, named)) in &self.kinds {
            writeln!(f, "{kind}: {flips} flips, {noticed} noticed, {named} requests damaged by name")?;
        }
        write!(
            f,
            "{} flips, {} requests in all: {} undetected losses, {} starts that failed",
            self.flips, self.requests, self.undetected, self.not_opened
        )
    }
}
