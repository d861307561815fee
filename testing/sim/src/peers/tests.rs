use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn both() -> [&'static dyn Peer; 2] {
    [&Foca, &Chitchat]
}

#[test]
fn a_crash_is_noticed_by_every_survivor() {
    for peer in both() {
        let detection = peer.crash(&Setting::new(1, 5), 1);
        assert_eq!(detection.survivors.len(), 4, "{}", peer.name());
        let last = detection.everywhere().unwrap_or_else(|| panic!("{}: {detection:?}", peer.name()));
        assert!(last > Duration::from_secs(2), "{} cannot know after {last:?}", peer.name());
        assert!(last < Duration::from_secs(60), "{} took {last:?}", peer.name());
    }
}

#[test]
fn the_last_of_two_notices_too() {
    for peer in both() {
        let detection = peer.crash(&Setting::new(2, 2), 1);
        assert_eq!(detection.survivors.len(), 1, "{}", peer.name());
        assert!(detection.everywhere().is_some(), "{}: {detection:?}", peer.name());
    }
}

#[test]
fn several_crashes_are_noticed_by_every_survivor() {
    for peer in both() {
        let detection = peer.crash(&Setting::new(3, 8), 4);
        assert_eq!(detection.survivors.len(), 4, "{}", peer.name());
        assert!(detection.everywhere().is_some(), "{}: {detection:?}", peer.name());
    }
}

#[test]
fn nobody_is_held_down_without_a_crash_and_without_loss() {
    for peer in both() {
        let verdicts = peer.false_downs(&Setting::new(4, 8), HOUR / 20);
        assert_eq!(verdicts, FalseDowns { between_healthy: 0, with_slow: 0 }, "{}", peer.name());
    }
}

/// Where a count of zero would be wrong: otherwise the test before this one says nothing.
#[test]
fn false_downs_are_counted_where_there_must_be_some() {
    let mute = Setting::new(5, 4).with_loss(1.0);
    assert_eq!(Foca.false_downs(&mute, HOUR / 60).between_healthy, 12, "each of 4 held 3 Down");
    // chitchat's detector gets used to loss: at 90 % it still accuses nobody.
    let lossy = Setting::new(5, 8).with_loss(0.97);
    assert!(Chitchat.false_downs(&lossy, HOUR / 12).between_healthy > 0);
}

/// For chitchat, which gets used to slow members too, see its own test of what a blocked server does.
#[test]
fn slow_members_are_held_down_by_swim() {
    for block in [Block::Process, Block::Messages] {
        let verdicts = Foca.false_downs(&Setting::new(6, 8).with_slow(1, block), HOUR / 12);
        assert!(verdicts.with_slow > 0, "{block:?}");
    }
}

#[test]
fn a_slow_member_of_swim_accuses_healthy_ones() {
    let slow = Setting::new(7, 32).with_slow(4, Block::Messages);
    assert!(Foca.false_downs(&slow, HOUR / 20).between_healthy > 0);
    assert_eq!(Foca.false_downs(&Setting { slow: 0, ..slow }, HOUR / 20).between_healthy, 0);
}

#[test]
fn everybody_gets_to_know_everybody() {
    for peer in both() {
        let setting = Setting::new(8, 8);
        let boot = peer.boot(&setting, HOUR).unwrap_or_else(|| panic!("{}", peer.name()));
        assert!(boot > setting.one_way * 2 && boot < Duration::from_secs(120), "{}: {boot:?}", peer.name());
        assert_eq!(peer.boot(&setting, setting.one_way), None, "{}", peer.name());
    }
}

#[test]
fn a_quiet_fleet_sends_something() {
    for peer in both() {
        let bytes = peer.steady_bytes(&Setting::new(9, 8), HOUR / 60);
        assert!(bytes > 10.0 && bytes < 100_000.0, "{}: {bytes}", peer.name());
    }
}

