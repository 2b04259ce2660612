//! Starting, checking and ending the daemons.

use std::process::{Command, Output};

use hedge_tests::binaries::binaries;
use hedge_tests::broker::Embedded;
use hedge_tests::daemons::{Agent, AgentSetup, Gateway};
use hedge_tests::digits;
use hedge_tests::http::Client;
use hedge_tests::program::command;
use serde_json::Value;

/// Bad usage or configuration.
const USAGE: i32 = 64;

fn check(program: &std::path::Path, config: &std::path::Path) -> Output {
    let mut check: Command = command(program);
    check.arg("--config").arg(config).arg("--check").current_dir(hedge_tests::root());
    check.output().expect("it starts")
}

#[test]
fn the_example_configurations_are_valid() {
    let examples = hedge_tests::root().join("docs/examples");
    for (program, config) in [(&binaries().agent, "agent.toml"), (&binaries().gateway, "gateway.toml")] {
        let output = check(program, &examples.join(config));
        assert!(output.status.success(), "{config}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_mistyped_key_is_refused_with_the_nearest_known_one_and_exit_code_64() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("bad.toml");
    for (program, text, nearest) in [
        (&binaries().agent, "[http]\nlistn = \"127.0.0.1:0\"\n", "listen"),
        (&binaries().gateway, "[gateway]\ngatewayid = \"g\"\n", "gateway_id"),
    ] {
        std::fs::write(&config, text).expect("a temporary folder can be written");
        let output = check(program, &config);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(USAGE), "{said}");
        assert!(said.contains(nearest), "{said}");
    }
}

#[test]
fn daemons_that_are_asked_to_end_do_so_in_order_and_without_warnings() {
    let broker = Embedded::start();
    let mut gateway = Gateway::start_pooling("gateway-1", broker.url(), "contract = \"system\"\n");
    let setup = AgentSetup { broker: Some(broker.url().to_owned()), threshold: Some(1.0), ..AgentSetup::default() };
    let mut agent = setup.start();
    agent.wait_for_gateways(1);
    let response = agent.client().post_json("/v2/models/digits/infer", &digits::request("1", &digits::images(1, 4)));
    assert_eq!(response.expect("an answer").status, 200);

    assert!(agent.program.terminate().success());
    assert!(gateway.program.terminate().success());
    for line in agent.program.log().iter().chain(&gateway.program.log()) {
        assert!(!line.contains(r#""level":"WARN""#) && !line.contains(r#""level":"ERROR""#), "{line}");
    }
}

#[test]
fn every_metric_is_documented() {
    let document = hedge_tests::root().join("docs/operations.md");
    let document = std::fs::read_to_string(document).expect("docs/operations.md");
    let broker = Embedded::start();
    let gateway = Gateway::start_pooling("gateway-1", broker.url(), "contract = \"system\"\n");
    let agent = AgentSetup::default().start();
    for address in [agent.address, gateway.address] {
        let metrics = Client::new(address).get("/metrics").expect("metrics").text();
        let names: Vec<&str> =
            metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        assert!(names.len() > 5, "{metrics}");
        for name in names {
            assert!(document.contains(&format!("`{name}")), "{name} is not in docs/operations.md");
        }
    }
}

#[test]
fn an_agent_answers_with_a_broker_that_is_not_there() {
    // The discard port: nobody listens.
    let setup =
        AgentSetup { broker: Some("mqtt://127.0.0.1:9".to_owned()), threshold: Some(1.0), ..AgentSetup::default() };
    let agent = setup.start();
    let request = digits::request("1", &digits::images(2, 1));
    let response = agent.client().post_json("/v2/models/digits/infer", &request).expect("an answer").json();
    let parameters = &response["parameters"];
    assert_eq!(parameters["hedge.source"], "edge", "{response}");
    assert_eq!(parameters["hedge.status"], "uncertified", "{response}");
    assert_eq!(parameters["hedge.reason"], "link-down", "{response}");
}

#[test]
fn a_result_is_cached_and_survives_a_restart() {
    let mut agent = AgentSetup::default().start();
    let request = digits::request("1", &digits::images(3, 1));
    let ask = |agent: &Agent| -> Value {
        let response = agent.client().post_json("/v2/models/digits/infer", &request);
        response.expect("an answer").json()
    };
    let first = ask(&agent);
    assert_eq!(first["parameters"]["hedge.source"], "edge", "{first}");
    let again = ask(&agent);
    assert_eq!(again["parameters"]["hedge.source"], "cache", "{again}");
    assert_eq!(again["outputs"], first["outputs"]);

    assert!(agent.program.terminate().success());
    let agent = agent.restart();
    let later = ask(&agent);
    assert_eq!(later["parameters"]["hedge.source"], "cache", "{later}");
    assert_eq!(later["outputs"], first["outputs"]);
}
