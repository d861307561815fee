use super::*;

fn address(n: u16) -> PeerAddress {
    PeerAddress::parse("10.0.0.1", n).unwrap()
}

fn set(addresses: &[PeerAddress]) -> BTreeSet<PeerAddress> {
    addresses.iter().cloned().collect()
}

fn at_once(addresses: &[PeerAddress]) -> BTreeMap<PeerAddress, Wanted> {
    addresses.iter().map(|address| (address.clone(), Wanted::now(Instant::ZERO))).collect()
}

#[test]
fn waits_grow_to_the_cap_and_never_end() {
    let mut dials = Dials::new(7);
    let a = address(1);
    let mut now = Instant::ZERO;
    let mut waits = Vec::new();
    for _ in 0..200 {
        dials.refresh(&at_once(std::slice::from_ref(&a)), &BTreeSet::new(), now);
        let due = dials.next_timeout().unwrap();
        waits.push(due.since(now));
        now = due;
        assert_eq!(dials.take_due(now), Some(a.clone()));
        assert_eq!(dials.take_due(now), None);
        dials.failed(&a, now);
    }
    assert_eq!(waits[..2], [Duration::ZERO, DIAL_BASE]);
    assert!(waits.iter().all(|wait| *wait <= DIAL_CAP));
    assert!(waits[50..].iter().sum::<Duration>() > DIAL_CAP * 50, "{waits:?}");
}

#[test]
fn who_is_to_be_dialled_later_waits_and_not_longer_if_wanted_at_once_then() {
    let mut dials = Dials::new(7);
    let (a, now) = (address(1), Instant::ZERO);
    let at = |seconds: u64| Wanted::now(now + Duration::from_secs(seconds));
    let later = |seconds: u64| BTreeMap::from([(a.clone(), at(seconds))]);
    for seconds in [2, 9, 3] {
        dials.refresh(&later(seconds), &BTreeSet::new(), now);
        assert_eq!(dials.next_timeout(), Some(now + Duration::from_secs(seconds)));
    }
    assert_eq!(dials.take_due(now), None);
    dials.refresh(&later(0), &BTreeSet::new(), now);
    assert_eq!(dials.take_due(now), Some(a.clone()));
}

#[test]
fn seeds_have_turns_that_begin_with_another_one_in_each_process() {
    let mut firsts = BTreeSet::new();
    for process in 0..30 {
        let mut dials = Dials::new(process);
        dials.set_seeds((1..=9).map(address).collect());
        let turns = dials.seeds_in_turn(Instant::ZERO);
        let mut turns: Vec<_> =
            turns.map(|(address, _, turn)| (turn.since(Instant::ZERO), address.clone())).collect();
        turns.sort();
        assert_eq!(turns[0].0, Duration::ZERO);
        assert_eq!(turns[1].0, SEED_STEP);
        assert!(turns.iter().all(|(turn, _)| *turn <= SEED_STEPS_CAP));
        firsts.insert(turns[0].1.clone());
    }
    assert!(firsts.len() > 4, "{firsts:?}");
}

