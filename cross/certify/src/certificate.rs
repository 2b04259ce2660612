//! A certificate: what was promised, by which numbers, for what exactly, and until when.
//!
//! The file is one readable JSON object:
//!
//! ```text
//! { "digest": SHA-256 of the canonical JSON of "certificate" (no spaces, fields as in the struct), also its id
//!   "certificate": { "format": "hedge-certificate/1", "subject": …, "scoring": …, "target": …, … } }
//! ```
//!
//! A certificate exists only by [`Certificate::issue`], which runs the test, or by reading one: whatever was read, from JSON or
//! from a snapshot, has had its p-value and all that depends on it computed again. The digest finds damage and names the
//! certificate; it does not authenticate: who may send one is settled where it is received.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::decimal::{nearly, twelve_digits};
use crate::sequence::{MOST_LABELS, first_tested, p_value};
use crate::void::{CertificateError, Inconsistent, NotIssued, Void};
use crate::{Fingerprint, Grid, Labelled, Outcome, Scoring, Spending, Target, certify};

/// The format of the certificates that this version writes and reads.
pub const CERTIFICATE_FORMAT: &str = "hedge-certificate/1";

/// The longest certificate file that is read, in bytes; the largest that can be issued is about half as long.
pub const MAX_CERTIFICATE_BYTES: usize = 64 << 10;

/// The longest device class and comparison, in bytes.
pub const MAX_SUBJECT_TEXT: usize = 256;

/// A certificate that was issued elsewhere may be ahead of this clock by so much.
pub const CLOCK_SKEW_SECS: u64 = 300;

/// What a certificate is about. Any change voids it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Digest of the edge bundle.
    pub edge: Fingerprint,
    /// Digest of the cloud model.
    pub cloud: Fingerprint,
    /// Class of devices whose inputs the labels come from.
    pub device_class: String,
    /// Digest of the transforms from input to tensor.
    pub transforms: Fingerprint,
    /// When two answers differ, as the bundle's manifest names it.
    pub comparison: String,
}

/// When the first and the last calibration label were gathered, in seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The first label.
    pub first_unix_secs: u64,
    /// The last label.
    pub last_unix_secs: u64,
}

/// A proven bound on how often an answer of the edge differs from the cloud's.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
#[non_exhaustive]
pub struct Certificate {
    /// [`CERTIFICATE_FORMAT`].
    pub format: String,
    /// What it is about.
    pub subject: Subject,
    /// The score that is compared with the threshold.
    pub scoring: Scoring,
    /// The promise, with the delta of the whole series.
    pub target: Target,
    /// The part of delta that this certificate spends.
    pub spent: f64,
    /// Its number in the series, from 1.
    pub index: u32,
    /// Calibration labels.
    pub n: u64,
    /// Labels at or above the threshold.
    pub accepted: u64,
    /// Of those, the ones that differ.
    pub k: u64,
    /// The exact binomial p-value at the threshold, at most `spent`.
    pub p_value: f64,
    /// Scores at or above it are inside the certificate.
    pub threshold: f32,
    /// Share of the calibration below the threshold, 0 to 1.
    pub offload: f64,
    /// The thresholds that could have been chosen, and the reference of later scores.
    pub grid: Grid,
    /// [`Grid::digest`].
    pub grid_digest: Fingerprint,
    /// When the calibration labels were gathered.
    pub window: Window,
    /// When it was issued, in seconds since 1970.
    pub issued_unix_secs: u64,
    /// From when on it is void, in seconds since 1970.
    pub expires_unix_secs: u64,
}

/// What a certificate is to be issued for.
#[derive(Clone, Debug)]
pub struct Issue {
    /// What it is about.
    pub subject: Subject,
    /// The score that the labels carry.
    pub scoring: Scoring,
    /// The promise, with the delta of the whole series.
    pub target: Target,
    /// The part of delta that may be spent.
    pub spending: Spending,
    /// From the tune split: it shares no request with the labels.
    pub grid: Grid,
    /// When the labels were gathered.
    pub window: Window,
    /// Now, in seconds since 1970.
    pub issued_unix_secs: u64,
    /// For how long it holds, in seconds.
    pub lifetime_secs: u64,
}

