//! [`LinkConfig`] in rumqttc's terms. Every default of rumqttc that hurts is set here.

use rumqttc::NetworkOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Filter, LastWill, LastWillProperties};
use rumqttc::v5::{AsyncClient, EventLoop, MqttOptions};

use hedge_wire::CONTENT_TYPE;

use crate::config::{CONNECT_TIMEOUT_SECS, CleanStart, LinkConfig, Will};
use crate::endpoint::Endpoint;
use crate::message::whole_seconds;

/// Room in rumqttc's channel beside publishes and acknowledgements: SUBSCRIBEs, birth, farewell, DISCONNECT.
const RESERVED_REQUESTS: usize = 32;

/// An event loop for one connection, not yet connected.
pub(crate) fn event_loop(config: &LinkConfig, endpoint: &Endpoint, first: bool) -> (AsyncClient, EventLoop) {
    let capacity = config.queue + usize::from(config.receive_max) + config.subscriptions.len() + RESERVED_REQUESTS;
    let (client, mut event_loop) = AsyncClient::new(options(config, endpoint, first), capacity);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true); // Off by default, and then Nagle and delayed ACKs make 1 KB there and back take 92 ms.
    event_loop.options.set_network_options(network);
    (client, event_loop)
}

/// `filters` as rumqttc takes them.
pub(crate) fn filters(config: &LinkConfig, shared_subscriptions: bool) -> Vec<Filter> {
    let plain = |filter: &str| match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        Some((_group, plain)) if !shared_subscriptions => plain.to_owned(),
        _ => filter.to_owned(),
    };
    config
        .subscriptions
        .iter()
        .map(|subscription| Filter::new(plain(&subscription.filter), subscription.qos.to_mqtt()))
        .collect()
}

fn options(config: &LinkConfig, endpoint: &Endpoint, first: bool) -> MqttOptions {
    let mut options = MqttOptions::new(&config.client_id, &endpoint.host, endpoint.port);
    options.set_keep_alive(config.keepalive);
    options.set_clean_start(first || config.clean_start == CleanStart::Always);
    options.set_connection_timeout(CONNECT_TIMEOUT_SECS);
    options.set_manual_acks(true);
    options.set_outgoing_inflight_upper_limit(config.inflight);
    options.set_connect_properties(connect_properties(config));
    if let Some(username) = &config.username {
        options.set_credentials(username, config.password.clone().unwrap_or_default());
    }
    if let Some(will) = &config.will {
        options.set_last_will(last_will(will));
    }
    options
}

fn connect_properties(config: &LinkConfig) -> ConnectProperties {
    let mut properties = ConnectProperties::new();
    // Without it rumqttc drops the connection at the first packet above 10 KiB, and again after each reconnect.
    properties.max_packet_size = Some(config.max_packet_bytes);
    properties.receive_maximum = Some(config.receive_max);
    properties.session_expiry_interval = Some(whole_seconds(config.session_expiry));
    properties
}

fn last_will(will: &Will) -> LastWill {
    let properties = LastWillProperties {
        delay_interval: Some(whole_seconds(will.delay)).filter(|&delay| delay > 0),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: Some(CONTENT_TYPE.to_owned()),
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    LastWill::new(&will.topic, will.payload.clone(), QoS::AtLeastOnce, will.retain, Some(properties))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Subscription;

    fn config() -> LinkConfig {
        LinkConfig::new("mqtt://localhost", "device")
    }

    fn endpoint() -> Endpoint {
        Endpoint { host: "localhost".to_owned(), port: 1883 }
    }

    #[tokio::test]
    async fn the_defaults_of_rumqttc_that_hurt_are_overridden() {
        let (_client, event_loop) = event_loop(&config(), &endpoint(), true);
        assert_eq!(event_loop.options.max_packet_size(), Some(config().max_packet_bytes));
        assert!(event_loop.options.manual_acks());
        assert!(event_loop.options.get_outgoing_inflight_upper_limit().is_some());
    }

    #[test]
    fn only_a_process_s_first_connect_discards_a_session_that_is_to_be_continued() {
        let continued = LinkConfig { clean_start: CleanStart::FirstConnect, ..config() };
        assert!(options(&continued, &endpoint(), true).clean_start());
        assert!(!options(&continued, &endpoint(), false).clean_start());
        assert!(options(&config(), &endpoint(), false).clean_start());
    }

    #[test]
    fn shared_filters_lose_their_group_only_where_the_broker_has_no_groups() {
        let filter = Subscription::at_least_once("$share/gw/hedge/1/acme/q/digits/+");
        let config = LinkConfig { subscriptions: vec![filter, Subscription::at_least_once("a/b")], ..config() };
        let paths = |shared| filters(&config, shared).into_iter().map(|filter| filter.path).collect::<Vec<_>>();
        assert_eq!(paths(true), ["$share/gw/hedge/1/acme/q/digits/+", "a/b"]);
        assert_eq!(paths(false), ["hedge/1/acme/q/digits/+", "a/b"]);
    }
}
