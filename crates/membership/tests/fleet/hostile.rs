//! What one member's lies and a network that replays can do: nothing to others.

use std::collections::BTreeSet;

use flagship_membership::{
    Accusation, Config, Echo, Event, Evidence, Input, LinkEnd, LinkId, Membership, Message, Output,
    PeerHello, Proof, Record, SelfState, Signed, State, Verdict,
};
use flagship_types::{CloseCode, Epoch, Incarnation, Instant, Verified};

use crate::checks::false_downs;
use crate::network::{Net, WALL_MS, address, at, metadata, ms, name};

#[test]
fn one_liar_takes_nobody_down() {
    for seed in 0..10 {
        let mut net = Net::settled(3, seed);
        net.jitter = ms(40);
        // Its answers are lies too.
        net.tamper = Some(Box::new(|from, _, message| {
            if let (2, Message::Answer { verdict, .. }) = (from, message) {
                *verdict = Verdict::Mute(Evidence::Exit);
            }
        }));
        for _ in 0..2_000 {
            let incarnation = net.core(0).member(&name(1)).unwrap().incarnation;
            let evidence = Evidence::Exit;
            let (accuser, subject) = (name(2), name(1));
            let lie = Accusation { accuser, subject, epoch: Epoch(WALL_MS), incarnation, evidence };
            let lie = Signed::new(lie, Proof::default());
            net.inject(2, 0, Message::Accuse(lie.clone()));
            net.inject(2, 1, Message::Accuse(lie));
            net.run_for(ms(30));
        }
        assert_eq!(false_downs(&net.changes, &BTreeSet::new()), [], "seed {seed}");
        // Whose own beats are fresh does not even suspect.
        let suspected = net.changes.iter().filter(|c| c.observer == 0 && c.state == State::Suspect).count();
        assert_eq!(suspected, 0, "seed {seed}");
        // The victim refutes, but not as often as it is accused.
        let refutations = net.core(1).stats().refutations;
        assert!(refutations > 100 && refutations <= 60_000 / 20, "{refutations}");
    }
}

#[test]
fn lies_about_epochs_and_incarnations_are_refused() {
    let mut net = Net::settled(3, 1);
    let record = |member: usize, epoch: u64, incarnation: u32| {
        Message::Record(Signed::unsigned(Record {
            member: name(member),
            epoch: Epoch(epoch),
            incarnation: Incarnation(incarnation),
            version: 99,
            status: SelfState::Left,
            metadata: metadata(member),
        }))
    };
    // Of another member; of itself, but from the far future; and too many refutations at once.
    net.inject(2, 0, record(1, WALL_MS, 1));
    net.inject(2, 0, record(2, WALL_MS + 90_000_000, 0));
    net.inject(2, 0, record(2, WALL_MS, 1 << 17));
    net.inject(
        2,
        0,
        Message::Known { epoch: Epoch(u64::MAX), incarnation: Incarnation(0), state: State::Down },
    );
    let far = Incarnation(u32::MAX);
    net.inject(2, 0, Message::Known { epoch: Epoch(WALL_MS), incarnation: far, state: State::Down });
    net.run_for(ms(3_000));
    assert!(net.changes.is_empty(), "{:#?}", net.changes);
    assert_eq!(net.core(0).stats().refused_records, 5);
    assert_eq!((net.core(0).epoch(), net.core(0).incarnation()), (Epoch(WALL_MS), Incarnation(0)));
}

#[test]
fn one_peers_word_that_the_name_is_in_use_stops_nobody() {
    let mut net = Net::settled(3, 1);
    net.close_from(2, 0, CloseCode::NameInUse);
    net.run_for(ms(10_000));
    assert!(net.complete());
    assert!(net.events.iter().all(|(_, _, e)| !matches!(e, Event::NameInUse { .. })), "{:?}", net.events);
}

#[test]
fn hints_to_nowhere_are_dropped() {
    let mut net = Net::settled(2, 1);
    let hints = (10..200).map(|i| (name(i), address(i))).collect();
    net.inject(1, 0, Message::Addresses(hints));
    net.run_for(ms(300_000));
    let dials = net.core(0).stats().dials;
    assert!(dials > 20 && dials < 200, "{dials}");
    net.run_for(ms(300_000));
    assert_eq!(net.core(0).stats().dials, dials);
}

