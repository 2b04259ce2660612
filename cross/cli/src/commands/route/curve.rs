//! What each threshold is worth on labelled requests: risk, coverage, and what the whole system answers.

use super::pairs_file::{Pair, Split};

/// The most points of a curve: more than a plot shows.
const POINTS: usize = 400;

/// One threshold, of shares 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Point {
    /// Requests answered locally.
    pub(super) coverage: f64,
    /// Of the locally answered, those that differ.
    pub(super) local_risk: f64,
    /// Of all, those that get a local answer that differs.
    pub(super) system_risk: f64,
    /// Of all, those whose answer is right, where true and both models' classes are known.
    pub(super) accuracy: Option<f64>,
}

/// The points of all thresholds, from nothing answered locally to everything; thinned out to a few hundred.
pub(super) fn curve(pairs: &[Pair]) -> Vec<Point> {
    let mut cal: Vec<&Pair> = pairs.iter().filter(|pair| pair.split == Split::Cal).collect();
    cal.sort_by(|a, b| b.score.total_cmp(&a.score));
    let total = cal.len() as f64;
    let mut right = cal.iter().map(|pair| cloud_is_right(pair)).sum::<Option<i64>>();
    let accuracy = |right: Option<i64>| right.map(|right| right as f64 / total);
    let mut points = vec![Point { coverage: 0.0, local_risk: 0.0, system_risk: 0.0, accuracy: accuracy(right) }];
    let (mut accepted, mut differing) = (0usize, 0usize);
    let apart = cal.len().div_ceil(POINTS);
    for ties in cal.chunk_by(|a, b| a.score == b.score) {
        accepted += ties.len();
        differing += ties.iter().filter(|pair| !pair.agree).count();
        for pair in ties {
            right = gained(pair).zip(right).map(|(gained, right)| right + gained);
        }
        let last = points.last().map_or(0.0, |point| point.coverage * total);
        if accepted as f64 - last >= apart as f64 || accepted == cal.len() {
            points.push(Point {
                coverage: accepted as f64 / total,
                local_risk: differing as f64 / accepted as f64,
                system_risk: differing as f64 / total,
                accuracy: accuracy(right),
            });
        }
    }
    points
}

/// How many more right answers there are if the edge answers.
fn gained(pair: &Pair) -> Option<i64> {
    Some(i64::from(pair.edge? == pair.label?) - cloud_is_right(pair)?)
}

fn cloud_is_right(pair: &Pair) -> Option<i64> {
    Some(i64::from(pair.cloud? == pair.label?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(score: f64, edge: u32, cloud: u32) -> Pair {
        Pair { score, agree: edge == cloud, split: Split::Cal, label: Some(1), edge: Some(edge), cloud: Some(cloud) }
    }

    #[test]
    fn a_threshold_is_worth_what_the_pairs_above_it_say() {
        let pairs = [pair(0.9, 1, 1), pair(0.5, 0, 1), pair(0.5, 1, 0), pair(0.1, 0, 0)];
        let points = curve(&pairs);
        let of = |of: fn(&Point) -> f64| points.iter().map(of).collect::<Vec<_>>();
        assert_eq!(of(|point| point.coverage), [0.0, 0.25, 0.75, 1.0]);
        assert_eq!(of(|point| point.local_risk), [0.0, 0.0, 2.0 / 3.0, 0.5]);
        assert_eq!(of(|point| point.system_risk), [0.0, 0.0, 0.5, 0.5]);
        // The cloud is right on two of four; at 0.5 one wrong answer comes and one goes.
        assert_eq!(of(|point| point.accuracy.unwrap()), [0.5, 0.5, 0.5, 0.5]);
    }

    #[test]
    fn without_classes_there_is_no_accuracy() {
        let unknown = Pair { label: None, ..pair(0.5, 1, 1) };
        assert!(curve(&[unknown]).iter().all(|point| point.accuracy.is_none()));
    }

    #[test]
    fn a_curve_has_a_few_hundred_points_and_ends_where_everything_is_local() {
        let pairs: Vec<Pair> = (0..50_000u32).map(|i| pair(f64::from(i), 1, 1)).collect();
        let points = curve(&pairs);
        assert!(points.len() <= POINTS + 2, "{}", points.len());
        assert_eq!(points.last().map(|point| point.coverage), Some(1.0));
    }
}
