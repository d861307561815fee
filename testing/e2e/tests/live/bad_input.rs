//! Bad input: a sentence that says what to do, no harm to anybody else, no panic.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clusters::daemon::{self, Daemon};
use clusters::fleet::{Plan, leads};
use clusters::watch::State;
use flagship_e2e::{World, e2e, payload_since};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MINUTE: Duration = Duration::from_secs(60);

fn one() -> Result<Vec<Plan>> {
    Ok(vec![Plan::from_manifest("newyork")?])
}

#[test]
fn a_bad_payload_says_where_and_keeps_the_last_good_one() {
    e2e("a_bad_payload_says_where_and_keeps_the_last_good_one", one(), async |world| {
        let newyork = world.member("newyork");
        newyork.apply().await?;
        newyork.wait_leading(MINUTE).await?;
        let before = world.facts("newyork")?;
        let config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\n";
        let table = [
            ("apiVersion: example.com/v1\nkind: Unknown\nmetadata:\n  name: x\n".to_owned(), "Unknown"),
            ("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: [x\n".to_owned(), "line"),
            ("# nothing\n".to_owned(), "empty"),
            (format!("{config_map}  namespace: kube-system\n"), "kube-system"),
            (format!("{config_map}spec: &a [*a]\n"), ""),
        ];
        for (payload, text) in table {
            world.patch(newyork, json!({"spec": {"payload": payload}})).await?;
            world.condition("newyork", "Stalled", "True", text).await.with_context(|| payload.clone())?;
            ensure!(world.facts("newyork")? == before, "{payload:?} harmed the payload that runs");
        }
        ensure!(newyork.daemon.is_running(&newyork.cluster).await?);
        Ok(())
    });
}

#[test]
fn a_bad_field_is_refused_or_named() {
    e2e("a_bad_field_is_refused_or_named", one(), async |world| {
        let newyork = world.member("newyork");
        newyork.apply().await?;
        newyork.wait_leading(MINUTE).await?;
        for (field, value) in [
            ("port", json!(0)),
            ("port", json!(70000)),
            ("rank", json!("high")),
            ("callsign", json!("two words")),
        ] {
            let error = world.patch(newyork, json!({"spec": {field: value}})).await.err();
            let said = format!("{:?}", error.with_context(|| format!("{field}={value} was taken"))?);
            ensure!(said.contains(field), "the refusal does not name {field}: {said}");
        }
        let before = world.facts("newyork")?;
        world.patch(newyork, json!({"spec": {"fleet": ["no.such.host.invalid:9990"]}})).await?;
        world.nothing_moves("newyork", &before, Duration::from_secs(8)).await?;
        ensure!(leads(&newyork.state(), "newyork"), "an address that leads nowhere changes nothing");
        Ok(())
    });
}

#[test]
fn strangers_on_the_port_change_nothing() {
    e2e("strangers_on_the_port_change_nothing", World::two(), async |world| {
        let (_, sheffield) = world.settle().await?;
        let before = world.facts("sheffield")?;
        let watch = sheffield.cluster.watch_address();
        let port = SocketAddr::from((watch, 9990));
        let mut silent = TcpStream::connect(port).await.context("the daemon listens on all addresses")?;
        for garbage in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            &[0xff; 4096],
            &[0x16, 0x03, 0x01, 0xff, 0xff, 1],
            b"PRI * HTTP/2.0\r\n\r\n",
        ] {
            let mut stream = TcpStream::connect(port).await?;
            // It may hang up while we still talk; that is its right.
            let _ = stream.write_all(garbage).await;
            let mut answer = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
            ensure!(read.is_ok(), "a stranger is not held for long");
        }
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(15), silent.read(&mut byte)).await;
        ensure!(matches!(read, Ok(Ok(0) | Err(_))), "who says nothing is hung up on: {read:?}");
        world.nothing_moves("sheffield", &before, Duration::from_secs(5)).await?;
        // Anybody can knock: that is for the log, no Event.
        let log = std::fs::read_to_string(sheffield.daemon.log(&sheffield.cluster))?;
        ensure!(log.contains("does not speak TLS"), "{log}");
        let events = world.events(sheffield).await?;
        let refusals: Vec<_> = events.iter().filter(|event| event.starts_with("LinkRefused")).collect();
        ensure!(refusals.is_empty(), "a stranger makes Events: {refusals:#?}");
        ensure!(sheffield.daemon.is_running(&sheffield.cluster).await?);
        Ok(())
    });
}

/// newyork leads; a second cluster holds `sheffield` with other certificates.
async fn stranger(world: &World, tls_dir: &std::path::Path, said: &str) -> Result<()> {
    let (newyork, sheffield) = (world.member("newyork"), world.member("sheffield"));
    newyork.apply().await?;
    newyork.wait_leading(MINUTE).await?;
    let before = world.facts("newyork")?;
    sheffield.kill().await?;
    let _stranger =
        Daemon::start(&sheffield.cluster, &world.fleet.flagship, daemon::Options::new(tls_dir)).await?;
    sheffield.apply().await?;
    if !said.is_empty() {
        world.condition("sheffield", "Stalled", "True", said).await?;
    }
    world.nothing_moves("newyork", &before, Duration::from_secs(8)).await?;
    ensure!(!leads(&sheffield.state(), "sheffield"), "a stranger leads");
    ensure!(newyork.daemon.is_running(&newyork.cluster).await?);
    Ok(())
}

