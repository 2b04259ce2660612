//! Pairs files: what an edge model scored and whether the cloud model agreed, a request a line.
//!
//! ```text
//! score,agree,split,label,edge,cloud      columns in any order; score, agree and split are needed
//! 0.9731,1,tune,3,3,3                     agree: 1 or 0; split: tune or cal
//! 0.2410,0,cal,7,1,7                      label, edge, cloud: true class, both models' classes; empty where unknown
//! ```
//!
//! Further columns are let pass. The score is taken as given: the larger, the surer. Only the order of scores matters.

use std::path::Path;

use anyhow::{Context, Result};
use csv::{ReaderBuilder, StringRecord, Trim};
use thiserror::Error;

use crate::failure::bad_usage;

/// The most lines that are read: ranks and halves of them are exact in `f32` up to here.
pub(super) const MOST_PAIRS: usize = 1 << 23;

/// What a line is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Split {
    /// Thresholds are chosen from its scores; its agreement is not looked at.
    Tune,
    /// Certified by.
    Cal,
}

impl Split {
    pub(super) fn name(self) -> &'static str {
        match self {
            Split::Tune => "tune",
            Split::Cal => "cal",
        }
    }
}

/// A line.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Pair {
    /// The edge model's confidence.
    pub(super) score: f64,
    /// Whether the cloud model says the same.
    pub(super) agree: bool,
    /// What it is for.
    pub(super) split: Split,
    /// The true class.
    pub(super) label: Option<u32>,
    /// The edge model's class.
    pub(super) edge: Option<u32>,
    /// The cloud model's class.
    pub(super) cloud: Option<u32>,
}

/// A pairs file that cannot be used.
#[derive(Debug, Error)]
pub(super) enum PairsError {
    /// The system or the form of the file.
    #[error(transparent)]
    Csv(#[from] csv::Error),
    /// A column that is needed is not there.
    #[error("line 1: there is no column {column:?}; it has {has}")]
    NoColumn {
        /// Which.
        column: &'static str,
        /// The columns there are.
        has: String,
    },
    /// A value that is none of its column.
    #[error("line {line}, column {column:?}: {value:?} is {why}")]
    Value {
        /// From 1, the header included.
        line: u64,
        /// Which.
        column: &'static str,
        /// What stands there.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No line of a split.
    #[error("it has no line of split {split:?}")]
    NoSplit {
        /// Which.
        split: &'static str,
    },
    /// Too large.
    #[error("it has more than {MOST_PAIRS} lines")]
    TooLong,
}

impl PairsError {
    fn hint(&self) -> &'static str {
        match self {
            PairsError::Csv(error) if error.is_io_error() => "check the path and whether the file may be read",
            PairsError::Csv(_) => "a pairs file is CSV text with the columns score,agree,split",
            PairsError::NoColumn { .. } => "name the columns in the first line: score,agree,split",
            PairsError::Value { column: "agree", .. } => "write 1 where both models say the same, and 0 where not",
            PairsError::Value { column: "split", .. } => {
                "write tune where thresholds are chosen from, and cal where agreement is counted"
            }
            PairsError::Value { column: "score", .. } => {
                "write the edge model's confidence as a number, larger where surer"
            }
            PairsError::Value { .. } => "write a class number, or nothing where the class is not known",
            PairsError::NoSplit { .. } => {
                "mark some lines, chosen at random before the answers were known, as the missing split"
            }
            PairsError::TooLong => "draw fewer lines at random",
        }
    }
}

/// Reads a pairs file with lines of both splits; what is wrong with it is bad usage.
pub(super) fn read(path: &Path) -> Result<Vec<Pair>> {
    read_with(path, &[Split::Tune, Split::Cal])
}

/// Reads a pairs file of which only the calibration lines are of interest.
pub(super) fn read_cal(path: &Path) -> Result<Vec<Pair>> {
    read_with(path, &[Split::Cal])
}

fn read_with(path: &Path, splits: &[Split]) -> Result<Vec<Pair>> {
    let pairs = parse(path).and_then(|pairs| has(&pairs, splits).map(|()| pairs));
    pairs.map_err(|error| {
        let hint = error.hint();
        bad_usage(format_args!("{}: {error}", path.display()), hint)
    })
}

fn parse(path: &Path) -> Result<Vec<Pair>, PairsError> {
    let mut file = ReaderBuilder::new().trim(Trim::All).from_path(path)?;
    let columns = Columns::of(file.headers()?)?;
    let mut pairs = Vec::new();
    for record in file.records() {
        if pairs.len() == MOST_PAIRS {
            return Err(PairsError::TooLong);
        }
        pairs.push(columns.pair(&record?)?);
    }
    Ok(pairs)
}

fn has(pairs: &[Pair], splits: &[Split]) -> Result<(), PairsError> {
    for &split in splits {
        if !pairs.iter().any(|pair| pair.split == split) {
            return Err(PairsError::NoSplit { split: split.name() });
        }
    }
    Ok(())
}

/// Where the columns stand.
struct Columns {
    score: usize,
    agree: usize,
    split: usize,
    label: Option<usize>,
    edge: Option<usize>,
    cloud: Option<usize>,
}

impl Columns {
    fn of(header: &StringRecord) -> Result<Self, PairsError> {
        // A byte-order mark is what Excel begins its CSV with.
        let place = |column: &str| header.iter().position(|name| name.trim_start_matches('\u{feff}') == column);
        let needed = |column: &'static str| {
            let has = || header.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            place(column).ok_or_else(|| PairsError::NoColumn { column, has: has() })
        };
        Ok(Columns {
            score: needed("score")?,
            agree: needed("agree")?,
            split: needed("split")?,
            label: place("label"),
            edge: place("edge"),
            cloud: place("cloud"),
        })
    }

