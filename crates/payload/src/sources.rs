//! Where the text of a payload comes from: the object itself, and keys of Secrets and ConfigMaps.

use std::collections::BTreeMap;

use flagship_k8s_api::{PayloadSource, SourceKind};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::cluster::Cluster;
use crate::error::ApiError;
use crate::observer::Verb;
use crate::parse::SourceText;

/// The most bytes of payload from all sources together: far above any payload of [`crate::MAX_OBJECTS`] people wrote.
const MAX_TOTAL_BYTES: usize = 8 << 20;

/// Why a source of the payload could not be read. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The object is not there.
    #[error("{path}: {what} does not exist: create it, or correct the name")]
    Missing {
        /// The field that asks for it.
        path: String,
        /// Which object.
        what: String,
    },
    /// It has no such key.
    #[error("{path}: {what} has no key {key:?} (it has: {known}): add it, or correct the key")]
    NoKey {
        /// The field that asks for it.
        path: String,
        /// Which object.
        what: String,
        /// The key asked for.
        key: String,
        /// The keys it has.
        known: String,
    },
    /// The value is no text.
    #[error("{path}: the value of {key:?} in {what} is not UTF-8 text")]
    NotText {
        /// The field that asks for it.
        path: String,
        /// Which object.
        what: String,
        /// The key.
        key: String,
    },
    /// All sources together are too long.
    #[error(
        "the payload's sources have more than {MAX_TOTAL_BYTES} bytes together: split the payload over several MultiClusters"
    )]
    TooLong,
    /// The API server could not be asked, or refused.
    #[error("{path}: {error}")]
    Api {
        /// The field that asks for it.
        path: String,
        /// Why.
        error: ApiError,
    },
}

impl Cluster {
    /// Reads the sources of a payload, in order.
    pub async fn read_sources(
        &self,
        namespace: &str,
        sources: &[PayloadSource],
    ) -> Result<Vec<SourceText>, SourceError> {
        let mut texts = Vec::new();
        let mut total = 0;
        for source in sources {
            let text = match source {
                PayloadSource::Inline(text) => {
                    SourceText { origin: "spec.payload".into(), text: text.clone() }
                }
                PayloadSource::Key { kind, key, path } => {
                    let what = format!("{} {namespace}/{}", source_kind(*kind), key.name);
                    let data = self.read_keys(*kind, namespace, &key.name, &what, path).await?;
                    let known = data.keys().cloned().collect::<Vec<_>>().join(", ");
                    let (path, key) = (path.clone(), key.key.clone());
                    let Some(value) = data.get(&key) else {
                        return Err(SourceError::NoKey { path, what, key, known });
                    };
                    let origin = format!("{path} ({what}, key {key})");
                    let text = String::from_utf8(value.clone()).map_err(|_| SourceError::NotText {
                        path,
                        what,
                        key,
                    })?;
                    SourceText { origin, text }
                }
            };
            total += text.text.len();
            if total > MAX_TOTAL_BYTES {
                return Err(SourceError::TooLong);
            }
            texts.push(text);
        }
        Ok(texts)
    }

    async fn read_keys(
        &self,
        kind: SourceKind,
        namespace: &str,
        name: &str,
        what: &str,
        path: &str,
    ) -> Result<BTreeMap<String, Vec<u8>>, SourceError> {
        let failed = |error| SourceError::Api { path: path.into(), error };
        let missing = || SourceError::Missing { path: path.into(), what: what.into() };
        let data: Vec<(String, Vec<u8>)> = match kind {
            SourceKind::Secret => {
                let api = self.typed::<Secret>(namespace);
                let secret = self
                    .call(Verb::Get, what, api.get_opt(name))
                    .await
                    .map_err(failed)?
                    .ok_or_else(missing)?;
                secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
            }
            SourceKind::ConfigMap => {
                let api = self.typed::<ConfigMap>(namespace);
                let map = self
                    .call(Verb::Get, what, api.get_opt(name))
                    .await
                    .map_err(failed)?
                    .ok_or_else(missing)?;
                let texts =
                    map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
                texts
                    .chain(map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)))
                    .collect()
            }
        };
        Ok(data.into_iter().collect())
    }
}

fn source_kind(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Secret => "Secret",
        SourceKind::ConfigMap => "ConfigMap",
    }
}
