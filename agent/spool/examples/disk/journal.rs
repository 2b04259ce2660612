//! What a writer asked for and what was acknowledged, one line each, and what a reader found: and whether that fits.
//!
//! ```text
//! i ID  insertion asked for      I ID  acknowledged      x ID  refused
//! f ID  ending asked for         F ID  acknowledged
//! e ID  erasure asked for (it is never acknowledged)
//! ```
//!
//! Payloads and answers follow from the id, so that a reader knows what they must be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What is known of one id.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Known {
    pub(crate) inserted: bool,
    pub(crate) ending: bool,
    pub(crate) ended: bool,
    pub(crate) erasing: bool,
}

/// All ids that were asked for and not refused.
#[derive(Clone, Default)]
pub(crate) struct Journal {
    pub(crate) ids: BTreeMap<String, Known>,
    /// Lines that acknowledge something.
    pub(crate) acknowledged: u64,
}

/// What a reader found.
#[derive(Default, Debug)]
pub(crate) struct Dump {
    pub(crate) entries: BTreeSet<String>,
    pub(crate) results: BTreeSet<String>,
    /// Ids that are there, and said to be damaged.
    pub(crate) damaged: BTreeSet<String>,
    /// Ids whose bytes are not what they must be, and nobody noticed.
    pub(crate) wrong: BTreeSet<String>,
    /// Requests said to be lost without a name.
    pub(crate) unnamed: u64,
    /// What was reported, in words.
    pub(crate) reported: Vec<String>,
}

/// How a dump fits a journal.
#[derive(Default, Debug)]
pub(crate) struct Verdict {
    /// Neither there nor reported.
    pub(crate) lost: Vec<String>,
    /// There as something that they cannot be.
    pub(crate) wrong: Vec<String>,
    /// Lost or damaged, and reported.
    pub(crate) named: u64,
}

impl Journal {
    pub(crate) fn read(path: &Path) -> Self {
        let mut journal = Self::default();
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            let Some((what, id)) = line.split_once(' ') else { continue };
            journal.take(what, id);
        }
        journal
    }

    fn take(&mut self, what: &str, id: &str) {
        if what == "x" {
            self.ids.remove(id);
            return;
        }
        let known = self.ids.entry(id.to_owned()).or_default();
        match what {
            "I" => known.inserted = true,
            "f" => known.ending = true,
            "F" => known.ended = true,
            "e" => known.erasing = true,
            _ => {}
        }
        self.acknowledged += u64::from(matches!(what, "I" | "F"));
    }

    pub(crate) fn judge(&self, dump: &Dump) -> Verdict {
        let mut verdict = Verdict { wrong: dump.wrong.iter().cloned().collect(), ..Verdict::default() };
        for (id, known) in &self.ids {
            let (entry, result) = (dump.entries.contains(id), dump.results.contains(id));
            let there = entry || result;
            if known.inserted && !there && !known.erasing {
                verdict.lost.push(id.clone());
            }
            if (entry && known.ended) || (result && !known.ending) {
                // An entry that is damaged may end as a result without an answer, and the other way round nothing may go back.
                let told = dump.damaged.contains(id);
                if !told {
                    verdict.wrong.push(id.clone());
                }
            }
        }
        let unknown = dump.entries.iter().chain(&dump.results).filter(|id| !self.ids.contains_key(*id));
        verdict.wrong.extend(unknown.cloned());
        verdict.named = dump.damaged.len() as u64;
        if verdict.lost.len() as u64 <= dump.unnamed {
            verdict.named += verdict.lost.len() as u64;
            verdict.lost.clear();
        }
        verdict
    }
}

impl Dump {
    /// What a reader wrote down; none if it did not come to its end.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let mut dump = Self::default();
        let text = fs::read_to_string(path).ok()?;
        for line in text.lines() {
            let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
            let id = rest.split(' ').next().unwrap_or_default().to_owned();
            match what {
                "E" => drop(dump.entries.insert(id)),
                "R" => drop(dump.results.insert(id)),
                "D" => drop(dump.damaged.insert(id)),
                "W" => drop(dump.wrong.insert(id)),
                "U" => dump.unnamed += rest.parse::<u64>().unwrap_or(0),
                "!" => dump.reported.push(rest.to_owned()),
                "done" => return Some(dump),
                _ => {}
            }
        }
        None
    }
}
