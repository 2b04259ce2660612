//! Bugs that can be planted in the simulated shells, to show that the simulator would find them. None is in production code.

macro_rules! plants {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Plant { $($(#[$doc])* $name,)* }

        impl Plant {
            /// Every bug that can be planted.
            pub const ALL: &'static [Plant] = &[$(Plant::$name,)*];

            /// Its name on a command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Plant::$name => $text,)* }
            }

            /// The bug of this name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|plant| plant.name() == name)
            }
        }
    };
}

plants! {
    /// A write is reported as safe before the barrier.
    AckBeforeBarrier = "ack-before-barrier",
    /// A process serves what it found on disk without a barrier first.
    NoBarrierAtOpen = "no-barrier-at-open",
    /// An attempt is executed without having been written down.
    UnwrittenAttempt = "unwritten-attempt",
    /// The entry leaves the disk on the broker's PUBACK instead of the gateway's reply.
    DropOnPuback = "drop-on-puback",
    /// Results found after a restart are delivered once more.
    DeliverAgain = "deliver-again",
    /// The monotonic clock of an earlier boot is taken for this one's.
    OldBootsDeadline = "old-boots-deadline",
    /// A verdict is given to another request that waits.
    OtherAnswer = "other-answer",
    /// A local answer calls itself the cloud's.
    FalseCloud = "false-cloud",
    /// A revoked certificate goes on certifying.
    FalseCertificate = "false-certificate",
    /// A plain row that has ended is answered once more by a late reply.
    SecondAnswer = "second-answer",
    /// Timers are forgotten.
    LostWakeUp = "lost-wake-up",
    /// A timer asks for itself again at once.
    BusyLoop = "busy-loop",
    /// All parts of an upload are sent at once.
    NoWindow = "no-window",
    /// The gateway runs what it has answered already.
    ForgetDedup = "forget-dedup",
    /// The gateway answers one question with what it computed of another.
    CrossedReplies = "crossed-replies",
    /// The gateway admits whatever comes.
    NoBound = "no-bound",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_is_found_by_its_name() {
        assert!(Plant::ALL.iter().all(|&plant| Plant::named(plant.name()) == Some(plant)));
        assert_eq!(Plant::named("none"), None);
    }
}
