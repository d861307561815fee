//! Many cores of one fleet, driven through virtual time in batches of calls of one kind.
//!
//! A member beats once a second on a few links, so a single core in a loop would show what it costs with everything in
//! the nearest cache and with a clock that takes longer to read than a beat to handle. Here dozens of cores take
//! turns in random order, and calls of one kind are measured together.

use std::ops::Range;
use std::time::Duration;

use flagship_membership::{Input, LinkId, Membership};
use flagship_types::{Instant, MemberName, Verified};
use flagship_wire::{Frame, Incoming, PeerMessage, decode_from, message_frame};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use crate::replies::Replies;
use crate::seat::{Seat, Step};
use crate::{Fleet, Kind, Meter, Unmetered};

/// A beat interval.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds until nothing is young any more: slack looks back on 64 beats.
const WARM_ROUNDS: usize = 80;
/// Away from zero, as a machine that has been up for an hour.
const START: Instant = Instant::from_nanos(3_600_000_000_000);

/// A frame for a core.
#[derive(Debug)]
struct Job {
    seat: usize,
    at: Instant,
    link: LinkId,
    sender: MemberName,
    frame: Range<usize>,
}

/// A timer of a core that is due.
#[derive(Debug, Clone, Copy)]
struct Due {
    seat: usize,
    at: Instant,
}

/// Calls that can be made in any order, as each is for another core.
#[derive(Debug, Default)]
struct Batch {
    frames: [Vec<Job>; 5],
    arena: Vec<u8>,
    timers: Vec<Due>,
    ups: Vec<(Due, Input)>,
}

/// Cores of a fleet.
#[derive(Debug)]
pub struct Crew {
    fleet: Fleet,
    seats: Vec<Seat>,
    now: Instant,
    batch: Batch,
    replies: Replies,
    rng: Pcg64,
    beats_sent: usize,
}

impl Crew {
    /// Cores of `cores` members, spread over a fleet of that many, warm: linked, and beating for more than a minute.
    pub fn warm(members: usize, cores: usize) -> Self {
        let mut crew = Self::new(members, cores);
        for _ in 0..WARM_ROUNDS {
            crew.round(&mut Unmetered);
        }
        crew.assert_calm();
        crew
    }

    /// Cores that begin. In a small fleet several are of the same member.
    pub fn new(members: usize, cores: usize) -> Self {
        let fleet = Fleet::new(members);
        let member = |core: usize| core * members.div_ceil(cores) % members + core * members / cores % 2;
        let seats = (0..cores).map(|core| Seat::new(&fleet, member(core).min(members - 1), START)).collect();
        let mut crew = Self {
            fleet,
            seats,
            now: START,
            batch: Batch::default(),
            replies: Replies::default(),
            rng: Pcg64::seed_from_u64(1),
            beats_sent: 0,
        };
        for seat in 0..cores {
            crew.replies.take(&mut crew.seats[seat].core, seat, START);
        }
        crew.deliver();
        crew
    }

    /// One beat interval.
    pub fn round(&mut self, meter: &mut impl Meter) {
        let end = self.now + ROUND;
        while self.collect(end) {
            self.run_batch(meter);
        }
        self.now = end;
    }

    /// Beats that the cores sent so far.
    pub fn beats_sent(&self) -> usize {
        self.beats_sent
    }

    /// Links a core has, those by which it observes and those by which it is observed: means.
    pub fn degrees(&self) -> (f64, f64, f64) {
        let degrees = self.seats.iter().map(Seat::degree);
        let sum = degrees.fold((0, 0, 0), |sum, d| (sum.0 + d.0, sum.1 + d.1, sum.2 + d.2));
        let mean = |sum: usize| sum as f64 / self.seats.len() as f64;
        (mean(sum.0), mean(sum.1), mean(sum.2))
    }

    /// Panics if anything happened that does not in a calm fleet: what was measured would be something else.
    pub fn assert_calm(&self) {
        self.seats.iter().for_each(Seat::assert_calm);
    }

    /// The cores alone: what they hold is freed when they are dropped. What they had signed is the fleet's.
    pub fn into_cores(mut self) -> (Fleet, Vec<Membership>) {
        self.fleet.keep(self.seats.iter().flat_map(|seat| seat.signed.clone()));
        (self.fleet, self.seats.into_iter().map(|seat| seat.core).collect())
    }

