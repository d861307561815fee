//! The invariants at the end of DESIGN section 5 as checkers. They are fed what truly happened: durable writes, writes
//! that reached an API server, payloads that exist, true time. What a core says of itself counts for nothing, but for
//! the reason of a stop.
//!
//! | | invariant |
//! |---|---|
//! | 1 | one grant per voter and term |
//! | 2 | one leader per term: in Quorum always, in Availability among members that were not cut off from each other |
//! | 3 | Quorum: never two unexpired leases |
//! | 4 | Quorum: no apply before the predecessor's proven stop, or its lease's end and 1.05 S |
//! | 5 | no write under a term that is not held |
//! | 6 | no resume after `stopping` |
//! | 7 | Availability: after quiet one leader per connected part |
//! | 8 | a heal does not take a Ready payload away before another is Ready |
//! | 9 | after the faults' end exactly one leader within the worst case |
//! | 10 | voter sets never allow two disjoint majorities |
//! | 11 | Availability: no second payload beside that of a healthy leader that is seen |
//! | 12 | same seed, same trace |
//! | 13 | stored numbers never go back |
//! | 14 | a payload is only deleted for a reason: a higher grant exists, or it is given up on purpose |
//! | 15 | the core makes no illegal move |
//! | 16 | traffic is bounded: messages, records and turns a second ([`super::traffic`]) |

use std::collections::{BTreeMap, BTreeSet};

use flagship_node::{Directive, DurableRecord, ResignReason};
use flagship_types::quorum::has_majority;
use flagship_types::{FleetConfig, MemberName, Mode, Role, Term};

use super::host::HostSpec;
use super::traffic::Load;
use super::world::World;
use crate::clock::{Nanos, ms, nanos};
use crate::model::Violation;
use crate::paths::Host;

/// More are not kept.
const MAX_VIOLATIONS: usize = 16;
/// How long nothing must have happened to a host, or a way, for it to count as undisturbed.
const CALM: Nanos = ms(30_000);
/// How long two members have to be up to have met.
const MET: Nanos = ms(10_000);

/// What the checkers remember. Bounded by the length of a run.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    found: Vec<Violation>,
    names: Vec<&'static str>,
    grants: BTreeMap<(Host, Term), MemberName>,
    /// The newest record of each voter: epoch and terms.
    highest: BTreeMap<Host, (u64, Term, Term)>,
    /// Who first stored that it leads in a term, and when.
    held: BTreeMap<Term, (Host, Nanos)>,
    /// When each host was last seen with a lease.
    leased: BTreeMap<Host, Nanos>,
    /// Quorum: who was seen with a lease first under a term.
    leased_under: BTreeMap<Term, Host>,
    /// The first object was deleted in a stop of that term, by that process.
    stopped: BTreeMap<Host, (u64, Term)>,
}

impl Checks {
    pub(crate) fn new(hosts: &[HostSpec]) -> Self {
        Self { names: hosts.iter().map(|spec| spec.name).collect(), ..Self::default() }
    }

    pub(crate) fn found(&self) -> &[Violation] {
        &self.found
    }

    pub(crate) fn add(&mut self, invariant: u8, at: Nanos, text: String) {
        if self.found.len() < MAX_VIOLATIONS {
            self.found.push(Violation { invariant, at, text });
        }
    }

    /// A new process.
    pub(crate) fn started(&mut self, host: Host) {
        self.stopped.remove(&host);
    }

    /// The host's status is gone; what it granted stays granted.
    pub(crate) fn lost(&mut self, host: Host) {
        self.highest.remove(&host);
    }

    /// A record became durable.
    pub(crate) fn stored(&mut self, host: Host, record: &DurableRecord, now: Nanos) {
        let name = self.names[host];
        let election = &record.election;
        let vote_term = election.vote.as_ref().map_or(Term::NONE, |vote| vote.term);
        if let Some(vote) = &election.vote {
            let first = self.grants.entry((host, vote.term)).or_insert_with(|| vote.candidate.clone());
            if *first != vote.candidate {
                let text =
                    format!("{name} granted term {} to {first}, then to {}", vote.term, vote.candidate);
                self.add(1, now, text);
            }
        }
        let (epoch, term, voted) = self.highest.get(&host).copied().unwrap_or_default();
        for (what, went_back) in
            [("epoch", record.epoch.0 < epoch), ("term", election.term < term), ("vote", vote_term < voted)]
        {
            if went_back {
                self.add(13, now, format!("the {what} that {name} stored went back"));
            }
        }
        self.highest.insert(host, (record.epoch.0, election.term, vote_term));
    }
}

