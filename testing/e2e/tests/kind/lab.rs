//! The two clusters, the fleet in them, and the network between them.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use clusters::kind;
use clusters::readiness::until;
use clusters::watch::State;
use flagship_e2e::auditor::Auditor;
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::placement::Placement;
use crate::probe::{Clients, Dialled};
use crate::site::{Facts, NAMESPACE, Plot, Site, web_image};
use crate::witness::{self, Witness};

/// From any fault back to rest: a node that was stopped takes half a minute until its API answers.
const SETTLE: Duration = Duration::from_secs(180);
/// The auditor's watches on a node that was stopped end with this.
const WATCH_TIMEOUT: Duration = Duration::from_secs(15);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// What befalls sheffield may befall one of two nodes.
const PLOTS: [Plot; 2] = [
    Plot { name: "newyork", address: Ipv4Addr::new(172, 18, 100, 100), nodes: 1 },
    Plot { name: "sheffield", address: Ipv4Addr::new(172, 18, 100, 200), nodes: 2 },
];
/// Marks our rules among those of others.
const RULE: &str = "flagship-kind-test";

/// What the fleet is asked to promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Each connected part has a leader.
    Availability,
    /// Never two leaders, with a witness for the third vote.
    Quorum,
}

/// The clusters, their clients and their faults.
pub(crate) struct Lab {
    /// The standby at rest.
    pub(crate) newyork: Site,
    /// The leader at rest, by its rank.
    pub(crate) sheffield: Site,
    /// The third vote, in [`Promise::Quorum`].
    pub(crate) witness: Option<Witness>,
    /// Ask both payloads all the time.
    pub(crate) clients: Clients,
    /// Which objects and pods were alive where.
    pub(crate) auditor: Auditor,
}

impl Lab {
    /// Makes the clusters or repairs those that a run with `KIND_KEEP=1` left, loads the daemon of this checkout into them, and applies
    /// the two members.
    pub(crate) async fn open(promise: Promise) -> Result<Self> {
        for plot in PLOTS {
            harness(Some(plot)).await?;
        }
        harness(None).await?;
        load_payload_image(&PLOTS.map(|plot| plot.name)).await?;
        let witness = match promise {
            Promise::Availability => {
                // That of a series in Quorum before would still be a member.
                witness::remove().await?;
                None
            }
            Promise::Quorum => {
                let pki = kind::certificates_in(&state_dir());
                Some(Witness::make(&state_dir(), &pki, &PLOTS.map(|plot| plot.address)).await?)
            }
        };
        let configs = PLOTS.map(|plot| kind::config(plot.name, WATCH_TIMEOUT));
        let [newyork, sheffield] = PLOTS;
        let lab = Self {
            auditor: Auditor::within(NAMESPACE, try_join_all(configs).await?).await?,
            witness,
            newyork: Site::open(newyork).await?,
            sheffield: Site::open(sheffield).await?,
            clients: Clients::start(&PLOTS.map(|plot| plot.address)),
        };
        unblock().await?;
        let with_witness = |seeds: &[&str]| match promise {
            Promise::Availability => (seeds.iter().map(ToString::to_string).collect(), Value::Null),
            Promise::Quorum => {
                let seeds = seeds.iter().map(ToString::to_string);
                let voters = ["newyork", "sheffield", witness::NAME];
                let all = seeds.chain([format!("{}:9990", witness::ADDRESS)]).collect();
                (all, json!({"mode": "Quorum", "voters": voters}))
            }
        };
        lab.newyork.apply_member(with_witness(&[])).await?;
        // By name, so that the static binary has to resolve it inside of its pod: without that the two never meet.
        lab.sheffield.name_in_dns("newyork-fleet", newyork.address).await?;
        lab.sheffield.apply_member(with_witness(&["newyork-fleet.default.svc.cluster.local:9990"])).await?;
        Ok(lab)
    }

    /// Waits until sheffield alone runs the payload, and both members are content and hear everybody.
    pub(crate) async fn steady(&self) -> Result<Facts> {
        let (newyork, sheffield) = (&self.newyork, &self.sheffield);
        let everybody = 2 + u64::from(self.witness.is_some());
        let content = |state: &State, name: &str| {
            ready(state.status(name, "conditions"))
                && state.status(name, "memberCounts")["alive"].as_u64() == Some(everybody)
        };
        newyork
            .watch
            .wait("newyork stands by", SETTLE, |state| {
                !state.present() && state.status("newyork", "role") == "Standby" && content(state, "newyork")
            })
            .await?;
        sheffield
            .watch
            .wait("sheffield leads and its payload is ready", SETTLE, |state| {
                state.deployment().is_some_and(|(_, deployment)| deployment.ready)
                    && state.status("sheffield", "role") == "Leader"
                    && content(state, "sheffield")
            })
            .await?;
        let leads = async || Ok(sheffield.leads().await.then_some(()));
        until("sheffield's daemon says that it leads", SETTLE, leads).await?;
        holds("sheffield's payload answers", SETTLE, || self.clients.answers_now(sheffield.address)).await?;
        sheffield.facts()
    }

    /// The same with daemons in pods that have just started. A standby that has seen take-overs end in a heal waits
    /// longer each time, for 10 minutes: the third cut in a row would be measured with 12 s instead of 3 s. So does the
    /// kubelet before it starts the container of one pod again.
    pub(crate) async fn steady_with_fresh_daemons(&self, placement: Option<Placement>) -> Result<Facts> {
        self.steady().await?;
        if let Some(placement) = placement {
            placement.prepare(&self.sheffield).await?;
        }
        for site in [&self.newyork, &self.sheffield] {
            let before = site.epoch();
            site.roll().await?;
            site.scale(1).await?;
            let what = format!("a new daemon serves {}", site.name);
            holds(&what, SETTLE, || site.epoch() > before).await?;
        }
        self.steady().await
    }

