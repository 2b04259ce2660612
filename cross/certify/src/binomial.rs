//! The exact binomial distribution function.
//!
//! The largest term of the sum is computed by Loader's saddle-point expansion ("Fast and Accurate Computation of Binomial
//! Probabilities", 2000), which keeps 14 digits where differences of log-gamma lose nine at n = 1e6; all others follow from
//! it by the ratio of neighbours, each smaller than the one before. Nothing underflows unless the result itself does, and
//! the work grows with the standard deviation, not with n.

use std::f64::consts::PI;

/// P(X <= k) of X ~ Binomial(n, p), to about 12 significant digits; above the mode, 1 minus the right tail.
///
/// `p` is a probability; NaN gives NaN, which no comparison with a level passes.
#[must_use]
pub fn cdf(k: u64, n: u64, p: f64) -> f64 {
    if p.is_nan() {
        f64::NAN
    } else if k >= n || p <= 0.0 {
        1.0
    } else if p >= 1.0 {
        0.0
    } else if k as f64 <= (n as f64 + 1.0) * p {
        left_tail(k, n, p).min(1.0)
    } else {
        (1.0 - right_tail(k + 1, n, p)).max(0.0)
    }
}

/// The fewest labels, all of them agreeing, that show a fraction of at most `alpha` at level `delta`:
/// ceil(ln delta / ln(1 - alpha)), 299 at 1 % and 5 %. Both are strictly between 0 and 1.
#[must_use]
pub fn least_samples(alpha: f64, delta: f64) -> u64 {
    let n = (delta.ln() / (-alpha).ln_1p()).ceil().max(1.0) as u64;
    // The quotient of two logarithms may miss a whole number by its last digit; the test itself decides.
    if n > 1 && cdf(0, n - 1, alpha) <= delta {
        n - 1
    } else if cdf(0, n, alpha) > delta {
        n.saturating_add(1)
    } else {
        n
    }
}

/// P(X <= k) for k at or below the mode: terms fall from k downwards.
fn left_tail(k: u64, n: u64, p: f64) -> f64 {
    let odds = (1.0 - p) / p;
    let mut term = probability(k, n, p);
    let mut sum = term;
    for i in (1..=k).rev() {
        term *= i as f64 / (n - i + 1) as f64 * odds;
        sum += term;
        if term <= sum * f64::EPSILON * 1e-3 {
            break;
        }
    }
    sum
}

/// P(X >= k) for k above the mode: terms fall from k upwards.
fn right_tail(k: u64, n: u64, p: f64) -> f64 {
    let odds = p / (1.0 - p);
    let mut term = probability(k, n, p);
    let mut sum = term;
    for i in k..n {
        term *= (n - i) as f64 / (i + 1) as f64 * odds;
        sum += term;
        if term <= sum * f64::EPSILON * 1e-3 {
            break;
        }
    }
    sum
}

/// P(X = k) for 0 < p < 1 and k <= n.
fn probability(k: u64, n: u64, p: f64) -> f64 {
    let (x, total) = (k as f64, n as f64);
    if k == 0 {
        return (total * (-p).ln_1p()).exp();
    }
    if k == n {
        return (total * p.ln()).exp();
    }
    let log = stirling_error(n)
        - stirling_error(k)
        - stirling_error(n - k)
        - deviance(x, total * p)
        - deviance(total - x, total * (1.0 - p));
    log.exp() / (2.0 * PI * x * (1.0 - x / total)).sqrt()
}

/// ln(n!) minus Stirling's approximation of it, n >= 1.
fn stirling_error(n: u64) -> f64 {
    let x = n as f64;
    if n < 16 {
        return libm::lgamma(x + 1.0) - (x + 0.5) * x.ln() + x - 0.5 * (2.0 * PI).ln();
    }
    let square = x * x;
    (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - (1.0 / 1680.0 - 1.0 / 1188.0 / square) / square) / square) / square)
        / x
}

