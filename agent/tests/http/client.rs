//! An HTTP client of a few lines, so that tests see the bytes as they are on the wire.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The JSON document, without the binary data behind it.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let length = self.header("inference-header-content-length").map_or(self.body.len(), |l| l.parse().unwrap());
        serde_json::from_slice(&self.body[..length]).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The binary data behind the JSON document.
    pub(crate) fn binary(&self) -> &[u8] {
        let length: usize = self.header("inference-header-content-length").unwrap().parse().unwrap();
        &self.body[length..]
    }

    #[track_caller]
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().expect("an error has a text").to_owned()
    }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    exchange(TcpStream::connect(address).unwrap(), "GET", path, &[], b"")
}

pub(crate) fn post(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    exchange(TcpStream::connect(address).unwrap(), "POST", path, headers, body)
}

pub(crate) fn get_unix(socket: &Path, path: &str) -> Response {
    exchange(UnixStream::connect(socket).unwrap(), "GET", path, &[], b"")
}

/// Sends bytes as they are and reads what comes back until the connection ends.
pub(crate) fn raw(address: SocketAddr, request: &[u8]) -> Response {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    read(stream)
}

/// One request on a connection that stays open, and its answer.
pub(crate) struct Connection(TcpStream);

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> Response {
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        self.0.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut got = Vec::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = self.0.read(&mut buffer).unwrap();
            assert!(count > 0, "the connection ended early");
            got.extend_from_slice(&buffer[..count]);
            if let Some(response) = parse(&got).filter(|r| Some(r.body.len()) == length(r)) {
                return response;
            }
        }
    }
}

trait Stream: Read + Write {
    fn patient(&self);
}

impl Stream for TcpStream {
    fn patient(&self) {
        self.set_read_timeout(Some(PATIENCE)).unwrap();
    }
}

impl Stream for UnixStream {
    fn patient(&self) {
        self.set_read_timeout(Some(PATIENCE)).unwrap();
    }
}

fn exchange(mut stream: impl Stream, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    stream.patient();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
    if method == "POST" {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    // A server that refuses early may close before everything is sent.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    read(stream)
}

fn read(mut stream: impl Read) -> Response {
    let mut got = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => got.extend_from_slice(&buffer[..count]),
            // Closed by a server that did not read everything; what it said before counts.
            Err(_) if !got.is_empty() => break,
            Err(error) => panic!("no response: {error}"),
        }
    }
    parse(&got).unwrap_or_else(|| panic!("no response in {:?}", String::from_utf8_lossy(&got)))
}

fn parse(got: &[u8]) -> Option<Response> {
    let end = got.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&got[..end]).unwrap();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    Some(Response { status, headers, body: got[end + 4..].to_vec() })
}

fn length(response: &Response) -> Option<usize> {
    response.header("content-length")?.parse().ok()
}
