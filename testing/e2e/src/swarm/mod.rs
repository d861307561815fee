//! Many real nodes in one process: tokio, tonic and mutual TLS over loopback, the cores as in the daemon, a store in
//! memory. Measures what a member costs and how soon the others notice that one is gone.

mod member;
mod process;
mod report;
mod watch;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use flagship_node::State;
use tokio::runtime::Runtime;
use tokio::time::sleep;

use member::{Fleet, Member, Stats};
use process::{Usage, Used};
use report::Carried;
pub use report::{Detection, Report};
use watch::{Log, noticed};

/// More need more sockets and memory than a machine of this kind has: about 20 descriptors and 2 MiB each.
pub const MAX_MEMBERS: usize = 1000;

/// How long the others may take to notice a member that is gone before the run fails: many times the bound.
const NOTICE_LIMIT: Duration = Duration::from_secs(30);

/// How often it is looked whether all know all, or have noticed.
const LOOK: Duration = Duration::from_millis(10);

/// After each loss, so that the next one finds links and views in order.
const SETTLE: Duration = Duration::from_secs(5);

/// A fleet is at rest when somebody leads it and nobody has said anything new for so long.
const QUIET: Duration = Duration::from_secs(3);

/// How often the rest begins anew because somebody had news: a change of the lead is told to all.
const RESTS: usize = 3;

/// What to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Nodes, at most [`MAX_MEMBERS`].
    pub members: usize,
    /// How many of them may lead; the others only watch.
    pub electors: usize,
    /// For how long the fleet at rest is measured.
    pub rest: Duration,
    /// How many members end, and how many fall silent, one after the other.
    pub losses: usize,
    /// How long all may take to know all before the run fails.
    pub boot_limit: Duration,
}

impl Options {
    /// What is wrong with them, as a sentence.
    pub fn check(&self) -> Result<()> {
        let Self { members, electors, rest, losses, boot_limit } = *self;
        ensure!(
            (2..=MAX_MEMBERS).contains(&members),
            "{members} members: a swarm has at least 2 and at most {MAX_MEMBERS}"
        );
        ensure!(
            (1..=members).contains(&electors),
            "{electors} electors: at least 1 member may lead, and no more than the {members} that there are"
        );
        ensure!(
            electors + 2 * losses <= members,
            "{losses} losses of each kind: twice as many members are lost, and with {electors} electors, who stay, \
             {members} members are too few"
        );
        ensure!(!rest.is_zero(), "a rest of 0 s: a second at least is needed to count anything");
        ensure!(!boot_limit.is_zero(), "a boot limit of 0 s: nothing can be done in no time");
        Ok(())
    }
}

/// Runs it. `progress` is told what is being done.
pub async fn run(options: &Options, progress: impl Fn(&str)) -> Result<Report> {
    options.check()?;
    process::raise_descriptor_limit(options.members)?;
    progress("making certificates");
    let fleet = Fleet::certify(options.members)?;
    let before = Usage::now()?;
    progress("starting");
    let begun = Instant::now();
    let log = Log::default();
    let mut swarm = Swarm::start(options, &fleet, &log).await?;
    let booted = swarm.all_know_all(begun, options.boot_limit).await?;
    let (boot_used, boot_carried) = (Usage::now()?.since(&before), swarm.carried());
    progress(&format!("all know all after {:.2} s ({})", booted.as_secs_f64(), swarm.told_apart()));
    let quiet_from = Instant::now();
    let (used, carried) = swarm.rest(options, &progress).await?;
    let resident = Usage::now()?.resident;
    let links = swarm.carried().links;
    let leaders = swarm.leaders();
    progress(&format!("rested ({})", swarm.told_apart()));
    let mut exits = Vec::new();
    let mut silences = Vec::new();
    for _ in 0..options.losses {
        progress("a member ends");
        exits.push(swarm.lose(Loss::Exit, &log).await?);
        progress("a member falls silent");
        silences.push(swarm.lose(Loss::Silence, &log).await?);
    }
    let lost = swarm.lost_names();
    Ok(Report {
        members: options.members,
        electors: options.electors,
        boot: booted,
        boot_cpu: boot_used.cpu,
        boot_sent: boot_carried.wire,
        boot_statements: boot_carried.statements,
        boot_handshakes: boot_carried.handshakes,
        rest: used.elapsed,
        cpu: used.cpu,
        payload_sent: carried.payload,
        wire_sent: carried.wire,
        election_sent: carried.election,
        beats_sent: carried.beats,
        others_sent: carried.others,
        statements: carried.statements,
        digests: carried.digests,
        links,
        resident,
        grown: resident.saturating_sub(before.resident),
        leaders,
        false_alarms: log.alarms_about_others(quiet_from, &lost),
        exit: Detection::of(&exits),
        silence: Detection::of(&silences),
    })
}