impl World {
    fn violated(&mut self, invariant: u8, text: String) {
        self.log(format_args!("VIOLATED {invariant}: {text}"));
        self.checks.add(invariant, self.now, text);
    }

    /// A process does one more of what is bounded. The run ends with the first violation.
    pub(crate) fn check_traffic(&mut self, id: Host, load: Load) {
        let number = self.hosts[id].number;
        if let Some(told) = self.traffic.count(id, number, load, self.now) {
            let name = self.hosts[id].spec.name;
            self.violated(16, format!("{name} {told}"));
        }
    }

    /// Nothing was done to the host, or to its API server, for so long, and its process ran all the time.
    pub(crate) fn is_calm(&self, host: Host, time: Nanos) -> bool {
        let h = &self.hosts[host];
        let since = self.now.saturating_sub(time);
        let ran = h.process.as_ref().is_some_and(|process| process.started <= since);
        ran && !h.frozen && h.reaches_api() && h.disturbed <= since && h.api_changed <= since
    }

    fn clear(&self, a: Host, b: Host, time: Nanos) -> bool {
        self.paths.clear_since(a, b, self.now.saturating_sub(time)) && self.paths.loss_percent() < 10
    }

    /// A write of the payload reached the API server.
    pub(crate) fn check_apply(&mut self, id: Host, number: u64, object: usize, term: Term, permitted: Nanos) {
        let name = self.hosts[id].spec.name;
        let held = self.hosts[id].durable.as_ref().and_then(|record| record.election.held);
        // The record moves on while a permitted write is under way.
        let raised = held.is_some_and(|held| held > term);
        if held != Some(term) && !raised {
            self.violated(
                5,
                format!("{name} writes under term {term}, but has stored that it holds {held:?}"),
            );
        }
        self.check_no_resume(id, number, term);
        self.check_one_per_term(id, term, permitted);
        if self.hosts[id].payload.objects[object].is_none() {
            self.check_overlap(id, term);
        }
    }

    fn check_no_resume(&mut self, id: Host, number: u64, term: Term) {
        let name = self.hosts[id].spec.name;
        let current = self.hosts[id].number == number;
        let process = self.hosts[id].process.as_ref().filter(|_| current);
        let found = process.is_some_and(|process| process.found_stopping == Some(term));
        let began = self.checks.stopped.get(&id) == Some(&(number, term));
        let stopping = self.hosts[id].durable.as_ref().and_then(|record| record.election.stopping);
        if stopping == Some(term) && (found || began) {
            self.violated(6, format!("{name} writes under term {term}, which it is stopping"));
        }
    }

    fn check_one_per_term(&mut self, id: Host, term: Term, permitted: Nanos) {
        let (first, since) = *self.checks.held.entry(term).or_insert((id, permitted));
        let same_member = self.hosts[first].spec.member == self.hosts[id].spec.member;
        if first == id || same_member {
            return;
        }
        let time = self.now.saturating_sub(since) + CALM;
        let apart = !self.clear(first, id, time) || !self.is_calm(first, time) || !self.is_calm(id, time);
        if self.is_quorum() || !apart {
            let names = [self.hosts[first].spec.name, self.hosts[id].spec.name];
            self.violated(2, format!("{} and {} both lead in term {term}", names[0], names[1]));
        }
    }

    /// The first object of a payload is created while another cluster has one.
    fn check_overlap(&mut self, id: Host, term: Term) {
        let name = self.hosts[id].spec.name;
        for other in 0..self.hosts.len() {
            if other == id || !self.hosts[other].payload.exists(self.now) {
                continue;
            }
            let other_name = self.hosts[other].spec.name;
            if self.is_quorum() {
                self.check_quorum_overlap(id, other, term);
                continue;
            }
            // In Availability two lead when they cannot see each other, or one of them did not run.
            let seen = self.is_calm(other, CALM) && self.is_calm(id, MET) && self.clear(id, other, CALM);
            if seen {
                let text =
                    format!("{name} creates its payload under term {term} beside that of {other_name}");
                self.violated(11, text);
            }
        }
    }