#[test]
fn foca_gives_the_same_figures_for_the_same_seed() {
    let lossy = Setting::new(10, 8).with_loss(0.2);
    let slow = Setting::new(10, 16).with_slow(4, Block::Messages);
    let figures = |seed| {
        (
            Foca.crash(&Setting { seed, ..lossy }, 2),
            Foca.false_downs(&Setting { seed, ..lossy }, HOUR / 6),
            Foca.false_downs(&Setting { seed, ..slow }, HOUR / 30),
            Foca.boot(&Setting { seed, ..lossy }, HOUR / 6),
            Foca.steady_bytes(&Setting { seed, ..lossy }, HOUR / 60).to_bits(),
        )
    };
    assert_eq!(figures(10), figures(10));
    assert_ne!(figures(10), figures(11), "the seed is used");
}

/// chitchat draws whom it gossips with, and in which order, from generators that it does not let us seed. What the
/// seed does fix is ours: the victims. Its figures are compared within bounds, not for equality.
#[test]
fn chitchat_gives_like_figures_for_the_same_seed() {
    let setting = Setting::new(11, 5);
    let run = || Chitchat.crash(&setting, 1).everywhere().expect("noticed").as_secs_f64();
    let (one, other) = (run(), run());
    assert!((one - other).abs() < 0.5 * one.max(other), "{one} s and {other} s");
}

#[test]
fn the_network_is_as_asked() {
    let setting = Setting::new(12, 2).with_loss(0.2);
    let mut network = Datagrams::new(&setting);
    let carried: Vec<_> = (0..10_000).filter_map(|_| network.carry(10)).collect();
    assert!((7_800..8_200).contains(&carried.len()), "{} of 10,000 arrived", carried.len());
    assert!(carried.iter().all(|delay| (setting.one_way..=setting.one_way + setting.jitter).contains(delay)));
    assert_eq!(network.bytes, 100_000, "what is lost was sent too");
}

#[test]
fn a_slow_member_is_blocked_as_long_as_asked() {
    let blocks = Blocks::new(1, &mut Pcg64::seed_from_u64(13));
    let millisecond = Duration::from_millis(1);
    let hour: u32 = 9_200 * 100;
    let blocked = (0..hour).filter(|at| blocks.until(0, millisecond * *at).is_some()).count();
    assert!((819_000..=821_000).contains(&blocked), "{blocked} ms of {hour} ms");
    let first = blocks.first(0).expect("slow");
    assert!(blocks.until(0, first).is_some() && blocks.until(0, first + BLOCKED).is_none());
    assert_eq!(blocks.until(1, first), None, "the other is not slow");
}

/// The report's seam gives what the runs behind it give.
#[test]
fn a_case_of_the_report_is_run_under_its_conditions() {
    use rows::PeerModel;

    let case = |scenario, members| Case { duration: HOUR / 6, ..Case::new(scenario, members, 15) };
    let silent = Foca.measure(&case(Scenario::SilentCrash, 8)).expect("noticed");
    assert!(silent > 2.0 && silent < 60.0, "{silent}");
    assert_eq!(Foca.measure(&case(Scenario::ProcessExit, 8)), Some(silent), "the same to foca");
    assert!(Foca.measure(&case(Scenario::SeveralAtOnce { dead: 4 }, 8)).expect("noticed") > 2.0);
    assert!(Foca.measure(&case(Scenario::Boot, 8)).expect("complete") < 60.0);
    assert!(Foca.measure(&case(Scenario::SteadyPayload, 8)).expect("measured") > 10.0);
    let false_downs = |loss_percent| Scenario::FalseDowns { loss_percent, cold: false };
    assert_eq!(Foca.measure(&case(false_downs(0), 8)), Some(0.0));
    assert!(Foca.measure(&case(false_downs(20), 8)).expect("counted") > 0.0);
    let slow = |block| Scenario::SlowMembers { block };
    let setting = Setting::of(&case(slow(Block::Messages), 32));
    assert_eq!((setting.slow, setting.block, setting.loss), (4, Block::Messages, 0.0));
    let still = Foca.measure(&case(slow(Block::Process), 16));
    assert_eq!(still, Some(0.0), "it stood still and then went on in order");
    assert!(Foca.measure(&case(slow(Block::Messages), 32)).expect("counted") > 0.0);
    assert!(!Foca.supports(Scenario::FalseDowns { loss_percent: 5, cold: true }, 8), "no links to reset");
}
