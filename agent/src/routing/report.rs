//! Evidence on its way to the gateway: what the routers report, in the form of the wire, until the link takes it.
//!
//! Held in memory and bounded: evidence that is lost makes the class learn more slowly, nothing else, because the device's
//! own monitor has it already.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hedge_agent_core::route::Evidence;
use hedge_certify::{Contract, Role, Target};
use hedge_wire::limits::{MAX_AUDITS, MAX_LABELS};
use hedge_wire::{AuditLabel, BootId, Digest, LabelFeatures, RouteLabel, RouteSubject, SplitRole};
use tokio::sync::Notify;

/// The most messages that wait.
const MAX_WAITING: usize = 256;

/// The messages that wait.
pub(crate) struct Reports {
    boot: BootId,
    state: Mutex<State>,
    /// Says that one has come.
    pub(crate) news: Notify,
}

#[derive(Default)]
struct State {
    next_seq: u64,
    waiting: VecDeque<hedge_wire::Evidence>,
    dropped: u64,
}

/// Whose evidence it is.
pub(crate) struct Sender {
    pub(crate) subject: RouteSubject,
    pub(crate) target: Target,
    pub(crate) class_version: u64,
}

impl Reports {
    pub(crate) fn new(boot: BootId) -> Self {
        Self { boot, state: Mutex::default(), news: Notify::new() }
    }

    /// Takes in a report; the oldest message makes room where too many wait.
    pub(crate) fn push(&self, sender: &Sender, evidence: Evidence) {
        let mut state = self.state();
        for mut message in messages(sender, evidence) {
            message.boot = self.boot;
            message.seq = state.next_seq;
            state.next_seq += 1;
            if state.waiting.len() >= MAX_WAITING {
                state.waiting.pop_front();
                state.dropped += 1;
            }
            state.waiting.push_back(message);
        }
        drop(state);
        self.news.notify_one();
    }

    /// The oldest message.
    pub(crate) fn pop(&self) -> Option<hedge_wire::Evidence> {
        self.state().waiting.pop_front()
    }

    /// A message that the link did not take.
    pub(crate) fn put_back(&self, message: hedge_wire::Evidence) {
        self.state().waiting.push_front(message);
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// Messages dropped for lack of room since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many messages as the evidence needs; boot and sequence number are not set.
fn messages(sender: &Sender, evidence: Evidence) -> Vec<hedge_wire::Evidence> {
    let Evidence { certificate, audits, offloaded, histogram, labels } = evidence;
    let audits: Vec<AuditLabel> = audits
        .into_iter()
        .map(|audit| AuditLabel { score: audit.score, differs: audit.differs, propensity: audit.propensity as f32 })
        .collect();
    let labels: Vec<RouteLabel> = labels
        .into_iter()
        .map(|label| RouteLabel {
            role: match label.role {
                Role::Fit => SplitRole::Fit,
                Role::Tune => SplitRole::Tune,
                Role::Calibration => SplitRole::Calibration,
            },
            differs: label.differs,
            features: LabelFeatures {
                margin: label.features.margin,
                msp: label.features.msp,
                entropy: label.features.entropy,
                class: label.features.class,
                top: label.features.top,
            },
        })
        .collect();
    let (mut audits, mut labels) = (audits.chunks(MAX_AUDITS), labels.chunks(MAX_LABELS));
    let (mut histogram, mut offloaded) = (Some(histogram), u32::try_from(offloaded).unwrap_or(u32::MAX));
    let mut messages = Vec::new();
    loop {
        let (audit, label, counts) = (audits.next(), labels.next(), histogram.take());
        if audit.is_none() && label.is_none() && counts.is_none() {
            return messages;
        }
        messages.push(hedge_wire::Evidence {
            boot: BootId(0),
            seq: 0,
            subject: sender.subject.clone(),
            contract: match sender.target.contract() {
                Contract::System => hedge_wire::Contract::System,
                Contract::Local => hedge_wire::Contract::Local,
            },
            alpha: sender.target.alpha(),
            class_version: sender.class_version,
            certificate: certificate.map(|id| Digest(id.0)),
            audits: audit.unwrap_or_default().to_vec(),
            histogram: counts.unwrap_or_default(),
            labels: label.unwrap_or_default().to_vec(),
            offloaded: std::mem::take(&mut offloaded),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedge_agent_core::route::{AuditLabel as Audited, CampaignLabel};
    use hedge_certify::{Features, Fingerprint};
    use hedge_wire::{GroupId, ModelId};

    fn sender() -> Sender {
        let subject = RouteSubject {
            model: ModelId::from_name("m"),
            edge: Digest([1; 32]),
            cloud: Digest([2; 32]),
            class: GroupId::parse("cpu").unwrap(),
            transforms: Digest([3; 32]),
            comparison: "top class".into(),
        };
        let target = Target::new(Contract::System, 0.01, 0.05).unwrap();
        Sender { subject, target, class_version: 7 }
    }

    fn evidence(audits: usize, labels: usize) -> Evidence {
        let audit = Audited { score: 0.5, differs: true, propensity: 0.25 };
        let label = CampaignLabel { role: Role::Tune, features: Features::of(&[1.0, 0.0]), differs: false };
        Evidence {
            certificate: Some(Fingerprint([4; 32])),
            audits: vec![audit; audits],
            offloaded: 9,
            histogram: vec![1, 2],
            labels: vec![label; labels],
        }
    }

    #[test]
    fn a_report_is_split_into_messages_that_any_receiver_takes_and_counts_once() {
        let reports = Reports::new(BootId(5));
        reports.push(&sender(), evidence(MAX_AUDITS + 1, 2 * MAX_LABELS + 1));
        let sent: Vec<_> = std::iter::from_fn(|| reports.pop()).collect();
        assert!(sent.iter().all(|message| message.encode_checked().is_ok() && message.boot == BootId(5)));
        assert_eq!(sent.iter().map(|message| message.seq).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(sent.iter().map(|message| message.audits.len()).sum::<usize>(), MAX_AUDITS + 1);
        assert_eq!(sent.iter().map(|message| message.labels.len()).sum::<usize>(), 2 * MAX_LABELS + 1);
        assert_eq!(sent.iter().map(|message| message.offloaded).sum::<u32>(), 9);
        assert_eq!(sent.iter().flat_map(|message| message.histogram.clone()).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn the_oldest_message_makes_room_and_no_number_is_used_twice() {
        let reports = Reports::new(BootId(5));
        for _ in 0..MAX_WAITING + 2 {
            reports.push(&sender(), evidence(1, 0));
        }
        assert_eq!(reports.dropped(), 2);
        let first = reports.pop().unwrap();
        assert_eq!(first.seq, 2);
        reports.put_back(first);
        assert_eq!(reports.pop().unwrap().seq, 2);
    }
}
