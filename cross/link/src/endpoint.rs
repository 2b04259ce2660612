//! Where to connect: the broker's URL, read. TLS belongs here and in `options` once it is done.

use crate::config::LinkError;

/// MQTT's registered port.
const DEFAULT_PORT: u16 = 1883;

/// A broker's address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Endpoint {
    /// A name or an address; IPv6 in brackets, as rumqttc puts `:port` behind it.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Endpoint {
    /// Reads `mqtt://host[:port][/]`.
    pub(crate) fn parse(url: &str) -> Result<Self, LinkError> {
        let error = |reason| LinkError::Url { url: redacted(url), reason };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| error("it has no scheme"))?;
        match scheme {
            "mqtt" => {}
            "mqtts" | "ssl" | "tls" => return Err(LinkError::TlsNotSupported { url: redacted(url) }),
            _ => return Err(error("its scheme is not mqtt")),
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err(error("user and password do not belong in it but in their own settings"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| error("its port is not a number from 1 to 65535"))?;
        if !is_host(host) {
            return Err(error("its host is not a name or an address (IPv6 in brackets)"));
        }
        Ok(Endpoint { host: host.to_owned(), port })
    }
}

/// `None`: a port that is none.
fn split_port(authority: &str) -> Option<(&str, u16)> {
    let end_of_address = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    match authority[end_of_address..].rfind(':') {
        None => Some((authority, DEFAULT_PORT)),
        Some(colon) => {
            let (host, port) = authority.split_at(end_of_address + colon);
            Some((host, port[1..].parse().ok().filter(|&port| port > 0)?))
        }
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    }
}

/// The URL without what stands before an `@`, which may be a password.
fn redacted(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => format!("{}…{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_ports_are_read() {
        let parse = |url| Endpoint::parse(url).map(|endpoint| (endpoint.host, endpoint.port)).unwrap();
        assert_eq!(parse("mqtt://broker.example"), ("broker.example".to_owned(), 1883));
        assert_eq!(parse("mqtt://127.0.0.1:4000"), ("127.0.0.1".to_owned(), 4000));
        assert_eq!(parse("mqtt://localhost:1883/"), ("localhost".to_owned(), 1883));
        assert_eq!(parse("mqtt://[::1]"), ("[::1]".to_owned(), 1883));
        assert_eq!(parse("mqtt://[::1]:99"), ("[::1]".to_owned(), 99));
    }

    #[test]
    fn tls_is_refused_with_an_error_that_says_so() {
        for url in ["mqtts://broker:8883", "ssl://broker", "tls://broker"] {
            let error = Endpoint::parse(url).unwrap_err();
            assert!(matches!(error, LinkError::TlsNotSupported { .. }));
            assert!(error.to_string().contains("does not do yet"), "{error}");
        }
    }

    #[test]
    fn other_schemes_ports_hosts_and_users_are_refused() {
        for url in [
            "",
            "localhost:1883",
            "http://broker",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://broker:0",
            "mqtt://broker:65536",
            "mqtt://broker:",
            "mqtt://[::1",
            "mqtt://::1",
            "mqtt://broker/path",
            "mqtt://user:secret@broker",
            "mqtt://a b",
        ] {
            assert!(matches!(Endpoint::parse(url), Err(LinkError::Url { .. })), "{url}");
        }
        let error = Endpoint::parse("mqtt://user:secret@broker").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
