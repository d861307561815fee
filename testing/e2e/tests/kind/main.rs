//! Faults on two real kind clusters: kubelets, pods, a LoadBalancer Service before each daemon and one before the
//! payload. Not part of `cargo test --workspace`, as it needs a Docker engine and a node image:
//!
//! ```text
//! FLAGSHIP_NODE_IMAGE=… cargo test --release -p flagship-e2e --features kind --test kind -- --nocapture
//! ```
//!
//! It makes the clusters newyork (one node) and sheffield (two) with the harness, in a state directory of its own, prints one table, and
//! removes them; with `KIND_KEEP=1` they stay, and the next run uses them. `KIND_FAULTS=cut,paused` runs only the faults
//! whose name contains one of these words. It needs root for the cuts, and the image `$KIND_WEB_IMAGE` for the payload.

mod fault;
mod lab;
mod placement;
mod probe;
mod site;
mod table;
mod witness;

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

use crate::fault::Fault;
use crate::lab::{Lab, Promise};
use crate::table::{Row, Table};

/// The clusters are the same, and there is one set of them.
static CLUSTERS: Mutex<()> = Mutex::new(());

#[test]
fn the_payload_survives_every_fault_of_real_clusters() {
    series(Promise::Availability);
}

#[test]
fn in_quorum_the_payload_is_in_one_cluster_at_a_time() {
    series(Promise::Quorum);
}

fn series(promise: Promise) {
    let _alone = CLUSTERS.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Err(error) = runtime.block_on(all_faults(promise)) {
        panic!("{error:?}");
    }
}

async fn all_faults(promise: Promise) -> Result<()> {
    tokio::select! {
        done = strike_all(promise) => done,
        _ = tokio::signal::ctrl_c() => bail!("interrupted; the clusters stay, run it again"),
    }
}

async fn strike_all(promise: Promise) -> Result<()> {
    let wanted = std::env::var("KIND_FAULTS").unwrap_or_default();
    let chosen =
        |fault: &Fault| wanted.is_empty() || wanted.split(',').any(|word| fault.name().contains(word));
    let all = Fault::of(promise);
    let faults: Vec<Fault> = all.iter().copied().filter(chosen).collect();
    if faults.is_empty() {
        let names: Vec<_> = all.iter().map(Fault::name).collect();
        bail!("KIND_FAULTS={wanted:?} names none of: {}", names.join(", "));
    }
    let lab = Lab::open(promise).await?;
    let mut table = Table::new(promise);
    for fault in faults {
        let row = one(&lab, promise, fault).await;
        table.add(fault, row);
        if let Err(error) = lab.mend_everything().await {
            tell(&format!("\n{table}"));
            return Err(error.context(format!("mend after: {}", fault.name())));
        }
    }
    tell(&format!("\n{table}"));
    if std::env::var_os("KIND_KEEP").is_none() {
        lab.remove().await?;
    }
    table.verdict()
}

/// A line for whoever waits for the end of this.
fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// From the steady state through the fault and back to the steady state.
async fn one(lab: &Lab, promise: Promise, fault: Fault) -> Result<Row> {
    tell(&format!("== {}", fault.name()));
    let before = lab.steady_with_fresh_daemons(fault.placement(promise)).await?;
    let measured = fault.strike(lab, promise, &before).await?;
    Ok(measured)
}
