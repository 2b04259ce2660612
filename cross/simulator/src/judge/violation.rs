//! The rules, and how a breach is told.

use std::fmt;
use std::time::Duration;

/// What must hold in every step of every history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// What was accepted is in the store until it has ended, and its result after that, whatever happens to process and power.
    NothingLost,
    /// A result is delivered once.
    DeliveredOnce,
    /// Whoever asks for a result gets the same one, in every process.
    OneEnding,
    /// An answer is about the inputs that were handed in under the id.
    RightAnswer,
    /// What calls itself the cloud's was computed by a gateway, for this id.
    CloudSaidIt,
    /// What calls itself certified was computed under a certificate in force.
    Certified,
    /// One id is one request: other inputs under it are refused, the same ones are not.
    OneRequest,
    /// The cloud is waited for as long as was agreed, not less.
    Patience,
    /// The cloud is not waited for much longer than was agreed, reboots included.
    Life,
    /// A request is poisoned after two deaths, not before, and kills no third process.
    Poison,
    /// Only a payload that cannot be read is called damaged.
    Damage,
    /// A plain row ends once.
    RowEndsOnce,
    /// A plain row has ended with the first event at or after its deadline, and is sent at most twice.
    RowInTime,
    /// Entries, bytes, executions, messages, results and parts stay within the device's bounds.
    DeviceBounds,
    /// Queue, memory and uploads stay within the gateway's bounds.
    GatewayBounds,
    /// A gateway process runs an id once, as long as it remembers the reply.
    RunsOnce,
    /// Every message to a gateway is acknowledged once, and every question that it took in is replied to once.
    RepliesOnce,
    /// Nobody asks to be woken in the past.
    WakesAhead,
    /// Time passes.
    NoBusyLoop,
    /// Once the faults are over everything accepted is answered, and then nothing goes on.
    ComesToRest,
}

impl Rule {
    /// The rule's name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NothingLost => "nothing-lost",
            Self::DeliveredOnce => "delivered-once",
            Self::OneEnding => "one-ending",
            Self::RightAnswer => "right-answer",
            Self::CloudSaidIt => "cloud-said-it",
            Self::Certified => "certified",
            Self::OneRequest => "one-request",
            Self::Patience => "patience",
            Self::Life => "life",
            Self::Poison => "poison",
            Self::Damage => "damage",
            Self::RowEndsOnce => "row-ends-once",
            Self::RowInTime => "row-in-time",
            Self::DeviceBounds => "device-bounds",
            Self::GatewayBounds => "gateway-bounds",
            Self::RunsOnce => "runs-once",
            Self::RepliesOnce => "replies-once",
            Self::WakesAhead => "wakes-ahead",
            Self::NoBusyLoop => "no-busy-loop",
            Self::ComesToRest => "comes-to-rest",
        }
    }
}

/// A rule was broken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// When, since the beginning.
    pub at: Duration,
    /// By whom and how.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:.6} s: {}", self.rule.name(), self.at.as_secs_f64(), self.text)
    }
}
