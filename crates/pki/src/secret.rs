//! The Secret manifest of a member.

use std::fmt::Write as _;

use crate::Issued;

/// Where a member's Secret goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSettings {
    /// The daemon's namespace.
    pub namespace: String,
    /// The Secret that the daemon mounts as `--tls-dir`.
    pub name: String,
}

impl Default for SecretSettings {
    fn default() -> Self {
        Self { namespace: "kube-vip-multi-cluster-system".into(), name: "flagship-tls".into() }
    }
}

pub(crate) fn manifest(settings: &SecretSettings, authority: &str, issued: &Issued) -> String {
    let mut yaml = format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {}\n  namespace: {}\ntype: kubernetes.io/tls\nstringData:\n",
        settings.name, settings.namespace
    );
    for (key, pem) in [("ca.crt", authority), ("tls.crt", &issued.certificate), ("tls.key", &issued.key)] {
        // Writing to a String cannot fail.
        let _ = writeln!(yaml, "  {key}: |");
        for line in pem.lines() {
            let _ = writeln!(yaml, "    {line}");
        }
    }
    yaml
}
