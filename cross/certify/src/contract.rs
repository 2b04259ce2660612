//! What is promised: how often a local answer may differ from the cloud's, and how surely.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::decimal::twelve_digits;

/// Of which requests a fraction may get a local answer that differs from the cloud's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Contract {
    /// Of *all* requests, the offloaded ones included.
    System,
    /// Of the *locally answered* requests: the stricter one.
    Local,
}

impl Contract {
    /// Both contracts, for what treats them alike.
    pub const ALL: [Self; 2] = [Self::System, Self::Local];

    /// The name used in configuration, certificates and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Local => "local",
        }
    }

    /// The fraction that this contract bounds, when `accepted` of `total` requests are answered locally and `differing` of
    /// those differ from the cloud's answer. 0 where there is nothing to divide by: no request, no broken promise.
    #[must_use]
    pub fn risk(self, differing: u64, accepted: u64, total: u64) -> f64 {
        match self {
            Self::System => ratio(differing, total),
            Self::Local => ratio(differing, accepted),
        }
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A contract name that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown contract {0:?}: use \"system\" (of all requests) or \"local\" (of the locally answered)")]
pub struct UnknownContract(pub String);

impl FromStr for Contract {
    type Err = UnknownContract;

    fn from_str(name: &str) -> Result<Self, UnknownContract> {
        match name {
            "system" => Ok(Self::System),
            "local" => Ok(Self::Local),
            _ => Err(UnknownContract(name.to_owned())),
        }
    }
}

/// With probability at least 1 - delta over the calibration, the fraction that the contract names is at most alpha.
///
/// Both numbers are kept to 12 significant digits, so that the text of a certificate holds them exactly.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "RawTarget")]
pub struct Target {
    contract: Contract,
    alpha: f64,
    delta: f64,
}

impl Target {
    /// A target with `alpha` and `delta` strictly between 0 and 1.
    pub fn new(contract: Contract, alpha: f64, delta: f64) -> Result<Self, InvalidTarget> {
        let target = Self { contract, alpha: twelve_digits(alpha), delta: twelve_digits(delta) };
        if !is_open_fraction(target.alpha) {
            return Err(InvalidTarget::Alpha(alpha));
        }
        if !is_open_fraction(target.delta) {
            return Err(InvalidTarget::Delta(delta));
        }
        Ok(target)
    }

    /// The same promise made with another error probability, as the m-th of several is.
    pub fn with_delta(self, delta: f64) -> Result<Self, InvalidTarget> {
        Self::new(self.contract, self.alpha, delta)
    }

    /// Of which requests the fraction is.
    #[must_use]
    pub fn contract(&self) -> Contract {
        self.contract
    }

    /// The largest fraction of differing answers, 0 to 1.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The probability, over calibrations, of a certificate that does not keep alpha; 0 to 1.
    #[must_use]
    pub fn delta(&self) -> f64 {
        self.delta
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} alpha {} delta {}", self.contract, self.alpha, self.delta)
    }
}

/// A target that promises nothing that can be tested.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum InvalidTarget {
    /// The largest fraction of differing answers is not a fraction.
    #[error("alpha is {0}, but must lie between 0 and 1, both excluded (0.01 is one in a hundred)")]
    Alpha(f64),
    /// The error probability is not a probability that leaves something to promise.
    #[error("delta is {0}, but must lie between 0 and 1, both excluded (0.05 is one calibration in twenty)")]
    Delta(f64),
}

/// As read, not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    contract: Contract,
    alpha: f64,
    delta: f64,
}

impl TryFrom<RawTarget> for Target {
    type Error = InvalidTarget;

    fn try_from(raw: RawTarget) -> Result<Self, InvalidTarget> {
        Self::new(raw.contract, raw.alpha, raw.delta)
    }
}

fn is_open_fraction(x: f64) -> bool {
    x > 0.0 && x < 1.0
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contract_is_read_as_it_is_written() {
        for contract in Contract::ALL {
            assert_eq!(contract.to_string().parse(), Ok(contract));
            assert_eq!(serde_json::to_string(&contract).unwrap(), format!("\"{contract}\""));
        }
        let error = "both".parse::<Contract>().unwrap_err();
        assert!(error.to_string().contains("\"both\""), "{error}");
    }

    #[test]
    fn a_target_outside_of_0_to_1_is_refused_wherever_it_comes_from() {
        for bad in [0.0, 1.0, -0.1, 1.5, f64::NAN, f64::INFINITY, 1.0 - 1e-15] {
            assert!(matches!(Target::new(Contract::System, bad, 0.05), Err(InvalidTarget::Alpha(_))), "{bad}");
            assert!(matches!(Target::new(Contract::Local, 0.01, bad), Err(InvalidTarget::Delta(_))), "{bad}");
        }
        let error = serde_json::from_str::<Target>(r#"{"contract":"local","alpha":1.0,"delta":0.05}"#).unwrap_err();
        assert!(error.to_string().contains("alpha is 1"), "{error}");
    }

    #[test]
    fn a_target_survives_its_text_whatever_its_digits() {
        for denominator in 2..2_000 {
            let (alpha, delta) = (1.0 / f64::from(denominator), 6.0 / (10.0 * f64::from(denominator).powi(2)));
            let target = Target::new(Contract::Local, alpha, delta).unwrap();
            let text = serde_json::to_string(&target).unwrap();
            assert_eq!(serde_json::from_str::<Target>(&text).unwrap(), target, "{text}");
        }
        assert_eq!(Target::new(Contract::System, 0.005, 0.05).unwrap().alpha(), 0.005);
    }

    #[test]
    fn the_risk_is_of_all_requests_or_of_the_local_ones() {
        assert_eq!(Contract::System.risk(2, 50, 200), 0.01);
        assert_eq!(Contract::Local.risk(2, 50, 200), 0.04);
        assert_eq!(Contract::Local.risk(0, 0, 200), 0.0);
    }
}
