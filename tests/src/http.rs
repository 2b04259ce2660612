//! A blocking HTTP/1.1 client, small enough to send what a well-behaved one refuses to: false lengths, cut bodies.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// The longest that a test waits for one response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The largest response body that is read.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// A client of one server; keeps its connection.
#[derive(Debug)]
pub struct Client {
    server: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

/// A response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Client {
    /// A client that connects when it is first used.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        Self { server, connection: None }
    }

    /// GET.
    ///
    /// # Errors
    ///
    /// No connection, or no HTTP.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send(&head("GET", path, &[], 0), &[])
    }

    /// POST.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Response> {
        self.send(&head("POST", path, headers, body.len()), body)
    }

    /// POST of JSON.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub fn post_json(&mut self, path: &str, body: &Value) -> io::Result<Response> {
        self.post(path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    /// Sends a head and a body as they are and reads one response.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub fn send(&mut self, head: &str, body: &[u8]) -> io::Result<Response> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(self.server)?,
        };
        let stream = connection.get_mut();
        stream.write_all(head.as_bytes())?;
        // A server that refuses a request by its head may close before it has read the body; its answer still counts.
        let _ = stream.write_all(body);
        let response = Response::read(&mut connection)?;
        if response.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(response)
    }
}

impl Response {
    /// The value of a header, its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn read(connection: &mut BufReader<TcpStream>) -> io::Result<Self> {
        let status = line(connection)?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| not_http(&status))?;
        let mut headers = Vec::new();
        loop {
            let line = line(connection)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| not_http(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Self { status, headers, body: Vec::new() };
        let length = response.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if length > MAX_BODY {
            return Err(io::Error::other(format!("a body of {length} bytes")));
        }
        response.body.resize(length, 0);
        connection.read_exact(&mut response.body)?;
        Ok(response)
    }
}

/// A request's head.
#[must_use]
pub fn head(method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n{headers}\r\n")
}

fn connect(server: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(BufReader::new(stream))
}

fn line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn not_http(line: &str) -> io::Error {
    io::Error::other(format!("not HTTP: {line:?}"))
}
