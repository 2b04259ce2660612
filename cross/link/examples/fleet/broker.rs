//! A Mosquitto of the tool's own, which can be killed and started again on its port.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;

/// Looked at this often, this many times.
const POLL: Duration = Duration::from_millis(10);
const POLLS: usize = 500;

pub(crate) struct Mosquitto {
    process: Child,
    address: SocketAddr,
    config: PathBuf,
    _folder: tempfile::TempDir,
}

impl Mosquitto {
    pub(crate) async fn start() -> Option<Mosquitto> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?.local_addr().ok()?.port();
        let folder = tempfile::tempdir().ok()?;
        let config = folder.path().join("mosquitto.conf");
        // An operator who subscribes to the status of every device gets them all at once: beyond the default of 1,000 queued
        // messages Mosquitto drops them.
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\nuser root\n\
             log_type none\nmax_queued_messages 50000\nmax_packet_size 1048576\n"
        );
        std::fs::write(&config, text).ok()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let process = spawn(&config)?;
        let broker = Mosquitto { process, address, config, _folder: folder };
        broker.listens().await.then_some(broker)
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// No DISCONNECT, no goodbye: the process is gone.
    pub(crate) fn kill(&mut self) {
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }

    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(&self.config).expect("it started before");
        assert!(self.listens().await, "mosquitto did not come back on its port");
    }

    /// Peak memory and processor time.
    pub(crate) fn usage(&self) -> String {
        crate::device::usage(self.process.id())
    }

    async fn listens(&self) -> bool {
        for _ in 0..POLLS {
            if TcpStream::connect(self.address).await.is_ok() {
                return true;
            }
            tokio::time::sleep(POLL).await;
        }
        false
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Debian puts it where users do not look.
fn spawn(config: &PathBuf) -> Option<Child> {
    ["mosquitto", "/usr/sbin/mosquitto"].into_iter().find_map(|program| {
        let mut command = Command::new(program);
        command.arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().ok()
    })
}
