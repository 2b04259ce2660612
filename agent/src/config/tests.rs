//! What the file says and what it comes to.

use super::*;

const EXAMPLE: &str = include_str!("../../hedge-agent.example.toml");

fn parse(toml: &str) -> Config {
    hedge_config::from_str(toml, std::iter::empty()).expect("the text is a configuration")
}

fn minimal() -> Config {
    Config { models: vec![ModelSection::local("digits", "digits.onnx")], ..Config::default() }
}

fn refused(change: impl FnOnce(&mut Config)) -> String {
    let mut config = minimal();
    change(&mut config);
    config.resolve().expect_err("the configuration cannot work").to_string()
}

/// The example with its commented-out keys switched on, as a person would.
fn example_in_full() -> String {
    let line = |line: &str| match line.strip_prefix("#:") {
        Some(key) => key.to_owned(),
        None => line.to_owned(),
    };
    EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_works_as_it_is() {
    parse(EXAMPLE).resolve().expect("the example resolves");
    parse(&example_in_full()).resolve().expect("and with every key set");
}

#[test]
fn the_example_shows_the_defaults() {
    let mut example = parse(EXAMPLE);
    assert_eq!(example.models.len(), 1);
    let shown = example.models.remove(0);
    assert_eq!(format!("{example:?}"), format!("{:?}", Config::default()));
    let default = ModelSection::offloading(shown.name.clone(), shown.path.clone().expect("a path is shown"), 0.5);
    assert_eq!(format!("{shown:?}"), format!("{default:?}"));
}

#[test]
fn the_example_names_every_key() {
    // Every field of the sections, as Debug prints them, must stand in the example as a key.
    let shown = format!("{:#?}", parse(&example_in_full()));
    for line in shown.lines().filter_map(|line| line.trim().split_once(": ")) {
        let key = line.0;
        let sections = [
            "agent",
            "http",
            "engine",
            "cache",
            "link",
            "offload",
            "audits",
            "outbox",
            "log",
            "repository",
            "models",
            "route",
            "budget",
        ];
        let found = EXAMPLE.contains(&format!("{key} =")) || (key != "offload" && sections.contains(&key));
        assert!(found, "{key} is not in the example");
    }
}

#[test]
fn every_key_can_be_set_by_the_environment() {
    let env =
        [("HEDGE_HTTP__LISTEN", "127.0.0.1:0"), ("HEDGE_LINK__PASSWORD", "hunter2"), ("HEDGE_ENGINE__MAX_BATCH", "8")];
    let env = env.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let config: Config = hedge_config::from_str("", env.into_iter()).expect("the variables name keys");
    assert_eq!(config.http.listen, "127.0.0.1:0");
    assert_eq!(config.engine.max_batch, 8);
    assert!(!format!("{config:?}").contains("hunter2"), "a password is never shown");
}

#[test]
fn a_misspelt_key_is_refused() {
    for toml in ["[http]\nlistn = \"x\"", "[[models]]\nname = \"a\"\npath = \"b\"\ntreshold = 1.0", "[agnet]"] {
        assert!(hedge_config::from_str::<Config>(toml, std::iter::empty()).is_err(), "{toml}");
    }
}

#[test]
fn what_cannot_work_is_refused_by_key() {
    assert!(refused(|c| c.models.clear()).starts_with("models: is empty"));
    assert!(refused(|c| c.models.push(ModelSection::local("digits", "x"))).starts_with("models.1.name: is used twice"));
    assert!(refused(|c| c.models[0].name = "stats".into()).starts_with("models.0.name"));
    assert!(refused(|c| c.models[0].offload = "maybe".into()).contains("neither \"auto\" nor \"never\""));
    assert!(refused(|c| c.models[0].offload = "auto".into()).starts_with("models.0.threshold: is missing"));
    assert!(refused(|c| c.models[0].threshold = Some(f32::NAN)).starts_with("models.0.threshold"));
    assert!(refused(|c| c.link.url = Some("mqtt://broker".into())).starts_with("agent.device_id: is needed"));
    assert!(refused(|c| c.agent.device_id = Some("Camera 7".into())).starts_with("agent.device_id"));
    assert!(refused(|c| c.agent.tenant = "a/b".into()).starts_with("agent.tenant"));
    assert!(refused(|c| c.http.listen = "localhost".into()).starts_with("http.listen"));
    assert!(refused(|c| c.http.listen.clear()).contains("nobody could ask"));
    assert!(refused(|c| c.http.max_body_bytes = 0).starts_with("http.max_body_bytes"));
    assert!(refused(|c| c.http.max_inflight_body_bytes = 4096).starts_with("http.max_inflight_body_bytes"));
    assert!(refused(|c| c.http.max_connections = 0).starts_with("http.max_connections"));
    assert!(refused(|c| c.engine.device = "tpu".into()).starts_with("engine.device"));
    assert!(refused(|c| c.engine.max_batch = 0).starts_with("engine.max_batch"));
    assert!(refused(|c| c.engine.queue_rows = 8).starts_with("engine.queue_rows"));
    assert!(refused(|c| c.engine.slow_after_ms = 0).starts_with("engine.slow_after_ms"));
    assert!(refused(|c| c.engine.hang_after_secs = 0).starts_with("engine.hang_after_secs"));
    assert!(refused(|c| c.models[0].path = None).starts_with("models.0.path: is missing"));
    let folder = |c: &mut Config| c.repository.path = Some("/models".into());
    assert!(refused(|c| (folder(c), c.repository.scan_ms = 9).1).starts_with("repository.scan_ms"));
    assert!(refused(|c| (folder(c), c.repository.offload = "auto".into()).1).starts_with("repository.threshold"));
    assert!(refused(|c| c.cache.max_age_secs = 0).starts_with("cache.max_age_secs"));
    assert!(refused(|c| c.offload.deadline_ms = 0).starts_with("offload.deadline_ms"));
    assert!(refused(|c| c.offload.deadline_ms = 61_000).contains("must not exceed offload.max_deadline_ms"));
    assert!(refused(|c| c.log.level = "loud".into()).starts_with("log.level"));
    assert!(refused(|c| c.agent.device_class = Some("Raspberry Pi".into())).starts_with("agent.device_class"));
    assert!(refused(|c| c.link.class_key = Some("d75a".into())).starts_with("link.class_key"));
    assert!(refused(|c| c.audits.max_waiting = 0).starts_with("audits.max_waiting"));
    assert!(refused(|c| c.audits.max_in_flight = 65).starts_with("audits.max_in_flight"));
    assert!(refused(|c| c.audits.report_secs = 0).starts_with("audits.report_secs"));
}

#[test]
fn a_route_that_cannot_work_is_refused_by_key() {
    let contract = |c: &mut Config| c.models[0].route.contract = Some("system".into());
    assert!(refused(|c| c.models[0].route.contract = Some("both".into())).contains("\"system\" (of all requests)"));
    assert!(refused(|c| (contract(c), c.models[0].route.alpha = 1.0).1).starts_with("models.0.route.alpha"));
    assert!(refused(|c| (contract(c), c.models[0].route.delta_a = 0.0).1).starts_with("models.0.route: delta_a"));
    assert!(refused(|c| c.models[0].route.boost_rate = 0.01).starts_with("models.0.route"));
    assert!(refused(|c| c.models[0].route.lifetime_days = 0).starts_with("models.0.route.lifetime_days"));
    assert!(refused(|c| c.models[0].route.tune_labels = 0).starts_with("models.0.route.calibration_labels"));
    assert!(refused(|c| c.models[0].route.certificate = Some("c".into())).contains("needs a contract"));
    assert!(refused(|c| c.models[0].budget.offload_share = Some(1.5)).starts_with("models.0.budget"));
    assert!(refused(|c| c.models[0].budget.cost_per_request = Some(0.1)).contains("price_per_offload"));
}

#[test]
fn a_contract_needs_no_threshold() {
    let toml = "[[models]]\nname = \"a\"\npath = \"b\"\n[models.route]\ncontract = \"local\"\nalpha = 0.05\n[models.budget]\noffload_share = 0.2";
    let model = parse(toml).resolve().expect("it works").models.remove(0);
    let target = model.route.contract.expect("a contract");
    assert_eq!((target.contract(), target.alpha(), target.delta()), (hedge_certify::Contract::Local, 0.05, 0.05));
    assert_eq!((model.offload, model.route.budget.offload_share), (Offload::Auto, Some(0.2)));
}

#[test]
fn a_folder_of_models_is_enough_and_its_models_may_be_configured_by_name() {
    let toml = "[repository]\npath = \"/models\"\nthreshold = 0.9\noffload = \"auto\"\n[[models]]\nname = \"digits\"\noffload = \"never\"";
    let settings = parse(toml).resolve().expect("it works");
    assert_eq!(settings.models[0].path, None);
    let other = settings.repository.expect("a folder").settings("other").expect("any name will do");
    assert_eq!((other.name.as_str(), other.offload, other.threshold), ("other", Offload::Auto, 0.9));
    let mut none = Config::default();
    none.repository.path = Some("/models".into());
    assert!(none.resolve().is_ok());
}

#[test]
fn a_unix_socket_alone_is_enough() {
    let mut config = minimal();
    config.http.listen.clear();
    config.http.unix_socket = Some("/run/hedge/agent.sock".into());
    assert_eq!(config.resolve().expect("it can be reached").listen, None);
}

#[test]
fn the_cloud_model_has_the_models_name_unless_named() {
    let settings = minimal().resolve().expect("it works");
    assert_eq!(settings.models[0].cloud_model.as_str(), "digits");
    let mut named = minimal();
    named.models[0].cloud_model = Some("digits-large".into());
    assert_eq!(named.resolve().expect("it works").models[0].cloud_model.as_str(), "digits-large");
}
