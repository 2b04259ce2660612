//! Topics as a type. Nothing else in Hedge formats or splits a topic.
//!
//! ```text
//! hedge / 1 / {tenant} / {flow} / {id} [/ {id}]
//! ```
//!
//! At most 200 bytes and 7 slashes with `$share/{group}/` in front, which every broker takes.

use thiserror::Error;

use crate::PROTOCOL_VERSION;
use crate::ids::{DeviceId, GatewayId, GroupId, Hash16, IdError, ModelId, TenantId};

/// The shared-subscription group of the gateways: one of them gets each request.
const GATEWAY_GROUP: &str = "gw";

/// A place of the protocol; its tenant is given apart, because a program serves one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Topic {
    /// `q/{model}/{device}`: a device asks for a verdict.
    Query {
        /// The cloud model asked.
        model: ModelId,
        /// Who asks.
        device: DeviceId,
    },
    /// `r/{device}`: replies to that device.
    Reply {
        /// Who asked.
        device: DeviceId,
    },
    /// `u/{gateway}/{device}`: a part of a body too large for one message.
    Part {
        /// The gateway that granted the upload.
        gateway: GatewayId,
        /// Who uploads.
        device: DeviceId,
    },
    /// `x/{gateway}/{device}`: the device no longer wants an answer.
    Cancel {
        /// The gateway that works on it.
        gateway: GatewayId,
        /// Who asked.
        device: DeviceId,
    },
    /// `g/{gateway}`: which models a gateway serves, retained.
    GatewayPresence {
        /// Which gateway.
        gateway: GatewayId,
    },
    /// `s/{device}`: whether a device is there and what it runs, retained.
    DeviceStatus {
        /// Which device.
        device: DeviceId,
    },
    /// `d/{device}`: what a device should run, retained.
    Desired {
        /// Which device.
        device: DeviceId,
    },
    /// `dg/{group}`: what a group of devices should run, retained.
    GroupDesired {
        /// Which group.
        group: GroupId,
    },
    /// `dg/{class}/{hash16}`: what the devices of a class may rely on for one edge and one cloud model, retained.
    ClassState {
        /// Which class of devices.
        class: GroupId,
        /// Whom it is about: [`crate::RouteSubject::hash`].
        subject: Hash16,
    },
    /// `p/{device}`: what a device reports to run, retained.
    Reported {
        /// Which device.
        device: DeviceId,
    },
    /// `bq/{device}`: a device asks for chunks of an artifact.
    ChunkRequest {
        /// Who asks.
        device: DeviceId,
    },
    /// `b/{hash16}`: chunks of one artifact, for all who want them.
    Chunk {
        /// The first 8 bytes of the artifact's digest.
        artifact: Hash16,
    },
    /// `m/{device}`: telemetry.
    Telemetry {
        /// Whose.
        device: DeviceId,
    },
    /// `f/{device}`: evidence, that is audits, scores and labels.
    Labels {
        /// Whose.
        device: DeviceId,
    },
}

/// Why a text is no topic of this tenant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TopicError {
    /// It does not begin with `hedge/1/{tenant}/`.
    #[error("topic `{topic}` does not begin with `hedge/{PROTOCOL_VERSION}/{tenant}/`")]
    Prefix {
        /// The topic, cut to 200 characters.
        topic: String,
        /// The tenant expected.
        tenant: TenantId,
    },
    /// No flow has this letter and this number of levels.
    #[error("topic `{topic}` belongs to no flow of protocol version {PROTOCOL_VERSION}")]
    Flow {
        /// The topic, cut to 200 characters.
        topic: String,
    },
    /// A level that is no id.
    #[error("in topic `{topic}`: {source}")]
    Id {
        /// The topic, cut to 200 characters.
        topic: String,
        /// Which id and why.
        source: IdError,
    },
}

impl Topic {
    /// Reads a topic as a broker delivers it.
    pub fn parse(tenant: &TenantId, topic: &str) -> Result<Self, TopicError> {
        let rest = topic
            .strip_prefix(prefix(tenant).as_str())
            .ok_or_else(|| TopicError::Prefix { topic: shown(topic), tenant: tenant.clone() })?;
        match flow(rest) {
            Some(Ok(parsed)) => Ok(parsed),
            Some(Err(source)) => Err(TopicError::Id { topic: shown(topic), source }),
            None => Err(TopicError::Flow { topic: shown(topic) }),
        }
    }

    /// The topic to publish to.
    pub fn path(&self, tenant: &TenantId) -> String {
        let prefix = prefix(tenant);
        match self {
            Topic::Query { model, device } => format!("{prefix}q/{model}/{device}"),
            Topic::Reply { device } => format!("{prefix}r/{device}"),
            Topic::Part { gateway, device } => format!("{prefix}u/{gateway}/{device}"),
            Topic::Cancel { gateway, device } => format!("{prefix}x/{gateway}/{device}"),
            Topic::GatewayPresence { gateway } => format!("{prefix}g/{gateway}"),
            Topic::DeviceStatus { device } => format!("{prefix}s/{device}"),
            Topic::Desired { device } => format!("{prefix}d/{device}"),
            Topic::GroupDesired { group } => format!("{prefix}dg/{group}"),
            Topic::ClassState { class, subject } => format!("{prefix}dg/{class}/{subject}"),
            Topic::Reported { device } => format!("{prefix}p/{device}"),
            Topic::ChunkRequest { device } => format!("{prefix}bq/{device}"),
            Topic::Chunk { artifact } => format!("{prefix}b/{artifact}"),
            Topic::Telemetry { device } => format!("{prefix}m/{device}"),
            Topic::Labels { device } => format!("{prefix}f/{device}"),
        }
    }
}

