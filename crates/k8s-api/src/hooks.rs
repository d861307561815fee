//! Who is told when the lead comes and goes: `spec.hooks`.

use std::fmt;
use std::time::Duration;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::KeyRef;
use crate::settings::{FieldError, duration};
use crate::spec::{DURATION, is_default};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_RETRIES: u32 = 3;
const MAX_RETRIES: i64 = 10;
const MAX_URL_BYTES: usize = 2048;
const MAX_CA_BYTES: usize = 32_768;

/// HTTP endpoints that are called when the lead comes to this member and when it goes. Each gets a POST with a JSON
/// body, signed if there is a secretRef; any answer but 2xx is a failure.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HooksSpec {
    /// Called after this member was elected and before the first object of the payload is written: the place for a
    /// fence. With the failurePolicy Fail nothing is written until it succeeds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub before_promote: Option<HookSpec>,
    /// Called once the payload is applied and ready.
    #[serde(default, skip_serializing_if = "is_default")]
    pub after_promote: Option<HookSpec>,
    /// Called before the first object of the payload is deleted. With the failurePolicy Fail a planned move of the lead
    /// does not happen if it fails; a leader that has to stop stops in any case.
    #[serde(default, skip_serializing_if = "is_default")]
    pub before_demote: Option<HookSpec>,
    /// Called once the payload is gone from here.
    #[serde(default, skip_serializing_if = "is_default")]
    pub after_demote: Option<HookSpec>,
}

/// One HTTP endpoint.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookSpec {
    /// Where to POST: http:// or https://, without a user name. Redirects are not followed.
    #[schemars(length(min = 8, max = 2048), regex(pattern = r"^https?://[^\s/@?#]+([/?][^\s#]*)?$"))]
    pub url: String,
    /// How long one attempt may take. Default 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('1m')").message("from 100ms to 1m"))]
    pub timeout: Option<String>,
    /// How often a failed attempt is repeated, after 0.5 s, 1 s, 2 s and so on up to 5 s. Default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub retries: Option<i64>,
    /// What follows when all attempts failed. Default Fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<FailurePolicy>,
    /// The key that signs the body, in a Secret of this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRef>,
    /// The certificates that the server's has to be signed by, in PEM. If empty, those that the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32_768))]
    pub ca_bundle: Option<String>,
}

/// What follows when a hook failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum FailurePolicy {
    /// beforePromote: nothing is written and it is tried again. beforeDemote: a planned move does not happen. The other
    /// two are tried again.
    Fail,
    /// It is told, and things go on.
    Ignore,
}

/// When a hook is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HookPoint {
    /// Elected, nothing written yet.
    BeforePromote,
    /// The payload is ready.
    AfterPromote,
    /// Nothing deleted yet.
    BeforeDemote,
    /// The payload is gone.
    AfterDemote,
}

impl HookPoint {
    /// All, in the order of a lead.
    pub const ALL: [Self; 4] =
        [Self::BeforePromote, Self::AfterPromote, Self::BeforeDemote, Self::AfterDemote];

    /// The field's name, and the word in a delivery.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BeforePromote => "beforePromote",
            Self::AfterPromote => "afterPromote",
            Self::BeforeDemote => "beforeDemote",
            Self::AfterDemote => "afterDemote",
        }
    }
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// [`HooksSpec`], checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookSettings {
    /// Before the first write.
    pub before_promote: Option<Hook>,
    /// When the payload is ready.
    pub after_promote: Option<Hook>,
    /// Before the first delete.
    pub before_demote: Option<Hook>,
    /// When the payload is gone.
    pub after_demote: Option<Hook>,
}

/// One endpoint, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Where to POST. It may hold a token: not to be shown as a whole.
    pub url: String,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How often a failed attempt is repeated.
    pub retries: u32,
    /// Whether a failure stands in the way.
    pub must_succeed: bool,
    /// The key that signs the body.
    pub secret: Option<KeyRef>,
    /// PEM; `None`: what the system trusts.
    pub ca_bundle: Option<String>,
}

impl HookSettings {
    /// The hook of that point.
    pub fn at(&self, point: HookPoint) -> Option<&Hook> {
        match point {
            HookPoint::BeforePromote => self.before_promote.as_ref(),
            HookPoint::AfterPromote => self.after_promote.as_ref(),
            HookPoint::BeforeDemote => self.before_demote.as_ref(),
            HookPoint::AfterDemote => self.after_demote.as_ref(),
        }
    }
}