#[test]
fn the_next_seed_has_its_turn_when_one_has_failed() {
    let mut dials = Dials::new(7);
    dials.set_seeds((1..=3).map(address).collect());
    let first = |dials: &Dials| {
        let turns = dials.seeds_in_turn(Instant::ZERO);
        turns.min_by_key(|(_, _, at)| *at).map(|(address, _, at)| (address.clone(), at)).unwrap()
    };
    let mut seen = BTreeSet::new();
    for second in 1..=3 {
        let ((seed, _), now) = (first(&dials), Instant::ZERO + Duration::from_secs(second));
        dials.refresh(&at_once(std::slice::from_ref(&seed)), &BTreeSet::new(), now);
        dials.failed(&seed, now);
        assert_eq!(first(&dials).1, now);
        seen.insert(seed);
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn few_first_contacts_are_made_at_a_time_and_others_do_not_wait_for_them() {
    let mut dials = Dials::new(7);
    let now = Instant::ZERO;
    let many: Vec<_> = (1..=9).map(address).collect();
    let patient = Wanted { patient: true, ..Wanted::now(now) };
    let mut wanted: BTreeMap<_, _> = many.iter().map(|address| (address.clone(), patient)).collect();
    dials.refresh(&wanted, &BTreeSet::new(), now);
    let take = |dials: &mut Dials| std::iter::from_fn(|| dials.take_due(now)).collect::<Vec<_>>();
    let first = take(&mut dials);
    assert_eq!((first.len(), dials.next_timeout()), (PATIENT_DIALS, None));
    wanted.insert(address(10), Wanted::now(now));
    dials.refresh(&wanted, &BTreeSet::new(), now);
    assert_eq!(take(&mut dials), [address(10)]);
    dials.connected(&first[0], &MemberName::new("a").unwrap(), now);
    assert_eq!(dials.next_timeout(), Some(now));
    assert_eq!(take(&mut dials).len(), 1);
}

#[test]
fn a_link_that_lived_is_redialled_at_once_and_one_that_did_not_is_not() {
    let mut dials = Dials::new(7);
    let (a, wanted, kept) = (address(1), at_once(&[address(1)]), set(&[address(1)]));
    dials.refresh(&wanted, &kept, Instant::ZERO);
    dials.take_due(Instant::ZERO).unwrap();
    dials.connected(&a, &MemberName::new("a").unwrap(), Instant::ZERO);
    dials.lost(&a, false);
    dials.refresh(&wanted, &kept, Instant::ZERO);
    assert!(dials.next_timeout().unwrap() >= Instant::ZERO + DIAL_BASE);
    dials.lost(&a, true);
    dials.refresh(&wanted, &kept, Instant::ZERO);
    assert_eq!(dials.next_timeout(), Some(Instant::ZERO));
}

#[test]
fn a_waiting_replica_is_dialled_again_soon_and_then_as_often_as_anybody() {
    let mut dials = Dials::new(7);
    let (a, wanted, kept) = (address(1), at_once(&[address(1)]), set(&[address(1)]));
    let mut now = Instant::ZERO;
    dials.refresh(&wanted, &kept, now);
    let mut wait = |dials: &mut Dials| {
        dials.take_due(now).unwrap();
        dials.standby(&a, now);
        let due = dials.next_timeout().unwrap();
        let wait = due.since(now);
        now = due;
        wait
    };
    let waits: Vec<_> = (0..60).map(|_| wait(&mut dials)).collect();
    let soon = STANDBY_WAIT..STANDBY_WAIT * 2;
    assert!(waits[..8].iter().all(|wait| soon.contains(wait)), "{waits:?}");
    assert!(waits[8..].iter().all(|wait| (DIAL_BASE..=DIAL_CAP).contains(wait)), "{waits:?}");
    assert!(waits[40..].iter().sum::<Duration>() > DIAL_CAP * 10, "it backs off: {waits:?}");
    dials.connected(&a, &MemberName::new("a").unwrap(), Instant::ZERO);
    dials.lost(&a, true);
    dials.refresh(&wanted, &kept, now);
    assert!(soon.contains(&{
        dials.take_due(now).unwrap();
        dials.standby(&a, now);
        dials.next_timeout().unwrap().since(now)
    }));
}

#[test]
fn an_address_with_a_pace_keeps_to_it_whatever_becomes_of_a_dial_and_slows_nobody_else_down() {
    let mut dials = Dials::new(7);
    let (a, b) = (address(1), MemberName::new("b").unwrap());
    let pace = Duration::from_secs(10);
    let at_pace = |now| BTreeMap::from([(a.clone(), Wanted::at_pace(pace, now))]);
    let mut now = Instant::ZERO;
    dials.refresh(&at_pace(now), &BTreeSet::new(), now);
    let ends: [fn(&mut Dials, &PeerAddress, &MemberName, Instant); 4] = [
        |dials, a, _, now| dials.failed(a, now),
        |dials, a, _, now| dials.rejected(a, false, now),
        |dials, a, _, now| dials.standby(a, now),
        |dials, a, b, now| {
            dials.connected(a, b, now);
            dials.lost(a, true);
        },
    ];
    for end in ends.iter().cycle().take(40) {
        let due = dials.next_timeout().unwrap();
        assert!((pace / 2..=pace).contains(&due.since(now)), "{:?}", due.since(now));
        now = due;
        dials.take_due(now).unwrap();
        end(&mut dials, &a, &b, now);
        dials.refresh(&at_pace(now), &BTreeSet::new(), now);
    }
    assert!(Wanted::now(now) < Wanted::at_pace(pace, Instant::ZERO), "who asks without a pace goes first");
    dials.refresh(&at_once(std::slice::from_ref(&a)), &BTreeSet::new(), now);
    assert!(dials.next_timeout().unwrap().since(now) <= DIAL_CAP);
}

#[test]
fn a_hint_that_leads_nowhere_is_dropped() {
    let mut dials = Dials::new(7);
    assert!(dials.hint(MemberName::new("x").unwrap(), address(1)));
    for _ in 0..HINT_DIALS {
        let hints: Vec<_> = dials.hints().map(|(_, address)| address.clone()).collect();
        dials.refresh(&at_once(&hints), &BTreeSet::new(), Instant::ZERO);
        dials.failed(&address(1), Instant::ZERO);
    }
    assert_eq!(dials.hints().count(), 0);
    for n in 0..100 {
        dials.hint(MemberName::new(&format!("x{n}")).unwrap(), address(1));
    }
    assert_eq!(dials.hints().count(), MAX_HINTS);
}
