//! What is known of one durable request, from its caller's side.

use std::time::Duration;

use hedge_agent_core::outbox::{Ending, Standing};

use super::{Judge, Rule};
use crate::payload::{Given, Payload, Trait};

/// Deaths of a process after which a request may be called poisoned.
const DEATHS: u32 = 2;

/// A durable request, as its caller knows it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) payload: Payload,
    pub(crate) life: Duration,
    /// When it was handed in, the time that counts.
    pub(crate) asked: Duration,
    pub(crate) accepted: Option<Duration>,
    /// How it ended, once anybody was told.
    pub(crate) ending: Option<Ending<Given>>,
    pub(crate) deliveries: u32,
    /// Its result was dropped, as the settings allow.
    pub(crate) erased: bool,
    /// Its payload cannot be read back.
    pub(crate) rotten: bool,
    /// Deaths of processes while it waited that it may have caused: of those that were killed, while it was under way.
    pub(crate) deaths: u32,
    /// Of these, those that it caused.
    pub(crate) kills: u32,
    /// Whether the last process was killed while this waited and was not under way, by marks that power has not yet spoilt.
    pub(crate) cleared: bool,
    /// Processes that were asked to end while it waited: an attempt under way is taken back then, which may cost one more.
    pub(crate) stops: u32,
    pub(crate) reboots: u32,
    /// How long its device was without power meanwhile.
    pub(crate) off: Duration,
}

impl Record {
    pub(crate) fn new(payload: Payload, life: Duration) -> Self {
        Self {
            payload,
            life,
            asked: Duration::ZERO,
            accepted: None,
            ending: None,
            deliveries: 0,
            erased: false,
            rotten: false,
            deaths: 0,
            cleared: false,
            kills: 0,
            stops: 0,
            reboots: 0,
            off: Duration::ZERO,
        }
    }

    /// Whether it must be found in its device's store.
    pub(crate) fn is_owed(&self) -> bool {
        self.accepted.is_some() && !self.erased
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.accepted.is_some() && self.ending.is_none()
    }
}

impl Judge {
    pub(crate) fn record(&self, device: u16, number: u16) -> &Record {
        &self.records[usize::from(device)][usize::from(number)]
    }

    pub(crate) fn record_mut(&mut self, device: u16, number: u16) -> &mut Record {
        &mut self.records[usize::from(device)][usize::from(number)]
    }

    pub(crate) fn records_of(&self, device: u16) -> &[Record] {
        &self.records[usize::from(device)]
    }

    /// The request is handed in and nothing was known of it: this is when its life begins.
    pub(crate) fn begins(&mut self, device: u16, number: u16, now: Duration) {
        let record = self.record_mut(device, number);
        let begun_anew = Record { asked: now, ..Record::new(record.payload, record.life) };
        *record = begun_anew;
    }

    pub(crate) fn accepted(&mut self, device: u16, number: u16, now: Duration) {
        self.record_mut(device, number).accepted.get_or_insert(now);
    }

    /// A caller learns how a request ended.
    pub(crate) fn told(&mut self, device: u16, number: u16, ending: &Ending<Given>, now: Duration) {
        let record = self.record_mut(device, number);
        let earlier = record.ending.get_or_insert_with(|| ending.clone()).clone();
        if earlier != *ending {
            let text = format!("d{device} #{number} ended in {earlier:?} and in {ending:?}");
            return self.violated(Rule::OneEnding, now, text);
        }
        self.check_ending(device, number, ending, now);
    }

    pub(crate) fn delivered(&mut self, device: u16, number: u16, ending: &Ending<Given>, now: Duration) {
        let record = self.record_mut(device, number);
        record.deliveries += 1;
        if record.deliveries > 1 {
            self.violated(Rule::DeliveredOnce, now, format!("d{device} #{number} was delivered once more"));
        }
        self.told(device, number, ending, now);
    }