    /// An object was deleted.
    pub(crate) fn check_delete(&mut self, id: Host, number: u64, object: usize) {
        let now = self.now;
        let name = self.hosts[id].spec.name;
        let Some(present) = self.hosts[id].payload.objects[object] else { return };
        if self.hosts[id].number != number {
            return;
        }
        let Some(process) = &self.hosts[id].process else { return };
        let directive = process.directive.clone();
        if let Directive::Stop { term, .. } = directive {
            self.checks.stopped.insert(id, (number, term));
        }
        let ready = self.hosts[id].payload.is_ready(now);
        let on_purpose = match directive {
            Directive::Stop { reason, .. } => !matches!(reason, ResignReason::Superseded),
            Directive::Absent => false,
            // Overtaken while it was on its way.
            Directive::Hold | Directive::Run { .. } => true,
        };
        if on_purpose || !ready {
            return;
        }
        // Superseded: somebody was granted a term that stands higher.
        let me = self.hosts[id].spec.member();
        let mine =
            self.hosts[id].durable.as_ref().map_or(present.term, |r| r.election.held.unwrap_or(present.term));
        let higher = |term: Term, of: &MemberName| *of != me && (term > mine || (term == mine && *of < me));
        let granted = self.checks.grants.iter().any(|((_, term), to)| higher(*term, to));
        if !granted {
            let text =
                format!("{name} deletes its ready payload of term {mine}, and nobody was granted more");
            self.violated(14, text);
        }
        self.check_heal(id, &directive);
    }

    /// Who led without a break gives a Ready payload up only for another one that is Ready.
    fn check_heal(&mut self, id: Host, directive: &Directive) {
        let superseded = matches!(directive, Directive::Stop { reason: ResignReason::Superseded, .. });
        let began = self.checks.stopped.get(&id).is_some_and(|(number, _)| *number == self.hosts[id].number);
        if self.is_quorum() || !superseded || !began || !self.is_calm(id, 2 * CALM) {
            return;
        }
        let others = (0..self.hosts.len()).filter(|other| *other != id);
        // What the other said of itself a moment ago is what counts.
        let another = others.into_iter().any(|other| {
            let host = &self.hosts[other];
            host.payload.is_ready(self.now) || (host.runs() && !self.is_calm(other, MET))
        });
        if !another {
            let name = self.hosts[id].spec.name;
            self.violated(8, format!("{name} gives up a ready payload, and nobody else has one"));
        }
    }

    /// Quorum: who may write now has a lease; nobody else may have one.
    pub(crate) fn check_lease(&mut self, id: Host) {
        let Some(machine) = self.hosts[id].machine() else { return };
        self.caution = self.caution.max(machine.election().caution());
        if self.quorum {
            self.check_two_leases(id);
        }
        let Some(machine) = self.hosts[id].machine() else { return };
        let illegal = machine.election().stats().illegal_moves;
        if illegal > 0 && !self.checks.found.iter().any(|found| found.invariant == 15) {
            let name = self.hosts[id].spec.name;
            self.violated(15, format!("the core of {name} made {illegal} illegal moves"));
        }
    }

    /// Whether the fleet began in Quorum and has not left it: then it is held to what holds in Availability.
    pub(crate) fn is_quorum(&self) -> bool {
        self.quorum
    }

    /// Two leases at one time.
    fn check_two_leases(&mut self, id: Host) {
        let is_leased = |host: &super::host::Host, machine: &flagship_node::Machine| {
            let election = machine.election();
            // Who released its lead has given the rest of its lease away.
            let holds = matches!(election.role(), Role::Leader | Role::Stopping);
            holds && election.lease_until().is_some_and(|until| until > host.clock.read(self.now))
        };
        if !self.hosts[id].machine().is_some_and(|machine| is_leased(&self.hosts[id], machine)) {
            return;
        }
        let other = (0..self.hosts.len()).find(|other| {
            let host = &self.hosts[*other];
            *other != id && host.machines().any(|machine| is_leased(host, machine))
        });
        self.checks.leased.insert(id, self.now);
        self.check_one_lease_per_term(id);
        if let Some(other) = other {
            let names = [self.hosts[id].spec.name, self.hosts[other].spec.name];
            self.violated(3, format!("{} and {} both have a lease", names[0], names[1]));
        }
    }

    /// A term is one leader's, whether it ever wrote under it or not.
    fn check_one_lease_per_term(&mut self, id: Host) {
        let leads = |machine: &flagship_node::Machine| machine.election().leader();
        let me = self.hosts[id].spec.member();
        let Some((_, term)) = self.hosts[id].machine().and_then(leads).filter(|(leader, _)| *leader == me)
        else {
            return;
        };
        let first = *self.checks.leased_under.entry(term).or_insert(id);
        if self.hosts[first].spec.member != self.hosts[id].spec.member {
            let names = [self.hosts[first].spec.name, self.hosts[id].spec.name];
            self.violated(2, format!("{} and {} both had a lease under term {term}", names[0], names[1]));
        }
    }

