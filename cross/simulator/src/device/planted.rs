//! What planted bugs need of a device's shell.

use std::collections::BTreeMap;

use hedge_agent_core::Status;
use hedge_agent_core::outbox::{Change, Mode, Saved};
use hedge_wire::{BootId, RequestId};

use super::cloud::Published;
use super::host::Host;
use crate::id::{Kind, kind};
use crate::payload::{Given, Payload};
use crate::plant::Plant;
use crate::shared::Shared;

/// Takes every moment for one of this boot's clock.
pub(super) fn take_for_this_boot(saved: &mut [Saved], boot: BootId) {
    for item in saved {
        match item {
            Saved::Entry(head) | Saved::Damaged(head) => head.expiry.boot = boot,
            Saved::Result(_) => {}
        }
    }
}

pub(super) fn is_attempt(change: &Change<Given>) -> bool {
    matches!(change, Change::Update(head) if head.attempts > 0)
}

/// The status that a local answer claims.
pub(super) fn status(status: Status, host: &Host, shared: &Shared) -> Status {
    match shared.plant {
        Some(Plant::FalseCloud) => Status::Cloud,
        Some(Plant::FalseCertificate) if host.revoked => Status::Certified,
        _ => status,
    }
}

/// Another durable request that waits.
pub(super) fn another(
    id: RequestId,
    executing: &BTreeMap<RequestId, (Mode, Payload)>,
    publishes: &BTreeMap<u32, Published>,
) -> RequestId {
    let asked = publishes.values().map(|published| &published.id).filter(|id| kind(id) == Kind::Durable);
    executing.keys().chain(asked).copied().find(|other| *other != id).unwrap_or(id)
}
