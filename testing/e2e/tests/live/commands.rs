//! What people and machines see: the command line and the HTTP endpoints, on a fleet that runs.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flagship_e2e::{Expect, World, e2e, http_get};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn the_endpoints_tell_who_leads() {
    e2e("the_endpoints_tell_who_leads", World::two(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        let health = |member: &clusters::fleet::Member| member.daemon.health_address(&member.cluster);
        for member in [newyork, sheffield] {
            for path in ["/healthz", "/readyz"] {
                let (code, body) = http_get(health(member), path).await?;
                ensure!(code == 200, "{path} of {}: {code} {body}", member.name());
            }
        }
        let (code, body) = http_get(health(sheffield), "/leader/federation").await?;
        ensure!(code == 200 && body.contains("sheffield"), "{code} {body}");
        let (code, body) = http_get(health(newyork), "/leader/federation").await?;
        ensure!(code == 503 && body.contains("sheffield"), "{code} {body}");
        let (code, _) = http_get(health(newyork), "/leader/nobody").await?;
        ensure!(code == 404, "{code}");
        let address = sheffield.daemon.metrics_address(&sheffield.cluster);
        let deadline = std::time::Instant::now() + MINUTE;
        // Certificates are read every few seconds.
        let metrics = loop {
            let (_, metrics) = http_get(address, "/metrics").await?;
            if metrics.lines().any(|line| line.starts_with("flagship_certificate_expiry")) {
                break metrics;
            }
            ensure!(std::time::Instant::now() < deadline, "no certificate in\n{metrics}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let value = |name: &str, label: &str| -> Result<f64> {
            let line = metrics.lines().find(|line| line.starts_with(name) && line.contains(label));
            let line = line.with_context(|| format!("no {name} with {label} in\n{metrics}"))?;
            Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
        };
        ensure!((value("flagship_role", "role=\"Leader\"")? - 1.0).abs() < 0.1, "{metrics}");
        ensure!((value("flagship_members", "state=\"Alive\"")? - 2.0).abs() < 0.1, "{metrics}");
        ensure!(value("flagship_beats", "received")? > 0.0, "{metrics}");
        ensure!(value("flagship_certificate_expiry", "sheffield")? > 1.7e9, "{metrics}");
        ensure!(value("flagship_handshakes", "ok")? > 0.0, "{metrics}");
        Ok(())
    });
}

#[test]
fn status_and_check_read_a_fleet_that_is_well_and_one_that_is_not() {
    e2e("status_and_check_read_a_fleet_that_is_well_and_one_that_is_not", World::two(), async |world| {
        let (newyork, sheffield) = world.settle().await?;
        world.condition("newyork", "Ready", "True", "").await?;
        world.condition("sheffield", "Ready", "True", "").await?;
        let kubeconfig = world.kubeconfig().display().to_string();
        let clusters = ["--kubeconfig", &kubeconfig, "--context", "newyork", "--context", "sheffield"];
        let table = world.fleet.flagship.run(&[&["status"], &clusters[..]].concat())?;
        for said in ["federation", "sheffield", "newyork", "leads"] {
            ensure!(table.to_lowercase().contains(said), "{said} is not in\n{table}");
        }
        let json: Value = serde_json::from_str(
            &world.fleet.flagship.run(&[&["status", "-o", "json"], &clusters[..]].concat())?,
        )?;
        ensure!(json.to_string().contains("sheffield"), "{json}");
        let tls = world.fleet.tls_dir.display().to_string();
        let check = [&["check", "--tls-dir", &tls], &clusters[..]].concat();
        let well = world.fleet.flagship.run(&check)?;
        eprintln!("{table}\n{well}");
        world.expect(Expect::Either("in Availability each part has a leader, if the cut lasts long enough"));
        // Now one cluster is cut off: the check must fail, and name it.
        world.fleet.cut_off("sheffield").await?;
        newyork.wait_leading(MINUTE).await?;
        match world.fleet.flagship.run(&check) {
            Ok(said) => bail!("the check finds nothing wrong:\n{said}"),
            Err(error) => eprintln!("{error:#}"),
        }
        let split = world.fleet.flagship.run(&[&["status"], &clusters[..]].concat());
        eprintln!("{split:?}");
        world.fleet.heal().await?;
        world.one_active(MINUTE).await?;
        let _ = sheffield;
        Ok(())
    });
}
