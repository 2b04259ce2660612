//! The numbers of the demonstration. A share or a percentile without samples is `None`.

use std::collections::HashMap;
use std::time::Duration;

use hedge_certify::top_class;

use super::client::{self, Answer, Reply, Source, Status};
use super::phases::{Outcome, Ran};
use super::script::{Phase, Request};

/// The numbers of a phase, or of all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Requests sent.
    pub(super) requests: usize,
    /// Answers by source, in the order of [`Source::ALL`].
    pub(super) sources: [SourceTally; 3],
    /// Answers that say that a certificate covers them.
    pub(super) certified: usize,
    /// Of these, answers whose class is not the cloud model's.
    pub(super) certified_differing: usize,
    /// Answers that say that nothing certifies them.
    pub(super) uncertified: usize,
    /// Requests that ended in an error, or in an answer that makes no sense.
    pub(super) failed: usize,
    /// Requests that ended in nothing.
    pub(super) unanswered: usize,
    /// Payload bytes sent to the cloud.
    pub(super) bytes_up: u64,
    /// How long the requests took together.
    pub(super) took: Duration,
}

/// The numbers of one source.
#[derive(Clone, Debug, Default)]
pub(super) struct SourceTally {
    /// Answers whose class is the cloud model's.
    agreeing: usize,
    /// Answers whose class is the true one.
    right: usize,
    /// Answers that say that a certificate covers them.
    pub(super) certified: usize,
    /// Answers that say that nothing certifies them.
    pub(super) uncertified: usize,
    /// How long each answer took; sorted.
    took: Vec<Duration>,
}

/// Every id and its answers: what was lost and what came twice.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    answers: HashMap<String, usize>,
}

impl Tally {
    /// Counts a phase's outcomes; `classes` are the cloud model's of all requests.
    pub(super) fn of(ran: &Ran, requests: &[Request], classes: &[usize]) -> Self {
        let mut tally = Self { bytes_up: ran.bytes_up, took: ran.took, ..Self::default() };
        for outcome in &ran.outcomes {
            tally.requests += 1;
            tally.certified_differing += usize::from(breaks_promise(outcome, classes));
            match &outcome.reply {
                Reply::Answer(answer) => {
                    let truth = usize::from(requests[outcome.index].label);
                    tally.answered(answer, outcome.took, classes[outcome.index], truth);
                }
                Reply::Failed(_) => tally.failed += 1,
                Reply::Nothing(_) => tally.unanswered += 1,
            }
        }
        tally.sort();
        tally
    }

    /// All phases together.
    pub(super) fn total<'a>(phases: impl IntoIterator<Item = &'a Tally>) -> Self {
        let mut total = Self::default();
        for phase in phases {
            total.requests += phase.requests;
            total.certified += phase.certified;
            total.certified_differing += phase.certified_differing;
            total.uncertified += phase.uncertified;
            total.failed += phase.failed;
            total.unanswered += phase.unanswered;
            total.bytes_up += phase.bytes_up;
            total.took += phase.took;
            for (sum, source) in total.sources.iter_mut().zip(&phase.sources) {
                sum.agreeing += source.agreeing;
                sum.right += source.right;
                sum.certified += source.certified;
                sum.uncertified += source.uncertified;
                sum.took.extend_from_slice(&source.took);
            }
        }
        total.sort();
        total
    }

    /// The numbers of one source.
    pub(super) fn from(&self, source: Source) -> &SourceTally {
        &self.sources[source as usize]
    }

    /// Answers, from whatever source.
    pub(super) fn answers(&self) -> usize {
        self.sources.iter().map(SourceTally::answers).sum()
    }

    /// The share of answers whose class is the cloud model's.
    pub(super) fn agreement(&self) -> Option<f64> {
        share(self.sources.iter().map(|source| source.agreeing).sum(), self.answers())
    }

    /// The share of answers whose class is the true one.
    pub(super) fn accuracy(&self) -> Option<f64> {
        share(self.sources.iter().map(|source| source.right).sum(), self.answers())
    }

    /// The share of certified answers whose class is not the cloud model's.
    pub(super) fn certified_disagreement(&self) -> Option<f64> {
        share(self.certified_differing, self.certified)
    }

    /// The share of all requests that got a certified answer whose class is not the cloud model's: what the system contract
    /// bounds.
    pub(super) fn system_disagreement(&self) -> Option<f64> {
        share(self.certified_differing, self.requests)
    }

    fn answered(&mut self, answer: &Answer, took: Duration, cloud: usize, truth: usize) {
        let class = top_class(&answer.logits);
        let (certified, uncertified) = (answer.status == Status::Certified, answer.status == Status::Uncertified);
        self.certified += usize::from(certified);
        self.uncertified += usize::from(uncertified);
        let source = &mut self.sources[answer.source as usize];
        source.agreeing += usize::from(class == cloud);
        source.right += usize::from(class == truth);
        source.certified += usize::from(certified);
        source.uncertified += usize::from(uncertified);
        source.took.push(took);
    }

    fn sort(&mut self) {
        self.sources.iter_mut().for_each(|source| source.took.sort_unstable());
    }
}