/// One core with one peer, played by the test.
struct Duet {
    core: Membership,
    sent: Vec<Message>,
    heard: Vec<Instant>,
    stalled: usize,
}

const LINK: LinkId = LinkId(1);

impl Duet {
    fn new() -> Self {
        let config = Config::new(name(0), Epoch(WALL_MS), WALL_MS);
        let core = Membership::new(config, metadata(0), Vec::new(), 1, at(0));
        let mut duet = Self { core, sent: Vec::new(), heard: Vec::new(), stalled: 0 };
        duet.link_up(LINK, 1, WALL_MS, at(0));
        duet
    }

    fn link_up(&mut self, link: LinkId, peer: usize, epoch: u64, now: Instant) {
        let hello =
            PeerHello { member: name(peer), epoch: Epoch(epoch), address: None, view_hash: 0, protocol: 2 };
        let input = Input::LinkUp { link, hello: Verified::first_hand(hello), dialled: None };
        self.core.handle(input, now);
        self.drain();
    }

    fn say(&mut self, message: Message, now: Instant) {
        self.core.handle(Input::Message { link: LINK, message: Verified::first_hand(message) }, now);
        self.drain();
    }

    fn run_until(&mut self, end: Instant) {
        while let Some(next) = self.core.next_timeout().filter(|next| *next <= end) {
            self.core.handle_timeout(next);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send { message, .. } => self.sent.push(message),
                Output::Event(Event::Heard { at, .. }) => self.heard.push(at),
                Output::Event(Event::NameInUse { .. }) => self.stalled += 1,
                _ => {}
            }
        }
    }

    fn last_seq(&self) -> u64 {
        let seq = |m: &Message| match m {
            Message::Beat { seq, .. } | Message::Ping { seq } => Some(*seq),
            _ => None,
        };
        self.sent.iter().filter_map(seq).max().unwrap()
    }

    fn heard_at(&self) -> Instant {
        self.core.member(&name(1)).unwrap().heard_at.unwrap()
    }
}

#[test]
fn replayed_and_late_frames_do_not_extend_life() {
    let mut duet = Duet::new();
    duet.run_until(at(500));
    let echo = Echo { seq: duet.last_seq(), delay: ms(0) };
    let beat = Message::Beat { seq: 5, echo: Some(echo), acked: None, view_hash: 0 };
    duet.say(beat.clone(), at(600));
    let proven = duet.heard_at();
    assert!(proven < at(600), "the bound is when the echoed frame was sent: {proven:?}");
    duet.run_until(at(2_000));
    // The same frame, the same echo in a new frame, an older frame, one without an echo.
    let new = |seq, echo| Message::Beat { seq, echo, acked: None, view_hash: 0 };
    let frames = [beat, new(6, Some(echo)), Message::Echo(echo), new(4, Some(echo)), new(7, None)];
    for frame in frames {
        duet.say(frame, at(2_000));
        assert_eq!(duet.heard_at(), proven);
    }
    assert_eq!(duet.core.stats().frames_replayed, 2);
    assert_eq!(duet.core.stats().beats_unproven, 1);
    // Echoes of what was never sent, or longer ago than three beats.
    duet.run_until(at(2_900));
    for seq in [0, duet.last_seq() + 1, u64::MAX] {
        duet.say(Message::Echo(Echo { seq, delay: ms(0) }), at(2_900));
    }
    assert_eq!(duet.heard_at(), proven);
    // A frame that the network held back since 700 proves 700, not 2,900.
    duet.say(new(8, Some(Echo { delay: ms(200), ..echo })), at(2_900));
    assert_eq!(duet.heard_at(), proven + ms(200));
    // An honest delay, but the echoed frame was sent more than three beats ago: proves nothing.
    let proven = duet.heard_at();
    duet.say(new(9, Some(Echo { delay: ms(3_400), ..echo })), at(4_000));
    assert_eq!(duet.heard_at(), proven);
    assert!(duet.heard.is_sorted());
}