/// How a member is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Its process ends: the kernel closes its sockets, nothing is said.
    Exit,
    /// It does nothing any more, its sockets stay open.
    Silence,
}

/// A member that can be lost, on a thread of its own.
struct Victim {
    member: Member,
    thread: Thread,
}

/// A runtime of one thread. Its end is not waited for: dropping a runtime would, which is not allowed where others run.
struct Thread(Option<Runtime>);

impl Thread {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Ok(Self(Some(runtime.context("start the thread of a member that will be lost")?)))
    }

    fn runtime(&self) -> &tokio::runtime::Handle {
        self.0.as_ref().expect("taken by the drop only").handle()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What keeps a silent member silent.
struct Frozen {
    /// Dropped first, so that the thread can end.
    _thaw: std::sync::mpsc::Sender<()>,
    _thread: Thread,
}

/// A running fleet.
struct Swarm {
    members: Vec<Member>,
    /// The last ones first.
    victims: Vec<Victim>,
    /// Kept to the end: dropping would say good-bye, or wait for who does nothing.
    lost: Vec<(Member, Option<Frozen>)>,
}

impl Swarm {
    async fn start(options: &Options, fleet: &Fleet, log: &Log) -> Result<Self> {
        let stay = options.members - 2 * options.losses;
        let mut attached = Vec::new();
        for index in 0..stay {
            attached.push((index, None, fleet.attach(index).await?));
        }
        for index in stay..options.members {
            let thread = Thread::start()?;
            let attachment = thread.runtime().spawn(fleet.clone().attach_owned(index)).await??;
            attached.push((index, Some(thread), attachment));
        }
        let seeds: Vec<_> = attached.iter().take(3).map(|(_, _, place)| place.address.clone()).collect();
        let mut swarm = Self { members: Vec::new(), victims: Vec::new(), lost: Vec::new() };
        for (index, thread, place) in attached {
            let spec = fleet.spec(index, options.electors, &place.address, &seeds);
            match thread {
                None => swarm.members.push(place.spawn(fleet, index, spec, log)),
                Some(thread) => {
                    let guard = thread.runtime().enter();
                    let member = place.spawn(fleet, index, spec, log);
                    drop(guard);
                    swarm.victims.push(Victim { member, thread });
                }
            }
        }
        Ok(swarm)
    }

    fn all(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().chain(self.victims.iter().map(|victim| &victim.member))
    }

    async fn all_know_all(&self, begun: Instant, limit: Duration) -> Result<Duration> {
        let count = self.all().count();
        let knows_all = |member: &Member| member.alive() == count;
        loop {
            if self.all().all(knows_all) {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > limit {
                let missing: Vec<_> = self.all().filter(|member| !knows_all(member)).collect();
                let examples = missing.iter().take(5).map(|m| format!("{} knows {}", m.name, m.alive()));
                bail!(
                    "after {} s {} of {count} members do not know all: {} ({})",
                    limit.as_secs(),
                    missing.len(),
                    examples.collect::<Vec<_>>().join(", "),
                    self.told_apart()
                );
            }
            sleep(LOOK).await;
        }
    }

    /// What the fleet uses and sends while nobody has anything to say.
    async fn rest(&self, options: &Options, progress: impl Fn(&str)) -> Result<(Used, Carried)> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            self.comes_to_rest(options.boot_limit).await?;
            progress(&format!("at rest for {} s", options.rest.as_secs()));
            let (usage, carried) = (Usage::now()?, self.carried());
            sleep(options.rest).await;
            let found = (Usage::now()?.since(&usage), self.carried().since(&carried));
            if found.1.statements == 0 || attempt == RESTS {
                return Ok(found);
            }
        }
    }

    /// Somebody leads, which the fleet is told, and then nobody says anything new.
    async fn comes_to_rest(&self, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        let (mut statements, mut since) = (0, Instant::now());
        while since.elapsed() < QUIET || self.leaders() == 0 {
            let now = self.carried().statements;
            if now != statements {
                (statements, since) = (now, Instant::now());
            }
            ensure!(
                begun.elapsed() < limit,
                "{} s after all know all {} members lead, and the last news were told {:.1} s ago",
                limit.as_secs(),
                self.leaders(),
                since.elapsed().as_secs_f64()
            );
            sleep(10 * LOOK).await;
        }
        Ok(())
    }

    /// What the cores and their links did so far, all together: a boot that takes long says why.
    fn told_apart(&self) -> String {
        let sum = |of: fn(&Stats) -> u64| self.all().map(|member| of(&member.stats())).sum::<u64>();
        let mut attempts = BTreeMap::new();
        for (dialled, result, count) in self.all().flat_map(Member::attempts) {
            *attempts.entry((dialled, result)).or_insert(0) += count;
        }
        let attempts = attempts.into_iter().map(|((dialled, result), count)| {
            let way = if dialled { "dialled" } else { "accepted" };
            format!("{way} {result} {count}")
        });
        format!(
            "{}; dials {}, suspicions {}, refutations {}, downs {}, own timers late {}, pauses {}, stale links {}, \
             duplicates {}, unneeded {}, digests {}",
            attempts.collect::<Vec<_>>().join(", "),
            sum(|s| s.dials),
            sum(|s| s.suspicions),
            sum(|s| s.refutations),
            sum(|s| s.downs),
            sum(|s| s.own_timers_late),
            sum(|s| s.pauses),
            sum(|s| s.links_stale),
            sum(|s| s.links_duplicate),
            sum(|s| s.links_unneeded),
            sum(|s| s.digests_sent)
        )
    }

    fn carried(&self) -> Carried {
        self.all().map(Member::carried).fold(Carried::default(), Carried::plus)
    }

    fn leaders(&self) -> usize {
        self.all().filter(|member| member.leads()).count()
    }

    fn lost_names(&self) -> Vec<flagship_types::MemberName> {
        self.lost.iter().map(|(member, _)| member.name.clone()).collect()
    }

    /// Loses the last member, and waits until each of the others holds it Down. Gives how long each took.
    async fn lose(&mut self, loss: Loss, log: &Log) -> Result<Vec<Option<Duration>>> {
        let Some(Victim { member, thread }) = self.victims.pop() else { bail!("nobody is left to be lost") };
        let name = member.name.clone();
        let at = Instant::now();
        match loss {
            Loss::Exit => {
                drop(thread);
                self.lost.push((member, None));
            }
            Loss::Silence => {
                let (thaw, frozen) = std::sync::mpsc::channel::<()>();
                // Its only thread waits here, so that neither timers nor sockets are served.
                thread.runtime().spawn(async move { frozen.recv() });
                self.lost.push((member, Some(Frozen { _thaw: thaw, _thread: thread })));
            }
        }
        let observers: Vec<_> = self.all().map(|member| member.name.clone()).collect();
        let took = noticed(log, &name, &observers, at, NOTICE_LIMIT).await;
        sleep(SETTLE).await;
        // What is not in the log may have been told to nobody; the view itself is what counts.
        for (took, member) in took.iter().zip(self.all()) {
            let state = member.state_of(&name);
            ensure!(
                took.is_none() || state == Some(State::Down),
                "{} held {name} Down and takes it for {state:?} now",
                member.name
            );
        }
        Ok(took)
    }
}