    /// The next call of each core.
    fn collect(&mut self, end: Instant) -> bool {
        let batch = &mut self.batch;
        batch.arena.clear();
        let mut any = false;
        for (seat, place) in self.seats.iter_mut().enumerate() {
            let Some(step) = place.next_step(end) else { continue };
            any = true;
            match step {
                Step::Timer(at) => batch.timers.push(Due { seat, at }),
                Step::Up { at, input } => batch.ups.push((Due { seat, at }, input)),
                Step::Frame { at, link, sender, kind, bytes } => {
                    let start = batch.arena.len();
                    batch.arena.extend(bytes);
                    let frame = start..batch.arena.len();
                    batch.frames[kind as usize].push(Job { seat, at, link, sender, frame });
                }
            }
        }
        for jobs in &mut batch.frames {
            shuffle(jobs, &mut self.rng);
        }
        shuffle(&mut batch.timers, &mut self.rng);
        any
    }

    fn run_batch(&mut self, meter: &mut impl Meter) {
        let Self { seats, batch, replies, .. } = self;
        replies.bytes.reserve(64 * seats.len());
        replies.sent.reserve(2 * seats.len());
        if !batch.timers.is_empty() {
            meter.measure(Kind::Timer, batch.timers.len(), || timers_in(seats, &batch.timers, replies));
        }
        for kind in Kind::ALL {
            let jobs = &batch.frames[kind as usize];
            if !jobs.is_empty() {
                meter.measure(kind, jobs.len(), || frames_in(seats, jobs, &batch.arena, replies));
            }
        }
        for (due, input) in batch.ups.drain(..) {
            meter.measure(Kind::Other, 1, || {
                seats[due.seat].core.handle(input, due.at);
                replies.take(&mut seats[due.seat].core, due.seat, due.at);
            });
        }
        batch.timers.clear();
        batch.frames.iter_mut().for_each(Vec::clear);
        self.deliver();
    }

    /// Hands what the cores sent to their peers, and does what else they want.
    fn deliver(&mut self) {
        while !self.replies.sent.is_empty() || !self.replies.others.is_empty() {
            let mut replies = std::mem::take(&mut self.replies);
            for (sent, bytes) in replies.frames() {
                let seat = &mut self.seats[sent.seat];
                let message = read(bytes, &self.fleet.names()[0]);
                self.beats_sent += usize::from(matches!(message, flagship_membership::Message::Beat { .. }));
                seat.sent(sent.link, &message, sent.at);
            }
            let others = std::mem::take(&mut replies.others);
            replies.clear();
            for (seat, at, output) in others {
                self.seats[seat].do_output(output, &self.fleet, at);
                replies.take(&mut self.seats[seat].core, seat, at);
            }
            self.replies = replies;
        }
    }
}

fn shuffle<T>(items: &mut [T], rng: &mut Pcg64) {
    for i in (1..items.len()).rev() {
        let other = usize::try_from(rng.next_u64() % (i as u64 + 1)).expect("at most i");
        items.swap(i, other);
    }
}

/// Bytes to a message, as the transport does it.
#[inline]
pub(crate) fn read(bytes: &[u8], sender: &MemberName) -> flagship_membership::Message {
    let frame = Frame::decode(bytes).expect("a frame");
    match decode_from(frame, sender) {
        Ok(Incoming::Message(PeerMessage::Membership(message))) => message,
        other => panic!("no message of the membership core: {other:?}"),
    }
}

/// A message's bytes.
pub(crate) fn written(message: flagship_membership::Message) -> Vec<u8> {
    let frame = message_frame(&PeerMessage::Membership(message)).expect("it fits into a frame");
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

fn frames_in(seats: &mut [Seat], jobs: &[Job], arena: &[u8], replies: &mut Replies) {
    for job in jobs {
        let core = &mut seats[job.seat].core;
        let message = Verified::first_hand(read(&arena[job.frame.clone()], &job.sender));
        core.handle(Input::Message { link: job.link, message }, job.at);
        replies.take(core, job.seat, job.at);
    }
}

fn timers_in(seats: &mut [Seat], timers: &[Due], replies: &mut Replies) {
    for Due { seat, at } in timers {
        let core = &mut seats[*seat].core;
        core.handle_timeout(*at);
        replies.take(core, *seat, *at);
    }
}
