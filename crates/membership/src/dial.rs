//! Which addresses to dial, and when again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flagship_types::{Instant, MemberName, PeerAddress};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::config::{
    DIAL_BASE, DIAL_CAP, HINT_DIALS, MAX_HINTS, MAX_SEEDS, OWN_ADDRESS_RETRY, PATIENT_DIALS, REJECTED_RETRY,
    SEED_STEP, SEED_STEPS_CAP, STANDBY_DIALS, STANDBY_WAIT,
};

/// Where an address stands.
#[derive(Debug, Default)]
struct Attempt {
    /// The last wait; zero before the first failure.
    backoff: Duration,
    /// When to dial; `None` while an attempt is under way or while it is not wanted.
    due: Option<Instant>,
    /// When that would be if nothing else made it wait than how earlier attempts went.
    ready: Instant,
    /// Since when an attempt is under way.
    in_flight: Option<Instant>,
    /// The last wait was set by a refusal and holds even if the address is wanted anew.
    not_before: Instant,
    /// Answers of waiting replicas since the last link.
    standbys: u32,
    /// A first contact while the view grows: few of these at a time.
    patient: bool,
    /// As in [`Wanted::pace`].
    pace: Option<Duration>,
}

impl Attempt {
    fn wait_until(&mut self, at: Instant) {
        self.ready = at;
        self.due = Some(at);
    }
}

/// What is asked of an address. Where several ask for the same one the least of them goes, so that a pace slows nobody
/// else down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wanted {
    /// Dialled only once in such a time, whatever became of the last attempt, and first after it.
    pub(crate) pace: Option<Duration>,
    /// Not dialled before.
    pub(crate) earliest: Instant,
    /// A first contact while the view grows, one of many.
    pub(crate) patient: bool,
}

impl Wanted {
    /// As soon as its backoff allows.
    pub(crate) fn now(now: Instant) -> Self {
        Self { pace: None, earliest: now, patient: false }
    }

    /// Only now and then.
    pub(crate) fn at_pace(pace: Duration, now: Instant) -> Self {
        Self { pace: Some(pace), ..Self::now(now) }
    }
}

/// The table of addresses. Bounded by seeds, members and hints.
#[derive(Debug)]
pub(crate) struct Dials {
    /// Seeds, and the member each one led to.
    seeds: BTreeMap<PeerAddress, Option<MemberName>>,
    /// Which of them is dialled first, another one in each process, and since when it is its turn.
    first_seed: usize,
    turn_since: Option<Instant>,
    /// Addresses told by peers of members we do not know, and how often they failed.
    hints: BTreeMap<MemberName, (PeerAddress, u32)>,
    attempts: BTreeMap<PeerAddress, Attempt>,
    /// The earliest `due` of all attempts; asked for at every input.
    next_due: Option<Instant>,
    rng: Pcg64Mcg,
}

