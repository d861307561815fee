//! A mark for what somebody checked.

/// A value whose origin was checked by the transport side, so that the cores need no cryptography.
///
/// What a peer says of itself, or asks, is vouched for by its link: mutual TLS, identity in the certificate, name in
/// the Hello. A record or accusation with a proof was signed by the member that it names, with a certificate of the
/// fleet for that very member, not revoked and valid when it was signed. Without a proof it is the peer's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Marks a value as checked. Called only where the check was made: for what a member says of itself on
    /// its own authenticated link.
    pub fn first_hand(value: T) -> Self {
        Self(value)
    }

    /// Marks a value as checked. Called only where every proof in it was verified, and what has none is the peer's
    /// own; and by who takes a checked value apart.
    pub fn checked(value: T) -> Self {
        Self(value)
    }

    /// The value.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// Gives the value away.
    pub fn into_inner(self) -> T {
        self.0
    }
}
