//! One core in its fleet: its peers, and what is on the way to it in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use flagship_membership::{
    Input, LinkId, Membership, Message, Output, PeerHello, Record, Signed, SignedStatement, State, Statement,
    observers_of,
};
use flagship_types::{Epoch, Instant, MemberName, PeerAddress, Verified};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use crate::crew::written;
use crate::fleet::sign;
use crate::links::{H, JITTER, PeerEnd, WAY};
use crate::{Fleet, Kind};

/// A peer pings an idle link this often; here every link, so that pings are measured too.
const PING_EVERY: u32 = 3;

/// What will happen at a core or at a peer of it.
#[derive(Debug)]
enum Coming {
    Up {
        link: LinkId,
        dialled: PeerAddress,
    },
    Frame {
        link: LinkId,
        kind: Kind,
        bytes: Vec<u8>,
    },
    /// A peer's time to beat, and how long it waits until its next.
    PeerBeats {
        link: LinkId,
        wait: Duration,
    },
    PeerPings {
        link: LinkId,
    },
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    number: u64,
    coming: Coming,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The next call into a core.
#[derive(Debug)]
pub(crate) enum Step {
    Timer(Instant),
    Frame { at: Instant, link: LinkId, sender: MemberName, kind: Kind, bytes: Vec<u8> },
    Up { at: Instant, input: Input },
}

/// A core and its surroundings.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) core: Membership,
    /// What the core had signed: it is the process's, as are the records of the fleet.
    pub(crate) signed: Vec<Signed<Record>>,
    member: usize,
    ends: Vec<PeerEnd>,
    queue: BinaryHeap<Reverse<Entry>>,
    number: u64,
    rng: Pcg64,
}

impl Seat {
    pub(crate) fn new(fleet: &Fleet, member: usize, now: Instant) -> Self {
        let core = fleet.core(member, &[], now);
        let rng = Pcg64::seed_from_u64(member as u64);
        Self { core, signed: Vec::new(), member, ends: Vec::new(), queue: BinaryHeap::new(), number: 0, rng }
    }

    /// What is to be done with the core next, before `end`; what its peers do until then is done.
    pub(crate) fn next_step(&mut self, end: Instant) -> Option<Step> {
        loop {
            let timer = self.core.next_timeout().filter(|at| *at < end);
            let coming = self.queue.peek().map(|Reverse(entry)| entry.at).filter(|at| *at < end);
            match (timer, coming) {
                (Some(timer), coming) if coming.is_none_or(|at| timer <= at) => {
                    return Some(Step::Timer(timer));
                }
                (_, None) => return None,
                (_, Some(_)) => {}
            }
            let Reverse(Entry { at, coming, .. }) = self.queue.pop()?;
            match coming {
                Coming::PeerBeats { link, wait } => self.peer_beats(link, wait, at),
                Coming::PeerPings { link } => self.peer_pings(link, at),
                Coming::Frame { link, kind, bytes } => {
                    let sender = self.end(link).name.clone();
                    return Some(Step::Frame { at, link, sender, kind, bytes });
                }
                Coming::Up { link, dialled } => return Some(self.come_up(link, dialled, at)),
            }
        }
    }

    fn end(&mut self, link: LinkId) -> &mut PeerEnd {
        let index = usize::try_from(link.0 - 1).expect("links are numbered from 1");
        &mut self.ends[index]
    }

    fn push(&mut self, at: Instant, coming: Coming) {
        self.number += 1;
        self.queue.push(Reverse(Entry { at, number: self.number, coming }));
    }

    fn push_frame(&mut self, at: Instant, link: LinkId, message: Message) {
        let kind = match message {
            Message::Beat { .. } => Kind::Beat,
            Message::Echo(_) => Kind::Echo,
            Message::Ping { .. } => Kind::Ping,
            _ => Kind::Other,
        };
        self.push(at, Coming::Frame { link, kind, bytes: written(message) });
    }

    fn draw(&mut self, bound: Duration) -> Duration {
        let nanos = u64::try_from(bound.as_nanos()).expect("a bound of seconds").max(1);
        Duration::from_nanos(self.rng.next_u64() % nanos)
    }

