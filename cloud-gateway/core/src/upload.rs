//! Queries that come in parts: which are granted, what is held of them, and when they are whole.
//!
//! ```text
//!              ┌ no room ─────────────── Reply (Busy)
//!  Offered ────┼ offered before ──────── Grant, which names what is held
//!              └ granted ─────────────── Grant … Part … Part … Assembled, which is then an arrival like any other
//! ```
//!
//! An offer comes here only where [`crate::Admission::offered`] had no objection.
//!
//! # Invariants
//!
//! 1. Memory is reserved when a grant is given, by the size offered, and taken when the first part comes: what is held never
//!    exceeds [`UploadLimits`], whatever is offered and sent.
//! 2. A query is assembled only of the bytes whose size and SHA-256 were offered, and only under the id and model offered.
//! 3. Every granted upload ends once: assembled, refused, expired with its deadline, at the latest after `max_age`, or replaced by
//!    another offer of its id.
//! 4. A part that comes twice, out of order, or for no open upload changes nothing else.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hedge_wire::{DeviceId, GatewayId, Grant, ModelId, Offer, Part, PartSet, Query, Refusal, Reply};

use crate::admission::{Key, MIN_EXPIRY, Outcome, encode, millis};

/// What a gateway holds of uploads at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadLimits {
    /// Uploads of all devices at a time.
    pub uploads: usize,
    /// Bytes of these, as offered.
    pub bytes: usize,
    /// Of these uploads, how many may be of one device.
    pub uploads_per_device: usize,
    /// Of these bytes, how many may be of one device.
    pub bytes_per_device: usize,
    /// The longest that an upload may take, whatever deadline it has.
    pub max_age: Duration,
    /// After so long without a part the device is told again what is held: parts may have been lost.
    pub regrant_after: Duration,
    /// What a device that finds no room is told to wait.
    pub busy_retry: Duration,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self {
            uploads: 256,
            bytes: 128 * 1024 * 1024,
            uploads_per_device: 4,
            bytes_per_device: 16 * 1024 * 1024,
            max_age: Duration::from_secs(60),
            regrant_after: Duration::from_secs(5),
            busy_retry: Duration::from_secs(1),
        }
    }
}

/// What happens to uploads.
#[derive(Debug)]
pub enum UploadEvent {
    /// An offer that may be granted.
    Offered {
        /// The device, from the topic.
        device: DeviceId,
        /// The body.
        offer: Offer,
    },
    /// A part was delivered and decoded.
    Part {
        /// The device, from the topic.
        device: DeviceId,
        /// The body.
        part: Part,
    },
    /// The link is back; what was on its way is lost.
    LinkUp,
    /// Time passes; wanted a few times a second.
    Tick,
}

/// What the shell must do, in this order.
#[derive(Debug)]
pub enum UploadAction {
    /// Publish an encoded [`Grant`].
    Grant {
        /// To whom, about what.
        key: Key,
        /// The encoded grant.
        body: Bytes,
        /// How long it is worth delivering.
        expiry: Duration,
    },
    /// Publish an encoded [`Reply`]; the upload has ended, or was not granted.
    Reply {
        /// To whom, about what.
        key: Key,
        /// The encoded reply.
        body: Bytes,
        /// How long it is worth delivering.
        expiry: Duration,
        /// What it says.
        outcome: Outcome,
    },
    /// Report [`crate::Event::Arrived`]: the query is whole.
    Assembled {
        /// The device.
        device: DeviceId,
        /// The model offered for, which the body names as well.
        model: ModelId,
        /// The query, with the time that is left.
        query: Query,
    },
    /// Nothing but counting: the part was dropped.
    Dropped(PartFault),
}

/// Why a part was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartFault {
    /// No upload of this id is open: never granted, ended, or expired.
    NotOpen,
    /// The upload has no such part.
    NoSuchPart,
    /// It is not as long as its place asks for.
    WrongLength,
    /// It is held already.
    Repeated,
}

/// The state; see the module's invariants.
#[derive(Debug)]
pub struct Uploads {
    gateway: GatewayId,
    limits: UploadLimits,
    open: BTreeMap<Key, Upload>,
    /// Of all uploads, as offered.
    bytes: usize,
}

#[derive(Debug)]
struct Upload {
    offer: Offer,
    deadline: Instant,
    /// When it was last told or heard of.
    active: Instant,
    held: PartSet,
    /// Empty until the first part.
    buffer: Vec<u8>,
}

impl Uploads {
    /// The state of `gateway`, which takes the parts.
    pub fn new(gateway: GatewayId, limits: UploadLimits) -> Self {
        Self { gateway, limits, open: BTreeMap::new(), bytes: 0 }
    }

    /// Takes an event; `now` never goes back.
    pub fn handle(&mut self, event: UploadEvent, now: Instant) -> Vec<UploadAction> {
        match event {
            UploadEvent::Offered { device, offer } => vec![self.offered(device, offer, now)],
            UploadEvent::Part { device, part } => self.part(device, &part, now).into_iter().collect(),
            UploadEvent::LinkUp => {
                self.open.keys().cloned().collect::<Vec<_>>().iter().map(|key| self.grant(key, now)).collect()
            }
            UploadEvent::Tick => self.tick(now),
        }
    }

    /// Uploads granted and not yet whole, and their bytes as offered.
    pub fn open(&self) -> (usize, usize) {
        (self.open.len(), self.bytes)
    }

    /// Bytes in memory for them.
    pub fn held_bytes(&self) -> usize {
        self.open.values().map(|upload| upload.buffer.len()).sum()
    }

