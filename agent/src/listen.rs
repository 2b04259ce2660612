//! The agent's listeners: TCP and a Unix socket, each with a bound on its connections and on how long they may be idle.
//!
//! A Unix socket left behind by a process that died is removed; one that somebody answers on, and a file that is no socket,
//! are not.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// How long a connection may be idle; longer than any request may take.
const IDLE: Duration = Duration::from_secs(900);

/// Why the agent cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The TCP address.
    #[error("http.listen {address} cannot be used: {source}; stop what uses it, or choose another port")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The Unix socket's path.
    #[error("http.unix_socket {path}: {why}")]
    Unix {
        /// The path.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
}

/// Binds a TCP address.
pub(crate) async fn tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError::Tcp { address, source })
}

/// Binds a Unix socket, over a stale one if need be.
pub(crate) fn unix(path: &Path) -> Result<UnixListener, ListenError> {
    let error = |why: String| ListenError::Unix { path: path.to_owned(), why };
    remove_stale(path).map_err(error)?;
    UnixListener::bind(path).map_err(|io| error(format!("{io}; check that its folder exists and is writable")))
}

fn remove_stale(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt;
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !meta.file_type().is_socket() {
        return Err("there is a file that is no socket; remove it, or choose another path".into());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err("another process answers there; stop it, or choose another path".into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing a stale socket");
            std::fs::remove_file(path).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// A listener that accepts no more than so many connections at once; more wait in the system's backlog.
pub(crate) struct Limited<L> {
    inner: L,
    room: Arc<Semaphore>,
}

impl<L> Limited<L> {
    pub(crate) fn new(inner: L, connections: usize) -> Self {
        Self { inner, room: Arc::new(Semaphore::new(connections)) }
    }

    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.room).acquire_owned().await.ok()
    }
}

impl Listener for Limited<TcpListener> {
    type Io = Held<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let permit = self.room().await;
        let (stream, address) = Listener::accept(&mut self.inner).await;
        // Small answers must not wait for the next acknowledgement.
        let _ = stream.set_nodelay(true);
        (Held::new(stream, IDLE, permit), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

impl Listener for Limited<UnixListener> {
    type Io = Held<UnixStream>;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let permit = self.room().await;
        let (stream, address) = Listener::accept(&mut self.inner).await;
        (Held::new(stream, IDLE, permit), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A connection that ends when nothing happens on it for a while ([`IDLE`]), and gives its place back when it ends.
pub(crate) struct Held<S> {
    stream: S,
    patience: Duration,
    idle: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<S> Held<S> {
    fn new(stream: S, patience: Duration, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { stream, patience, idle: Box::pin(sleep(patience)), _permit: permit }
    }

    fn active(&mut self) {
        self.idle.as_mut().reset(Instant::now() + self.patience);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => self.idle.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            ready => {
                self.active();
                ready
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.active();
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.active();
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let first = unix(&path).unwrap();
        assert!(unix(&path).unwrap_err().to_string().contains("another process answers there"));
        drop(first);
        assert!(path.exists(), "what a killed process leaves");
        assert!(unix(&path).is_ok());
    }

    #[tokio::test]
    async fn an_idle_connection_ends() {
        use tokio::io::AsyncReadExt;
        let (near, _far) = tokio::io::duplex(64);
        let patience = Duration::from_millis(20);
        let mut held = Held::new(near, patience, None);
        let started = Instant::now();
        let error = held.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= patience);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        assert!(unix(&path).unwrap_err().to_string().contains("no socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }
}
