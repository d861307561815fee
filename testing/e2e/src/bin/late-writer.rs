//! A daemon reduced to what matters here: it checks that it leads, may be stopped right after that, and then writes
//! without looking again. Prints one line for each write: `update ok`, or `update refused: why`.
#![allow(clippy::print_stdout, reason = "the test reads its output")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use nix::sys::signal::{Signal, raise};
use serde_json::{Value, json};

/// One request.
const CALL: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Args {
    /// As whom.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The process that it takes itself for.
    #[arg(long)]
    holder: String,
    /// Be stopped between the check and the writes.
    #[arg(long)]
    stop: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let of = |group: &str, version: &str, kind: &str| -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(client.clone(), "default", &resource)
    };
    let (members, maps) = (of("kube-vip.io", "v1alpha1", "MultiCluster"), of("", "v1", "ConfigMap"));
    let uid = maps.get("fenced").await.context("read what is to be changed")?.metadata.uid;

    let member = tokio::time::timeout(CALL, members.get("newyork")).await??;
    let status = &member.data["status"];
    ensure!(status["holder"] == json!(args.holder), "another process serves newyork: {status}");
    let term = status["heldTerm"].as_i64().context("newyork does not lead")?;
    if args.stop {
        raise(Signal::SIGSTOP)?;
    }
    let params = PatchParams::apply("flagship").force();
    for (what, name) in [("update", "fenced"), ("create", "fenced-new")] {
        let map = Patch::Apply(map(name, term));
        tell(what, tokio::time::timeout(CALL, maps.patch(name, &params, &map)).await?);
    }
    let params = DeleteParams::background().preconditions(Preconditions { uid, resource_version: None });
    tell("delete", tokio::time::timeout(CALL, maps.delete("fenced", &params)).await?);
    Ok(())
}

/// An object of newyork's payload.
fn map(name: &str, term: i64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default",
            "labels": {"kube-vip.io/multicluster": "default.newyork"},
            "annotations": {"kube-vip.io/term": term.to_string()}},
        "data": {"written-by": std::process::id().to_string()},
    })
}

#[expect(clippy::print_stdout, reason = "that is how it answers the test")]
fn tell<T>(what: &str, result: kube::Result<T>) {
    match result {
        Ok(_) => println!("{what} ok"),
        Err(kube::Error::Api(status)) => println!("{what} refused: {} {}", status.code, status.message),
        Err(error) => println!("{what} failed: {error}"),
    }
}