    fn offered(&mut self, device: DeviceId, offer: Offer, now: Instant) -> UploadAction {
        let key = Key { device, id: offer.id };
        let left = Duration::from_millis(offer.deadline_ms.into()).min(self.limits.max_age);
        match self.open.get_mut(&key) {
            Some(upload) if upload.offer.body == offer.body && upload.offer.model == offer.model => {
                upload.deadline = upload.deadline.max(now + left);
                (upload.offer.attempt, upload.offer.boot) = (offer.attempt, offer.boot);
                return self.grant(&key, now);
            }
            // A device that was brought up to date may encode the same request anew: what is held of the old body is of no use.
            Some(_) => drop(self.close(&key)),
            None => {}
        }
        if let Some(outcome) = self.no_room(&key.device, offer.body.size()) {
            let reply = Reply::Busy { id: key.id, retry_ms: millis(self.limits.busy_retry) };
            return UploadAction::Reply { key, body: encode(&reply).0, expiry: left.max(MIN_EXPIRY), outcome };
        }
        self.bytes += offer.body.size();
        let (held, buffer) = (PartSet::default(), Vec::new());
        self.open.insert(key.clone(), Upload { offer, deadline: now + left, active: now, held, buffer });
        self.grant(&key, now)
    }

    fn no_room(&self, device: &DeviceId, size: usize) -> Option<Outcome> {
        let limits = &self.limits;
        if self.open.len() >= limits.uploads || self.bytes + size > limits.bytes {
            return Some(Outcome::QueueFull);
        }
        let own = self.open.iter().filter(|(key, _)| key.device == *device).map(|(_, upload)| upload.offer.body.size());
        let (count, bytes) = own.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
        (count >= limits.uploads_per_device || bytes + size > limits.bytes_per_device).then_some(Outcome::DeviceShare)
    }

    /// Tells what is held.
    fn grant(&mut self, key: &Key, now: Instant) -> UploadAction {
        let upload = self.open.get_mut(key).expect("only open uploads are granted");
        upload.active = now;
        let grant = Grant { id: key.id, gateway: self.gateway.clone(), held: upload.held.clone() };
        let expiry = upload.deadline.saturating_duration_since(now).max(MIN_EXPIRY);
        UploadAction::Grant { key: key.clone(), body: grant.encode().into(), expiry }
    }

    fn part(&mut self, device: DeviceId, part: &Part, now: Instant) -> Option<UploadAction> {
        let key = Key { device, id: part.id };
        let Some(upload) = self.open.get_mut(&key) else { return Some(UploadAction::Dropped(PartFault::NotOpen)) };
        if let Err(fault) = upload.take(part) {
            return Some(UploadAction::Dropped(fault));
        }
        upload.active = now;
        let whole = upload.held.len() == upload.offer.body.parts();
        whole.then(|| {
            let upload = self.close(&key);
            assemble(key, upload, now)
        })
    }

    fn tick(&mut self, now: Instant) -> Vec<UploadAction> {
        let mut actions = Vec::new();
        let late: Vec<Key> = self.keys(|upload| upload.deadline <= now);
        for key in late {
            self.close(&key);
            actions.push(refused(key, Refusal::Expired, "the deadline passed before all parts were there"));
        }
        let regrant_after = self.limits.regrant_after;
        let silent: Vec<Key> = self.keys(|upload| now.saturating_duration_since(upload.active) >= regrant_after);
        actions.extend(silent.iter().map(|key| self.grant(key, now)));
        actions
    }

    fn keys(&self, wanted: impl Fn(&Upload) -> bool) -> Vec<Key> {
        self.open.iter().filter(|(_, upload)| wanted(upload)).map(|(key, _)| key.clone()).collect()
    }

    fn close(&mut self, key: &Key) -> Upload {
        let upload = self.open.remove(key).expect("only open uploads are closed");
        self.bytes -= upload.offer.body.size();
        upload
    }
}

impl Upload {
    fn take(&mut self, part: &Part) -> Result<(), PartFault> {
        let range = self.offer.body.range(part.index).ok_or(PartFault::NoSuchPart)?;
        if range.len() != part.data.len() {
            return Err(PartFault::WrongLength);
        }
        if !self.held.insert(part.index) {
            return Err(PartFault::Repeated);
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.offer.body.size()];
        }
        self.buffer[range].copy_from_slice(&part.data);
        Ok(())
    }
}

/// The query that all parts make, or why they make none.
fn assemble(key: Key, upload: Upload, now: Instant) -> UploadAction {
    let Upload { offer, deadline, buffer, .. } = upload;
    if !offer.body.matches(&buffer) {
        return refused(key, Refusal::BadInput, "the body is not the one that was offered");
    }
    let query = match Query::decode_upload(&Bytes::from(buffer)) {
        Ok(query) => query,
        Err(error) => return refused(key, Refusal::BadInput, &error.to_string()),
    };
    if query.id != offer.id || query.model != offer.model || query.purpose != offer.purpose {
        return refused(key, Refusal::BadInput, "the body is not of the query that was offered");
    }
    let deadline_ms = millis(deadline.saturating_duration_since(now));
    let query = Query { deadline_ms, attempt: offer.attempt, boot: offer.boot, ..query };
    UploadAction::Assembled { device: key.device, model: offer.model, query }
}

fn refused(key: Key, kind: Refusal, message: &str) -> UploadAction {
    let reply = Reply::Refused { id: key.id, kind, message: message.to_owned() };
    let (body, outcome) = encode(&reply);
    UploadAction::Reply { key, body, expiry: MIN_EXPIRY, outcome }
}