impl Certificate {
    /// Tests `labels` and issues the certificate that they allow.
    pub fn issue(issue: Issue, labels: &[Labelled]) -> Result<Self, NotIssued> {
        let Issue { subject, scoring, target, spending, grid, window, issued_unix_secs, lifetime_secs } = issue;
        let tested = target.with_delta(spending.of(target.delta())).map_err(|_| Inconsistent::Spent)?;
        let outcome = certify(&tested, &grid, labels);
        let Outcome {
            threshold: Some(threshold), accepted: Some(accepted), k: Some(k), p_value: Some(p_value), ..
        } = outcome
        else {
            return Err(NotIssued::NotCertified(outcome));
        };
        let certificate = Self {
            format: CERTIFICATE_FORMAT.to_owned(),
            subject,
            scoring,
            target,
            spent: tested.delta(),
            index: spending.index(),
            n: outcome.n,
            accepted,
            k,
            p_value: twelve_digits(p_value),
            threshold,
            offload: twelve_digits(outcome.offload),
            grid_digest: grid.digest(),
            grid,
            window,
            issued_unix_secs,
            expires_unix_secs: issued_unix_secs.saturating_add(lifetime_secs),
        };
        certificate.verify()?;
        Ok(certificate)
    }

    /// Reads a certificate file and computes its numbers again.
    pub fn read(file: &[u8]) -> Result<Self, CertificateError> {
        if file.len() > MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLarge { bytes: file.len() });
        }
        check_format(file)?;
        let FileToRead { digest, certificate: Unverified(certificate) } = serde_json::from_slice(file)?;
        let computed = certificate.id();
        if digest != computed {
            return Err(CertificateError::Digest { stated: digest, computed });
        }
        certificate.verify()?;
        Ok(certificate)
    }

    /// The certificate file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let file = FileToWrite { digest: self.id(), certificate: self };
        let mut json = serde_json::to_vec_pretty(&file).expect("numbers, texts and digests have a JSON form");
        json.push(b'\n');
        json
    }

    /// SHA-256 of the canonical JSON. Hashes some kilobytes: keep it where it is needed often.
    #[must_use]
    pub fn id(&self) -> Fingerprint {
        Fingerprint::of(&serde_json::to_vec(self).expect("numbers, texts and digests have a JSON form"))
    }

    /// Whether the certificate holds for `subject` at the time `now_unix_secs` (seconds since 1970).
    pub fn check(&self, subject: &Subject, now_unix_secs: u64) -> Result<(), Void> {
        self.check_subject(subject)?;
        if now_unix_secs.saturating_add(CLOCK_SKEW_SECS) < self.issued_unix_secs {
            return Err(Void::NotYetValid { issued_unix_secs: self.issued_unix_secs, now_unix_secs });
        }
        if now_unix_secs >= self.expires_unix_secs {
            return Err(Void::Expired { expires_unix_secs: self.expires_unix_secs, now_unix_secs });
        }
        Ok(())
    }

    /// Whether `scoring` is the score that was certified: where the score is configured, not taken from the certificate.
    pub fn check_scoring(&self, scoring: &Scoring) -> Result<(), Void> {
        if self.scoring == *scoring {
            return Ok(());
        }
        Err(Void::Score { certified: self.scoring.name().to_owned(), now: scoring.name().to_owned() })
    }

    fn check_subject(&self, now: &Subject) -> Result<(), Void> {
        let certified = &self.subject;
        if certified.edge != now.edge {
            return Err(Void::EdgeBundle { certified: certified.edge, now: now.edge });
        }
        if certified.cloud != now.cloud {
            return Err(Void::CloudModel { certified: certified.cloud, now: now.cloud });
        }
        if certified.device_class != now.device_class {
            return Err(Void::DeviceClass { certified: certified.device_class.clone(), now: now.device_class.clone() });
        }
        if certified.transforms != now.transforms {
            return Err(Void::Transforms { certified: certified.transforms, now: now.transforms });
        }
        if certified.comparison != now.comparison {
            return Err(Void::Comparison { certified: certified.comparison.clone(), now: now.comparison.clone() });
        }
        Ok(())
    }

    /// Computes again whatever follows from other fields.
    fn verify(&self) -> Result<(), Inconsistent> {
        self.verify_form()?;
        self.verify_spending()?;
        self.verify_test()
    }

    fn verify_form(&self) -> Result<(), Inconsistent> {
        if self.format != CERTIFICATE_FORMAT {
            return Err(Inconsistent::Format);
        }
        if [&self.subject.device_class, &self.subject.comparison].iter().any(|text| text.len() > MAX_SUBJECT_TEXT) {
            return Err(Inconsistent::Subject);
        }
        if self.grid.digest() != self.grid_digest {
            return Err(Inconsistent::GridDigest);
        }
        let Window { first_unix_secs, last_unix_secs } = self.window;
        if first_unix_secs > last_unix_secs || self.issued_unix_secs >= self.expires_unix_secs {
            return Err(Inconsistent::Times);
        }
        Ok(())
    }

    fn verify_spending(&self) -> Result<(), Inconsistent> {
        let may_spend =
            |spending: Spending| spending.index() == self.index && nearly(spending.of(self.target.delta()), self.spent);
        if may_spend(Spending::Whole) || may_spend(Spending::Series(self.index)) {
            Ok(())
        } else {
            Err(Inconsistent::Spent)
        }
    }

    fn verify_test(&self) -> Result<(), Inconsistent> {
        if self.k > self.accepted || self.accepted > self.n || self.n > MOST_LABELS {
            return Err(Inconsistent::Counts);
        }
        let tested = self.target.with_delta(self.spent).map_err(|_| Inconsistent::Spent)?;
        let position = self.grid.thresholds().iter().position(|&threshold| threshold == self.threshold);
        let start = first_tested(&tested, &self.grid, self.n);
        if !matches!((start, position), (Some(start), Some(position)) if start <= position) {
            return Err(Inconsistent::Threshold);
        }
        if !nearly((self.n - self.accepted) as f64 / self.n as f64, self.offload) {
            return Err(Inconsistent::Offload);
        }
        let computed = p_value(&tested, self.k, self.accepted, self.n);
        if !nearly(computed, self.p_value) {
            return Err(Inconsistent::PValue { computed });
        }
        if self.p_value > self.spent {
            return Err(Inconsistent::NotPassed);
        }
        Ok(())
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, threshold, n, .. } = self;
        write!(f, "certificate {:.12}: {target}, {} at least {threshold}, {n} labels", self.id(), self.scoring.name())
    }
}