/// Whether a request got a certified answer whose class is not the cloud model's; `classes` are that model's of all requests.
pub(super) fn breaks_promise(outcome: &Outcome, classes: &[usize]) -> bool {
    match &outcome.reply {
        Reply::Answer(answer) => {
            answer.status == Status::Certified && top_class(&answer.logits) != classes[outcome.index]
        }
        Reply::Failed(_) | Reply::Nothing(_) => false,
    }
}

impl SourceTally {
    /// How many answers came from it.
    pub(super) fn answers(&self) -> usize {
        self.took.len()
    }

    /// The share of its answers whose class is the cloud model's.
    pub(super) fn agreement(&self) -> Option<f64> {
        share(self.agreeing, self.answers())
    }

    /// The share of its answers whose class is the true one.
    pub(super) fn accuracy(&self) -> Option<f64> {
        share(self.right, self.answers())
    }

    /// The least time, in milliseconds, within which a share of `p` of its answers came.
    pub(super) fn percentile_ms(&self, p: f64) -> Option<f64> {
        let rank = (p * self.took.len() as f64).ceil() as usize;
        let took = self.took.get(rank.max(1) - 1)?;
        // Whole microseconds: finer than what can be measured from outside.
        Some(took.as_micros() as f64 / 1000.0)
    }
}

impl Ledger {
    /// Enters the outcomes of a phase.
    pub(super) fn enter(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            let own = client::id(outcome.index);
            // An answer counts for the request that it names; an error names none.
            let answered = match &outcome.reply {
                Reply::Answer(answer) => Some(answer.id.clone()),
                Reply::Failed(_) => Some(own.clone()),
                Reply::Nothing(_) => None,
            };
            self.answers.entry(own).or_default();
            if let Some(id) = answered {
                *self.answers.entry(id).or_default() += 1;
            }
        }
    }

    /// Requests without an answer.
    pub(super) fn lost(&self) -> usize {
        self.answers.values().filter(|&&count| count == 0).count()
    }

    /// Ids with more than one answer.
    pub(super) fn duplicated(&self) -> usize {
        self.answers.values().filter(|&&count| count > 1).count()
    }
}

/// A phase and its numbers.
#[derive(Clone, Debug)]
pub(super) struct PhaseTally {
    /// Which.
    pub(super) phase: Phase,
    /// Its numbers.
    pub(super) tally: Tally,
}

