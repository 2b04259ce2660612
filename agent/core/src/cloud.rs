//! What the device knows about the cloud: the link, the gateways present, and the cloud model that each serves.
//!
//! Presence is retained and may arrive late, twice, or as the will of an earlier run, so a gateway's boot id decides
//! whether it may be marked offline. Knowledge survives a lost link: a resumed session does not send presence again. No
//! presence at all is "unknown", not "absent", until the caller says that it would have arrived ([`CloudView::settle`]): a
//! broker need not keep retained messages.

use std::collections::BTreeMap;

use hedge_wire::{BootId, Digest, GatewayId, GatewayPresence, ModelId};

use crate::answer::Reason;

/// The most gateways remembered; presence of more is ignored.
const MAX_GATEWAYS: usize = 256;

/// Whether the device can publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// No broker is configured.
    None,
    /// The broker is not reachable now.
    Down,
    /// Connected.
    Up,
}

/// Whether somebody serves a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Availability {
    /// At least one gateway serves it.
    Present,
    /// Gateways are known, none of them serves it now.
    Absent,
    /// Nothing was heard of any gateway.
    Unknown,
}

/// The device's view of the cloud.
#[derive(Clone, Debug)]
pub struct CloudView {
    path: Path,
    /// Whether every retained presence must have arrived by now, so that none heard means none there.
    settled: bool,
    gateways: BTreeMap<GatewayId, Known>,
    last: BTreeMap<ModelId, Digest>,
}

#[derive(Clone, Debug)]
struct Known {
    boot: BootId,
    online: bool,
    models: Vec<(ModelId, Digest)>,
}

impl CloudView {
    /// A view that has heard nothing yet; `configured` says whether there is a broker at all.
    #[must_use]
    pub fn new(configured: bool) -> Self {
        let path = if configured { Path::Down } else { Path::None };
        Self { path, settled: false, gateways: BTreeMap::new(), last: BTreeMap::new() }
    }

    /// The link came up or went down.
    pub fn set_link(&mut self, up: bool) {
        self.path = if up { Path::Up } else { Path::Down };
        self.settled = false;
    }

    /// The link has been up for long enough, on a broker that keeps retained messages, to have heard of every gateway.
    pub fn settle(&mut self) {
        self.settled = self.path == Path::Up;
    }

    /// A gateway's retained presence was deleted; true if it was known.
    pub fn on_gone(&mut self, gateway: &GatewayId) -> bool {
        match self.gateways.get_mut(gateway) {
            Some(known) if known.online => {
                known.online = false;
                true
            }
            _ => false,
        }
    }

    /// Whether the device can publish.
    #[must_use]
    pub fn path(&self) -> Path {
        self.path
    }

    /// Takes in a gateway's presence; true if it changed anything.
    pub fn on_presence(&mut self, presence: &GatewayPresence) -> bool {
        let known = self.gateways.get(&presence.gateway);
        let news = match known {
            None => self.gateways.len() < MAX_GATEWAYS,
            // The will of an earlier run must not mark the present one offline.
            Some(known) if known.online && !presence.online => known.boot == presence.boot,
            Some(known) => {
                known.boot != presence.boot || known.online != presence.online || known.models != presence.models
            }
        };
        if !news {
            return false;
        }
        if presence.online {
            self.last.extend(presence.models.iter().cloned());
        }
        let known = Known { boot: presence.boot, online: presence.online, models: presence.models.clone() };
        self.gateways.insert(presence.gateway.clone(), known);
        true
    }

    /// A gateway answered for `model` with a cloud model of this digest, which counts while no presence is known. True
    /// if that is news.
    pub fn on_verdict(&mut self, model: &ModelId, digest: Digest) -> bool {
        self.last.insert(model.clone(), digest) != Some(digest)
    }

    /// What an earlier process knew; news replace it.
    pub fn remember(&mut self, model: ModelId, digest: Digest) {
        self.last.entry(model).or_insert(digest);
    }

