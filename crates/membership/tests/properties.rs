//! Whatever a hostile peer says and whenever it says it: no panic, no verdict over others, bounded memory and work, and
//! the same outputs for the same inputs.
#![allow(clippy::unwrap_used, reason = "a fixture's unwrap fails the test as it should")]

#[path = "properties/honest.rs"]
mod honest;
#[path = "properties/hostile.rs"]
mod hostile;
#[path = "properties/steps.rs"]
mod steps;
#[path = "properties/world.rs"]
mod world;

use std::time::Duration;

use flagship_membership::{
    Config, Input, LinkId, Membership, Message, Output, PeerHello, Record, SelfState, Signed,
    SignedStatement, State, Statement,
};
use flagship_types::{Epoch, Incarnation, Instant, Verified};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use steps::{AccusationClaim, Frame, Number, Order, Plan, RecordClaim, Setup, Step};

fn number() -> impl Strategy<Value = Number> {
    any::<u8>().prop_map(Number)
}

fn echo() -> impl Strategy<Value = Option<(Number, u8)>> {
    option::of((number(), any::<u8>()))
}

fn record() -> impl Strategy<Value = RecordClaim> {
    prop_oneof![
        any::<u8>().prop_map(RecordClaim::Replayed),
        (number(), number(), number(), any::<u8>(), any::<u8>(), any::<bool>()).prop_map(
            |(epoch, incarnation, version, status, address, signed)| RecordClaim::Own {
                epoch,
                incarnation,
                version,
                status,
                address,
                signed
            }
        ),
    ]
}