    fn peer_beats(&mut self, link: LinkId, wait: Duration, at: Instant) {
        let view_hash = self.core.view_hash();
        let beat = self.end(link).beat(view_hash, at);
        let jitter = self.draw(JITTER);
        self.push_frame(at + WAY + jitter, link, beat);
        self.push(at + wait, Coming::PeerBeats { link, wait: H });
    }

    fn peer_pings(&mut self, link: LinkId, at: Instant) {
        let ping = self.end(link).ping();
        // After any beat that is on its way: a stream keeps its order.
        self.push_frame(at + WAY + JITTER, link, ping);
        self.push(at + H * PING_EVERY, Coming::PeerPings { link });
    }

    fn come_up(&mut self, link: LinkId, dialled: PeerAddress, at: Instant) -> Step {
        let (beats, name) = (self.end(link).beats, self.end(link).name.clone());
        self.end(link).up = true;
        let phase = self.draw(H);
        if beats {
            // At once, and then at a time of its own.
            self.push(at, Coming::PeerBeats { link, wait: phase + JITTER });
        }
        // Half an interval from the beats, so that it never overtakes one.
        self.push(at + phase + H / 2, Coming::PeerPings { link });
        let epoch = self.core.member(&name).map_or(Epoch(0), |member| member.epoch);
        let hello = PeerHello {
            member: name,
            epoch,
            address: Some(dialled.clone()),
            view_hash: self.core.view_hash(),
            protocol: 2,
        };
        let hello = Verified::first_hand(hello);
        Step::Up { at, input: Input::LinkUp { link, hello, dialled: Some(dialled) } }
    }

    /// A frame that the core sent: its peer takes it when it arrives and answers.
    pub(crate) fn sent(&mut self, link: LinkId, message: &Message, at: Instant) {
        let arrival = at + WAY;
        if let Some(answer) = self.end(link).take(message, arrival) {
            self.push_frame(arrival + WAY, link, answer);
        }
    }

    /// What a core wants beyond that: to sign and to be linked.
    pub(crate) fn do_output(&mut self, output: Output, fleet: &Fleet, at: Instant) {
        match output {
            Output::Sign(statement) => {
                let Statement::Record(record) = *statement else { panic!("a calm fleet accuses nobody") };
                let record = sign(record);
                self.signed.push(record.clone());
                self.core.handle(Input::Signed(SignedStatement::Record(record)), at);
            }
            Output::Connect { address } => {
                let peer = fleet.member_at(&address).expect("only members are dialled");
                let (me, peer) = (&fleet.names()[self.member], &fleet.names()[peer]);
                let beats = observers_of(peer, fleet.names()).contains(me);
                let observes = observers_of(me, fleet.names()).contains(peer);
                self.ends.push(PeerEnd::new(peer.clone(), beats, observes));
                let link = LinkId(self.ends.len() as u64);
                self.push(at + WAY * 4, Coming::Up { link, dialled: address });
            }
            other => panic!("a calm fleet gives no reason for {other:?}"),
        }
    }

    /// Links, those among them by which it observes, and those by which it is observed.
    pub(crate) fn degree(&self) -> (usize, usize, usize) {
        let up = self.ends.iter().filter(|end| end.up);
        let counts = |count: (usize, usize, usize), end: &PeerEnd| {
            (count.0 + 1, count.1 + usize::from(end.beats), count.2 + usize::from(end.observes))
        };
        up.fold((0, 0, 0), counts)
    }

    /// Panics if anything happened that does not in a calm fleet: what was measured would be something else.
    pub(crate) fn assert_calm(&self) {
        let stats = self.core.stats();
        let odd = [
            stats.beats_late,
            stats.frames_replayed,
            stats.frames_ignored,
            stats.suspicions,
            stats.downs,
            stats.queries,
            stats.queue_full,
            stats.links_stale,
            stats.links_duplicate,
            stats.links_unneeded,
            stats.own_timers_late,
            stats.digests_sent,
        ];
        assert!(odd.iter().all(|count| *count == 0), "the fleet was not calm: {stats:?}");
        // The first beats of a link have nothing to prove themselves by.
        let links = self.ends.len() as u64;
        assert!(stats.beats_unproven <= links * 3, "beats prove nothing: {stats:?}");
        assert!(self.core.members().all(|member| member.state == State::Alive), "somebody is not Alive");
        assert!(self.core.links().count() == self.ends.len(), "some link is not up");
    }
}
