//! Why a link was refused or closed on purpose.

/// A close with a code is deliberate and therefore never evidence against the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseCode {
    /// The peer belongs to another fleet.
    WrongCallsign,
    /// Another process with this member's name is alive.
    NameInUse,
    /// The name in the Hello is not the one in the certificate.
    IdentityMismatch,
    /// No protocol version in common.
    ProtocolTooOld,
    /// The fleet or the process takes no more links.
    Full,
    /// The process is shutting down.
    ShuttingDown,
    /// A second stream between the same two members; the other one stays.
    Duplicate,
    /// The member left the fleet or its settings changed: it dials anew.
    Leaving,
    /// The peer broke the protocol: an oversized or undecodable frame, or no Hello in time.
    ProtocolError,
    /// The peer's certificate, or the authority that signed it, was removed or revoked.
    CertificateRevoked,
    /// Nothing fresh was heard for too long, or the queue stayed full.
    Stale,
    /// This replica of the member's daemon waits for another one, which may be behind the same address.
    Standby,
    /// Neither end observes the other any more: the fleet is large and the link idle.
    Unneeded,
}

impl CloseCode {
    /// All codes, in order.
    pub const ALL: [Self; 13] = [
        Self::WrongCallsign,
        Self::NameInUse,
        Self::IdentityMismatch,
        Self::ProtocolTooOld,
        Self::Full,
        Self::ShuttingDown,
        Self::Duplicate,
        Self::Leaving,
        Self::ProtocolError,
        Self::CertificateRevoked,
        Self::Stale,
        Self::Standby,
        Self::Unneeded,
    ];

    /// A metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WrongCallsign => "wrong_callsign",
            Self::NameInUse => "name_in_use",
            Self::IdentityMismatch => "identity_mismatch",
            Self::ProtocolTooOld => "protocol_too_old",
            Self::Full => "full",
            Self::ShuttingDown => "shutting_down",
            Self::Duplicate => "duplicate",
            Self::Leaving => "leaving",
            Self::ProtocolError => "protocol_error",
            Self::CertificateRevoked => "certificate_revoked",
            Self::Stale => "stale",
            Self::Standby => "standby",
            Self::Unneeded => "unneeded",
        }
    }
}