    fn check_ending(&mut self, device: u16, number: u16, ending: &Ending<Given>, now: Duration) {
        let record = self.record(device, number);
        match ending {
            Ending::Answered(given) => {
                let (payload, lethal) = (record.payload, record.payload.has(Trait::KillsExecution));
                if lethal {
                    self.violated(Rule::Poison, now, format!("d{device} #{number} kills, and was answered"));
                }
                self.check_answer(device, payload, given, now);
            }
            Ending::Poisoned { .. } if record.deaths < DEATHS => {
                let text = format!("d{device} #{number} is called poisoned after {} deaths", record.deaths);
                self.violated(Rule::Poison, now, text);
            }
            Ending::Damaged if !record.rotten => {
                self.violated(Rule::Damage, now, format!("d{device} #{number} is called damaged and is not"));
            }
            Ending::Poisoned { .. } | Ending::Damaged => {}
        }
    }

    /// The device goes on without the cloud, because the life is said to be over.
    pub(crate) fn gave_up(&mut self, device: u16, number: u16, now: Duration) {
        let record = self.record(device, number);
        let waited = now.saturating_sub(record.asked);
        // A device's clock may be fast by a fraction of a thousandth.
        if waited + Duration::from_millis(1) < record.life.mul_f64(0.999) {
            let text = format!("d{device} #{number} waited {waited:?} of {:?} for the cloud", record.life);
            self.violated(Rule::Patience, now, text);
        }
    }

    /// A process of the device dies, by the hand of this request or of somebody else; some requests are suspected of it.
    pub(crate) fn process_died(
        &mut self,
        device: u16,
        killer: Option<u16>,
        is_suspect: impl Fn(u16) -> bool,
        now: Duration,
    ) {
        for (number, record) in (0..).zip(&mut self.records[usize::from(device)]) {
            let waits = record.ending.is_none();
            record.deaths += u32::from(waits && is_suspect(number));
            record.cleared = waits && !is_suspect(number);
        }
        let Some(number) = killer else { return };
        let record = self.record_mut(device, number);
        record.kills += 1;
        if record.kills > DEATHS + record.stops {
            self.violated(Rule::Poison, now, format!("d{device} #{number} killed a third process"));
        }
    }

    /// Power went after the process: nobody will ever know what was under way.
    pub(crate) fn marks_lost(&mut self, device: u16) {
        for record in &mut self.records[usize::from(device)] {
            record.deaths += u32::from(std::mem::take(&mut record.cleared));
        }
    }

    /// A process of the device is asked to end.
    pub(crate) fn process_stops(&mut self, device: u16) {
        for record in &mut self.records[usize::from(device)] {
            record.stops += u32::from(record.ending.is_none());
            // It has read the marks of the one before it, and makes sure that they are not needed any more, or dies.
            record.cleared = false;
        }
    }

    /// The device has power again. A request may be on its disk, and wait, before its caller was told so.
    pub(crate) fn powered(&mut self, device: u16, off: Duration) {
        for record in self.records[usize::from(device)].iter_mut().filter(|record| record.ending.is_none()) {
            record.reboots += 1;
            record.off += off;
        }
    }

    /// A process has begun, and says what it knows of a request.
    pub(crate) fn restored(
        &mut self,
        (device, number): (u16, u16),
        standing: Standing,
        result: Option<&Ending<Given>>,
        now: Duration,
    ) {
        let record = self.record(device, number);
        if !record.is_owed() {
            return;
        }
        match (standing, &record.ending, result) {
            (Standing::Waiting, None, _) | (Standing::Done, None, Some(_)) => {}
            (Standing::Done, Some(ending), Some(result)) if ending == result => {}
            (standing, ending, result) => {
                let text = format!(
                    "d{device} #{number} ended in {ending:?}, and after a restart it is {standing:?} with {result:?}"
                );
                self.violated(Rule::NothingLost, now, text);
            }
        }
    }
}