/// A share, if there is a whole.
pub(super) fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::super::script;
    use super::*;

    fn answer(index: usize, source: Source, class: usize) -> Reply {
        let mut logits = vec![0.0; 10];
        logits[class] = 1.0;
        let status = if source == Source::Cloud { Status::Cloud } else { Status::Uncertified };
        Reply::Answer(Answer {
            id: client::id(index),
            source,
            status,
            reason: String::new(),
            confidence: None,
            model: String::new(),
            logits,
        })
    }

    fn ran(replies: Vec<Reply>) -> Ran {
        let outcomes = replies.into_iter().enumerate().map(|(index, reply)| Outcome {
            index,
            took: Duration::from_millis(10 * (index as u64 + 1)),
            reply,
        });
        Ran { phase: Phase::Normal, outcomes: outcomes.collect(), bytes_up: 7, took: Duration::from_secs(1) }
    }

    fn tally(replies: Vec<Reply>, classes: &[usize]) -> Tally {
        let mut requests = script::write(replies.len().max(4), 1);
        requests.iter_mut().for_each(|request| request.label = 3);
        Tally::of(&ran(replies), &requests, classes)
    }

    #[test]
    fn answers_are_counted_by_source_and_compared_with_the_cloud_model_and_the_truth() {
        let replies = vec![
            answer(0, Source::Edge, 3),
            answer(1, Source::Cloud, 4),
            answer(2, Source::Cache, 5),
            Reply::Failed("500".into()),
            Reply::Nothing("reset".into()),
        ];
        let tally = tally(replies, &[3, 4, 3, 3, 3]);
        assert_eq!(Source::ALL.map(|source| tally.from(source).answers()), [1, 1, 1]);
        assert_eq!((tally.requests, tally.failed, tally.unanswered, tally.uncertified), (5, 1, 1, 2));
        assert_eq!((tally.agreement(), tally.accuracy()), (Some(2.0 / 3.0), Some(1.0 / 3.0)));
        assert_eq!(tally.from(Source::Cloud).agreement(), Some(1.0));
        assert_eq!(tally.from(Source::Cloud).accuracy(), Some(0.0));
        assert_eq!(tally.bytes_up, 7);
    }

    #[test]
    fn certified_answers_are_held_against_the_cloud_model() {
        let certified = |index, class| match answer(index, Source::Edge, class) {
            Reply::Answer(answer) => Reply::Answer(Answer { status: Status::Certified, ..answer }),
            other => other,
        };
        let replies = vec![certified(0, 3), certified(1, 4), answer(2, Source::Edge, 5), answer(3, Source::Cloud, 3)];
        let tally = tally(replies, &[3; 4]);
        assert_eq!((tally.certified, tally.certified_differing, tally.uncertified), (2, 1, 1));
        assert_eq!((tally.certified_disagreement(), tally.system_disagreement()), (Some(0.5), Some(0.25)));
        assert_eq!((tally.from(Source::Edge).certified, tally.from(Source::Cloud).certified), (2, 0));
        let total = Tally::total([&tally, &tally]);
        assert_eq!((total.certified, total.certified_disagreement()), (4, Some(0.5)));
        assert_eq!(Tally::default().certified_disagreement(), None);
    }

    #[test]
    fn without_samples_there_is_no_share_and_no_percentile() {
        let tally = tally(vec![Reply::Failed(String::new())], &[0]);
        assert_eq!((tally.agreement(), tally.accuracy()), (None, None));
        assert_eq!(tally.from(Source::Edge).percentile_ms(0.5), None);
    }

    #[test]
    fn percentiles_are_answers_that_came() {
        let edge = |count: usize| {
            let replies = (0..count).map(|index| answer(index, Source::Edge, 3)).collect();
            tally(replies, &vec![3; count]).from(Source::Edge).clone()
        };
        assert_eq!((edge(1).percentile_ms(0.5), edge(1).percentile_ms(0.99)), (Some(10.0), Some(10.0)));
        assert_eq!((edge(2).percentile_ms(0.5), edge(2).percentile_ms(0.99)), (Some(10.0), Some(20.0)));
        assert_eq!((edge(200).percentile_ms(0.5), edge(200).percentile_ms(0.99)), (Some(1000.0), Some(1980.0)));
    }

    #[test]
    fn the_total_is_over_requests_not_over_phases() {
        let one = tally(vec![answer(0, Source::Edge, 3)], &[3]);
        let three = tally((0..3).map(|index| answer(index, Source::Edge, 5)).collect(), &[3; 3]);
        let total = Tally::total([&one, &three]);
        assert_eq!((total.requests, total.answers(), total.agreement()), (4, 4, Some(0.25)));
        assert_eq!((total.bytes_up, total.took), (14, Duration::from_secs(2)));
        assert_eq!(total.from(Source::Edge).percentile_ms(0.99), Some(30.0));
        assert_eq!(Tally::total([]).accuracy(), None);
    }

    #[test]
    fn an_answer_counts_for_the_request_that_it_names() {
        let mut ledger = Ledger::default();
        let replies = vec![answer(0, Source::Edge, 3), answer(0, Source::Edge, 3), Reply::Failed("busy".into())];
        ledger.enter(&ran(replies).outcomes);
        assert_eq!((ledger.lost(), ledger.duplicated()), (1, 1));
        let mut ledger = Ledger::default();
        ledger.enter(&ran(vec![answer(0, Source::Edge, 3), Reply::Nothing("reset".into())]).outcomes);
        assert_eq!((ledger.lost(), ledger.duplicated()), (1, 0));
    }
}