impl Serialize for Certificate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Certificate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Unverified(certificate) = Unverified::deserialize(deserializer)?;
        certificate.verify().map_err(serde::de::Error::custom)?;
        Ok(certificate)
    }
}

/// A certificate as read: its fields are what they are, not yet what they say.
struct Unverified(Certificate);

impl<'de> Deserialize<'de> for Unverified {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut certificate = Certificate::deserialize(deserializer)?;
        for number in [&mut certificate.spent, &mut certificate.p_value, &mut certificate.offload] {
            *number = twelve_digits(*number);
        }
        Ok(Self(certificate))
    }
}

#[derive(Serialize)]
struct FileToWrite<'a> {
    digest: Fingerprint,
    certificate: &'a Certificate,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileToRead {
    digest: Fingerprint,
    certificate: Unverified,
}

/// Looks at nothing but the format, so that another version is refused as that and not for a field it has renamed.
fn check_format(file: &[u8]) -> Result<(), CertificateError> {
    #[derive(Deserialize)]
    struct File {
        certificate: Format,
    }
    #[derive(Deserialize)]
    struct Format {
        format: String,
    }
    let File { certificate: Format { format } } = serde_json::from_slice(file)?;
    if format == CERTIFICATE_FORMAT { Ok(()) } else { Err(CertificateError::Format { found: format }) }
}

#[cfg(test)]
mod tests;
