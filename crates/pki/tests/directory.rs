//! What `flagship pki` leaves on disk.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test as it should")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use flagship_pki::{Authority, PkiError, SecretSettings, Validity, add_member, init, show};
use flagship_types::{Callsign, MemberName, TrustDomain};
use jiff::Timestamp;

fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

fn authority(now: SystemTime) -> Authority {
    let callsign = Callsign::new("federation").unwrap();
    Authority::create(TrustDomain::default(), callsign, Validity::AUTHORITY, now).unwrap()
}

fn make(dir: &Path, force: bool) -> Result<(), PkiError> {
    let members = [name("newyork"), name("sheffield")];
    init(&authority(SystemTime::now()), &members, Validity::MEMBER, &SecretSettings::default(), dir, force)
        .map(|_| ())
}

#[test]
fn init_writes_what_the_daemon_and_kubectl_read() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), false).unwrap();
    for member in ["newyork", "sheffield"] {
        for file in ["ca.crt", "tls.crt", "tls.key", "secret.yaml"] {
            assert!(dir.path().join(member).join(file).is_file(), "{member}/{file}");
        }
        let mode =
            |file| fs::metadata(dir.path().join(member).join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("tls.key"), mode("secret.yaml")), (0o600, 0o600));
    }
    assert_eq!(fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = fs::read_to_string(dir.path().join("newyork/secret.yaml")).unwrap();
    assert!(
        secret
            .contains("type: kubernetes.io/tls\nstringData:\n  ca.crt: |\n    -----BEGIN CERTIFICATE-----\n")
    );
    assert!(secret.contains("namespace: kube-vip-multi-cluster-system"));
    assert!(
        fs::read_dir(dir.path()).unwrap().all(|e| !e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .ends_with(".tmp"))
    );
}

#[test]
fn show_reports_identity_and_no_warnings_on_fresh_certificates() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), false).unwrap();
    let reports = show(dir.path(), Timestamp::now()).unwrap();
    assert_eq!(reports.len(), 5, "ca, and ca + leaf of two members");
    assert!(reports.iter().all(|r| r.warnings.is_empty()), "{reports:#?}");
    let leaf = reports.iter().find(|r| r.path.ends_with("newyork/tls.crt")).unwrap();
    assert_eq!(leaf.uris, ["spiffe://flagship/fleet/federation/member/newyork"]);
    assert!(!leaf.is_authority && reports[0].is_authority);
    assert_eq!(leaf.fingerprint.len(), 95);
    let later = Timestamp::now() + Duration::from_secs(300 * 86_400 + 3600);
    assert!(show(&leaf.path, later).unwrap()[0].warnings[0].contains("expires in 64 days"));
    let much_later = Timestamp::now() + Duration::from_secs(400 * 86_400);
    assert!(show(&leaf.path, much_later).unwrap()[0].warnings[0].contains("expired at"));
}

#[test]
fn no_key_is_replaced_unasked() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), false).unwrap();
    let key = fs::read(dir.path().join("ca.key")).unwrap();
    assert!(matches!(make(dir.path(), false), Err(PkiError::Exists(_))));
    assert_eq!(fs::read(dir.path().join("ca.key")).unwrap(), key);
    let again = add_member(dir.path(), &name("newyork"), Validity::MEMBER, &SecretSettings::default(), false);
    assert!(again.unwrap_err().to_string().contains("--force"));
    make(dir.path(), true).unwrap();
    assert_ne!(fs::read(dir.path().join("ca.key")).unwrap(), key);
}

#[test]
fn a_member_added_later_is_signed_by_the_same_authority() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), false).unwrap();
    add_member(dir.path(), &name("paris"), Validity::MEMBER, &SecretSettings::default(), false).unwrap();
    let reports = show(&dir.path().join("paris"), Timestamp::now()).unwrap();
    assert!(reports.iter().all(|r| r.warnings.is_empty()), "{reports:#?}");
    assert_eq!(reports[1].identity.as_ref().unwrap().member, name("paris"));
}

#[test]
fn during_a_change_the_authority_of_the_key_signs_and_both_are_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), false).unwrap();
    let new = fs::read_to_string(dir.path().join("ca.crt")).unwrap();
    let both = format!("{}{new}", authority(SystemTime::now()).certificate());
    fs::write(dir.path().join("ca.crt"), &both).unwrap();
    add_member(dir.path(), &name("paris"), Validity::MEMBER, &SecretSettings::default(), false).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("paris/ca.crt")).unwrap(), both);
    let reports = show(&dir.path().join("paris"), Timestamp::now()).unwrap();
    assert!(reports.iter().all(|r| r.warnings.is_empty()), "{reports:#?}");
}

#[test]
fn what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = add_member(dir.path(), &name("paris"), Validity::MEMBER, &SecretSettings::default(), false);
    assert!(missing.unwrap_err().to_string().contains("flagship pki init"));
    let twice = [name("a"), name("a")];
    let now = SystemTime::now();
    let refused =
        init(&authority(now), &twice, Validity::MEMBER, &SecretSettings::default(), dir.path(), false);
    assert!(matches!(refused, Err(PkiError::Twice(_))));
    assert!(Validity::days(0).is_err() && Validity::days(40_000).is_err());
    assert!(
        show(dir.path(), Timestamp::now()).unwrap_err().to_string().contains("neither ca.crt nor tls.crt")
    );
    fs::write(dir.path().join("tls.crt"), "hello").unwrap();
    assert!(show(dir.path(), Timestamp::now()).unwrap_err().to_string().contains("no certificate"));

    make(dir.path(), true).unwrap();
    fs::copy(dir.path().join("sheffield/tls.key"), dir.path().join("newyork/tls.key")).unwrap();
    fs::write(dir.path().join("newyork/ca.crt"), authority(now).certificate()).unwrap();
    let warnings = &show(&dir.path().join("newyork/tls.crt"), Timestamp::now()).unwrap()[0].warnings;
    assert!(warnings[0].contains("is not its key") && warnings[1].contains("signed it"), "{warnings:?}");
}
