//! One failover from start to end, for a person to watch.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::daemon::Flagship;
use crate::fleet::{CALLSIGN, Fleet, Member, payload_ready, two_members};
use crate::harness::Harness;
use crate::network::Mode;
use crate::scratch::Scratch;
use crate::story::Story;
use crate::watch::overlap;

/// What takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// The end of a daemon's log that is worth repeating after a failure.
pub(crate) const LOG_TAIL_LINES: usize = 15;

/// Two clusters, two daemons: the better member takes over, is killed, comes back, and is cut off.
///
/// # Errors
/// If a step does not happen in time, with the ends of the daemons' logs.
pub async fn run(mode: Mode) -> Result<()> {
    let scratch = Scratch::create()?;
    let harness = Harness::open(scratch.path(), mode)?;
    let flagship = Flagship::find()?;
    let mut story = Story::begin();
    story.line("Flagship: two clusters, one payload that runs in exactly one of them.");
    story.line("Each cluster is a real etcd, kube-apiserver, kube-controller-manager and kube-scheduler; kwok plays nodes and pods.\n");
    let fleet = Fleet::start(&harness, &flagship, two_members()?).await?;
    let place = match mode {
        Mode::Namespaces => "each in a network of its own",
        Mode::Loopback => "all on 127.0.0.1, as this machine refuses network namespaces",
    };
    story.now("", &format!("2 control planes are ready, 2 daemons run with mutual TLS, {place}"));
    story.follow(&fleet);
    let told = Demo {
        story: &story,
        fleet: &fleet,
        newyork: fleet.member("newyork")?,
        sheffield: fleet.member("sheffield")?,
    };
    let measured = match told.tell(mode).await {
        Ok(measured) => measured,
        Err(error) => {
            story.end_table();
            return Err(anyhow!("{error:#}\n{}", fleet.log_tails(LOG_TAIL_LINES)));
        }
    };
    story.end_table();
    story.line("\nMeasured, by watching both API servers");
    for Measured { what, took, note } in &measured {
        story.line(&format!("  {what:<62} {:>7.2} s{note}", took.as_secs_f64()));
    }
    for member in &fleet.members {
        let memory = resident_mebibytes(member.daemon.pid(&member.cluster).await?);
        story.line(&format!(
            "  {:<62} {memory:>7.1} MiB",
            format!("memory of the daemon in {}", member.name())
        ));
    }
    fleet.remove(&harness).await?;
    harness.close_network()?;
    story.line("\nEverything that was started is stopped and removed.");
    Ok(())
}

struct Measured {
    what: String,
    took: Duration,
    note: String,
}

struct Demo<'a> {
    story: &'a Story,
    fleet: &'a Fleet,
    newyork: &'a Member,
    sheffield: &'a Member,
}