    /// Removes the clusters.
    pub(crate) async fn remove(self) -> Result<()> {
        drop(self);
        witness::remove().await?;
        let arguments =
            kind::Arguments { state_dir: state_dir(), force_clean: true, ..kind::Arguments::default() };
        kind::run(arguments).await.map(drop)
    }

    /// Undoes every fault, whatever it was, and what was made for it.
    pub(crate) async fn mend_everything(&self) -> Result<()> {
        self.mend().await?;
        for site in [&self.newyork, &self.sheffield] {
            site.schedule_anywhere().await?;
            site.scale(1).await?;
        }
        self.all_are_served().await
    }

    /// Undoes every fault, whatever it was. Replicas stay: one that is scaled away hands over what it has.
    pub(crate) async fn mend(&self) -> Result<()> {
        unblock().await?;
        if let Some(witness) = &self.witness {
            witness.wake().await?;
        }
        for site in [&self.newyork, &self.sheffield] {
            site.wake().await?;
            site.end_stopped_processes().await?;
        }
        self.all_are_served().await
    }

    /// Until then the status is the last word of a daemon that is no more.
    async fn all_are_served(&self) -> Result<()> {
        for site in [&self.newyork, &self.sheffield] {
            let what = format!("a pod that is there serves {}", site.name);
            until(&what, SETTLE, async || Ok(site.active_pod().await.ok())).await?;
        }
        Ok(())
    }

    /// Drops what sheffield sends to all others, as a dead network does: without a word.
    pub(crate) async fn mute_sheffield(&self) -> Result<()> {
        drop_packets(&self.sheffield.addresses(), &self.others()).await
    }

    /// Drops what sheffield is sent by all others.
    pub(crate) async fn deafen_sheffield(&self) -> Result<()> {
        drop_packets(&self.others(), &self.sheffield.addresses()).await
    }

    fn others(&self) -> Vec<Ipv4Addr> {
        let witness = self.witness.iter().map(|_| witness::ADDRESS);
        self.newyork.addresses().into_iter().chain(witness).collect()
    }

    /// What a daemon in newyork meets when it dials sheffield's address.
    pub(crate) async fn dial_sheffield(&self, dialled: &mut Dialled) -> Result<()> {
        let script = format!("exec 3<>/dev/tcp/{}/9990", self.sheffield.address);
        let script = format!("timeout 2 bash -c '{script}' 2>&1; echo ended with $?");
        let said = run("docker", &["exec", self.newyork.control_plane(), "bash", "-c", &script]).await?;
        dialled.add(match said.as_str() {
            said if said.contains("ended with 0") => "accepted",
            said if said.contains("ended with 124") => "silence",
            said if said.contains("refused") => "refused",
            said if said.contains("No route") => "no route",
            _ => "failed",
        });
        Ok(())
    }
}

impl Drop for Lab {
    /// However the test ends, no rule and no paused node stays.
    fn drop(&mut self) {
        let script = format!(
            "iptables -S DOCKER-USER | grep {RULE} | sed 's/^-A/-D/' | xargs -r -L1 iptables; \
             docker unpause newyork-control-plane sheffield-control-plane sheffield-worker"
        );
        // What there is nothing to undo of fails.
        let _ = Command::new("sh").args(["-c", &script]).output();
    }
}

/// Not the user's own clusters: a cluster newyork of theirs is refused, never touched.
fn state_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("kind")
}

/// Makes or repairs a cluster; without one loads the daemon of this checkout into both.
pub(crate) async fn harness(cluster: Option<Plot>) -> Result<()> {
    let arguments = kind::Arguments {
        state_dir: state_dir(),
        name: cluster.map(|plot| plot.name.to_owned()),
        svc_address: cluster.map(|plot| plot.address),
        node_image: std::env::var("FLAGSHIP_NODE_IMAGE").ok(),
        reload: cluster.is_none(),
        nodes: cluster.map_or(1, |plot| plot.nodes),
        ..kind::Arguments::default()
    };
    kind::run(arguments).await.map(drop)
}

async fn load_payload_image(clusters: &[&str]) -> Result<()> {
    for name in clusters {
        run("kind", &["load", "docker-image", &web_image(), "--name", name]).await?;
    }
    Ok(())
}

fn ready(conditions: &Value) -> bool {
    let all = conditions.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Drops what goes from any of these addresses to any of those.
async fn drop_packets(from: &[Ipv4Addr], to: &[Ipv4Addr]) -> Result<()> {
    for source in from {
        for target in to {
            let (source, target) = (source.to_string(), target.to_string());
            let rule =
                ["-I", "DOCKER-USER", "-s", &source, "-d", &target, "-m", "comment", "--comment", RULE];
            run("iptables", &[&rule[..], &["-j", "DROP"]].concat()).await?;
        }
    }
    Ok(())
}

/// Takes all our rules out again.
async fn unblock() -> Result<()> {
    let rules = run("iptables", &["-S", "DOCKER-USER"]).await?;
    for rule in rules.lines().filter(|rule| rule.contains(RULE)) {
        let rule = rule.replacen("-A", "-D", 1);
        let args: Vec<_> = rule.split_whitespace().collect();
        run("iptables", &args).await?;
    }
    Ok(())
}

/// Waits for something that nobody announces.
pub(crate) async fn holds(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    until(what, limit, async || Ok(condition().then_some(()))).await
}

/// What a command printed; an error if it failed.
pub(crate) async fn run(program: &str, args: &[&str]) -> Result<String> {
    kind::output(program, args, COMMAND_TIMEOUT).await
}
