//! The configuration as people write it, and what is refused.

use super::*;

const EXAMPLE: &str = include_str!("../../hedge-gateway.example.toml");

fn example() -> Config {
    hedge_config::from_str(EXAMPLE, std::iter::empty()).unwrap()
}

fn planned(change: impl FnOnce(&mut Config)) -> Result<Plan, PlanError> {
    let mut config = example();
    change(&mut config);
    config.plan()
}

#[test]
fn the_example_file_is_the_defaults_plus_what_is_required() {
    let required = Config {
        gateway: GatewayConfig { gateway_id: "gateway-1".into(), ..GatewayConfig::default() },
        models: vec![ModelConfig { name: "digits".into(), path: "models/digits-cloud.onnx".into(), route: None }],
        ..Config::default()
    };
    assert_eq!(example(), required);
    assert!(required.plan().is_ok());
}

#[test]
fn the_example_file_shows_every_key() {
    // Each section's keys, as serde knows them, from the error for a key that none has.
    let sections = ["gateway", "http", "link", "engine", "log"].map(|section| format!("[{section}]\nzzz = 1\n"));
    let route = "[[models]]\nname = \"m\"\npath = \"p\"\n[models.route]\nzzz = 1\n".to_owned();
    for bad in sections.into_iter().chain([route]) {
        let error = hedge_config::from_str::<Config>(&bad, std::iter::empty()).unwrap_err();
        let hedge_config::ConfigError::UnknownKey { known, .. } = error else { panic!("{error}") };
        for key in known {
            let shown = EXAMPLE.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
            assert!(shown, "{key} of {bad} is not in the example");
        }
    }
}

/// The example with the keys that it shows as comments.
fn everything_shown() -> Config {
    let is_toml = |line: &str| line == "[models.route]" || line.split_once(" = ").is_some_and(|(key, _)| is_key(key));
    let lines = EXAMPLE.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_toml(rest)).unwrap_or(line));
    let text = lines.collect::<Vec<_>>().join("\n");
    hedge_config::from_str(&text, std::iter::empty()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn is_key(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[test]
fn the_example_file_shows_pooling_with_its_defaults() {
    let config = everything_shown();
    let shown = config.models[0].route.clone().expect("a route");
    assert_eq!(shown, RouteConfig { contract: "system".into(), ..RouteConfig::default() });
    let plan = config.plan().expect("a good plan").pool.expect("something is pooled");
    assert_eq!(plan.models.keys().map(ModelId::as_str).collect::<Vec<_>>(), ["digits"]);
}

#[test]
fn pooling_takes_a_promise_and_a_place_for_what_it_keeps() {
    let planned = |change: fn(&mut Config, &mut RouteConfig)| {
        let mut config = example();
        let mut route = RouteConfig { contract: "local".into(), ..RouteConfig::default() };
        config.gateway.state_dir = Some("state".into());
        change(&mut config, &mut route);
        if route.alpha > 0.0 {
            config.models[0].route = Some(route);
        }
        config.plan()
    };
    assert!(planned(|_, _| {}).is_ok_and(|plan| plan.pool.is_some()));
    let message = |change| planned(change).unwrap_err().to_string();
    assert!(message(|config, _| config.gateway.state_dir = None).contains("no gateway.state_dir"));
    assert!(message(|_, route| route.alpha = 0.0).contains("nothing would be pooled"));
    assert!(message(|_, route| route.contract.clear()).starts_with("route.contract of the model `digits`: "));
    assert!(message(|_, route| route.alpha = 1.0).starts_with("route.alpha of the model `digits`: "));
    assert!(message(|_, route| route.calibration_labels = 0).starts_with("route.calibration_labels"));
    assert!(message(|_, route| route.lifetime_days = 0).starts_with("route.lifetime_days"));
    assert!(message(|_, route| route.delta_a = 1.0).starts_with("route.delta_a"));
}

#[test]
fn everything_is_on_loopback_by_default() {
    let config = Config::default();
    assert!(config.http.listen.ip().is_loopback());
    assert!(config.link.url.contains("127.0.0.1"));
}

#[test]
fn what_is_required_is_asked_for() {
    let error = planned(|config| config.gateway.gateway_id.clear()).unwrap_err();
    assert!(matches!(error, PlanError::NoGatewayId), "{error}");
    let error = planned(|config| config.models.clear()).unwrap_err();
    assert!(matches!(error, PlanError::NoModels), "{error}");
}

#[test]
fn what_is_impossible_is_refused_with_its_key() {
    let message = |change: fn(&mut Config)| planned(change).unwrap_err().to_string();
    assert!(message(|config| config.gateway.tenant = "A/B".into()).starts_with("gateway.tenant: "));
    assert!(message(|config| config.gateway.gateway_id = "+".into()).starts_with("gateway.gateway_id: "));
    assert!(message(|config| config.engine.device = "tpu".into()).starts_with("engine.device: "));
    assert_eq!(message(|config| config.engine.max_batch = 0), "engine.max_batch must be 1 to 4096");
    assert_eq!(message(|config| config.link.keepalive_secs = 4), "link.keepalive_secs must be 5 to 65535");
    assert!(message(|config| config.link.url = "127.0.0.1:1883".into()).starts_with("link.url `127.0.0.1:1883`"));
    assert!(message(|config| config.log.level = "loud".into()).starts_with("log.level `loud`"));
    assert!(message(|config| config.models.push(config.models[0].clone())).contains("`digits` is configured twice"));
}

#[test]
fn the_engine_never_gets_more_than_its_queue_takes() {
    for (max_batch, queue_rows) in [(1, 1), (32, 8), (32, 1_024), (4_096, 1_000_000)] {
        let plan = planned(|config| {
            config.engine.max_batch = max_batch;
            config.engine.queue_rows = queue_rows;
        })
        .unwrap();
        assert_eq!(plan.batch.queue_rows, plan.limits.running_per_model);
        assert!((1..=queue_rows).contains(&plan.batch.queue_rows));
    }
}

#[test]
fn the_password_is_never_shown() {
    let mut config = example();
    config.link.password = Some(Secret::new("hunter2"));
    assert!(!format!("{config:?} {:?}", config.plan()).contains("hunter2"));
}