    /// The digest last known for `model`, to be remembered for the next process.
    #[must_use]
    pub fn last_digest(&self, model: &ModelId) -> Option<Digest> {
        self.last.get(model).copied()
    }

    /// How many gateways are online.
    #[must_use]
    pub fn gateways_online(&self) -> usize {
        self.gateways.values().filter(|known| known.online).count()
    }

    /// Whether somebody serves `model`.
    #[must_use]
    pub fn availability(&self, model: &ModelId) -> Availability {
        if self.gateways.is_empty() && !self.settled {
            Availability::Unknown
        } else if self.serving(model).next().is_some() {
            Availability::Present
        } else {
            Availability::Absent
        }
    }

    /// The digest of the cloud model as of now: what most of the gateways online serve (of equally many the smallest), or,
    /// while none is known to serve it, what was known last.
    #[must_use]
    pub fn current_digest(&self, model: &ModelId) -> Option<Digest> {
        let mut counts: BTreeMap<Digest, usize> = BTreeMap::new();
        for digest in self.serving(model) {
            *counts.entry(digest).or_default() += 1;
        }
        // `max_by_key` keeps the last of equals, hence the reversal.
        let most = counts.into_iter().rev().max_by_key(|&(_, count)| count).map(|(digest, _)| digest);
        most.or_else(|| self.last.get(model).copied())
    }

    /// Whether anybody may be asked about anything now; which models they serve is for [`CloudView::may_offload`].
    #[must_use]
    pub fn is_up(&self) -> bool {
        let unheard = self.gateways.is_empty() && !self.settled;
        self.path == Path::Up && (unheard || self.gateways_online() > 0)
    }

    /// Whether an offload for `model` may be tried now, or why not.
    pub fn may_offload(&self, model: &ModelId) -> Result<(), Reason> {
        match (self.path, self.availability(model)) {
            (Path::None, _) => Err(Reason::NoGateway),
            (Path::Down, _) => Err(Reason::LinkDown),
            (Path::Up, Availability::Absent) => Err(Reason::NoGateway),
            (Path::Up, Availability::Present | Availability::Unknown) => Ok(()),
        }
    }

