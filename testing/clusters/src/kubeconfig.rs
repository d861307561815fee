//! Reads, writes and merges kubeconfig files, entry by entry, keeping whatever else is in them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::assets::home;
use crate::credentials::write_private;

/// The lists of a kubeconfig, each an array of named entries.
const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

/// One cluster with one user, under one name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Name of the context, the cluster and the user.
    pub name: String,
    /// URL of the API server.
    pub server: String,
    /// Its CA, as base64 of PEM.
    pub authority_base64: String,
    /// Bearer token.
    pub token: String,
}

impl Entry {
    /// A kubeconfig of this entry alone.
    #[must_use]
    pub fn document(&self) -> Value {
        let name = &self.name;
        json!({
            "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": name,
            "clusters": [{"name": name, "cluster": {
                "server": self.server, "certificate-authority-data": self.authority_base64,
            }}],
            "users": [{"name": name, "user": {"token": self.token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        })
    }

    /// Writes it alone.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write(path, &self.document())
    }

    /// Adds it to a kubeconfig, or replaces what has its name there. Everything else in the file stays.
    ///
    /// # Errors
    /// If the file is not a kubeconfig or cannot be written; it is unchanged then.
    pub fn merge_into(&self, path: &Path) -> Result<()> {
        let mut document = read(path)?;
        merge(&mut document, &self.document());
        write(path, &document)
    }
}

/// Removes a context with its cluster and user. The file may be missing.
///
/// # Errors
/// If the file is not a kubeconfig or cannot be written; it is unchanged then.
pub fn remove(path: &Path, name: &str) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mut document = read(path)?;
    if remove_entry(&mut document, name) {
        write(path, &document)?;
    }
    Ok(())
}

/// The user's own kubeconfig: the first file of `$KUBECONFIG`, else `~/.kube/config`.
///
/// # Errors
/// If neither variable is set.
pub fn users_own() -> Result<PathBuf> {
    // There is always one.
    all_of_user()?.into_iter().next().context("$KUBECONFIG names no file")
}

/// All files of `$KUBECONFIG`, else `~/.kube/config`. They need not exist.
pub(crate) fn all_of_user() -> Result<Vec<PathBuf>> {
    let paths = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let named: Vec<PathBuf> =
        std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect();
    if named.is_empty() { Ok(vec![home()?.join(".kube/config")]) } else { Ok(named) }
}

/// Whether a kubeconfig that can be read has a context of this name.
pub(crate) fn has_context(path: &Path, name: &str) -> bool {
    let contexts = read(path).ok().map(|document| document["contexts"].clone());
    let entries = contexts.as_ref().and_then(Value::as_array);
    entries.is_some_and(|entries| entries.iter().any(|entry| entry["name"] == name))
}

/// Standard base64 with padding, as kubeconfig's `-data` fields want it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let encoded = serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec()));
    // A byte string always serialises, to a JSON string.
    encoded.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn merge(document: &mut Value, new: &Value) {
    let name = new["current-context"].as_str().unwrap_or_default().to_owned();
    remove_entry(document, &name);
    for list in LISTS {
        if !document[list].is_array() {
            document[list] = json!([]);
        }
        if let (Some(entries), Some(added)) = (document[list].as_array_mut(), new[list].as_array()) {
            entries.extend(added.iter().cloned());
        }
    }
    if document["current-context"].as_str().unwrap_or_default().is_empty() {
        document["current-context"] = json!(name);
    }
}

/// Whether anything was removed.
fn remove_entry(document: &mut Value, name: &str) -> bool {
    let mut removed = false;
    for list in LISTS {
        if let Some(entries) = document[list].as_array_mut() {
            let before = entries.len();
            entries.retain(|entry| entry["name"] != name);
            removed |= entries.len() != before;
        }
    }
    if removed && document["current-context"] == name {
        document["current-context"] = json!("");
    }
    removed
}

fn read(path: &Path) -> Result<Value> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    if text.trim().is_empty() {
        return Ok(json!({"apiVersion": "v1", "kind": "Config", "preferences": {}}));
    }
    let document: Value =
        serde_saphyr::from_str(&text).with_context(|| format!("{} is not YAML", path.display()))?;
    if document["kind"] != "Config" {
        bail!("{} is not a kubeconfig (kind is not Config): nothing was changed in it", path.display());
    }
    Ok(document)
}

fn write(path: &Path, document: &Value) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let text = serde_saphyr::to_string(document).context("write a kubeconfig as YAML")?;
    write_private(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, token: &str) -> Entry {
        Entry {
            name: name.to_owned(),
            server: "https://198.18.1.2:6443".to_owned(),
            authority_base64: "Y2E=".to_owned(),
            token: token.to_owned(),
        }
    }

    #[test]
    fn a_merge_keeps_what_was_there_and_can_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let foreign = "apiVersion: v1\nkind: Config\ncurrent-context: work\nextensions: [{name: x}]\n\
                       contexts:\n- name: work\n  context: {cluster: work, user: me, namespace: team}\n\
                       clusters:\n- {name: work, cluster: {server: 'https://work'}}\nusers: []\n";
        fs::write(&path, foreign).unwrap();
        let before = read(&path).unwrap();
        entry("newyork", "old").merge_into(&path).unwrap();
        entry("newyork", "new").merge_into(&path).unwrap();
        let merged = read(&path).unwrap();
        assert_eq!(merged["current-context"], "work", "the user's choice stays");
        assert_eq!(merged["extensions"], before["extensions"]);
        assert_eq!(merged["contexts"].as_array().unwrap().len(), 2);
        assert_eq!(merged["users"][0]["user"]["token"], "new");
        assert!(has_context(&path, "newyork") && !has_context(&path, "sheffield"));
        remove(&path, "newyork").unwrap();
        assert_eq!(read(&path).unwrap(), before);
    }

    #[test]
    fn the_first_entry_is_the_current_context_and_its_removal_clears_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config");
        entry("newyork", "a").merge_into(&path).unwrap();
        entry("sheffield", "b").merge_into(&path).unwrap();
        assert_eq!(read(&path).unwrap()["current-context"], "newyork");
        remove(&path, "newyork").unwrap();
        assert_eq!(read(&path).unwrap()["current-context"], "");
    }

    #[test]
    fn a_file_that_is_no_kubeconfig_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        for content in ["kind: Pod\n", "kind: [\n"] {
            fs::write(&path, content).unwrap();
            assert!(entry("newyork", "a").merge_into(&path).is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }
}