impl HooksSpec {
    pub(crate) fn settings(&self, wrong: &mut Vec<FieldError>) -> HookSettings {
        let mut check = |point: HookPoint, hook: &Option<HookSpec>| {
            hook.as_ref().map(|hook| hook.settings(&format!("spec.hooks.{point}"), wrong))
        };
        HookSettings {
            before_promote: check(HookPoint::BeforePromote, &self.before_promote),
            after_promote: check(HookPoint::AfterPromote, &self.after_promote),
            before_demote: check(HookPoint::BeforeDemote, &self.before_demote),
            after_demote: check(HookPoint::AfterDemote, &self.after_demote),
        }
    }
}

impl HookSpec {
    fn settings(&self, path: &str, wrong: &mut Vec<FieldError>) -> Hook {
        let mut refuse = |field: &str, message: String| {
            wrong.push(FieldError::new(format!("{path}.{field}"), message));
        };
        if let Err(message) = check_url(&self.url) {
            refuse("url", message.into());
        }
        let retries = self.retries.unwrap_or(i64::from(DEFAULT_RETRIES));
        if !(0..=MAX_RETRIES).contains(&retries) {
            refuse("retries", format!("{retries} is not from 0 to {MAX_RETRIES}"));
        }
        if let Some(secret) = &self.secret_ref
            && (secret.name.is_empty() || secret.key.is_empty())
        {
            refuse("secretRef", "needs the name of a Secret and a key in it".into());
        }
        let ca_bundle = self.ca_bundle.clone().filter(|pem| !pem.trim().is_empty());
        if ca_bundle
            .as_ref()
            .is_some_and(|pem| pem.len() > MAX_CA_BYTES || !pem.contains("-----BEGIN CERTIFICATE-----"))
        {
            refuse("caBundle", format!("is no PEM certificate, or has over {MAX_CA_BYTES} bytes"));
        }
        let range = Duration::from_millis(100)..=Duration::from_secs(60);
        Hook {
            url: self.url.clone(),
            timeout: duration(&format!("{path}.timeout"), &self.timeout, DEFAULT_TIMEOUT, range, wrong),
            retries: u32::try_from(retries).unwrap_or(DEFAULT_RETRIES),
            must_succeed: self.failure_policy != Some(FailurePolicy::Ignore),
            secret: self.secret_ref.clone(),
            ca_bundle,
        }
    }
}

/// Says what is wrong, never the address itself: it may hold a token.
fn check_url(url: &str) -> Result<(), &'static str> {
    let uri: http::Uri =
        url.parse().map_err(|_| "is no URL: write http:// or https://, a host and a path")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("must begin with http:// or https://");
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err("names no host");
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("holds a user name: sign with secretRef instead");
    }
    if url.len() > MAX_URL_BYTES || url.contains('#') {
        return Err("is too long, or has a #");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(url: &str) -> HookSpec {
        HookSpec { url: url.into(), ..Default::default() }
    }

    fn check(hook: HookSpec) -> (Option<Hook>, Vec<FieldError>) {
        let mut wrong = Vec::new();
        let settings = HooksSpec { before_promote: Some(hook), ..Default::default() }.settings(&mut wrong);
        (settings.at(HookPoint::BeforePromote).cloned(), wrong)
    }

    #[test]
    fn defaults_are_as_documented() {
        let (hook, wrong) = check(hook("https://fence.example.org:8443/off?node=1"));
        let hook = hook.unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!((hook.timeout, hook.retries, hook.must_succeed), (Duration::from_secs(10), 3, true));
    }

    #[test]
    fn what_cannot_be_used_is_named_and_the_address_is_not_repeated() {
        for url in
            ["ftp://x/y", "https:///y", "https://u:hunter2@x/y", "/y", "https://x/y#z", "", "http://a b/"]
        {
            let (_, wrong) = check(hook(url));
            assert_eq!(wrong.len(), 1, "{url}: {wrong:?}");
            assert_eq!(wrong[0].path, "spec.hooks.beforePromote.url");
            assert!(!wrong[0].to_string().contains("hunter2"), "{}", wrong[0]);
        }
        let odd = HookSpec {
            timeout: Some("2m".into()),
            retries: Some(11),
            ca_bundle: Some("x".into()),
            secret_ref: Some(KeyRef::default()),
            ..hook("http://x/")
        };
        let paths: Vec<_> = check(odd).1.into_iter().map(|error| error.path).collect();
        let fields = ["retries", "secretRef", "caBundle", "timeout"];
        assert_eq!(paths, fields.map(|field| format!("spec.hooks.beforePromote.{field}")));
    }
}
