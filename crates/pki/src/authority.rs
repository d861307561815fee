//! The authority of one fleet and what it issues.

use std::time::{Duration, SystemTime};

use flagship_types::{Callsign, MemberIdentity, MemberName, TrustDomain};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

use crate::PkiError;

/// Clocks of clusters differ; a certificate made this moment is valid on one that runs behind.
const BACKDATED: Duration = Duration::from_secs(300);

/// The longest subject common name that X.520 allows.
const MAX_COMMON_NAME: usize = 64;

/// For how many days a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity(u32);

impl Validity {
    /// Ten years: replacing an authority touches every cluster.
    pub const AUTHORITY: Self = Self(3650);
    /// One year: shorter ones need automation (cert-manager), and an expiry is let pass for 72 h.
    pub const MEMBER: Self = Self(365);

    /// 1 to 36500 days.
    pub fn days(days: u32) -> Result<Self, PkiError> {
        if days == 0 || days > 36_500 { Err(PkiError::Validity(days)) } else { Ok(Self(days)) }
    }

    fn apply(self, params: &mut CertificateParams, now: SystemTime) {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + since_epoch.saturating_sub(BACKDATED);
        params.not_after = epoch + since_epoch + Duration::from_secs(u64::from(self.0) * 86_400);
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key (PKCS #8).
    pub key: String,
}

/// The certificate authority of one fleet: ECDSA P-256, allowed to sign leaves and revocation lists only.
pub struct Authority {
    trust_domain: TrustDomain,
    callsign: Callsign,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority. Nothing is written.
    pub fn create(
        trust_domain: TrustDomain,
        callsign: Callsign,
        validity: Validity,
        now: SystemTime,
    ) -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&format!("flagship {callsign}"), &callsign);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names =
            vec![SanType::URI(Ia5String::try_from(fleet_uri(&trust_domain, &callsign))?)];
        validity.apply(&mut params, now);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { trust_domain, callsign, certificate, issuer: Issuer::new(params, key) })
    }

    /// Takes up an authority that [`Authority::create`] made. `None` if the certificate names no fleet.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Option<Self>, PkiError> {
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        let Some((trust_domain, callsign)) = fleet_of(certificate) else { return Ok(None) };
        Ok(Some(Self { trust_domain, callsign, certificate: certificate.to_owned(), issuer }))
    }

    /// Makes a key and a certificate for a member, for both ends of a link.
    pub fn issue(
        &self,
        member: &MemberName,
        validity: Validity,
        now: SystemTime,
    ) -> Result<Issued, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(member.as_str(), &self.callsign);
        let identity = self.identity(member).to_string();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity)?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validity.apply(&mut params, now);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }

    /// The identity that a member's certificate carries.
    pub fn identity(&self, member: &MemberName) -> MemberIdentity {
        let (trust_domain, callsign) = (self.trust_domain.clone(), self.callsign.clone());
        MemberIdentity { trust_domain, callsign, member: member.clone() }
    }

    /// The authority's certificate in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The authority's key in PEM.
    pub(crate) fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Which fleet it is for.
    pub fn callsign(&self) -> &Callsign {
        &self.callsign
    }
}

fn subject(common_name: &str, callsign: &Callsign) -> DistinguishedName {
    let mut end = common_name.len().min(MAX_COMMON_NAME);
    while !common_name.is_char_boundary(end) {
        end -= 1;
    }
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, format!("flagship fleet {callsign}").as_str());
    subject.push(DnType::CommonName, &common_name[..end]);
    subject
}

/// The member whose identity is cut off to get that of the fleet.
const ANYBODY: &str = "x";

fn fleet_uri(trust_domain: &TrustDomain, callsign: &Callsign) -> String {
    let member = MemberName::new(ANYBODY).expect("a letter is a name");
    let identity = MemberIdentity { trust_domain: trust_domain.clone(), callsign: callsign.clone(), member };
    let uri = identity.to_string();
    uri.strip_suffix("/member/x").unwrap_or(&uri).to_owned()
}

fn fleet_of(certificate: &str) -> Option<(TrustDomain, Callsign)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    crate::report::uris(&certificate).iter().find_map(|uri| {
        let identity: MemberIdentity = format!("{uri}/member/{ANYBODY}").parse().ok()?;
        Some((identity.trust_domain, identity.callsign))
    })
}
