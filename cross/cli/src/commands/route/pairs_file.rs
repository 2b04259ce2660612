//! Pairs files: what an edge model scored and whether the cloud model agreed, a request a line.
//!
//! ```text
//! score,agree,split,label,edge,cloud      columns in any order; score, agree and split are needed
//! 0.9731,1,tune,3,3,3                     agree: 1 or 0; split: tune or cal
//! 0.2410,0,cal,7,1,7                      label, edge, cloud: true class, both models' classes; empty where unknown
//! ```
//!
//! Further columns are let pass. The score is taken as given: the larger, the surer.

use std::path::Path;

use anyhow::{Context, Result};

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
    pub(super) score: f32,
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