    /// A payload is created beside another one: never while that one's cluster could stop it, and in no case before its
    /// lease was over for as long as it takes to stop.
    fn check_quorum_overlap(&mut self, id: Host, other: Host, term: Term) {
        let names = [self.hosts[id].spec.name, self.hosts[other].spec.name];
        let config = &self.hosts[other].spec.config;
        // What its own daemon takes itself to have; with none, the least that anybody ever proposed.
        let stops = self.hosts[other].machine().map(|machine| machine.election().stop_grace());
        let least = self.plan.hosts.iter().chain(self.hosts.iter().map(|host| &host.spec));
        let least = least.map(|spec| spec.config.stop_grace).min().unwrap_or_default();
        let (lease, grace) = (nanos(config.lease), nanos(stops.unwrap_or(least)));
        let leased = self.checks.leased.get(&other).copied().unwrap_or_default();
        if self.now < leased + grace {
            let ago = std::time::Duration::from_nanos(self.now - leased);
            let text = format!(
                "{} creates its payload under term {term} beside that of {}, whose lease ended {ago:?} ago",
                names[0], names[1]
            );
            return self.violated(4, text);
        }
        let time = lease + grace + MET;
        let acted = self.is_calm(other, time) || self.was_covered(other, time);
        let could_stop = acted && self.hosts[other].slow.is_zero() && !self.hosts[other].stuck;
        if could_stop {
            let text = format!(
                "{} creates its payload under term {term} beside that of {}, which could have stopped it",
                names[0], names[1]
            );
            self.violated(4, text);
        }
    }

    /// Two disjoint majorities: of the voters of two configurations that are stored, among voters that would grant under
    /// them, as they have stored no newer one.
    fn check_voter_sets(&mut self) {
        let stored: Vec<(MemberName, FleetConfig)> = self
            .hosts
            .iter()
            .filter_map(|host| Some((host.spec.member(), host.durable.as_ref()?.election.config.clone())))
            .collect();
        let acceptors = |config: &FleetConfig| -> BTreeSet<MemberName> {
            let accepts = |(name, own): &&(MemberName, FleetConfig)| {
                let grants = own.version < config.version || own == config;
                grants && config.voters.contains(name)
            };
            stored.iter().filter(accepts).map(|(name, _)| name.clone()).collect()
        };
        let quorum = |config: &&FleetConfig| config.mode == Mode::Quorum;
        let configs: Vec<&FleetConfig> = stored.iter().map(|(_, config)| config).filter(quorum).collect();
        for (i, one) in configs.iter().enumerate() {
            for two in &configs[i + 1..] {
                if one == two {
                    continue;
                }
                let (by_one, by_two) = (acceptors(one), acceptors(two));
                let both = by_one.intersection(&by_two).count();
                let need =
                    |config: &FleetConfig, only: usize| (config.voters.len() / 2 + 1).saturating_sub(only);
                let needed = need(one, by_one.len() - both) + need(two, by_two.len() - both);
                if needed <= both {
                    let text = format!(
                        "{:?} of version {} and {:?} of version {} have disjoint majorities",
                        one.voters, one.version.0, two.voters, two.version.0
                    );
                    return self.violated(10, text);
                }
            }
        }
    }

    /// After a record became durable.
    pub(crate) fn check_stored(&mut self) {
        if self.quorum {
            self.check_voter_sets();
            self.quorum = !self.has_left_quorum();
        }
    }

    /// Quorum is left once a majority of its voters has stored another mode, whatever one of them proposes or writes.
    fn has_left_quorum(&self) -> bool {
        let records = || {
            self.hosts.iter().filter_map(|host| Some((host.spec.member(), &host.durable.as_ref()?.election)))
        };
        let known = records().flat_map(|(_, record)| [Some(&record.config), record.replaced.as_deref()]);
        let quorum = known.flatten().filter(|config| config.mode == Mode::Quorum);
        let Some(newest) = quorum.max_by_key(|config| config.version) else { return false };
        let left: BTreeSet<_> = records()
            .filter(|(_, record)| {
                record.config.mode != Mode::Quorum && record.config.version > newest.version
            })
            .map(|(name, _)| name)
            .collect();
        has_majority(&newest.voters, |voter| left.contains(voter))
    }
}
