//! Two real control planes from start to end, with a payload, a cut path and an API server that goes away.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clusters::cluster::{API_SERVER, Options, Signal};
use clusters::harness::Harness;
use clusters::network::Mode;
use clusters::scratch::Scratch;
use clusters::watch::{Payload, Watch};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

const NEWYORK: Ipv4Addr = Ipv4Addr::new(172, 18, 100, 100);
const SHEFFIELD: Ipv4Addr = Ipv4Addr::new(172, 18, 100, 200);
/// This process's own address on the members' network.
const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
const LONG: Duration = Duration::from_secs(30);

#[test]
fn two_clusters_live_break_and_go() {
    clusters::isolate::test("two_clusters_live_break_and_go", life);
}

async fn life() -> Result<()> {
    let dir = Scratch::create()?;
    let harness = Harness::open(dir.path(), Mode::Namespaces)?;
    let start = |name, address| harness.start(Options::new(name, address));
    let (newyork, sheffield) = tokio::try_join!(start("newyork", NEWYORK), start("sheffield", SHEFFIELD))?;

    let again = start("newyork", NEWYORK).await?;
    ensure!(
        again.found_running() && !newyork.found_running(),
        "the second call finds the first one's cluster"
    );
    ensure!(start("newyork", SHEFFIELD).await.is_err(), "another address is refused");
    drop(again);
    ensure!(newyork.is_ready().await, "and dropping what was found leaves it running");

    let watch = Watch::start(&sheffield, &Payload::default()).await?;
    sheffield.apply(deployment()?).await?;
    let state = watch.wait("three pods are Ready", LONG, |state| state.pods() == (3, 3)).await?;
    let uid = state.deployment().context("a Deployment")?.0.to_owned();
    ensure!(!Watch::start(&newyork, &Payload::default()).await?.state().present());

    let api = SocketAddr::from((SHEFFIELD, 6443));
    TcpStream::connect(api).await.context("reachable at first")?;
    sheffield.drop_from(&[BRIDGE]).await?;
    let cut = timeout(Duration::from_secs(2), TcpStream::connect(api)).await;
    ensure!(cut.is_err(), "a handshake into a cut gets no answer at all, but got {cut:?}");
    ensure!(sheffield.dropped_packets().await? > 0 && sheffield.is_ready().await, "the watching path stays");
    sheffield.drop_from(&[]).await?;
    timeout(LONG, TcpStream::connect(api)).await.context("healed")??;

    sheffield.stop_api_server().await?;
    ensure!(!sheffield.is_ready().await);
    sheffield.start_api_server().await?;
    sheffield.signal(API_SERVER, Signal::Stop).await?;
    sheffield.signal(API_SERVER, Signal::Continue).await?;
    let state = watch.wait("the watch goes on", LONG, |state| state.pods() == (3, 3)).await?;
    ensure!(
        state.deployment().map(|(uid, _)| uid) == Some(uid.as_str()),
        "the same Deployment after a restart"
    );

    drop((newyork, sheffield));
    ensure!(harness.names()? == ["newyork", "sheffield"], "their files are there until they are removed");
    for name in ["newyork", "sheffield", "never-made"] {
        harness.remove(name).await?;
    }
    harness.close_network()?;
    ensure!(harness.names()?.is_empty());
    let interfaces = std::fs::read_dir("/proc/sys/net/ipv4/conf")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let left: Vec<String> = interfaces.filter(|name| name.starts_with("flagship")).collect();
    ensure!(left.is_empty(), "interfaces left: {left:?}");
    Ok(())
}

fn deployment() -> Result<Value> {
    let plans = clusters::fleet::two_members()?;
    let payload = plans[0].object["spec"]["payload"].as_str().context("a payload")?;
    let mut object: Value = serde_saphyr::from_str(payload)?;
    object["metadata"]["namespace"] = json!("default");
    Ok(object)
}
