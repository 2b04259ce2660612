//! Who the device is on the link: what it subscribes to, and what it tells of its models.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedge_engine::DeviceKind;
use hedge_link::{Birth, CleanStart, LinkConfig, LinkHandle, Outgoing, Subscription, Will};
use hedge_wire::{
    BootId, DeviceId, DeviceStatus, ModelId, TenantId, Topic, class_states_filter, gateway_presence_filter,
};

use crate::catalog::Catalog;
use crate::config::Settings;
use crate::routing::Side;

/// How long the broker keeps the session of a device that is away.
const SESSION_EXPIRY: Duration = Duration::from_secs(300);
/// How long after the connection ended the broker says that the device is offline.
const WILL_DELAY: Duration = Duration::from_secs(15);

/// Who the device is on the link, and what it tells of its models there.
#[derive(Clone)]
pub(crate) struct Identity {
    tenant: TenantId,
    device: DeviceId,
    boot: BootId,
    catalog: Arc<Catalog>,
}

impl Identity {
    fn topic(&self) -> String {
        Topic::DeviceStatus { device: self.device.clone() }.path(&self.tenant)
    }

    fn status(&self, online: bool) -> Bytes {
        let models = self.catalog.served();
        let status = DeviceStatus {
            device: self.device.clone(),
            boot: self.boot,
            online,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            models: models.iter().map(|model| (ModelId::from_name(&model.settings.name), model.digest)).collect(),
        };
        Bytes::from(status.encode())
    }
}

/// Tells the broker what the device serves now.
#[derive(Clone)]
pub(crate) struct Presence {
    pub(crate) identity: Identity,
    pub(crate) link: LinkHandle,
}

impl Presence {
    /// Publishes what is served now.
    pub(crate) fn tell(&self) {
        let (topic, status) = (self.identity.topic(), self.identity.status(true));
        // While the link is down it is told when it comes up.
        let _ = self.link.publish(Outgoing { retain: true, ..Outgoing::new(topic, status) });
    }
}

/// Who the device is; none without a link.
pub(crate) fn identity(settings: &Settings, catalog: &Arc<Catalog>, boot: BootId) -> Option<Identity> {
    let (_, device) = (settings.link.url.as_ref()?, settings.device.clone()?);
    Some(Identity { tenant: settings.tenant.clone(), device, boot, catalog: Arc::clone(catalog) })
}

/// What the link needs to know.
pub(crate) fn link_config(settings: &Settings, identity: &Identity) -> LinkConfig {
    let (device, status) = (&identity.device, identity.topic());
    let says = |online: bool| identity.status(online);
    let mut config = LinkConfig {
        username: settings.link.username.clone(),
        password: settings.link.password.as_ref().map(|password| password.expose().to_owned()),
        keepalive: Duration::from_secs(settings.link.keepalive_secs),
        clean_start: CleanStart::FirstConnect,
        session_expiry: SESSION_EXPIRY,
        subscriptions: subscriptions(settings, identity),
        will: Some(Will { topic: status.clone(), payload: says(false), retain: true, delay: WILL_DELAY }),
        birth: Some(Birth { topic: status.clone(), payload: says(true) }),
        farewell: Some(Birth { topic: status, payload: says(false) }),
        ..LinkConfig::new(settings.link.url.clone().unwrap_or_default(), device.as_str())
    };
    config.backoff.cap = Duration::from_secs(settings.link.reconnect_max_secs);
    config
}

fn subscriptions(settings: &Settings, identity: &Identity) -> Vec<Subscription> {
    let (tenant, device) = (&identity.tenant, &identity.device);
    let mut filters = vec![Topic::Reply { device: device.clone() }.path(tenant), gateway_presence_filter(tenant)];
    if settings.class_key.is_some() {
        let classes = match &settings.device_class {
            Some(class) => vec![class.clone()],
            // Models of the folder may come to run on either.
            None => [DeviceKind::Cpu, DeviceKind::Gpu].map(Side::default_class).to_vec(),
        };
        filters.extend(classes.iter().map(|class| class_states_filter(tenant, class)));
    }
    filters.into_iter().map(Subscription::at_least_once).collect()
}
