//! Triton's stock client, unmodified, against the agent.

use hedge_tests::daemons::AgentSetup;
use hedge_tests::python::Python;

#[test]
fn the_stock_client_lists_checks_and_infers() {
    let get = "pip install 'tritonclient[http]'";
    let Some(python) = Python::with(&["tritonclient.http", "numpy"], "tritonclient", get) else { return };
    let agent = AgentSetup::default().start();
    python.run("oip_client.py", &[&agent.address.to_string()]);
}