/// x ln(x / mean) + mean - x, without the cancellation where x is near the mean (Loader's bd0).
fn deviance(x: f64, mean: f64) -> f64 {
    let difference = x - mean;
    if difference.abs() >= 0.1 * (x + mean) {
        return x * (x / mean).ln() - difference;
    }
    let v = difference / (x + mean);
    let mut sum = difference * v;
    let mut power = 2.0 * x * v;
    for odd in (3..1_000).step_by(2) {
        power *= v * v;
        let next = sum + power / f64::from(odd);
        if next == sum {
            break;
        }
        sum = next;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (k, n, p, P(X <= k)): big-integer coefficients and 60-digit decimals, each checked against scipy.stats.binom.
    const REFERENCE: [(u64, u64, f64, f64); 20] = [
        (0, 299, 0.01, 4.953_625_663_766_248e-2),
        (0, 298, 0.01, 5.003_662_286_632_573_8e-2),
        (3, 10, 0.5, 0.171_875),
        (1, 7, 0.3, 0.329_417_2),
        (6, 7, 0.3, 0.999_781_3),
        (36, 5000, 0.01, 2.323_215_671_064_678e-2),
        (50, 5000, 0.01, 5.375_171_649_663_753e-1),
        (51, 5000, 0.01, 5.930_159_412_128_826e-1),
        (65, 5000, 0.01, 9.832_092_046_867_05e-1),
        (12, 5000, 0.005, 3.088_234_723_247_914e-3),
        (470, 10_000, 0.05, 8.699_005_229_119_764e-2),
        (9_830, 1_000_000, 0.01, 4.393_978_105_925_712e-2),
        (10_000, 1_000_000, 0.01, 5.026_596_147_995_158e-1),
        (10_300, 1_000_000, 0.01, 9.986_807_303_173_484e-1),
        (7_000, 1_000_000, 0.01, 4.545_430_830_229_225e-223),
        (0, 50_000, 0.01, 5.750_821_364_593_192e-219),
        (0, 1_000_000, 0.0005, 6.287_154_542_665_988e-218),
        (499_000, 1_000_000, 0.5, 2.280_414_993_269_104e-2),
        // 1 - 2^-11: near 1, another p would lose digits on its way into a double.
        (999_512, 1_000_000, 0.999_511_718_75, 5.111_021_725_162_053e-1),
        (999_000, 1_000_000, 0.999_511_718_75, 1.741_094_141_823_918e-91),
    ];

    #[test]
    fn the_distribution_function_has_eleven_digits_up_to_a_million_trials() {
        for (k, n, p, exact) in REFERENCE {
            let error = (cdf(k, n, p) / exact - 1.0).abs();
            assert!(error < 1e-11, "cdf({k}, {n}, {p}) = {:e}, not {exact:e}: off by {error:e}", cdf(k, n, p));
        }
    }

    #[test]
    fn far_tails_are_nearly_sure_and_never_wrong() {
        assert_eq!(cdf(500, 1_000_000, 0.9), 0.0, "1e-997658 is no double");
        assert_eq!(cdf(11_500, 1_000_000, 0.01), 1.0, "all but 2e-49");
        assert!((1.0 - cdf(65, 5_000, 0.01) - 1.679_080e-2).abs() < 1e-8);
        assert_eq!((cdf(7, 7, 0.3), cdf(9, 7, 0.3), cdf(0, 0, 0.3)), (1.0, 1.0, 1.0));
        assert_eq!((cdf(3, 7, 0.0), cdf(3, 7, 1.0)), (1.0, 0.0));
        assert!(cdf(3, 7, f64::NAN).is_nan());
    }

    #[test]
    fn small_cases_are_the_exact_fractions() {
        // p = a/16: every probability is a whole number of 16^-n, and all of them fit in 128 bits up to n = 30.
        for n in 1..=30_u64 {
            for a in 1..16_u128 {
                let (mut coefficient, mut sum) = (1_u128, 0_u128);
                for k in 0..=n {
                    sum += coefficient * a.pow(k as u32) * (16 - a).pow((n - k) as u32);
                    let exact = sum as f64 / 16_f64.powi(n as i32);
                    let seen = cdf(k, n, a as f64 / 16.0);
                    assert!((seen / exact - 1.0).abs() < 1e-13, "cdf({k}, {n}, {a}/16) = {seen:e}, not {exact:e}");
                    coefficient = coefficient * u128::from(n - k) / u128::from(k + 1);
                }
            }
        }
    }

    #[test]
    fn the_distribution_function_rises_in_k_and_falls_in_p() {
        for n in [1, 15, 16, 17, 300, 4_096] {
            for k in 0..n.min(600) {
                let p = 0.07;
                assert!(cdf(k, n, p) <= cdf(k + 1, n, p) + 1e-13, "k = {k} of {n}");
                assert!(cdf(k, n, p) + 1e-13 >= cdf(k, n, p + 0.01), "k = {k} of {n}");
            }
        }
    }

    #[test]
    fn the_least_sample_is_the_first_that_passes_without_an_error() {
        assert_eq!(least_samples(0.01, 0.05), 299);
        assert_eq!(least_samples(0.05, 0.05), 59);
        assert_eq!(least_samples(0.005, 0.05), 598);
        assert_eq!(least_samples(0.5, 0.25), 2, "a whole quotient is not rounded up");
        assert_eq!(least_samples(0.9, 0.99), 1);
        for (alpha, delta) in [(0.01, 0.05), (0.003, 0.0004), (0.25, 0.0625), (0.1, 0.1), (0.2, 0.0016)] {
            let n = least_samples(alpha, delta);
            assert!(cdf(0, n, alpha) <= delta && (n == 1 || cdf(0, n - 1, alpha) > delta), "{alpha} {delta} {n}");
        }
        assert_eq!(least_samples(1e-300, 0.05), u64::MAX);
    }
}