/// The requests for one model, shared between all gateways: `$share/gw/hedge/1/{tenant}/q/{model}/+`.
pub fn gateway_queries_filter(tenant: &TenantId, model: &ModelId) -> String {
    format!("$share/{GATEWAY_GROUP}/{}q/{model}/+", prefix(tenant))
}

/// The presence of every gateway: `hedge/1/{tenant}/g/+`.
pub fn gateway_presence_filter(tenant: &TenantId) -> String {
    format!("{}g/+", prefix(tenant))
}

/// The uploads to one gateway: `hedge/1/{tenant}/u/{gateway}/+`.
pub fn gateway_parts_filter(tenant: &TenantId, gateway: &GatewayId) -> String {
    format!("{}u/{gateway}/+", prefix(tenant))
}

/// The cancellations for one gateway: `hedge/1/{tenant}/x/{gateway}/+`.
pub fn gateway_cancels_filter(tenant: &TenantId, gateway: &GatewayId) -> String {
    format!("{}x/{gateway}/+", prefix(tenant))
}

/// The status of every device: `hedge/1/{tenant}/s/+`.
pub fn device_statuses_filter(tenant: &TenantId) -> String {
    format!("{}s/+", prefix(tenant))
}

/// The evidence of every device, shared between all gateways that pool: `$share/gw/hedge/1/{tenant}/f/+`.
pub fn gateway_evidence_filter(tenant: &TenantId) -> String {
    format!("$share/{GATEWAY_GROUP}/{}f/+", prefix(tenant))
}

/// What holds for the devices of one class: `hedge/1/{tenant}/dg/{class}/+`.
pub fn class_states_filter(tenant: &TenantId, class: &GroupId) -> String {
    format!("{}dg/{class}/+", prefix(tenant))
}

fn prefix(tenant: &TenantId) -> String {
    format!("hedge/{PROTOCOL_VERSION}/{tenant}/")
}

/// `None`: no such flow. `Some(Err(_))`: a flow with a level that is no id.
fn flow(rest: &str) -> Option<Result<Topic, IdError>> {
    let mut levels = rest.split('/');
    let flow = levels.next()?;
    let first = levels.next()?;
    let second = levels.next();
    if levels.next().is_some() {
        return None;
    }
    let device = || DeviceId::parse(first);
    match (flow, second) {
        ("q", Some(second)) => Some(query(first, second)),
        ("u", Some(second)) => {
            Some(gateway_and_device(first, second).map(|(gateway, device)| Topic::Part { gateway, device }))
        }
        ("x", Some(second)) => {
            Some(gateway_and_device(first, second).map(|(gateway, device)| Topic::Cancel { gateway, device }))
        }
        ("r", None) => Some(device().map(|device| Topic::Reply { device })),
        ("g", None) => Some(GatewayId::parse(first).map(|gateway| Topic::GatewayPresence { gateway })),
        ("s", None) => Some(device().map(|device| Topic::DeviceStatus { device })),
        ("d", None) => Some(device().map(|device| Topic::Desired { device })),
        ("dg", None) => Some(GroupId::parse(first).map(|group| Topic::GroupDesired { group })),
        ("dg", Some(second)) => Some(class_state(first, second)),
        ("p", None) => Some(device().map(|device| Topic::Reported { device })),
        ("bq", None) => Some(device().map(|device| Topic::ChunkRequest { device })),
        ("b", None) => Some(Hash16::parse(first).map(|artifact| Topic::Chunk { artifact })),
        ("m", None) => Some(device().map(|device| Topic::Telemetry { device })),
        ("f", None) => Some(device().map(|device| Topic::Labels { device })),
        _ => None,
    }
}

fn query(model: &str, device: &str) -> Result<Topic, IdError> {
    Ok(Topic::Query { model: ModelId::parse(model)?, device: DeviceId::parse(device)? })
}

fn class_state(class: &str, subject: &str) -> Result<Topic, IdError> {
    Ok(Topic::ClassState { class: GroupId::parse(class)?, subject: Hash16::parse(subject)? })
}

fn gateway_and_device(gateway: &str, device: &str) -> Result<(GatewayId, DeviceId), IdError> {
    Ok((GatewayId::parse(gateway)?, DeviceId::parse(device)?))
}

