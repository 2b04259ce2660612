//! The TCP proxy of `hedge_broker` on a reactor of its own, for tests that have none.

use std::net::SocketAddr;

use hedge_broker::proxy::{Mode, Proxy};
use tokio::runtime::Runtime;

/// What stands between a program and its broker.
#[derive(Debug)]
pub struct LinkProxy {
    proxy: Proxy,
    // Declared in this order: the proxy ends before its reactor does.
    _reactor: Runtime,
}

impl LinkProxy {
    /// Starts one in front of the broker of this URL.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    #[must_use]
    pub fn start(broker: &str) -> Self {
        let upstream: SocketAddr = broker.trim_start_matches("mqtt://").parse().expect("mqtt:// and an address");
        let reactor = Runtime::new().expect("a reactor");
        let proxy = reactor.block_on(Proxy::start(upstream)).expect("a free port");
        Self { proxy, _reactor: reactor }
    }

    /// What clients connect to.
    #[must_use]
    pub fn url(&self) -> String {
        self.proxy.url()
    }

    /// From now on this happens to the bytes.
    pub fn set(&self, mode: Mode) {
        self.proxy.set(mode);
    }
}
