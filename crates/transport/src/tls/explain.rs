//! TLS failures in sentences that say what to do.

use std::io;

use flagship_node::RefusalReason;
use flagship_types::CloseCode;
use rustls::{AlertDescription, CertificateError, Error};

use super::certificate::LeafError;
use super::directory::renewal;
use super::material::CertificateInfo;

/// A failed handshake, for people and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Explanation {
    pub(crate) reason: RefusalReason,
    pub(crate) sentence: String,
}

/// Explains to the member with this certificate (`None`: it is not known yet who was meant) why a connection failed
/// before the first Hello.
pub(crate) fn explain(error: &io::Error, own: Option<&CertificateInfo>) -> Explanation {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(problem)) => certificate(problem, own),
        Some(Error::AlertReceived(alert)) => alert_received(*alert, own),
        Some(tls) => Explanation { reason: RefusalReason::Tls, sentence: protocol(tls) },
        None => Explanation { reason: RefusalReason::Tls, sentence: stream(error) },
    }
}

fn certificate(problem: &CertificateError, own: Option<&CertificateInfo>) -> Explanation {
    let mut reason = RefusalReason::Tls;
    let sentence = match problem {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate was signed by an authority that is not in our ca.crt: \
             it belongs to another fleet, or ca.crt must hold both authorities during a change"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            reason = RefusalReason::Expired;
            let callsign = own.map_or("CALLSIGN", |own| own.callsign.as_str());
            let renewal = renewal(callsign, "ITS-NAME", None);
            format!("{problem}: its certificate has expired and the grace is over; renew it with: {renewal}")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            reason = RefusalReason::Expired;
            format!("{problem}: its certificate is not valid yet; compare the clocks of both clusters")
        }
        CertificateError::Revoked => {
            reason = RefusalReason::Code(CloseCode::CertificateRevoked);
            "its certificate is in our crl.pem: it was revoked".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not for both ends of a link: extended key usage must hold clientAuth and serverAuth"
                .to_owned()
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<LeafError>() {
            Some(leaf) => leaf.to_string(),
            None => format!("its certificate cannot be used: {}", other.0),
        },
        other => format!("its certificate cannot be used: {other}"),
    };
    Explanation { reason, sentence }
}

fn alert_received(alert: AlertDescription, own: Option<&CertificateInfo>) -> Explanation {
    let mut reason = RefusalReason::Tls;
    let sentence = match alert {
        AlertDescription::UnknownCA => {
            "it does not know the authority that signed our certificate: it belongs to another fleet, \
             or its ca.crt must hold both authorities during a change"
                .to_owned()
        }
        AlertDescription::CertificateExpired => {
            reason = RefusalReason::Expired;
            format!(
                "it refuses our certificate as expired or not valid yet: compare the clocks of both clusters, and renew it with: {}",
                own.map_or_else(|| renewal("CALLSIGN", "NAME", None), CertificateInfo::renewal)
            )
        }
        AlertDescription::CertificateRevoked => {
            reason = RefusalReason::Code(CloseCode::CertificateRevoked);
            "it refuses our certificate: it was revoked".to_owned()
        }
        AlertDescription::UnrecognisedName => {
            reason = RefusalReason::Code(CloseCode::WrongCallsign);
            "no member of our fleet listens there: spec.callsign differs, or the address is another's"
                .to_owned()
        }
        AlertDescription::CertificateRequired => "it wants a certificate and got none".to_owned(),
        AlertDescription::CertificateUnknown
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate => {
            "it refuses our certificate: its log says why; flagship pki show DIR/MEMBER shows what is in ours"
                .to_owned()
        }
        other => format!("it ended the handshake: {other:?}"),
    };
    Explanation { reason, sentence }
}

/// Whether the other end, which dialled us, failed before it showed a certificate and said nothing of ours: a probe, a
/// scan, or a program that has nothing to do with a fleet. Who asked for a fleet by its server name is a member, and
/// if its connection breaks then, people should know.
pub(crate) fn is_anonymous(error: &io::Error, asked_for_a_fleet: bool) -> bool {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(tls) => matches!(
            tls,
            Error::InvalidMessage(_)
                | Error::NoCertificatesPresented
                | Error::PeerIncompatible(_)
                | Error::InappropriateMessage { .. }
                | Error::InappropriateHandshakeMessage { .. }
        ),
        None => !asked_for_a_fleet,
    }
}

/// Whether the connection broke: TLS itself found nothing wrong.
pub(crate) fn is_broken(error: &io::Error) -> bool {
    error.get_ref().is_none_or(|inner| !inner.is::<Error>())
}

fn protocol(error: &Error) -> String {
    match error {
        Error::InvalidMessage(_) => {
            "it does not speak TLS (plain text or random bytes): something else uses this address and port"
                .to_owned()
        }
        Error::NoCertificatesPresented => "it showed no certificate: every member needs one, made with: \
             flagship pki add-member --fleet CALLSIGN --member NAME --out DIR"
            .to_owned(),
        Error::PeerIncompatible(problem) => {
            format!("it speaks TLS, but not ours (1.3 is needed): {problem:?}")
        }
        other => format!("TLS failed: {other}"),
    }
}

fn stream(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection during the TLS handshake".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "it reset the connection during the handshake".to_owned()
        }
        _ => format!("the connection failed: {error}"),
    }
}
