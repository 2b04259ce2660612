//! The uncertified threshold: what one labelled sample suggests, without a bound.
//!
//! A row is answered locally when `score >= threshold`. The fraction of all rows that get a local answer which differs
//! from the cloud's can only fall as the threshold rises, so one walk down the sorted scores finds the smallest threshold
//! that meets the target.

/// The smallest of the observed scores that, used as threshold, leaves at most the fraction `target_disagreement`
/// (0..1) of *all* pairs with a local answer that disagrees with the cloud's.
///
/// `pairs` are (score of the edge's answer, whether it agrees with the cloud's). Pairs of equal score stand or fall
/// together. A NaN score is never answered locally. Where no threshold meets the target, and where there are no pairs,
/// the result is `f32::INFINITY`: ask the cloud always. A score below every observed one stays below the threshold:
/// nothing is known about it.
#[must_use]
pub fn plug_in_threshold(pairs: &[(f32, bool)], target_disagreement: f64) -> f32 {
    let mut sorted: Vec<(f32, bool)> = pairs.iter().copied().filter(|(score, _)| !score.is_nan()).collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));

    let total = pairs.len() as f64;
    let mut threshold = f32::INFINITY;
    let mut disagreements = 0_usize;
    for group in sorted.chunk_by(|a, b| a.0 == b.0) {
        disagreements += group.iter().filter(|(_, agree)| !agree).count();
        if disagreements as f64 / total > target_disagreement {
            break;
        }
        threshold = group[0].0;
    }
    threshold
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [(f32, bool); 5] = [(0.9, true), (0.8, true), (0.7, false), (0.6, true), (0.5, false)];

    #[test]
    fn the_threshold_is_the_smallest_score_that_meets_the_target() {
        // One of five disagrees at 0.7 and above, two of five at 0.5 and above.
        assert_eq!(plug_in_threshold(&PAIRS, 0.0), 0.8);
        assert_eq!(plug_in_threshold(&PAIRS, 0.19), 0.8);
        assert_eq!(plug_in_threshold(&PAIRS, 0.2), 0.6);
        assert_eq!(plug_in_threshold(&PAIRS, 0.4), 0.5);
        assert_eq!(plug_in_threshold(&PAIRS, 1.0), 0.5);
    }

    #[test]
    fn the_order_of_the_pairs_does_not_matter() {
        let mut reversed = PAIRS;
        reversed.reverse();
        assert_eq!(plug_in_threshold(&reversed, 0.2), 0.6);
    }

    #[test]
    fn pairs_of_equal_score_stand_or_fall_together() {
        let pairs = [(0.9, true), (0.8, true), (0.8, false)];
        assert_eq!(plug_in_threshold(&pairs, 0.1), 0.9);
        assert_eq!(plug_in_threshold(&pairs, 0.34), 0.8);
    }

    #[test]
    fn without_a_threshold_that_meets_the_target_everything_goes_to_the_cloud() {
        assert_eq!(plug_in_threshold(&[], 0.5), f32::INFINITY);
        assert_eq!(plug_in_threshold(&[(0.9, false)], 0.5), f32::INFINITY);
        assert_eq!(plug_in_threshold(&[(0.9, true)], -1.0), f32::INFINITY);
    }

    #[test]
    fn a_score_that_is_not_a_number_counts_but_never_stays_local() {
        let pairs = [(f32::NAN, false), (0.5, false), (0.9, true), (0.8, true)];
        assert_eq!(plug_in_threshold(&pairs, 0.25), 0.5);
        assert_eq!(plug_in_threshold(&pairs, 0.24), 0.8);
    }
}
