//! The live line; indicatif draws it on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};

use super::client::{Reply, Status};
use super::phases::Outcome;
use super::script::Phase;

/// A bar over some stage.
pub(super) struct Progress {
    bar: ProgressBar,
}

/// The line of one phase: answers so far by what they are worth, and errors.
pub(super) struct PhaseLine<'a> {
    bar: &'a ProgressBar,
    answers: [usize; 3],
    errors: usize,
}

impl Progress {
    pub(super) fn new(stage: &'static str, steps: usize) -> Self {
        let style = ProgressStyle::with_template("{prefix:6} {bar:30} {pos}/{len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: ProgressBar::new(steps as u64).with_style(style).with_prefix(stage) }
    }

    /// That many steps are done.
    pub(super) fn at(&self, done: usize) {
        self.bar.set_position(done as u64);
    }

    /// The line of the phase that begins.
    pub(super) fn phase(&self, phase: Phase) -> PhaseLine<'_> {
        self.bar.set_prefix(phase.name());
        self.bar.set_message("");
        PhaseLine { bar: &self.bar, answers: [0; 3], errors: 0 }
    }

    /// Prints without the line in the way.
    pub(super) fn pause(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl PhaseLine<'_> {
    /// A reply came.
    pub(super) fn seen(&mut self, outcome: &Outcome) {
        match &outcome.reply {
            Reply::Answer(answer) => self.answers[answer.status as usize] += 1,
            Reply::Failed(_) | Reply::Nothing(_) => self.errors += 1,
        }
        let count = |status: Status| self.answers[status as usize];
        self.bar.inc(1);
        self.bar.set_message(format!(
            "certified {}, uncertified {}, cloud {}, failed {}",
            count(Status::Certified),
            count(Status::Uncertified),
            count(Status::Cloud),
            self.errors
        ));
    }
}
