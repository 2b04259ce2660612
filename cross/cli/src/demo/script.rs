//! What the demonstration asks: the phases and their requests, a function of the number of requests and the seed alone.
//!
//! Fresh requests are the field stream's test split, one after the other; in phase drift the same stream goes on under
//! [`Drift::Harmful`]. About [`REPEATED`] of all requests repeat the input of an earlier one, of this phase or of one
//! before, which is what a cache is for. Only drift repeats nothing of before: a camera that was turned sees nothing again.
//!
//! Whether a repeated input is already in the cache must not depend on timing. So a repeat refers only to a request at
//! least [`REPEAT_DISTANCE`] earlier, and [`Window`] sends a request only when all that were [`IN_FLIGHT`] or more before
//! it are answered.

use std::ops::Range;

use hedge_tensor::Tensor;
use hedge_zoo::digits::{Drift, FieldStream, Split};

/// Requests under way at once.
pub(super) const IN_FLIGHT: usize = 8;
/// How much earlier, at least, the request is whose input is repeated.
const REPEAT_DISTANCE: usize = 4 * IN_FLIGHT;
/// The share of requests that repeat an earlier input.
const REPEATED: f64 = 0.15;

/// A stage of the demonstration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Everything is connected.
    Normal,
    /// The agent cannot reach the broker.
    Cut,
    /// It can again.
    Healed,
    /// Connected, but the camera was turned and has become worse.
    Drift,
}

/// One inference request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Its number, from 0, over all phases.
    pub(super) index: usize,
    /// When it is sent.
    pub(super) phase: Phase,
    /// Its input.
    pub(super) image: Tensor,
    /// The digit that the image shows.
    pub(super) label: u8,
    /// The first request with the same input, if this is not it.
    pub(super) repeat_of: Option<usize>,
}

impl Phase {
    /// In the order in which they happen.
    pub(super) const ALL: [Phase; 4] = [Phase::Normal, Phase::Cut, Phase::Healed, Phase::Drift];

    /// The name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Normal => "normal",
            Phase::Cut => "cut",
            Phase::Healed => "healed",
            Phase::Drift => "drift",
        }
    }

    /// Which of `total` requests it has: a quarter is normal, an eighth each is cut and healed, and the other half is drift.
    pub(super) fn requests(self, total: usize) -> Range<usize> {
        let (cut, healed, drift) = (total / 4, total / 4 + total / 8, total / 4 + 2 * (total / 8));
        match self {
            Phase::Normal => 0..cut,
            Phase::Cut => cut..healed,
            Phase::Healed => healed..drift,
            Phase::Drift => drift..total,
        }
    }

    /// The first request whose input may be repeated.
    fn repeats_from(self, total: usize) -> usize {
        if self == Phase::Drift { self.requests(total).start } else { 0 }
    }
}

/// All requests, in order.
pub(super) fn write(total: usize, seed: u64) -> Vec<Request> {
    let mut field = FieldStream::new(Split::Test, seed);
    let mut dice = Dice(seed);
    let mut requests: Vec<Request> = Vec::with_capacity(total);
    let mut fresh = 0;
    for phase in Phase::ALL {
        if phase == Phase::Drift {
            field = FieldStream::under(Drift::Harmful.conditions(), Split::Test, seed);
            // Other digits than before, not the same ones turned.
            field.by_ref().take(fresh).for_each(drop);
        }
        for index in phase.requests(total) {
            let earlier = dice.earlier(phase.repeats_from(total), index);
            let request = match earlier.and_then(|earlier| requests.get(earlier)) {
                Some(earlier) => {
                    Request { index, phase, repeat_of: earlier.repeat_of.or(Some(earlier.index)), ..earlier.clone() }
                }
                None => {
                    let sample = field.next().expect("the field stream is endless");
                    fresh += 1;
                    Request { index, phase, image: sample.image, label: sample.label, repeat_of: None }
                }
            };
            requests.push(request);
        }
    }
    requests
}

/// Which requests of a range may be sent and which are answered.
#[derive(Debug)]
pub(super) struct Window {
    range: Range<usize>,
    sent: usize,
    /// All before it are answered.
    low: usize,
    /// Whether the requests from `low` on are answered.
    answered: std::collections::VecDeque<bool>,
}

impl Window {
    /// A window over `range`, of which nothing is sent.
    pub(super) fn new(range: Range<usize>) -> Self {
        Self { sent: range.start, low: range.start, answered: std::collections::VecDeque::new(), range }
    }

