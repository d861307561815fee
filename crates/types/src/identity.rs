//! The identity in a certificate.

use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;

use crate::{Callsign, MemberName, NameError};

/// Why a URI is not the identity of a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not of the form that members have.
    #[error("{0:?} is not spiffe://<trust-domain>/fleet/<callsign>/member/<name>")]
    Form(String),
    /// A character that a trust domain must not have.
    #[error("trust domain {0:?}: 1 to 255 lower-case letters, digits, '-', '.' and '_' are allowed")]
    TrustDomain(String),
    /// The callsign or the member's name.
    #[error("{uri:?}: {source}")]
    Name {
        /// The URI.
        uri: String,
        /// What is wrong with the name.
        source: NameError,
    },
}

/// The SPIFFE trust domain of an organisation's certificates. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// What `flagship pki` uses unless told otherwise.
    pub const DEFAULT: &str = "flagship";

    /// Checks and takes a trust domain.
    pub fn new(domain: &str) -> Result<Self, IdentityError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
        if domain.is_empty() || domain.len() > 255 || !domain.bytes().all(allowed) {
            return Err(IdentityError::TrustDomain(domain.chars().take(64).collect()));
        }
        Ok(Self(domain.into()))
    }

    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a certificate says its holder is: the URI `spiffe://<trust-domain>/fleet/<callsign>/member/<name>`.
/// Bytes of a callsign that a URI cannot hold are percent-encoded there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberIdentity {
    /// Whose certificates these are.
    pub trust_domain: TrustDomain,
    /// The fleet.
    pub callsign: Callsign,
    /// The member.
    pub member: MemberName,
}

impl fmt::Display for MemberIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/fleet/", self.trust_domain)?;
        for byte in self.callsign.as_str().bytes() {
            match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                true => f.write_char(byte.into())?,
                false => write!(f, "%{byte:02X}")?,
            }
        }
        write!(f, "/member/{}", self.member)
    }
}

impl FromStr for MemberIdentity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let shown = || uri.chars().take(200).collect::<String>();
        let form = || IdentityError::Form(shown());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(form)?;
        let parts: Vec<&str> = rest.splitn(6, '/').collect();
        let [domain, "fleet", callsign, "member", member] = parts[..] else { return Err(form()) };
        let named = |source| IdentityError::Name { uri: shown(), source };
        Ok(Self {
            trust_domain: TrustDomain::new(domain)?,
            callsign: Callsign::new(&percent_decode(callsign).ok_or_else(form)?).map_err(named)?,
            member: MemberName::new(member).map_err(named)?,
        })
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(callsign: &str) -> MemberIdentity {
        MemberIdentity {
            trust_domain: TrustDomain::default(),
            callsign: Callsign::new(callsign).unwrap(),
            member: MemberName::new("newyork").unwrap(),
        }
    }

    #[test]
    fn identities_are_read_as_they_are_written() {
        assert_eq!(identity("federation").to_string(), "spiffe://flagship/fleet/federation/member/newyork");
        for callsign in ["federation", "Fleet_1.x", "flotte-é", "a@b:c", "~"] {
            let written = identity(callsign).to_string();
            assert!(written.is_ascii(), "{written}");
            assert_eq!(written.parse(), Ok(identity(callsign)), "{written}");
        }
    }

    #[test]
    fn other_uris_are_refused() {
        for bad in [
            "",
            "https://flagship/fleet/a/member/b",
            "spiffe://flagship/fleet/a/member",
            "spiffe://flagship/fleet/a/member/b/c",
            "spiffe://flagship/ns/a/sa/b",
            "spiffe:///fleet/a/member/b",
            "spiffe://Flagship/fleet/a/member/b",
            "spiffe://flagship/fleet//member/b",
            "spiffe://flagship/fleet/a%2Fb/member/b",
            "spiffe://flagship/fleet/a%zz/member/b",
            "spiffe://flagship/fleet/a%+1/member/b",
            "spiffe://flagship/fleet/a%/member/b",
            "spiffe://flagship/fleet/a/member/B",
        ] {
            assert!(bad.parse::<MemberIdentity>().is_err(), "{bad}");
        }
    }
}