impl Demo<'_> {
    async fn tell(&self, mode: Mode) -> Result<Vec<Measured>> {
        let (newyork, sheffield) = (self.newyork, self.sheffield);
        let mut measured = Vec::new();
        let applied = self.apply(newyork, "it may found the fleet alone").await?;
        let created = self.created(newyork, applied, "leads alone").await?;
        measured.push(took("newyork applied to payload created", created - applied));

        self.apply(sheffield, "its rank is higher, so it takes over").await?;
        measured.push(self.handover(applied).await?);

        let killed = Instant::now();
        sheffield.kill().await?;
        self.story.at(killed, "sheffield", "FAULT: the leader's daemon is killed (SIGKILL)");
        let created = self.created(newyork, killed, "has taken over").await?;
        measured.push(Measured {
            note: "   (target 4.0 s)".to_owned(),
            ..took("leader's daemon killed to payload created in newyork", created - killed)
        });

        let back = Instant::now();
        sheffield.start_again().await?;
        self.story.at(back, "sheffield", "its daemon is started again, and finds that it was superseded");
        let gone = self.gone_since(sheffield, back).await?;
        measured.push(took("daemon back to its old payload gone", gone - back));
        measured.push(self.handover(gone).await?);

        if mode == Mode::Namespaces {
            self.cut(&mut measured).await?;
        }
        for member in [newyork, sheffield] {
            self.story.now(member.name(), "MultiCluster deleted");
            member.delete().await?;
            member.wait_gone(PATIENCE).await?;
        }
        self.story.now("", "both objects and all of the payload have gone");
        Ok(measured)
    }

    async fn cut(&self, measured: &mut Vec<Measured>) -> Result<()> {
        let cut = self.fleet.cut_off("sheffield").await?;
        self.story.at(
            cut,
            "sheffield",
            "FAULT: the leader's cluster is cut off (packets vanish at the far side)",
        );
        let created =
            self.created(self.newyork, cut, "has taken over; both run while nobody can tell").await?;
        measured.push(Measured {
            note: "   (target 5.5 s)".to_owned(),
            ..took("leader's cluster cut off to payload created in newyork", created - cut)
        });
        let heal = self.fleet.heal().await?;
        self.story.at(heal, "", "the network is whole again");
        let state = self.newyork.wait_gone(PATIENCE).await?;
        let gone = state.presences.last().and_then(|last| last.to).context("the payload had been there")?;
        self.story.at(gone, "newyork", "payload gone");
        self.sheffield.wait_leading(PATIENCE).await?;
        self.story.now(
            "sheffield",
            &format!("goes on leading, {}, its payload untouched by the heal", self.term(self.sheffield)),
        );
        measured.push(took("network healed to exactly one payload", gone - heal));
        Ok(())
    }

    async fn apply(&self, member: &Member, why: &str) -> Result<Instant> {
        let at = Instant::now();
        member.apply().await?;
        let rank = &member.plan.object["spec"]["rank"];
        self.story.at(
            at,
            member.name(),
            &format!("MultiCluster applied, callsign {CALLSIGN}, rank {rank}: {why}"),
        );
        Ok(at)
    }

    /// Waits for the payload in a member, and tells of it when it is ready.
    async fn created(&self, member: &Member, since: Instant, how: &str) -> Result<Instant> {
        let created = member.wait_created(since, PATIENCE).await?;
        self.story.at(created, member.name(), &format!("payload created: it {how}"));
        let ready = |state: &crate::watch::State| payload_ready(state) && state.pods().0 > 0;
        member.watch.wait("all pods are ready", PATIENCE, ready).await?;
        member.wait_leading(PATIENCE).await?;
        self.story.now(member.name(), &format!("pods ready, {}", self.term(member)));
        Ok(created)
    }

    /// The lead moves from newyork to sheffield: stop, then start.
    async fn handover(&self, since: Instant) -> Result<Measured> {
        let gone = self.gone_since(self.newyork, since).await?;
        let created = self.created(self.sheffield, since, "has taken over").await?;
        let both = overlap(&self.newyork.state(), &self.sheffield.state(), since);
        let note = format!("   overlap {:.2} s", both.as_secs_f64());
        Ok(Measured {
            note,
            ..took("handover: payload gone from newyork to created in sheffield", created - gone)
        })
    }

    async fn gone_since(&self, member: &Member, since: Instant) -> Result<Instant> {
        let gone_after = |state: &crate::watch::State| {
            let last = state.presences.last().and_then(|last| last.to);
            last.filter(|at| *at >= since)
        };
        let what = format!("the payload goes from {}", member.name());
        let state = member.watch.wait(&what, PATIENCE, |state| gone_after(state).is_some()).await?;
        let gone = gone_after(&state).context("it had gone a moment ago")?;
        self.story.at(gone, member.name(), "payload gone: Deployment, ReplicaSet and pods");
        Ok(gone)
    }

    fn term(&self, member: &Member) -> String {
        let state = member.state();
        format!("term {}", state.status(member.name(), "term"))
    }
}

fn took(what: &str, took: Duration) -> Measured {
    Measured { what: what.to_owned(), took, note: String::new() }
}

/// `VmRSS` of a process; 0 where /proc does not tell.
fn resident_mebibytes(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kibibytes.unwrap_or(0.0) / 1024.0
}