#[test]
fn no_certificate_at_all_names_the_command_that_makes_one() {
    e2e("no_certificate_at_all_names_the_command_that_makes_one", World::two(), async |world| {
        let empty = world.fleet.tls_dir.join("empty");
        std::fs::create_dir_all(&empty)?;
        stranger(world, &empty, "flagship pki").await?;
        // Given one, it joins without a restart.
        for file in ["ca.crt", "tls.crt", "tls.key"] {
            std::fs::copy(world.fleet.tls_dir.join("sheffield").join(file), empty.join(file))?;
        }
        world.member("sheffield").wait_leading(MINUTE).await.map(drop)
    });
}

#[test]
fn a_certificate_of_another_member_is_refused() {
    e2e("a_certificate_of_another_member_is_refused", World::two(), async |world| {
        stranger(world, &world.fleet.tls_dir.join("newyork"), "sheffield").await
    });
}

#[test]
fn a_certificate_of_another_fleet_is_refused() {
    e2e("a_certificate_of_another_fleet_is_refused", World::two(), async |world| {
        let other = world.fleet.tls_dir.join("other");
        world.fleet.flagship.make_certificates("federation", &["sheffield"], &other)?;
        // It is consistent in itself, so only the peers can tell: and do, on both sides.
        stranger(world, &other.join("sheffield"), "").await?;
        world.event(world.member("newyork"), "certificate").await?;
        world.event(world.member("sheffield"), "certificate").await
    });
}

#[test]
fn a_member_of_another_fleet_is_refused() {
    let plans = || -> Result<Vec<Plan>> {
        let mut plans = World::two()?;
        plans[1].set("callsign", json!("rebels"));
        Ok(plans)
    };
    e2e("a_member_of_another_fleet_is_refused", plans(), async |world| {
        let rebels = world.fleet.tls_dir.join("rebels");
        world.fleet.flagship.make_certificates("rebels", &["sheffield"], &rebels)?;
        // It dials newyork because its spec.fleet says so; both sides learn why they do not come together.
        stranger(world, &rebels.join("sheffield"), "").await?;
        world.event(world.member("newyork"), "LinkRefused").await?;
        world.event(world.member("sheffield"), "LinkRefused").await
    });
}

#[test]
fn two_daemons_with_one_name_do_not_share_it() {
    let plans = || -> Result<Vec<Plan>> {
        let mut plans = World::two()?;
        let third = plans[1].like("denver", 10, Ipv4Addr::new(172, 18, 100, 220));
        plans.push(third);
        Ok(plans)
    };
    e2e("two_daemons_with_one_name_do_not_share_it", plans(), async |world| {
        let (_, sheffield) = world.settle().await?;
        let before = world.facts("sheffield")?;
        let began = Instant::now();
        let denver = world.member("denver");
        denver.kill().await?;
        let tls = world.fleet.tls_dir.join("sheffield");
        let twin_daemon =
            Daemon::start(&denver.cluster, &world.fleet.flagship, daemon::Options::new(&tls)).await?;
        let mut twin = sheffield.plan.object.clone();
        twin["metadata"]["namespace"] = json!("default");
        twin["spec"]["serviceAddress"] = json!("172.18.100.220");
        denver.cluster.apply(twin).await?;
        // Who came later says so and writes nothing.
        let name_in_use = |state: &State| {
            let conditions = state.status("sheffield", "conditions").as_array().cloned().unwrap_or_default();
            conditions.iter().any(|c| {
                let says_name = c["message"].as_str().is_some_and(|message| message.contains("name"));
                c["type"] == "Stalled" && c["status"] == "True" && says_name
            })
        };
        denver.watch.wait("sheffield in denver is Stalled for its name", MINUTE, name_in_use).await?;
        // Who was there leads on, with the same payload, and nobody else ever has one.
        world.nothing_moves_of("sheffield", &before, Duration::from_secs(15)).await?;
        ensure!(leads(&sheffield.state(), "sheffield"), "the twin took the lead from sheffield");
        ensure!(!name_in_use(&sheffield.state()), "sheffield gave its name up to the twin");
        for other in ["newyork", "denver"] {
            let had = payload_since(&world.member(other).state(), began);
            ensure!(!had, "the payload came up at {other}");
        }
        for member in [world.member("newyork"), sheffield] {
            ensure!(member.daemon.is_running(&member.cluster).await?, "{} crashed", member.name());
        }
        ensure!(twin_daemon.is_running(&denver.cluster).await?, "the twin crashed");
        Ok(())
    });
}
