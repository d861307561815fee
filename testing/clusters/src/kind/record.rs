//! What the state directory remembers of a kind cluster: `kind/NAME.json`.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::credentials::write_private;

/// What is remembered, so that another process can find, repair and remove the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) service_address: Ipv4Addr,
    /// Docker's ID of the control-plane node: it tells our cluster from another of the same name.
    pub(super) node_id: Option<String>,
    /// Whether this harness, for want of a load balancer, gives the Service its address.
    pub(super) gives_address: bool,
    pub(super) stage: Stage,
    /// How many nodes it has.
    #[serde(default = "one")]
    pub(super) nodes: u8,
}

/// Of records from before there was a choice.
fn one() -> u8 {
    1
}

/// How far the making of a cluster has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// The image is built. A cluster of this name is not ours.
    Preparing,
    /// kind makes it. A cluster of this name is ours, as none was there before.
    Creating,
    /// All is in it.
    Whole,
}

impl Record {
    /// Of a cluster of which nothing is there yet.
    pub(super) fn new(name: &str, service_address: Ipv4Addr, nodes: u8) -> Self {
        let stage = Stage::Preparing;
        Self { name: name.to_owned(), service_address, node_id: None, gives_address: false, stage, nodes }
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("encode the record")?;
        write_private(&path(dir, &self.name), &text)
    }
}

/// `None` if no cluster of this name was made here.
pub(super) fn read(dir: &Path, name: &str) -> Result<Option<Record>> {
    let path = path(dir, name);
    match fs::read(&path) {
        Ok(text) => {
            let record = serde_json::from_slice(&text).with_context(|| {
                format!("{} is not a record of this harness: remove the file", path.display())
            })?;
            Ok(Some(record))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Names of all records, in order.
pub(super) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", dir.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let file = entry?.file_name();
        if let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".json")) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

pub(super) fn remove(dir: &Path, name: &str) -> Result<()> {
    super::remove_file(&path(dir, name))
}

fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_again_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::new("newyork", Ipv4Addr::new(172, 18, 100, 100), 2);
        record.node_id = Some("4f1e".to_owned());
        record.write(dir.path()).unwrap();
        fs::write(dir.path().join("newyork.yaml"), "kind: Cluster").unwrap();
        assert_eq!(read(dir.path(), "newyork").unwrap(), Some(record));
        assert_eq!(names(dir.path()).unwrap(), ["newyork"]);
        remove(dir.path(), "newyork").unwrap();
        assert_eq!(read(dir.path(), "newyork").unwrap(), None);
        assert_eq!(names(&dir.path().join("missing")).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_record_without_a_number_of_nodes_is_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"name": "newyork", "service_address": "172.18.100.100", "node_id": null,
            "gives_address": false, "stage": "Whole"}"#;
        fs::write(dir.path().join("newyork.json"), text).unwrap();
        assert_eq!(read(dir.path(), "newyork").unwrap().unwrap().nodes, 1);
    }

    #[test]
    fn a_broken_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("newyork.json"), "{").unwrap();
        let error = format!("{:#}", read(dir.path(), "newyork").unwrap_err());
        assert!(error.contains("newyork.json is not a record"), "{error}");
    }
}
