//! Numbers that survive their decimal text.
//!
//! The JSON reader in use may be off by one unit in the last place of a double from 16 digits on, and libraries of other
//! platforms round logarithms otherwise. Whatever a digest covers is therefore kept to 12 significant digits, when it is made and
//! again when it is read: a last place more or less is the same number then.

/// `x` to 12 significant digits.
pub(crate) fn twelve_digits(x: f64) -> f64 {
    format!("{x:.11e}").parse().unwrap_or(f64::NAN)
}

/// Whether two such numbers are equal up to what another platform's logarithm may change.
pub(crate) fn nearly(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_digits_come_back_from_json_whatever_the_magnitude() {
        for exponent in -307..308 {
            for digits in [1.234_567_890_123_456, 9.999_999_999_99, 7.0 / 3.0] {
                let x = twelve_digits(digits * 10_f64.powi(exponent));
                let read: f64 = serde_json::from_str(&serde_json::to_string(&x).unwrap()).unwrap();
                assert_eq!(twelve_digits(read), x, "{x:e} was read as {read:e}");
            }
        }
        assert_eq!(twelve_digits(0.005), 0.005);
        assert!(twelve_digits(f64::NAN).is_nan());
    }

    #[test]
    fn numbers_are_nearly_equal_to_nine_digits() {
        assert!(nearly(1e-40, 1.000_000_000_1e-40) && nearly(0.0, 0.0));
        assert!(!nearly(1e-40, 1.000_000_01e-40) && !nearly(0.0, 1e-300) && !nearly(f64::NAN, f64::NAN));
    }
}
