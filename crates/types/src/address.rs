//! Addresses of members.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Why an address was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing there.
    #[error("address is empty: write an IPv4 or IPv6 address or a DNS name, with or without :port")]
    Empty,
    /// Port not a number from 1 to 65535.
    #[error("port {0:?} is not a number from 1 to 65535")]
    Port(String),
    /// Neither an IP address nor a DNS name.
    #[error(
        "{0:?} is neither an IPv4 or IPv6 address nor a DNS name (an IPv6 address with a port is written [2001:db8::1]:9990)"
    )]
    Host(String),
}

/// Where a member can be dialled: an IPv4 or IPv6 address or a DNS name, and a port. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddress {
    host: Arc<str>,
    port: u16,
}

impl PeerAddress {
    /// Reads `host`, `host:port`, `[v6]:port`, `v6`; without a port `default_port` is taken.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, AddressError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        let (host, port) = split(text)?;
        let port = match port {
            None => default_port,
            Some(port) => port
                .parse()
                .ok()
                .filter(|p| *p > 0)
                .ok_or_else(|| AddressError::Port(port.chars().take(16).collect()))?,
        };
        if host.parse::<IpAddr>().is_err() && !is_dns_name(host) {
            return Err(AddressError::Host(host.chars().take(260).collect()));
        }
        Ok(Self { host: host.into(), port })
    }

    /// The host: an IP address without brackets, or a DNS name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never zero.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn split(text: &str) -> Result<(&str, Option<&str>), AddressError> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text, None));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| AddressError::Host(text.into()))?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(AddressError::Host(host.into()));
        }
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(AddressError::Host(text.into())),
        };
    }
    Ok(match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    })
}

/// RFC 1123 host name; a trailing dot is allowed. A name of digits and dots only would be a mistyped IPv4 address.
fn is_dns_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(label) && !name.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_with_and_without_a_port() {
        let table = [
            ("172.18.100.100", "172.18.100.100:9990"),
            ("172.18.100.100:9991", "172.18.100.100:9991"),
            ("2001:db8::1", "[2001:db8::1]:9990"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("[::1]", "[::1]:9990"),
            ("newyork.example.com:1", "newyork.example.com:1"),
            (" lb ", "lb:9990"),
        ];
        for (text, shown) in table {
            assert_eq!(PeerAddress::parse(text, 9990).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        assert_eq!(PeerAddress::parse("", 1), Err(AddressError::Empty));
        for port in ["a:0", "a:70000", "a:x", "a:"] {
            assert!(matches!(PeerAddress::parse(port, 1), Err(AddressError::Port(_))), "{port}");
        }
        for host in ["172.18.100.300", "a b", "http://a", "[::1", "[a]:1", "-a", "a..b"] {
            assert!(PeerAddress::parse(host, 1).is_err(), "{host}");
        }
    }
}