#[test]
fn the_largest_numbers_are_no_trouble() {
    let mut duet = Duet::new();
    let all = std::time::Duration::MAX;
    duet.say(
        Message::Beat { seq: u64::MAX, echo: Some(Echo { seq: 1, delay: all }), acked: None, view_hash: 0 },
        at(100),
    );
    assert_eq!(duet.heard_at(), at(100));
    duet.say(Message::Ping { seq: u64::MAX }, at(100));
    let (epoch, subject) = (Epoch(u64::MAX), name(1));
    duet.say(Message::Query { id: u64::MAX, subject: name(7), epoch, deadline: all }, at(100));
    duet.say(Message::Answer { id: u64::MAX, subject, verdict: Verdict::Heard(all) }, at(100));
    let grace = all;
    let record = Record {
        member: name(1),
        epoch: Epoch(WALL_MS),
        incarnation: Incarnation(1 << 16),
        version: u64::MAX,
        status: SelfState::Away { grace },
        metadata: metadata(1),
    };
    duet.say(Message::Record(Signed::unsigned(record)), at(100));
    assert_eq!(duet.core.member(&name(1)).unwrap().state, State::Away);
    duet.run_until(at(59_000));
    assert_eq!(duet.core.member(&name(1)).unwrap().state, State::Away);
    duet.run_until(at(61_000));
    assert_eq!(duet.core.member(&name(1)).unwrap().state, State::Down);
}

#[test]
fn the_clock_of_a_hello_from_the_far_future_is_not_believed() {
    let mut duet = Duet::new();
    duet.link_up(LinkId(2), 2, WALL_MS + 90_000_000, at(10));
    assert_eq!(duet.core.member(&name(2)).map(|v| v.state), None);
}

#[test]
fn who_is_heard_does_not_give_way_to_its_own_name_and_of_two_unheard_the_later_does() {
    let mut heard = Duet::new();
    for (link, epoch) in [(2, WALL_MS + 1), (3, WALL_MS - 1)] {
        heard.link_up(LinkId(link), 0, epoch, at(10));
    }
    assert_eq!((heard.stalled, heard.core.peer_of(LINK)), (0, Some(&name(1))));
    for (epoch, stalled) in [(WALL_MS + 1, 0), (WALL_MS - 1, 1)] {
        let mut unheard = Duet::new();
        unheard.core.handle(Input::LinkDown { link: LINK, end: LinkEnd::Lost }, at(5));
        unheard.link_up(LinkId(2), 0, epoch, at(10));
        assert_eq!(unheard.stalled, stalled, "epoch {epoch}");
    }
}

#[test]
fn of_two_that_wait_for_a_name_the_one_that_started_later_gets_it() {
    // Killed and started twice before the end of its first stream arrives; the order of the Hellos is open.
    for (first, second) in [(1, 2), (2, 1)] {
        let mut duet = Duet::new();
        for start in [first, second] {
            duet.link_up(LinkId(10 + start), 1, WALL_MS + start, at(10));
            assert_eq!(duet.core.link_to(&name(1)), Some(LINK));
        }
        duet.core.handle(Input::LinkDown { link: LINK, end: LinkEnd::Lost }, at(20));
        assert_eq!(duet.core.link_to(&name(1)), Some(LinkId(12)), "first {first}");
        assert_eq!(duet.core.member(&name(1)).unwrap().epoch, Epoch(WALL_MS + 2));
    }
}

#[test]
fn meeting_oneself_is_no_loop_and_no_stall() {
    let config = Config::new(name(0), Epoch(WALL_MS), WALL_MS);
    let mut core = Membership::new(config, metadata(5), Vec::new(), 1, at(0));
    core.handle(Input::SetSeeds(vec![address(1)]), at(0));
    let mut dials = 0;
    let mut now = at(0);
    while now < at(180_000) {
        while let Some(output) = core.poll_output() {
            assert!(!matches!(output, Output::Event(Event::NameInUse { .. })));
            if let Output::Connect { address } = output {
                dials += 1;
                let hello = PeerHello {
                    member: name(0),
                    epoch: Epoch(WALL_MS),
                    address: None,
                    view_hash: 0,
                    protocol: 2,
                };
                let hello = Verified::first_hand(hello);
                core.handle(Input::LinkUp { link: LinkId(dials), hello, dialled: Some(address) }, now);
            }
        }
        now = now + ms(100);
        core.handle_timeout(now);
    }
    assert!((3..=5).contains(&dials), "{dials}");
    assert_eq!(core.members().count(), 1);
}
