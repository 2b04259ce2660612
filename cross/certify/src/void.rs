//! Why there is no certificate: not issued, not readable, not what it says, or not valid any more.

use serde::{Deserialize, Serialize};

use crate::certificate::{CERTIFICATE_FORMAT, MAX_CERTIFICATE_BYTES, MAX_SUBJECT_TEXT};
use crate::{Fingerprint, Outcome};

/// Why a certificate does not hold (any more): everything is offloaded, or answered `uncertified`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Void {
    /// Another edge bundle serves.
    #[error("void: certified for edge bundle {certified:.12}, but {now:.12} serves; certify this bundle")]
    EdgeBundle {
        /// The certified one.
        certified: Fingerprint,
        /// The one that serves.
        now: Fingerprint,
    },
    /// Another cloud model answers.
    #[error("void: certified against cloud model {certified:.12}, but {now:.12} answers; certify against this model")]
    CloudModel {
        /// The certified one.
        certified: Fingerprint,
        /// The one that answers.
        now: Fingerprint,
    },
    /// The device is of another class.
    #[error("void: certified for devices of class {certified:?}, but this one is of {now:?}; certify for this class")]
    DeviceClass {
        /// The certified class.
        certified: String,
        /// The class of this device.
        now: String,
    },
    /// Inputs are prepared differently.
    #[error("void: certified with input transforms {certified:.12}, but {now:.12} are in use; certify with these")]
    Transforms {
        /// The certified ones.
        certified: Fingerprint,
        /// Those in use.
        now: Fingerprint,
    },
    /// Answers are compared differently.
    #[error("void: certified for the comparison {certified:?}, but {now:?} is asked for; certify for this one")]
    Comparison {
        /// The certified one.
        certified: String,
        /// The one asked for.
        now: String,
    },
    /// Another score is compared with the threshold.
    #[error(
        "void: certified for the score {certified:?}, but {now:?} (or another fit of it) is in use; certify this score"
    )]
    Score {
        /// Name of the certified one.
        certified: String,
        /// Name of the one in use.
        now: String,
    },
    /// Its time is over.
    #[error(
        "void: expired at {expires_unix_secs} (now {now_unix_secs}, seconds since 1970); gather labels and certify again"
    )]
    Expired {
        /// When it expired, in seconds since 1970.
        expires_unix_secs: u64,
        /// Now, in seconds since 1970.
        now_unix_secs: u64,
    },
    /// It comes from the future.
    #[error(
        "void: issued at {issued_unix_secs}, after now ({now_unix_secs}, seconds since 1970); set the clock of the device"
    )]
    NotYetValid {
        /// When it was issued, in seconds since 1970.
        issued_unix_secs: u64,
        /// Now, in seconds since 1970.
        now_unix_secs: u64,
    },
    /// Audits have shown that it is broken.
    #[error(
        "void: alarm at request {request}, wealth {wealth} reached {line}; labels are gathered for a new certificate"
    )]
    Alarm {
        /// The request at which the alarm was raised, counted from the certificate's first.
        request: u64,
        /// Wealth of the bets against the certificate.
        wealth: f64,
        /// The wealth at which it is void.
        line: f64,
    },
    /// It was taken back.
    #[error("void: revoked ({reason}); wait for the next certificate or certify again")]
    Revoked {
        /// Why, as told by who revoked it.
        reason: String,
    },
}

/// Why no certificate was issued.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum NotIssued {
    /// The labels do not show the promised fraction.
    #[error("not certified with {} labels: {}", .0.n, more_labels(.0))]
    NotCertified(Outcome),
    /// It would not be a certificate that can be read.
    #[error("not issued: {0}")]
    Invalid(#[from] Inconsistent),
}

fn more_labels(outcome: &Outcome) -> String {
    match outcome.needs_labels {
        Some(more) => format!("at the rate seen, about {more} more would do"),
        None => "the edge differs too often where it is surest; no number of labels would do, but a larger alpha or a better \
                 edge model may"
            .to_owned(),
    }
}

/// Why a certificate file was refused.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Nothing this long is read.
    #[error("the certificate has {bytes} bytes, more than {MAX_CERTIFICATE_BYTES}: this is another file")]
    TooLarge {
        /// Length of the file.
        bytes: usize,
    },
    /// The text is not that of a certificate.
    #[error("this is no certificate or a damaged one ({0}): fetch or issue it again")]
    Malformed(#[from] serde_json::Error),
    /// It is another format.
    #[error("the certificate has the format {found:?}, this version reads {CERTIFICATE_FORMAT:?}: issue it again")]
    Format {
        /// The format it names.
        found: String,
    },
    /// Something in it has changed.
    #[error(
        "the certificate was changed: it states the digest {stated:.12} but has {computed:.12}; fetch or issue it again"
    )]
    Digest {
        /// The one in the file.
        stated: Fingerprint,
        /// The one of its contents.
        computed: Fingerprint,
    },
    /// Its numbers do not follow from each other.
    #[error("the certificate contradicts itself: {0}; issue it again")]
    Inconsistent(#[from] Inconsistent),
}

/// Which part of a certificate does not follow from the others.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum Inconsistent {
    /// The format is another one.
    #[error("its format is not {CERTIFICATE_FORMAT:?}")]
    Format,
    /// Texts of the subject are too long.
    #[error("device class and comparison have at most {MAX_SUBJECT_TEXT} bytes each")]
    Subject,
    /// The grid is another one.
    #[error("its grid has another digest")]
    GridDigest,
    /// Times are out of order.
    #[error("its labels end before they begin, or it expires before it is issued")]
    Times,
    /// More, or less, of delta is spent than the series allows.
    #[error("it spends another part of delta than a certificate of its number may")]
    Spent,
    /// Counts contain each other, or are too many.
    #[error("its counts do not contain each other: k <= accepted <= n <= 1e9")]
    Counts,
    /// The threshold could not have been tested.
    #[error("its threshold is none that is tested on its grid")]
    Threshold,
    /// The share below the threshold is another one.
    #[error("its offload does not follow from its counts")]
    Offload,
    /// The p-value is another one.
    #[error("its p-value does not follow from its counts: it is {computed:e}")]
    PValue {
        /// Computed from the counts.
        computed: f64,
    },
    /// The test was not passed.
    #[error("its p-value is larger than what it may spend")]
    NotPassed,
}