fn accusation() -> impl Strategy<Value = AccusationClaim> {
    prop_oneof![
        any::<u8>().prop_map(AccusationClaim::Replayed),
        (any::<u8>(), number(), number(), any::<bool>(), any::<bool>()).prop_map(
            |(subject, epoch, incarnation, exit, signed)| AccusationClaim::Own {
                subject,
                epoch,
                incarnation,
                exit,
                signed
            }
        ),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (number(), echo(), echo(), any::<bool>()).prop_map(|(seq, echo, acked, same_view)| Frame::Beat {
            seq,
            echo,
            acked,
            same_view
        }),
        number().prop_map(|seq| Frame::Ping { seq }),
        (number(), any::<u8>()).prop_map(|(seq, delay)| Frame::Echo { seq, delay }),
        (any::<u8>(), number(), any::<u8>()).prop_map(|(subject, epoch, deadline)| Frame::Query {
            subject,
            epoch,
            deadline
        }),
        (number(), any::<u8>(), any::<u8>()).prop_map(|(id, subject, verdict)| Frame::Answer {
            id,
            subject,
            verdict
        }),
        accusation().prop_map(Frame::Accuse),
        record().prop_map(Frame::Record),
        (vec(record(), 0..8), vec(accusation(), 0..8))
            .prop_map(|(records, accusations)| Frame::Delta { records, accusations }),
        (any::<u8>(), any::<bool>(), any::<u16>()).prop_map(|(bits, answer, wrong)| Frame::Digest {
            bits,
            answer,
            wrong
        }),
        Just(Frame::Unobserve),
        (number(), number(), any::<u8>()).prop_map(|(epoch, incarnation, state)| Frame::Known {
            epoch,
            incarnation,
            state
        }),
        vec((any::<u8>(), any::<u8>()), 0..20).prop_map(Frame::Addresses),
    ]
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        1 => Just(Order::Away),
        1 => Just(Order::Leave),
        2 => any::<u8>().prop_map(Order::Forget),
        4 => vec(any::<u8>(), 0..6).prop_map(Order::Required),
        4 => vec(any::<u8>(), 0..6).prop_map(Order::Seeds),
        4 => any::<i8>().prop_map(Order::Rank),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => any::<u16>().prop_map(Step::Wait),
        2 => (any::<u16>(), any::<bool>()).prop_map(|(ms, frames_first)| Step::Pause { ms, frames_first }),
        1 => any::<u8>().prop_map(|peer| Step::Crash { peer }),
        2 => (any::<u8>(), option::of(any::<u8>())).prop_map(|(peer, code)| Step::LinkEnds { peer, code }),
        5 => (any::<u8>(), any::<u8>()).prop_map(|(peer, frame)| Step::Late { peer, frame }),
        5 => (number(), any::<u8>(), any::<bool>(), any::<bool>())
            .prop_map(|(epoch, address, dialled, protocol)| Step::Join { epoch, address, dialled, protocol }),
        1 => (number(), any::<bool>()).prop_map(|(epoch, dialled)| Step::OwnName { epoch, dialled }),
        2 => option::of(any::<u8>()).prop_map(|code| Step::HangUp { code }),
        40 => frame().prop_map(Step::Say),
        8 => (frame(), any::<u8>(), any::<u16>())
            .prop_map(|(frame, times, every_us)| Step::Flood { frame, times, every_us }),
        2 => order().prop_map(Step::Order),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (any::<u8>(), any::<u64>(), any::<u8>(), flags).prop_map(
        |(more, seed, answers, (warm, old_peer, hostile_first, echoes, same_view))| Setup {
            more,
            seed,
            warm,
            old_peer,
            hostile_first,
            answers,
            echoes,
            same_view,
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    (setup(), vec(step(), 0..60)).prop_map(|(setup, steps)| Plan { setup, steps })
}

/// What a core may keep of the frames of one hostile peer: its records, queries and hints, and grown queues.
const MAX_KEPT: i64 = 256 * 1024;
/// What it may keep more of ten times as many.
const MAX_GROWTH: i64 = 32 * 1024;

/// Hands the hostile peer's frames to the core alone, so that nothing of the model is counted.
fn hand_over(world: &mut world::World, link: LinkId, frames: &[Message]) {
    for frame in frames {
        world.now = world.now + Duration::from_micros(200);
        let message = Verified::checked(frame.clone());
        world.core.handle(Input::Message { link, message }, world.now);
        if world.core.next_timeout().is_some_and(|at| at <= world.now) {
            world.core.handle_timeout(world.now);
        }
        sign_and_drop(&mut world.core, world.now);
    }
}

fn sign_and_drop(core: &mut Membership, now: Instant) {
    while let Some(output) = core.poll_output() {
        if let Output::Sign(statement) = output {
            let statement = match *statement {
                Statement::Record(record) => SignedStatement::Record(world::signed(record)),
                Statement::Accusation(accusation) => SignedStatement::Accusation(world::signed(accusation)),
            };
            core.handle(Input::Signed(statement), now);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_hostile_peer_changes_nothing_but_its_own_place(plan in plan()) {
        let trace = hostile::run(&plan);
        prop_assert_eq!(trace, hostile::run(&plan), "the same inputs led to other outputs");
    }

    #[test]
    fn memory_does_not_grow_with_hostile_frames(setup in setup(), frames in vec(frame(), 1..12)) {
        let mut world = world::World::new(setup);
        world.step(&Step::Say(Frame::Ping { seq: Number(0) }));
        let Some(link) = world.hostile.streams.last().map(|s| s.id) else { return Ok(()) };
        let mut rounds = |range: std::ops::Range<u32>| -> Vec<Message> {
            range.flat_map(|i| frames.iter().map(move |frame| (i, frame)))
                .map(|(i, frame)| world.message(frame, i)).collect()
        };
        let (first, then) = (rounds(0..100), rounds(100..1_100));
        let kept = allocation_counter::measure(|| hand_over(&mut world, link, &first)).bytes_current;
        let grown = allocation_counter::measure(|| hand_over(&mut world, link, &then)).bytes_current;
        prop_assert!(kept <= MAX_KEPT, "{} bytes are kept of {} frames", kept, first.len());
        prop_assert!(grown <= MAX_GROWTH, "{} bytes more of {} frames", grown, then.len());
    }
}

const QUIET: Setup = Setup {
    more: 0,
    seed: 1,
    warm: true,
    old_peer: false,
    hostile_first: false,
    answers: 0,
    echoes: true,
    same_view: true,
};

#[test]
fn queries_of_one_peer_do_not_hide_the_beats_of_another() {
    // 2,000 a second: with a ping for each, the numbers of our own beats would be forgotten within a round trip.
    let query = Frame::Query { subject: 0, epoch: Number(0), deadline: 0 };
    let flood = Step::Flood { frame: query, times: 250, every_us: 500 };
    hostile::run(&Plan { setup: QUIET, steps: vec![flood; 60] });
}

#[test]
fn an_answer_to_a_digest_that_was_not_sent_costs_nothing() {
    let answer = Step::Say(Frame::Digest { bits: 4, answer: true, wrong: 16 });
    hostile::run(&Plan {
        setup: QUIET,
        steps: vec![Step::Wait(2_000), answer.clone(), answer.clone(), answer],
    });
}

#[test]
fn earlier_and_earlier_deadlines_leave_nothing_behind() {
    let mut world = world::World::new(QUIET);
    world.step(&Step::Say(Frame::Ping { seq: Number(0) }));
    let link = world.hostile.streams.last().unwrap().id;
    world.run(Duration::from_millis(500));
    let query = Frame::Query { subject: 1, epoch: Number(0), deadline: 8 };
    let frames: Vec<Message> = (0..4_000).map(|i| world.message(&query, i * 25)).collect();
    let grown = allocation_counter::measure(|| hand_over(&mut world, link, &frames)).bytes_current;
    assert!(grown <= MAX_GROWTH, "{grown} bytes");
}

#[test]
fn a_stream_never_speaks_for_who_gets_the_place_of_its_peer() {
    let now = world::START;
    let own = world::metadata(0, None);
    let mut core =
        Membership::new(Config::new(world::name("core"), Epoch(5), world::WALL_MS), own, Vec::new(), 1, now);
    let record = |member: &str, version, status| Record {
        member: world::name(member),
        epoch: Epoch(9),
        incarnation: Incarnation(0),
        version,
        status,
        metadata: world::metadata(1, None),
    };
    let up = |core: &mut Membership, link, member: &str| {
        let hello = PeerHello {
            member: world::name(member),
            epoch: Epoch(9),
            address: None,
            view_hash: 0,
            protocol: 2,
        };
        core.handle(
            Input::LinkUp { link: LinkId(link), hello: Verified::checked(hello), dialled: None },
            now,
        );
    };
    let say = |core: &mut Membership, link, record: Signed<Record>| {
        let message = Verified::checked(Message::Record(record));
        core.handle(Input::Message { link: LinkId(link), message }, now);
    };
    up(&mut core, 1, "honest");
    // It leaves, and comes again without a newer epoch.
    up(&mut core, 2, "gone");
    say(&mut core, 2, world::signed(record("gone", 1, SelfState::Left)));
    up(&mut core, 3, "gone");
    assert_eq!(core.member(&world::name("gone")).unwrap().state, State::Left);
    // So many leave after it that it is forgotten, and the next who comes gets its place.
    for i in 0..64 {
        let who = format!("leaver-{i}");
        say(&mut core, 1, world::signed(record(&who, 1, SelfState::Alive)));
        say(&mut core, 1, world::signed(record(&who, 2, SelfState::Left)));
    }
    assert!(core.member(&world::name("gone")).is_none(), "the oldest of those that left are forgotten");
    say(&mut core, 1, world::signed(record("newcomer", 1, SelfState::Alive)));
    assert_eq!(core.peer_of(LinkId(3)), None);
    assert!(core.members().all(|m| m.link != Some(LinkId(3))));
}