    /// The next request, if it may be sent now.
    pub(super) fn next(&mut self) -> Option<usize> {
        let open = self.sent < self.range.end && self.sent < self.low + IN_FLIGHT;
        open.then(|| {
            self.answered.push_back(false);
            self.sent += 1;
            self.sent - 1
        })
    }

    /// A request that was sent is done.
    pub(super) fn done(&mut self, index: usize) {
        if let Some(answered) = index.checked_sub(self.low).and_then(|at| self.answered.get_mut(at)) {
            *answered = true;
        }
        while self.answered.front() == Some(&true) {
            self.answered.pop_front();
            self.low += 1;
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): enough for choosing repeats, and the same everywhere.
struct Dice(u64);

impl Dice {
    /// The request, of those from `first` on, whose input request `index` repeats, if it repeats one.
    fn earlier(&mut self, first: usize, index: usize) -> Option<usize> {
        // Both are drawn for every request, so that each request's draw is its own.
        let (repeats, which) = (self.unit() < REPEATED, self.unit());
        let candidates = (index + 1).checked_sub(first + REPEAT_DISTANCE)?;
        (repeats && candidates > 0).then_some(first + (which * candidates as f64) as usize)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_divide_the_requests_without_gap_or_overlap() {
        for total in [8, 9, 15, 2000, 2003] {
            let ranges = Phase::ALL.map(|phase| phase.requests(total));
            assert!(ranges.iter().all(|range| !range.is_empty()), "{total}");
            assert_eq!(ranges.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..total).collect::<Vec<_>>());
        }
        assert_eq!(Phase::ALL.map(|phase| phase.requests(12_000).len()), [3000, 1500, 1500, 6000]);
    }

    #[test]
    fn the_same_seed_asks_the_same_and_another_seed_something_else() {
        let images = |seed| write(200, seed).into_iter().map(|request| request.image).collect::<Vec<_>>();
        assert_eq!(images(1), images(1));
        assert_ne!(images(1), images(2));
    }

    #[test]
    fn about_fifteen_percent_repeat_an_input_of_long_before() {
        let requests = write(4000, 3);
        let repeats: Vec<&Request> = requests.iter().filter(|request| request.repeat_of.is_some()).collect();
        let share = repeats.len() as f64 / requests.len() as f64;
        assert!((0.12..0.18).contains(&share), "{share}");
        for repeat in &repeats {
            let first = &requests[repeat.repeat_of.unwrap()];
            assert!(first.index + REPEAT_DISTANCE <= repeat.index && first.repeat_of.is_none());
            assert_eq!((&first.image, first.label), (&repeat.image, repeat.label));
        }
        let across = |request: &&&Request| requests[request.repeat_of.unwrap()].phase != request.phase;
        assert!(repeats.iter().filter(across).count() > 0, "some repeat an earlier phase's input");
        let drifted = repeats.iter().filter(|request| request.phase == Phase::Drift);
        assert!(drifted.clone().count() > 100);
        assert!(drifted.filter(across).count() == 0, "nothing of before is seen again after the drift");
    }

    #[test]
    fn after_the_drift_images_are_noisier() {
        let grain = |requests: &[Request]| {
            let steps = requests.iter().flat_map(|request| request.image.bytes().windows(2));
            steps.map(|pair| f64::from(pair[0].abs_diff(pair[1]))).sum::<f64>() / requests.len() as f64
        };
        let requests = write(800, 5);
        let (before, after) = requests.split_at(Phase::Drift.requests(800).start);
        assert!(grain(after) > 1.3 * grain(before), "{} {}", grain(after), grain(before));
    }

    #[test]
    fn a_request_is_sent_only_when_all_long_before_it_are_answered() {
        let mut window = Window::new(100..100 + 3 * IN_FLIGHT);
        let sent: Vec<usize> = std::iter::from_fn(|| window.next()).collect();
        assert_eq!(sent, (100..100 + IN_FLIGHT).collect::<Vec<_>>());
        for index in sent.iter().skip(1).rev() {
            window.done(*index);
            assert_eq!(window.next(), None, "the oldest is not answered");
        }
        window.done(100);
        let sent: Vec<usize> = std::iter::from_fn(|| window.next()).collect();
        assert_eq!(sent, (100 + IN_FLIGHT..100 + 2 * IN_FLIGHT).collect::<Vec<_>>());
    }

    #[test]
    fn a_window_ends_with_its_range() {
        let mut window = Window::new(5..7);
        assert_eq!((window.next(), window.next(), window.next()), (Some(5), Some(6), None));
        window.done(5);
        window.done(6);
        window.done(6);
        assert_eq!(window.next(), None);
    }
}
