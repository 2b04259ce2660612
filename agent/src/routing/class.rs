//! The gateway's word to the class of this device: certificates that are void, more audits for a while, a certificate of
//! the class's own. What is heard here was signed by the configured key.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hedge_agent_core::RouteEvent;
use hedge_certify::{Certificate, Fingerprint};
use hedge_wire::{ClassState, Hash16};

use super::route::Route;

/// The most subjects whose state is remembered; a device has few models.
const MAX_STATES: usize = 64;

/// The last word on each subject.
#[derive(Default)]
pub(crate) struct ClassWord {
    states: Mutex<BTreeMap<Hash16, ClassState>>,
}

impl ClassWord {
    /// Takes in a state; an older one than known is no news.
    pub(crate) fn hear(&self, state: ClassState) {
        let subject = state.subject.hash();
        let mut states = self.states();
        let room = states.contains_key(&subject) || states.len() < MAX_STATES;
        let newer = states.get(&subject).is_none_or(|known| state.version >= known.version);
        if room && newer {
            states.insert(subject, state);
        }
    }

    /// Makes a route obey whatever is about it. What it has obeyed already changes nothing.
    pub(crate) fn tell(&self, route: &Route) {
        let states: Vec<ClassState> = self.states().values().cloned().collect();
        for state in states {
            if route.heeds(&state) {
                events(&state).into_iter().for_each(|event| route.tell(event));
            }
        }
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<Hash16, ClassState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn events(state: &ClassState) -> Vec<RouteEvent> {
    let mut events = Vec::new();
    if !state.revoked.is_empty() {
        let certificates = state.revoked.iter().map(|id| Fingerprint(id.0)).collect();
        let reason = "by the gateway, on the evidence of its class".to_owned();
        events.push(RouteEvent::Revoke { certificates, reason });
    }
    if state.boost_until_unix_secs > 0 {
        events.push(RouteEvent::Boost { until: Duration::from_secs(state.boost_until_unix_secs) });
    }
    match state.certificate.as_deref().map(Certificate::read) {
        Some(Ok(certificate)) => events.push(RouteEvent::Install(Box::new(certificate))),
        Some(Err(error)) => tracing::warn!(%error, "the gateway's certificate for the class cannot be used"),
        None => {}
    }
    events
}