impl Dials {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = Pcg64Mcg::seed_from_u64(seed);
        Self {
            seeds: BTreeMap::new(),
            first_seed: 0,
            turn_since: None,
            hints: BTreeMap::new(),
            attempts: BTreeMap::new(),
            next_due: None,
            rng,
        }
    }

    /// A point in [0, bound).
    pub(crate) fn draw(&mut self, bound: Duration) -> Duration {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(self.rng.next_u64() % nanos)
    }

    pub(crate) fn set_seeds(&mut self, seeds: Vec<PeerAddress>) {
        let mut old = std::mem::take(&mut self.seeds);
        for seed in seeds.into_iter().take(MAX_SEEDS) {
            let led_to = old.remove(&seed).flatten();
            self.seeds.insert(seed, led_to);
        }
        let draw = usize::try_from(self.rng.next_u32()).unwrap_or_default();
        self.first_seed = draw % self.seeds.len().max(1);
    }

    /// Seeds and the member each led to, and when its turn comes in a process that has started then.
    pub(crate) fn seeds_in_turn(
        &self,
        started: Instant,
    ) -> impl Iterator<Item = (&PeerAddress, Option<&MemberName>, Instant)> {
        let (count, first, since) = (self.seeds.len(), self.first_seed, self.turn_since.unwrap_or(started));
        let turn = move |place: usize| u32::try_from((place + count - first) % count).unwrap_or(u32::MAX);
        let at = move |place| (since + SEED_STEP.saturating_mul(turn(place))).min(started + SEED_STEPS_CAP);
        let seeds = self.seeds.iter().enumerate();
        seeds.map(move |(place, (address, led_to))| (address, led_to.as_ref(), at(place)))
    }

    /// Takes a hint where an unknown member may be found. False if there is no room.
    pub(crate) fn hint(&mut self, member: MemberName, address: PeerAddress) -> bool {
        let room = self.hints.len() < MAX_HINTS;
        match self.hints.get_mut(&member) {
            Some(old) if old.0 == address => true,
            // One address of an unknown member is tried at a time: a peer that tells a new one with every frame does not
            // make us dial them all at once.
            Some((_, 0)) => false,
            Some(old) => {
                *old = (address, 0);
                true
            }
            None if room => {
                self.hints.insert(member, (address, 0));
                true
            }
            None => false,
        }
    }

    /// The member is known now: its hint is of no use any more.
    pub(crate) fn forget_hint(&mut self, member: &MemberName) -> Option<PeerAddress> {
        self.hints.remove(member).map(|(address, _)| address)
    }

    pub(crate) fn hints(&self) -> impl Iterator<Item = (&MemberName, &PeerAddress)> {
        self.hints.iter().map(|(name, (address, _))| (name, address))
    }

    /// Seeds and the member each led to.
    pub(crate) fn seeds(&self) -> impl Iterator<Item = (&PeerAddress, Option<&MemberName>)> {
        self.seeds.iter().map(|(address, member)| (address, member.as_ref()))
    }

    /// The seed whose turn it is led nowhere: it is the next one's.
    fn pass_turn(&mut self, address: &PeerAddress, now: Instant) {
        if self.skip(address) {
            self.turn_since = Some(now);
        }
    }

    /// A seed that is not dialled, as it is our own address, has no turn. Whether it would have been its turn.
    pub(crate) fn skip(&mut self, address: &PeerAddress) -> bool {
        let is_first = self.seeds.keys().nth(self.first_seed) == Some(address);
        if is_first {
            self.first_seed = (self.first_seed + 1) % self.seeds.len();
        }
        is_first
    }

    /// Brings the table in line with what is to be dialled, and before when not. `kept` are addresses that may be wanted
    /// again, whose backoff is remembered.
    pub(crate) fn refresh(
        &mut self,
        wanted: &BTreeMap<PeerAddress, Wanted>,
        kept: &BTreeSet<PeerAddress>,
        now: Instant,
    ) {
        // Of who is linked only an unusual wait is worth remembering.
        let waits = |attempt: &Attempt| attempt.backoff > DIAL_BASE / 2 || attempt.not_before > now;
        self.attempts.retain(|address, attempt| {
            attempt.in_flight.is_some()
                || wanted.contains_key(address)
                || (kept.contains(address) && waits(attempt))
        });
        for (address, attempt) in &mut self.attempts {
            if !wanted.contains_key(address) {
                attempt.due = None;
            }
        }
        for (address, Wanted { pace, earliest, patient }) in wanted {
            let attempt = self.attempts.entry(address.clone()).or_default();
            attempt.patient = *patient;
            if attempt.pace != *pace {
                // The wait that was drawn goes by the other one.
                attempt.pace = *pace;
                attempt.due = None;
            }
            if attempt.in_flight.is_some() {
                continue;
            }
            if attempt.due.is_none() {
                let wait = next_backoff(&mut self.rng, attempt);
                attempt.ready = (now + wait).max(attempt.not_before);
            }
            attempt.due = Some(attempt.ready.max(*earliest));
        }
        self.rearm();
    }

    /// The link that was found here is gone. A short-lived link does not earn an immediate redial: a peer that
    /// accepts and closes at once would be dialled without a pause.
    pub(crate) fn lost(&mut self, address: &PeerAddress, immediate: bool) {
        let attempt = self.attempts.entry(address.clone()).or_default();
        attempt.not_before = Instant::ZERO;
        if immediate {
            attempt.backoff = Duration::ZERO;
            attempt.due = None;
        } else if attempt.backoff.is_zero() {
            // The next wait is drawn from here on; zero would mean at once.
            attempt.backoff = DIAL_BASE / 2;
        }
        self.rearm();
    }

    /// The attempt led to a link. Gives how long it took.
    pub(crate) fn connected(&mut self, address: &PeerAddress, member: &MemberName, now: Instant) -> Duration {
        let mut took = Duration::ZERO;
        if let Some(attempt) = self.attempts.get_mut(address) {
            took = attempt.in_flight.map_or(took, |since| now.since(since));
            attempt.in_flight = None;
            attempt.due = None;
            attempt.standbys = 0;
            // Not zero: the address may prove to be another member's and be wanted again at once.
            attempt.backoff = attempt.backoff.max(DIAL_BASE / 2);
        }
        if let Some(led_to) = self.seeds.get_mut(address) {
            *led_to = Some(member.clone());
        }
        self.rearm();
        took
    }

    /// The attempt led nowhere; it is made again after the next backoff.
    pub(crate) fn failed(&mut self, address: &PeerAddress, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(address) else { return };
        attempt.in_flight = None;
        let wait = next_failed_backoff(&mut self.rng, attempt);
        attempt.wait_until(now + wait);
        self.pass_turn(address, now);
        self.rearm();
        self.count_hint(address);
    }

    /// A waiting replica answered: the one that acts may be behind the same address. Not a failure of a hint, as
    /// there is somebody.
    pub(crate) fn standby(&mut self, address: &PeerAddress, now: Instant) {
        let soon = STANDBY_WAIT + self.draw(STANDBY_WAIT);
        let Some(attempt) = self.attempts.get_mut(address) else { return };
        attempt.in_flight = None;
        attempt.standbys = attempt.standbys.saturating_add(1);
        let wait = match attempt.standbys <= STANDBY_DIALS && attempt.pace.is_none() {
            true => soon,
            false => next_failed_backoff(&mut self.rng, attempt),
        };
        attempt.wait_until(now + wait);
        self.pass_turn(address, now);
        self.rearm();
    }

    /// The peer refused us: a long wait.
    pub(crate) fn rejected(&mut self, address: &PeerAddress, own: bool, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(address) else { return };
        attempt.in_flight = None;
        attempt.backoff = DIAL_CAP;
        let retry = if own { OWN_ADDRESS_RETRY } else { REJECTED_RETRY };
        attempt.not_before = now + retry.max(attempt.pace.unwrap_or_default());
        attempt.wait_until(attempt.not_before);
        self.pass_turn(address, now);
        self.rearm();
        self.count_hint(address);
    }

    fn count_hint(&mut self, address: &PeerAddress) {
        self.hints.retain(|_, hint| {
            hint.1 += u32::from(hint.0 == *address);
            hint.1 < HINT_DIALS
        });
    }

    /// Moves what is overdue to now.
    pub(crate) fn restart(&mut self, now: Instant) {
        for attempt in self.attempts.values_mut() {
            attempt.due = attempt.due.map(|due| due.max(now));
            attempt.ready = attempt.ready.max(now);
        }
        self.rearm();
    }

    /// An address that is to be dialled now; it counts as under way from here on.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<PeerAddress> {
        self.next_due.filter(|due| *due <= now)?;
        let full = self.is_full_of_patient();
        let due = |attempt: &Attempt| attempt.due.is_some_and(|due| due <= now) && !(full && attempt.patient);
        let (address, attempt) = self.attempts.iter_mut().find(|(_, attempt)| due(attempt))?;
        attempt.due = None;
        attempt.in_flight = Some(now);
        let address = address.clone();
        self.rearm();
        Some(address)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.next_due
    }

    fn rearm(&mut self) {
        // Those that wait for others have no time of their own: the end of another's attempt wakes them.
        let full = self.is_full_of_patient();
        let own = self.attempts.values().filter(|attempt| !(full && attempt.patient));
        self.next_due = own.filter_map(|attempt| attempt.due).min();
    }

    fn is_full_of_patient(&self) -> bool {
        let under_way = |attempt: &&Attempt| attempt.patient && attempt.in_flight.is_some();
        self.attempts.values().filter(under_way).count() >= PATIENT_DIALS
    }
}

/// The wait before an address that is wanted anew: none, unless it failed before or has a pace.
fn next_backoff(rng: &mut Pcg64Mcg, attempt: &mut Attempt) -> Duration {
    match attempt.backoff.is_zero() && attempt.pace.is_none() {
        true => Duration::ZERO,
        false => next_failed_backoff(rng, attempt),
    }
}

/// Decorrelated jitter: between the base and three times the last wait. The first wait is the base itself: the
/// second refused dial confirms an exit and should not come late.
fn next_failed_backoff(rng: &mut Pcg64Mcg, attempt: &mut Attempt) -> Duration {
    if let Some(pace) = attempt.pace {
        // Two that dial each other at the same pace do not go on doing it at the same time.
        let nanos = u64::try_from((pace / 2).as_nanos()).unwrap_or(u64::MAX).max(1);
        return pace / 2 + Duration::from_nanos(rng.next_u64() % nanos);
    }
    let span = (attempt.backoff * 3).saturating_sub(DIAL_BASE);
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let jitter = if attempt.backoff < DIAL_BASE { 0 } else { rng.next_u64() % nanos.max(1) };
    attempt.backoff = (DIAL_BASE + Duration::from_nanos(jitter)).min(DIAL_CAP);
    attempt.backoff
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
