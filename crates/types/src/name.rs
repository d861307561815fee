//! Names of members and fleets.

use std::fmt;
use std::sync::Arc;

/// Why a name was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("{what} is empty: give it 1 to {max} characters")]
    Empty {
        /// Which name.
        what: &'static str,
        /// The longest allowed length in bytes.
        max: usize,
    },
    /// The name is longer than allowed.
    #[error("{what} has {len} bytes: at most {max} are allowed")]
    TooLong {
        /// Which name.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest allowed length in bytes.
        max: usize,
    },
    /// The name holds a character that is not allowed.
    #[error("{what} holds {found:?}: {expected}")]
    Character {
        /// Which name.
        what: &'static str,
        /// The first character that is not allowed.
        found: char,
        /// What is allowed.
        expected: &'static str,
    },
}

/// The name of a member: `metadata.name` of its MultiCluster, so an RFC 1123 subdomain of at most 253 bytes.
/// Ordered by bytes, which is what breaks ties inside an election. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName(Arc<str>);

impl MemberName {
    /// The longest name in bytes, as Kubernetes has it.
    pub const MAX_BYTES: usize = 253;

    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let what = "member name";
        check_length(what, name, Self::MAX_BYTES)?;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        let expected = "a Kubernetes name has lower-case letters, digits, '-' and '.', and begins and ends with a letter or digit";
        let edge = [name.chars().next(), name.chars().next_back()];
        let bad_edge = edge.into_iter().flatten().find(|c| !c.is_ascii_lowercase() && !c.is_ascii_digit());
        match name.chars().find(|c| !allowed(*c)).or(bad_edge) {
            Some(found) => Err(NameError::Character { what, found, expected }),
            None => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a fleet: all members with the same callsign belong together. 1 to 128 bytes without control
/// characters; compared byte for byte. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Callsign(Arc<str>);

impl Callsign {
    /// The longest callsign in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Checks and takes a callsign.
    pub fn new(callsign: &str) -> Result<Self, NameError> {
        let what = "callsign";
        check_length(what, callsign, Self::MAX_BYTES)?;
        // '/' would make the identity URI in a certificate ambiguous; '%', '?' and '#' would need escaping there.
        match callsign.chars().find(|c| c.is_control() || c.is_whitespace() || "/%?#".contains(*c)) {
            Some(found) => {
                let expected = "white space, control characters and / % ? # are not allowed";
                Err(NameError::Character { what, found, expected })
            }
            None => Ok(Self(callsign.into())),
        }
    }

    /// The callsign as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_length(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    match name.len() {
        0 => Err(NameError::Empty { what, max }),
        len if len > max => Err(NameError::TooLong { what, len, max }),
        _ => Ok(()),
    }
}

macro_rules! text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                Self::new(s)
            }
        }
    )*};
}
text!(MemberName, Callsign);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_names_are_kubernetes_names() {
        for good in ["newyork", "a", "eu-west.1", "0"] {
            assert_eq!(MemberName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "New", "-a", "a-", "a_b", "a/b", "é", &"a".repeat(254)] {
            assert!(MemberName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn callsigns_stay_unambiguous_in_a_uri() {
        assert!(Callsign::new("federation").is_ok());
        assert!(Callsign::new("Fleet_1.x").is_ok());
        for bad in ["", "a/b", "a b", "a%2f", "a\n", &"a".repeat(129)] {
            assert!(Callsign::new(bad).is_err(), "{bad}");
        }
    }
}
