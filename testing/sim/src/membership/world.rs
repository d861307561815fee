//! A fleet of membership cores in virtual time. A run is a pure function of its plan and seed.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use siphasher::sip::SipHasher24;

use super::checks::Checks;
use super::dials::Dial;
use super::fault::Plan;
use super::happening::Happening;
use super::names::Names;
use super::process::Member;
use super::rings::Rings;
use super::streams::Stream;
use super::tally::Tally;
use super::trace::Trace;
use crate::clock::{Nanos, ms, nanos};
use crate::paths::Paths;
use crate::queue::Queue;

/// The wall clock at the start of virtual time, in milliseconds.
pub(super) const WALL_MS: u64 = 1_800_000_000_000;

/// What a run is asked to record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// A readable timeline.
    pub trace: bool,
    /// A digest of the full text of every output of every core.
    pub digest: bool,
    /// Bytes sent.
    pub bytes: bool,
    /// Whether the checkers run.
    pub checks: bool,
    /// A bug in every core.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<flagship_membership::PlantedBug>,
}

/// The fleet, the network between its members, and time.
pub struct World {
    pub(super) now: Nanos,
    pub(super) rng: Pcg64Mcg,
    pub(super) plan: Plan,
    pub(super) queue: Queue<Happening>,
    pub(super) names: Names,
    pub(super) rings: Rings,
    pub(super) members: Vec<Member>,
    pub(super) paths: Paths,
    pub(super) streams: Vec<Stream>,
    pub(super) free_streams: Vec<u32>,
    pub(super) dials: Vec<Dial>,
    pub(super) free_dials: Vec<u32>,
    /// When the plan began.
    pub(super) plan_began: Nanos,
    /// State of faults with steps: whether it is in its bad part.
    pub(super) steps: Vec<bool>,
    /// Processes that will be started anew.
    pub(super) coming_back: u32,
    pub(super) tally: Tally,
    pub(super) checks: Option<Checks>,
    pub(super) trace: Option<Trace>,
    /// Of everything that cores put out, and room for the text of one output.
    pub(super) digest: Option<(SipHasher24, String)>,
    #[cfg(feature = "planted-bugs")]
    pub(super) planted: Option<flagship_membership::PlantedBug>,
}

impl World {
    /// The fleet before its first event: all members start within the first second.
    pub fn new(plan: &Plan, seed: u64, record: Record) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let names = Names::of_run(plan.members, seed);
        let rings = Rings::new(&names);
        let members = (0..plan.members).map(|_| Member::new(rng.next_u64() % ms(1_000_000))).collect();
        let faults = plan.faults.len();
        let mut world = Self {
            now: 0,
            plan: plan.clone(),
            queue: Queue::default(),
            names,
            rings,
            members,
            paths: Paths::new(plan.network, faults),
            streams: Vec::new(),
            free_streams: Vec::new(),
            dials: Vec::new(),
            free_dials: Vec::new(),
            plan_began: Nanos::MAX,
            steps: vec![false; faults],
            coming_back: 0,
            tally: Tally::new(record.bytes),
            checks: record.checks.then(|| Checks::new(plan)),
            trace: record.trace.then(Trace::default),
            digest: record.digest.then(|| (SipHasher24::new(), String::new())),
            #[cfg(feature = "planted-bugs")]
            planted: record.planted,
            rng,
        };
        for host in 0..plan.members {
            if !plan.joins_later(host) {
                let at = world.draw(nanos(plan.starts_within));
                world.queue.push(at, Happening::Start(host as u32));
            }
        }
        world
    }

    /// A time drawn evenly from zero.
    pub fn draw(&mut self, bound: Nanos) -> Nanos {
        self.rng.next_u64() % bound.max(1)
    }

    /// Runs up to that instant.
    pub fn run_until(&mut self, end: Nanos) {
        while let Some((at, happening)) = self.queue.pop(end) {
            self.now = at;
            self.tally.happenings += 1;
            self.happen(happening);
        }
        self.now = end;
    }

    /// Runs until it holds, looking every `step`; `None` if it does not within `limit`.
    pub fn run_until_holds(
        &mut self,
        step: Nanos,
        limit: Nanos,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Option<Nanos> {
        let began = self.now;
        while !holds(self) {
            if self.now - began >= limit {
                return None;
            }
            self.run_until(self.now + step);
        }
        Some(self.now - began)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Timer(host) => self.timer(host as usize),
            Happening::Arrive(end) => self.arrive(end),
            Happening::Retry(end) => self.retry(end),
            Happening::Reset(end) => self.reset_arrives(end),
            Happening::Syn(dial) => self.syn(dial),
            Happening::Hello(dial) => self.hello(dial),
            Happening::DialOver(dial) => self.dial_over(dial),
            Happening::Refused(dial) => self.dial_refused(dial),
            Happening::Begin(fault) => self.begin(fault as usize),
            Happening::End(fault) => self.end(fault as usize),
            Happening::Step(fault) => self.step(fault as usize),
            Happening::Start(host) => {
                self.coming_back = self.coming_back.saturating_sub(1);
                self.start(host as usize, None);
            }
            Happening::Exit(host, number) => {
                if self.members[host as usize].number == number {
                    self.kill(host as usize, true);
                }
            }
            Happening::Lie(host) => self.lie(host as usize),
        }
    }
}
