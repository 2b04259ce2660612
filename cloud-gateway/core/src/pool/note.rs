//! What a pool tells people.

use hedge_certify::Fingerprint;
use hedge_wire::RouteSubject;

/// What came to pass, for people.
#[derive(Debug, Clone, PartialEq)]
pub enum PoolNote {
    /// Evidence was taken in.
    Counted {
        /// Audits that the alarm took, those of offloaded requests included.
        audits: u64,
        /// Labels that the campaign took.
        labels: usize,
    },
    /// Evidence was not taken in.
    Ignored(Ignored),
    /// Certificates of a class are revoked: its answers differ from the cloud's more often than alpha.
    Alarm {
        /// Whose.
        subject: Box<RouteSubject>,
        /// Audits up to the alarm.
        audits: u64,
        /// Of these, how many differed.
        differing: u64,
        /// How many certificates are revoked.
        revoked: usize,
    },
    /// The class is asked to audit more, or no longer to.
    Boost {
        /// Whose.
        subject: Box<RouteSubject>,
        /// Whether more.
        on: bool,
    },
    /// A certificate for the class.
    Issued {
        /// Whose.
        subject: Box<RouteSubject>,
        /// Its id.
        certificate: Fingerprint,
        /// Its number in the series, which says how much of delta it spends.
        index: u32,
        /// Calibration labels.
        labels: u64,
        /// Share of requests that it offloads, 0..1.
        offload: f64,
    },
    /// A campaign without a certificate; the next has begun.
    NotCertified {
        /// Whose.
        subject: Box<RouteSubject>,
        /// Its number in the series.
        index: u32,
        /// Calibration labels that the next campaign gathers.
        next_labels: usize,
        /// Why.
        why: String,
    },
    /// The class's certificate came to its end.
    Expired {
        /// Whose.
        subject: Box<RouteSubject>,
    },
    /// The class's certificate is void, because the target of this gateway is another than when it was issued.
    Retargeted {
        /// Whose.
        subject: Box<RouteSubject>,
    },
    /// Nothing was heard of the class for a long time.
    Forgotten {
        /// Whose.
        subject: Box<RouteSubject>,
    },
}

/// Why evidence was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The device's contract or alpha is not this gateway's.
    Target,
    /// The cloud model is not, or no longer, served here.
    CloudModel,
    /// There is no room for another class, or for another of this device alone.
    Classes,
    /// There is no room for another device of the class.
    Devices,
    /// It was counted before.
    Repeated,
}

impl Ignored {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::Target, Self::CloudModel, Self::Classes, Self::Devices, Self::Repeated];

    /// The reason's name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::CloudModel => "cloud_model",
            Self::Classes => "classes",
            Self::Devices => "devices",
            Self::Repeated => "repeated",
        }
    }
}