    fn pair(&self, record: &StringRecord) -> Result<Pair, PairsError> {
        let value = |at: usize| record.get(at).unwrap_or_default();
        let wrong = |column, at, why| PairsError::Value {
            line: record.position().map_or(0, csv::Position::line),
            column,
            value: value(at).to_owned(),
            why,
        };
        let score: f64 = value(self.score).parse().map_err(|_| wrong("score", self.score, "no number"))?;
        if !score.is_finite() {
            return Err(wrong("score", self.score, "not a finite number"));
        }
        let agree = match value(self.agree) {
            "1" => true,
            "0" => false,
            _ => return Err(wrong("agree", self.agree, "neither 0 nor 1")),
        };
        let split = match value(self.split) {
            "tune" => Split::Tune,
            "cal" => Split::Cal,
            _ => return Err(wrong("split", self.split, "neither tune nor cal")),
        };
        let class = |column, at: Option<usize>| match at.map(|at| (at, value(at))) {
            None | Some((_, "")) => Ok(None),
            Some((at, text)) => text.parse().map(Some).map_err(|_| wrong(column, at, "no class number")),
        };
        Ok(Pair {
            // Adding 0 makes -0 and 0 one score.
            score: score + 0.0,
            agree,
            split,
            label: class("label", self.label)?,
            edge: class("edge", self.edge)?,
            cloud: class("cloud", self.cloud)?,
        })
    }
}

/// Writes a pairs file.
pub(super) fn write(path: &Path, pairs: &[Pair]) -> Result<()> {
    let cannot = || format!("{} cannot be written", path.display());
    let mut file = csv::Writer::from_path(path).with_context(cannot)?;
    file.write_record(["score", "agree", "split", "label", "edge", "cloud"]).with_context(cannot)?;
    let class = |class: Option<u32>| class.map(|class| class.to_string()).unwrap_or_default();
    for pair in pairs {
        let agree = if pair.agree { "1" } else { "0" };
        let (score, split) = (pair.score.to_string(), pair.split.name());
        let [label, edge, cloud] = [pair.label, pair.edge, pair.cloud].map(class);
        file.write_record([score.as_str(), agree, split, &label, &edge, &cloud]).with_context(cannot)?;
    }
    file.flush().with_context(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Pair>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.csv");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn a_file_reads_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.csv");
        let pair = |score, split| Pair { score, agree: true, split, label: Some(3), edge: None, cloud: Some(4) };
        let pairs = [pair(0.1, Split::Tune), Pair { agree: false, ..pair(1e-300, Split::Cal) }];
        write(&path, &pairs).unwrap();
        assert_eq!(read(&path).unwrap(), pairs);
    }

    #[test]
    fn columns_stand_in_any_order_and_others_are_let_pass() {
        let pairs = read_text("\u{feff}split,note,agree,score\ntune, x , 1, 0.5\ncal,,0,-2\n").unwrap();
        assert_eq!((pairs[0].score, pairs[0].agree, pairs[1].score), (0.5, true, -2.0));
    }

    #[test]
    fn what_is_wrong_is_said_with_line_and_column() {
        for (text, said) in [
            ("score,agree\n1,1\n", "no column \"split\""),
            ("score,agree,split\n0.5,1,tune\nnan,1,cal\n", "line 3, column \"score\""),
            ("score,agree,split\n,1,cal\n", "line 2, column \"score\""),
            ("score,agree,split\n0.5,yes,cal\n", "line 2, column \"agree\": \"yes\" is neither 0 nor 1"),
            ("score,agree,split\n0.5,1,test\n", "line 2, column \"split\""),
            ("score,agree,split\n0.5,1,cal\n", "no line of split \"tune\""),
            ("score,agree,split\n0.5,1,tune\n", "no line of split \"cal\""),
            ("score,agree,split\n0.5,1\n", "line: 2"),
            ("", "no column \"score\""),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.to_string().contains(said), "{text:?}: {error}");
            assert!(error.downcast_ref::<crate::failure::Usage>().is_some(), "{text:?} is bad usage");
        }
    }
}