    fn serving(&self, model: &ModelId) -> impl Iterator<Item = Digest> {
        self.gateways
            .values()
            .filter(|known| known.online)
            .flat_map(|known| known.models.iter())
            .filter(move |(served, _)| served == model)
            .map(|(_, digest)| *digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(gateway: &str, boot: u64, online: bool, digest: u8) -> GatewayPresence {
        GatewayPresence {
            gateway: GatewayId::parse(gateway).unwrap(),
            boot: BootId(boot),
            online,
            models: vec![(digits(), Digest([digest; 32]))],
        }
    }

    fn digits() -> ModelId {
        ModelId::from_name("digits")
    }

    fn up() -> CloudView {
        let mut view = CloudView::new(true);
        view.set_link(true);
        view
    }

    #[test]
    fn without_a_broker_there_is_no_gateway() {
        assert_eq!(CloudView::new(false).may_offload(&digits()), Err(Reason::NoGateway));
    }

    #[test]
    fn without_a_link_nothing_is_offloaded() {
        let mut view = up();
        view.on_presence(&presence("g1", 1, true, 1));
        assert_eq!(view.may_offload(&digits()), Ok(()));
        view.set_link(false);
        assert_eq!(view.may_offload(&digits()), Err(Reason::LinkDown));
    }

    #[test]
    fn while_no_presence_was_heard_offloads_are_tried() {
        assert_eq!(up().availability(&digits()), Availability::Unknown);
        assert_eq!(up().may_offload(&digits()), Ok(()));
    }

    #[test]
    fn once_presence_would_have_arrived_silence_means_that_nobody_is_there() {
        let mut view = up();
        view.settle();
        assert_eq!(view.may_offload(&digits()), Err(Reason::NoGateway));
        view.on_presence(&presence("g1", 1, true, 1));
        assert_eq!(view.may_offload(&digits()), Ok(()));
        let mut reconnected = up();
        reconnected.settle();
        reconnected.set_link(true);
        assert_eq!(reconnected.may_offload(&digits()), Ok(()), "a new connection starts without knowledge");
    }

    #[test]
    fn the_cloud_is_up_while_somebody_may_be_there() {
        let mut view = up();
        assert!(view.is_up(), "nothing was heard yet");
        view.settle();
        assert!(!view.is_up());
        view.on_presence(&presence("g1", 1, true, 1));
        assert!(view.is_up());
        view.set_link(false);
        assert!(!view.is_up());
        view.set_link(true);
        view.on_presence(&presence("g1", 1, false, 1));
        assert!(!view.is_up());
    }

    #[test]
    fn a_gateway_whose_presence_was_deleted_is_gone() {
        let mut view = up();
        view.on_presence(&presence("g1", 1, true, 1));
        assert!(view.on_gone(&GatewayId::parse("g1").unwrap()));
        assert!(!view.on_gone(&GatewayId::parse("g1").unwrap()));
        assert!(!view.on_gone(&GatewayId::parse("g2").unwrap()));
        assert_eq!(view.may_offload(&digits()), Err(Reason::NoGateway));
    }

    #[test]
    fn when_the_last_gateway_leaves_nothing_is_offloaded() {
        let mut view = up();
        view.on_presence(&presence("g1", 1, true, 1));
        view.on_presence(&presence("g2", 2, true, 1));
        assert!(view.on_presence(&presence("g1", 1, false, 1)));
        assert_eq!(view.may_offload(&digits()), Ok(()));
        assert_eq!(view.gateways_online(), 1);
        view.on_presence(&presence("g2", 2, false, 1));
        assert_eq!(view.may_offload(&digits()), Err(Reason::NoGateway));
    }

    #[test]
    fn a_gateway_that_serves_other_models_is_none_for_this_one() {
        let mut view = up();
        view.on_presence(&presence("g1", 1, true, 1));
        assert_eq!(view.may_offload(&ModelId::from_name("other")), Err(Reason::NoGateway));
    }

    #[test]
    fn the_will_of_an_earlier_run_does_not_mark_the_present_one_offline() {
        let mut view = up();
        view.on_presence(&presence("g1", 2, true, 1));
        assert!(!view.on_presence(&presence("g1", 1, false, 1)));
        assert_eq!(view.availability(&digits()), Availability::Present);
    }

    #[test]
    fn a_repeated_presence_is_no_news() {
        let mut view = up();
        assert!(view.on_presence(&presence("g1", 1, true, 1)));
        assert!(!view.on_presence(&presence("g1", 1, true, 1)));
        assert!(view.on_presence(&presence("g1", 1, true, 2)));
    }

    #[test]
    fn the_current_digest_is_what_most_gateways_serve() {
        let mut view = up();
        view.on_presence(&presence("g1", 1, true, 9));
        view.on_presence(&presence("g2", 1, true, 5));
        assert_eq!(view.current_digest(&digits()), Some(Digest([5; 32])), "of equally many the smallest");
        view.on_presence(&presence("g3", 1, true, 9));
        assert_eq!(view.current_digest(&digits()), Some(Digest([9; 32])));
    }

    #[test]
    fn while_no_gateway_is_known_the_last_known_digest_counts() {
        let mut view = up();
        assert_eq!(view.current_digest(&digits()), None);
        view.remember(digits(), Digest([3; 32]));
        assert_eq!(view.current_digest(&digits()), Some(Digest([3; 32])));
        view.on_presence(&presence("g1", 1, true, 4));
        view.on_presence(&presence("g1", 1, false, 4));
        assert_eq!(view.current_digest(&digits()), Some(Digest([4; 32])), "news replace what was remembered");
    }

    #[test]
    fn the_gateways_remembered_are_bounded() {
        let mut view = up();
        for n in 0..2 * MAX_GATEWAYS {
            view.on_presence(&presence(&format!("g{n}"), 1, true, 1));
        }
        assert_eq!(view.gateways_online(), MAX_GATEWAYS);
    }
}
