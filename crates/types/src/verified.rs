//! A mark for what somebody checked.

/// A value whose origin was checked by the transport side, so that the cores need no cryptography. For a
/// record taken first-hand the check is the link's: mutual TLS, identity in the certificate, name in the Hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Marks a value as checked. Called only where the check was made: for what a member says of itself on
    /// its own authenticated link.
    pub fn first_hand(value: T) -> Self {
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
