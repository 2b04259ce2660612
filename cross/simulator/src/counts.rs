//! What happened in a simulation: a simulator that exercises nothing proves nothing.

use std::ops::AddAssign;

macro_rules! happenings {
    ($($name:ident = $text:literal,)*) => {
        /// Something that is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[expect(missing_docs, reason = "each has its text")]
        pub enum Happening { $($name,)* }

        impl Happening {
            /// Everything that is counted, in the order of reports.
            pub const ALL: &'static [Happening] = &[$(Happening::$name,)*];

            /// In words, as reports and JSON have it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Happening::$name => $text,)* }
            }
        }
    };
}

happenings! {
    Accepted = "durable requests accepted",
    Delivered = "durable results delivered",
    Fetched = "durable results fetched later",
    EndedByCloud = "durable requests answered by the cloud",
    EndedByEdge = "durable requests answered by the router's choice",
    EndedWithoutCloud = "durable requests answered without the cloud",
    EndedFailed = "durable requests failed as plain ones do",
    EndedPoisoned = "durable requests poisoned",
    EndedDamaged = "durable requests with a damaged payload",
    LifeOver = "durable requests that outlived their patience for the cloud",
    Joined = "retries of an id that joined",
    Known = "retries of an id that had its result",
    RefusedOther = "ids refused for another payload",
    RefusedGone = "ids refused because their result was dropped",
    RefusedTooMany = "requests refused by number",
    RefusedTooLarge = "requests refused by size",
    RefusedUnfetched = "requests refused until answers are fetched",
    RefusedDiskFull = "requests refused for want of space",
    Asked = "durable questions sent",
    AskedAgain = "durable questions sent again",
    PutOff = "executions put off for want of room",
    Erased = "results dropped by age or number",
    BegunAnew = "ids begun anew after their result was forgotten",
    Suspects = "suspects tried alone",
    Restamps = "lives written down while they pass",
    PlainByEdge = "plain rows answered by the edge",
    PlainByCache = "plain rows answered by the cache",
    PlainByCloud = "plain rows answered by the cloud",
    PlainCertified = "plain rows answered inside a certificate",
    PlainFailed = "plain rows failed",
    PlainLate = "plain rows given up at their deadline",
    PlainLinkDown = "plain rows that lost their link",
    PlainNobody = "plain rows that found no gateway",
    PlainBusy = "plain rows turned away by busy gateways",
    PlainCutOff = "plain rows that died with their process",
    PlainAskedAgain = "plain questions sent again",
    Revoked = "certificates revoked",
    Audits = "audits asked",
    AuditsAnswered = "audits answered",
    Busy = "busy replies",
    Refused = "refusals",
    BadVerdicts = "verdicts that do not fit",
    LateReplies = "late or repeated replies",
    NobodySubscribed = "acknowledgements that nobody subscribes",
    Rejected = "messages rejected by the broker",
    LinkQueueFull = "messages that found the link's queue full",
    MessageTooLarge = "messages too large",
    Offers = "uploads offered",
    Grants = "grants heard",
    Parts = "parts sent",
    PartsDropped = "parts dropped",
    Assembled = "uploads assembled",
    UploadsExpired = "uploads expired",
    Queries = "questions that reached a gateway",
    QueriesJoined = "questions joined to one under way",
    QueriesRepeated = "questions answered from memory",
    Readmitted = "retries run as new",
    Runs = "model runs",
    RunsAgain = "model runs of an id that ran elsewhere or is forgotten",
    QueueFull = "questions turned away by a full queue",
    ShareFull = "questions turned away by a device's share",
    EngineFull = "submissions that the engine had no room for",
    ExpiredInQueue = "questions expired at the gateway",
    Cuts = "links cut",
    Holes = "links black-holed",
    OneWay = "links deaf or mute",
    Slow = "links slowed",
    Watchdogs = "connections dropped by a watchdog",
    BrokerGaveUp = "connections dropped by the broker for silence",
    ConnectTimeouts = "connects timed out",
    Connected = "connects",
    TakenOver = "connections taken over",
    SessionsResumed = "sessions resumed",
    SessionsLost = "sessions lost",
    Redelivered = "messages delivered again",
    Wills = "wills published",
    StaleWills = "wills of an earlier run heard",
    LostWithGateway = "messages lost with a gateway",
    BrokerRestarts = "broker restarts",
    GatewayKills = "gateways killed",
    GatewayPowerCuts = "gateways that lost power",
    GatewayDrains = "gateways drained",
    DeviceKills = "device processes killed",
    DeviceStops = "device processes stopped in order",
    PowerCuts = "devices that lost power",
    PoisonDeaths = "processes killed by a poisonous request",
    WritesLost = "writes lost by a power cut",
    DiskFull = "writes that found no space",
    Rotten = "payloads that cannot be read back",
    SlowSyncs = "slow barriers",
    LateTimers = "late timers",
    ClocksIn1970 = "boots in 1970",
}

/// How often each thing happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counts([u64; Happening::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Happening::ALL.len()])
    }
}

impl Counts {
    pub(crate) fn add(&mut self, what: Happening, count: usize) {
        self.0[what as usize] += count as u64;
    }

    /// How often `what` happened.
    #[must_use]
    pub fn of(&self, what: Happening) -> u64 {
        self.0[what as usize]
    }

    /// What never happened.
    #[must_use]
    pub fn missing(&self) -> Vec<Happening> {
        Happening::ALL.iter().copied().filter(|&what| self.of(what) == 0).collect()
    }
}

impl AddAssign<&Counts> for Counts {
    fn add_assign(&mut self, other: &Counts) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }
}