fn shown(topic: &str) -> String {
    topic.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_TOPIC_BYTES;

    fn tenant() -> TenantId {
        TenantId::parse("acme").unwrap()
    }

    fn every_flow(id: &str) -> Vec<(Topic, String)> {
        let device = DeviceId::parse(id).unwrap();
        let gateway = GatewayId::parse(id).unwrap();
        let model = ModelId::parse(id).unwrap();
        let group = GroupId::parse(id).unwrap();
        let artifact = Hash16([0xab; 8]);
        vec![
            (Topic::Query { model, device: device.clone() }, format!("q/{id}/{id}")),
            (Topic::Reply { device: device.clone() }, format!("r/{id}")),
            (Topic::Part { gateway: gateway.clone(), device: device.clone() }, format!("u/{id}/{id}")),
            (Topic::Cancel { gateway: gateway.clone(), device: device.clone() }, format!("x/{id}/{id}")),
            (Topic::GatewayPresence { gateway }, format!("g/{id}")),
            (Topic::DeviceStatus { device: device.clone() }, format!("s/{id}")),
            (Topic::Desired { device: device.clone() }, format!("d/{id}")),
            (Topic::GroupDesired { group: group.clone() }, format!("dg/{id}")),
            (Topic::ClassState { class: group, subject: artifact }, format!("dg/{id}/abababababababab")),
            (Topic::Reported { device: device.clone() }, format!("p/{id}")),
            (Topic::ChunkRequest { device: device.clone() }, format!("bq/{id}")),
            (Topic::Chunk { artifact }, "b/abababababababab".to_owned()),
            (Topic::Telemetry { device: device.clone() }, format!("m/{id}")),
            (Topic::Labels { device }, format!("f/{id}")),
        ]
    }

    #[test]
    fn every_flow_has_its_path_and_reads_back() {
        for (topic, rest) in every_flow("camera-7") {
            let path = topic.path(&tenant());
            assert_eq!(path, format!("hedge/1/acme/{rest}"));
            assert_eq!(Topic::parse(&tenant(), &path), Ok(topic));
        }
    }

    #[test]
    fn the_longest_topics_and_filters_stay_within_every_broker_s_limits() {
        let id = "x".repeat(48);
        let tenant = TenantId::parse(&id).unwrap();
        let model = ModelId::parse(&id).unwrap();
        let gateway = GatewayId::parse(&id).unwrap();
        let mut texts: Vec<String> = every_flow(&id).iter().map(|(topic, _)| topic.path(&tenant)).collect();
        texts.push(gateway_queries_filter(&tenant, &model));
        texts.push(gateway_presence_filter(&tenant));
        texts.push(gateway_parts_filter(&tenant, &gateway));
        texts.push(gateway_cancels_filter(&tenant, &gateway));
        texts.push(device_statuses_filter(&tenant));
        texts.push(gateway_evidence_filter(&tenant));
        texts.push(class_states_filter(&tenant, &GroupId::parse(&id).unwrap()));
        for text in texts {
            assert!(text.len() <= MAX_TOPIC_BYTES, "{text}");
            assert!(text.matches('/').count() <= 7, "{text}");
        }
    }

    #[test]
    fn filters_are_written_as_the_protocol_says() {
        let model = ModelId::parse("digits").unwrap();
        let gateway = GatewayId::parse("gw-1").unwrap();
        assert_eq!(gateway_queries_filter(&tenant(), &model), "$share/gw/hedge/1/acme/q/digits/+");
        assert_eq!(gateway_presence_filter(&tenant()), "hedge/1/acme/g/+");
        assert_eq!(gateway_parts_filter(&tenant(), &gateway), "hedge/1/acme/u/gw-1/+");
        assert_eq!(gateway_cancels_filter(&tenant(), &gateway), "hedge/1/acme/x/gw-1/+");
        assert_eq!(device_statuses_filter(&tenant()), "hedge/1/acme/s/+");
        assert_eq!(gateway_evidence_filter(&tenant()), "$share/gw/hedge/1/acme/f/+");
        let class = GroupId::parse("rpi5-cpu").unwrap();
        assert_eq!(class_states_filter(&tenant(), &class), "hedge/1/acme/dg/rpi5-cpu/+");
    }

    #[test]
    fn another_tenant_s_version_s_or_flow_s_topic_is_refused_by_its_reason() {
        let parse = |topic: &str| Topic::parse(&tenant(), topic).unwrap_err();
        assert!(matches!(parse("hedge/1/other/r/d"), TopicError::Prefix { .. }));
        assert!(matches!(parse("hedge/2/acme/r/d"), TopicError::Prefix { .. }));
        assert!(matches!(parse("hedge/1/acm"), TopicError::Prefix { .. }));
        assert!(matches!(parse(""), TopicError::Prefix { .. }));
        for topic in ["r", "r/d/d", "q/m", "q/m/d/e", "zz/d", "", "/"] {
            assert!(matches!(parse(&format!("hedge/1/acme/{topic}")), TopicError::Flow { .. }), "{topic}");
        }
        for topic in ["r/", "r/+", "q/m/D", "q//d", "g/#", "b/xyz", "u/g/", "dg/c/xyz", "dg/C/abababababababab"] {
            assert!(matches!(parse(&format!("hedge/1/acme/{topic}")), TopicError::Id { .. }), "{topic}");
        }
    }
}
