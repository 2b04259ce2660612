//! Bodies in parts, as a shell carries them: scaled down, so that a body of a few parts is cheap to simulate.

use std::collections::btree_map::Entry;
use std::time::Duration;

use bytes::Bytes;
use hedge_agent_core::{NotSent, Upload, UploadAction, UploadEvent};
use hedge_wire::{BodyPlan, GatewayId, Grant, Offer, Part, Query, RequestId, Topic};

use super::cloud::Published;
use super::host::Host;
use super::process::Process;
use crate::counts::Happening;
use crate::judge::Rule;
use crate::net::link::PublishError;
use crate::net::packet::Route;
use crate::plant::Plant;
use crate::queue::DeviceEvent;
use crate::shared::Shared;

/// Inputs of more bytes are offered. (In the real shells: what does not fit 100 KiB.)
pub(super) const OFFERED_FROM: usize = 8000;
/// Bytes of a part: the fewest that the protocol allows.
const PART_BYTES: usize = 4096;
/// Parts with the broker at a time.
const WINDOW: usize = 2;
/// After how long parts that found the link's queue full are tried again.
const RETRY: Duration = Duration::from_millis(200);

/// An upload under way.
#[derive(Debug)]
pub(super) struct Sending {
    upload: Upload,
    /// The body as it was first encoded: what is offered again must be the same.
    body: Bytes,
    query: Query,
    left: Duration,
    gateway: Option<GatewayId>,
    /// Whether parts that found no room are tried again soon.
    retries: bool,
}

impl Process {
    /// Asks with a body in parts, for the first time or again.
    pub(super) fn ask_in_parts(
        &mut self,
        query: Query,
        left: Duration,
        host: &mut Host,
        shared: &mut Shared,
    ) -> Result<(), NotSent> {
        if !host.uploads {
            return Err(NotSent::TooLarge);
        }
        let id = query.id;
        if let Entry::Vacant(entry) = self.uploads.entry(id) {
            let body = Bytes::from(query.encode_upload().map_err(|_| NotSent::TooLarge)?);
            let plan = BodyPlan::of(&body, PART_BYTES).map_err(|_| NotSent::TooLarge)?;
            let sending =
                Sending { upload: Upload::new(plan), body, query: query.clone(), left, gateway: None, retries: false };
            entry.insert(sending);
        }
        let sending = self.uploads.get_mut(&id).expect("inserted above");
        (sending.query, sending.left) = (query, left);
        let actions = sending.upload.ask();
        self.perform_upload(id, actions, host, shared)
    }

    /// An event of the upload, if it is still under way.
    pub(super) fn feed_upload(&mut self, id: RequestId, event: UploadEvent, host: &mut Host, shared: &mut Shared) {
        if event == UploadEvent::GatewayGone {
            // Parts that the broker has not spoken about are not asked about any more.
            self.publishes.retain(|_, published| published.id != id || published.part.is_none());
        }
        let Some(sending) = self.uploads.get_mut(&id) else { return };
        let actions = sending.upload.on(event);
        // Only an offer can fail for good, and none comes of an event.
        let _ = self.perform_upload(id, actions, host, shared);
    }

    pub(super) fn granted(&mut self, grant: Grant, host: &mut Host, shared: &mut Shared) {
        shared.count(Happening::Grants);
        let id = grant.id;
        match self.uploads.get_mut(&id) {
            Some(sending) => sending.gateway = Some(grant.gateway.clone()),
            None => shared.count(Happening::LateReplies),
        }
        self.feed_upload(id, UploadEvent::Granted(grant), host, shared);
        if shared.has(Plant::NoWindow) {
            self.send_everything(id, host, shared);
        }
    }

    /// Uploads to this gateway, or all, have to be offered anew.
    pub(super) fn uploads_lost(&mut self, gateway: Option<&GatewayId>, host: &mut Host, shared: &mut Shared) {
        let is_lost = |sending: &Sending| gateway.is_none() || sending.gateway.as_ref() == gateway;
        let lost: Vec<_> = self.uploads.iter().filter(|(_, sending)| is_lost(sending)).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.feed_upload(id, UploadEvent::GatewayGone, host, shared));
    }

    /// Parts that found no room are tried again.
    pub(super) fn upload_goes_on(&mut self, id: RequestId, host: &mut Host, shared: &mut Shared) {
        if let Some(sending) = self.uploads.get_mut(&id) {
            sending.retries = false;
        }
        self.feed_upload(id, UploadEvent::Tick, host, shared);
    }

    fn perform_upload(
        &mut self,
        id: RequestId,
        actions: Vec<UploadAction>,
        host: &mut Host,
        shared: &mut Shared,
    ) -> Result<(), NotSent> {
        for action in actions {
            match action {
                UploadAction::Offer => self.offer(id, host, shared)?,
                UploadAction::Send { gateway, part } => self.send_part(id, &gateway, part, host, shared),
            }
        }
        Ok(())
    }

    fn offer(&mut self, id: RequestId, host: &mut Host, shared: &mut Shared) -> Result<(), NotSent> {
        let sending = self.uploads.get(&id).expect("only what is under way is offered");
        let (body, left) = (Offer::of(&sending.query, *sending.upload.plan()).encode(), sending.left);
        self.publish_query(id, body, left, host, shared)?;
        shared.count(Happening::Offers);
        Ok(())
    }

    fn send_part(&mut self, id: RequestId, gateway: &GatewayId, part: u32, host: &mut Host, shared: &mut Shared) {
        let sending = self.uploads.get(&id).expect("only parts of what is under way are sent");
        let cut = Part::cut(id, sending.upload.plan(), &sending.body, part).expect("the core sends parts that exist");
        let device = hedge_wire::DeviceId::parse(&format!("d{}", host.index)).expect("a letter and digits");
        let topic = Topic::Part { gateway: gateway.clone(), device }.path(&shared.tenant);
        let number = gateway.as_str().trim_start_matches("gw-").parse().expect("the simulated gateways have numbers");
        let published = self.publish(Route::Part(number), topic.into(), cut.encode(), Some(60), shared);
        match published {
            Ok(publish) => {
                shared.count(Happening::Parts);
                self.publishes.insert(publish, Published { id, part: Some(part) });
                self.check_window(id, host, shared);
            }
            Err(PublishError::QueueFull | PublishError::Down) => {
                self.feed_upload(id, UploadEvent::NotSent { part }, host, shared);
                let sending = self.uploads.get_mut(&id).expect("only parts of what is under way are sent");
                if !std::mem::replace(&mut sending.retries, true) {
                    host.after(RETRY, DeviceEvent::Upload { id }, shared);
                }
            }
        }
    }

    fn check_window(&self, id: RequestId, host: &Host, shared: &mut Shared) {
        let parts = self.publishes.values().filter(|published| published.id == id && published.part.is_some());
        let waiting = parts.count();
        let what = || format!("d{} has {waiting} parts of {id} with the broker", host.index);
        shared.require(waiting <= WINDOW, Rule::DeviceBounds, what);
    }

    /// What [`Plant::NoWindow`] does.
    fn send_everything(&mut self, id: RequestId, host: &mut Host, shared: &mut Shared) {
        let Some(sending) = self.uploads.get(&id) else { return };
        let (parts, gateway) = (sending.upload.plan().parts(), sending.gateway.clone());
        let Some(gateway) = gateway else { return };
        (0..parts).for_each(|part| self.send_part(id, &gateway, part, host, shared));
    }
}
