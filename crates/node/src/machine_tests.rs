use flagship_membership::{Evidence, MemberView, Statement};
use flagship_types::{ConfigVersion, FleetConfig, Mode, Rank};

use super::routing::{TELLING_TIME, peer_view};
use super::*;

/// A member that may found its fleet alone, fit to lead.
fn founder(now: Instant) -> Machine {
    founder_after(Restored::default(), Vec::new(), now)
}

/// The same after a restart.
fn founder_after(restored: Restored, known: Vec<KnownMember>, now: Instant) -> Machine {
    let mut machine =
        Machine::new(MachineConfig { restored, known, ..founder_config() }, Arc::new(unsigned), now);
    machine.health(
        Health { api: true, payload_valid: true, payload_ready: false, gates: true, failed: false },
        now,
    );
    machine
}

pub(crate) fn unsigned(_: &Statement) -> Option<membership::Proof> {
    None
}

pub(crate) fn founder_config() -> MachineConfig {
    let proposal = FleetConfig::default();
    let election = election::Spec {
        rank: Rank(5),
        ready: true,
        candidate: true,
        witness: false,
        fences: false,
        suspended: false,
        proposal,
        promote_timeout: None,
    };
    MachineConfig {
        callsign: Callsign::new("federation").unwrap(),
        member: "newyork".parse().unwrap(),
        epoch: Epoch(1),
        wall_ms: 1,
        spec: NodeSpec { election, address: None, seeds: Vec::new() },
        restored: Restored::default(),
        known: Vec::new(),
        beat_interval: Duration::from_secs(1),
        silence_floor: Duration::from_secs(3),
        seed: 7,
        votes_until: None,
    }
}

/// Stores everything at once and lets time pass until the directive is as wanted.
fn until(machine: &mut Machine, now: &mut Instant, wanted: impl Fn(&Directive) -> bool) {
    for _ in 0..1000 {
        while let Some(output) = machine.poll_output() {
            if let MachineOutput::Persist(record) = output {
                machine.persisted(record.election.version, *now);
            }
        }
        if wanted(machine.directive()) {
            return;
        }
        *now = *now + Duration::from_millis(50);
        machine.handle_timeout(*now);
    }
    panic!("still {:?}", machine.directive());
}

#[test]
fn a_silent_member_with_a_waiting_replica_gets_the_restart_grace() {
    let name = "sheffield".parse().unwrap();
    let exited = |evidence, replica_waits| {
        let view = MemberView {
            name: &name,
            state: State::Down,
            epoch: Epoch(1),
            incarnation: flagship_types::Incarnation(0),
            metadata: None,
            link: None,
            address: None,
            rtt: None,
            heard_at: None,
            evidence,
            since: Instant::ZERO,
            replica_waits,
        };
        peer_view(&view).exited
    };
    assert!(exited(Some(Evidence::Silence), true) && exited(Some(Evidence::Exit), false));
    assert!(!exited(Some(Evidence::Silence), false));
    assert!(!exited(None, true), "a stream that broke is no exit");
}

#[test]
fn a_leader_prunes_and_only_a_stop_deletes() {
    let mut now = Instant::ZERO + Duration::from_secs(1);
    let mut machine = founder(now);
    until(&mut machine, &mut now, |directive| matches!(directive, Directive::Run { .. }));
    assert!(machine.permit(Purpose::Apply, now).is_ok());
    assert!(machine.permit(Purpose::Prune, now).is_ok());
    // What the worker still asks for after its stop was called off.
    assert_eq!(machine.permit(Purpose::Delete, now), Err(Denied::Leading));
    machine.retire(ResignReason::Removal, now);
    until(&mut machine, &mut now, |directive| matches!(directive, Directive::Stop { .. }));
    assert!(machine.permit(Purpose::Delete, now).is_ok());
    assert_eq!(machine.permit(Purpose::Apply, now), Err(Denied::NotLeading));
    assert_eq!(machine.permit(Purpose::Prune, now), Err(Denied::NotLeading));
}

#[test]
fn who_was_forgotten_is_not_counted_and_has_not_left() {
    let mut now = Instant::ZERO + Duration::from_secs(1);
    let mut machine = founder(now);
    let sheffield: MemberName = "sheffield".parse().unwrap();
    let hello = membership::PeerHello {
        member: sheffield.clone(),
        epoch: Epoch(5),
        address: None,
        view_hash: 0,
        protocol: 2,
    };
    let (link, hello) = (flagship_membership::LinkId(1), Verified::first_hand(hello));
    machine.link_event(LinkEvent::Up { link, hello, dialled: None }, now);
    machine.link_event(LinkEvent::Down { link, end: membership::LinkEnd::Lost }, now);
    now = now + Duration::from_secs(1);
    assert_eq!(machine.snapshot(now).members.len(), 2);
    while machine.poll_output().is_some() {}
    machine.forget(sheffield, now);
    assert_eq!(machine.snapshot(now).members.len(), 1, "the own one");
    while let Some(output) = machine.poll_output() {
        assert!(!matches!(output, MachineOutput::Event(NodeEvent::Member { .. })), "{output:?}");
    }
}

#[test]
fn who_was_forgotten_and_was_seen_since_is_told_of_again() {
    let mut now = Instant::ZERO + Duration::from_secs(1);
    let mut machine = founder(now);
    let sheffield: MemberName = "sheffield".parse().unwrap();
    machine.forget(sheffield.clone(), now);
    assert!(machine.is_forgotten(&sheffield, State::Left));
    // Others hear it, so that it is a member again; also when it goes down before this one has a link to it.
    for state in [State::Alive, State::Suspect, State::Away, State::Down] {
        assert!(!machine.is_forgotten(&sheffield, state), "{state:?}");
    }
    // A restart finds it in the status, where it was when this process died.
    let known = || KnownMember { name: sheffield.clone(), epoch: Epoch(5), address: None, record: None };
    let record = Some(machine.election.record().clone());
    let restored = Restored { record, ..Restored::default() };
    now = now + Duration::from_secs(1);
    assert_eq!(founder_after(restored, vec![known()], now).snapshot(now).members.len(), 1);
    assert_eq!(founder_after(Restored::default(), vec![known()], now).snapshot(now).members.len(), 2);
}

fn sent(machine: &mut Machine) -> Vec<membership::Message> {
    let outputs = std::iter::from_fn(|| machine.poll_output());
    let message = |output| match output {
        MachineOutput::Send(_, PeerMessage::Membership(message)) => Some(message),
        _ => None,
    };
    outputs.filter_map(message).collect()
}

fn meet(machine: &mut Machine, peer: &str, link: u64, now: Instant) {
    let member = peer.parse().unwrap();
    let hello = membership::PeerHello { member, epoch: Epoch(5), address: None, view_hash: 0, protocol: 2 };
    let hello = Verified::first_hand(hello);
    machine.link_event(LinkEvent::Up { link: membership::LinkId(link), hello, dialled: None }, now);
}

#[test]
fn what_a_member_says_of_itself_is_signed_at_once() {
    let now = Instant::ZERO + Duration::from_secs(1);
    let proof = membership::Proof { signature: [9].into(), ..Default::default() };
    let signs = proof.clone();
    let signer = move |_: &Statement| Some(signs.clone());
    for (signer, expected) in
        [(Arc::new(signer) as Arc<dyn Signer>, Some(&proof)), (Arc::new(unsigned), None)]
    {
        let mut machine = Machine::new(founder_config(), signer, now);
        machine.health(Health { api: true, ..Health::default() }, now);
        meet(&mut machine, "sheffield", 1, now);
        let records: Vec<_> = sent(&mut machine)
            .into_iter()
            .flat_map(|message| match message {
                membership::Message::Record(record) => vec![record],
                membership::Message::Delta { records, .. } => records,
                _ => Vec::new(),
            })
            .collect();
        let own =
            records.iter().find(|record| record.member.as_str() == "newyork").expect("told at the Hello");
        assert!(own.metadata.health.api && own.proof() == expected, "{own:?}");
    }
}

#[test]
fn membership_is_told_whom_election_needs() {
    let now = Instant::ZERO + Duration::from_secs(1);
    let mut machine = founder(now);
    assert!(machine.required.is_empty());
    meet(&mut machine, "sheffield", 1, now);
    assert_eq!(machine.required, BTreeSet::from(["sheffield".parse().unwrap()]));
    machine.forget("sheffield".parse().unwrap(), now);
    assert!(machine.required.is_empty());
    // Who only watches asks nobody.
    let mut config = founder_config();
    config.spec.election.candidate = false;
    let mut machine = Machine::new(config, Arc::new(unsigned), now);
    meet(&mut machine, "sheffield", 1, now);
    assert!(machine.required.is_empty());
}

#[test]
fn a_new_certificate_signs_anew_what_is_said_already() {
    let now = Instant::ZERO;
    let mut machine = founder(now);
    let own =
        |machine: &Machine| machine.membership().members().next().map(|view| (view.epoch, view.incarnation));
    let (signed, before) = (Arc::new(std::sync::Mutex::new(0)), own(&machine));
    let count = signed.clone();
    machine.signer = Arc::new(move |_: &Statement| {
        *count.lock().unwrap() += 1;
        None
    });
    machine.link_event(LinkEvent::Renewed, now);
    assert_eq!(*signed.lock().unwrap(), 1);
    assert_eq!(own(&machine), before, "it is the same process, which refutes nothing");
}

#[test]
fn in_a_large_fleet_who_cannot_lead_tells_who_leads_in_turn_and_the_others_at_once() {
    let now = Instant::ZERO;
    let known = |count: usize| -> Vec<KnownMember> {
        let name = |i| MemberName::new(&format!("m{i}")).unwrap();
        (0..count)
            .map(|i| KnownMember { name: name(i), epoch: Epoch(1), address: None, record: None })
            .collect()
    };
    let told = |machine: &Machine| {
        let mut members = machine.membership().members();
        members.next().and_then(|own| own.metadata.map(|metadata| metadata.term))
    };
    for (candidate, others, seed) in [(true, 99, 200), (false, 7, 200), (false, 99, 200)] {
        let mut config = MachineConfig { known: known(others), seed, ..founder_config() };
        config.spec.election.candidate = candidate;
        let mut machine = Machine::new(config, Arc::new(unsigned), now);
        machine.metadata.term = Term(7);
        machine.publish_in_turn(true, now);
        let waits = !candidate && others == 99;
        assert_eq!(told(&machine) != Some(Term(7)), waits, "{candidate} {others}");
        let until = now + TELLING_TIME * 100;
        assert_eq!(machine.tell_at.is_some_and(|at| at > now && at < until), waits);
        machine.handle_timeout(until);
        assert_eq!((told(&machine), machine.tell_at), (Some(Term(7)), None));
    }
}

#[test]
fn only_the_election_says_that_this_member_failed_as_a_leader() {
    let now = Instant::ZERO + Duration::from_secs(1);
    let told = Health { api: true, payload_valid: true, payload_ready: false, gates: true, failed: true };
    let mut machine = founder(now);
    machine.health(told, now);
    assert!(!machine.metadata.health.failed);
    let mut config = founder_config();
    let left = Duration::from_secs(600);
    config.restored.lapse = Some(election::Lapse { times: 1, left });
    let mut machine = Machine::new(config, Arc::new(unsigned), now);
    machine.health(Health { failed: false, ..told }, now);
    assert!(machine.metadata.health.failed && !machine.metadata.health.is_fit());
    assert_eq!(machine.snapshot(now).lapse, Some(election::Lapse { times: 1, left }));
}

/// What a voter answers to the leader's renewal, to its claim, and to who asks for its record.
fn votes(machine: &mut Machine, now: Instant) -> usize {
    let config = machine.election.record().config.clone();
    let (term, seq, version) = (Term(7), now.as_nanos(), config.version);
    let (lease, stop_grace) = (config.lease, config.stop_grace);
    let claim = election::Claim { term: Term(8), rank: Rank(1), config, released: None };
    let asked = [
        election::Message::Renew { term, seq, config: version, lease, stop_grace },
        election::Message::RecordRequest,
        election::Message::PreClaim(claim.clone()),
        election::Message::Claim(claim),
    ];
    for message in asked {
        let message = Verified::checked(PeerMessage::Election(message));
        machine.link_event(LinkEvent::Message { link: membership::LinkId(1), message }, now);
    }
    let mut votes = 0;
    while let Some(output) = machine.poll_output() {
        match output {
            MachineOutput::Persist(record) => machine.persisted(record.election.version, now),
            MachineOutput::Send(_, PeerMessage::Election(message)) => {
                use election::Message::{Grant, RecordReply, Renewed};
                votes += usize::from(matches!(message, Grant { .. } | RecordReply { .. } | Renewed { .. }));
            }
            _ => {}
        }
    }
    votes
}

#[test]
fn who_may_not_hold_the_local_lease_any_more_has_no_vote() {
    let begin = Instant::ZERO + Duration::from_secs(100);
    let names = ["denver", "newyork", "sheffield"].map(|name| name.parse::<MemberName>().unwrap());
    let [_, _, sheffield] = names.clone();
    let voter = |mode, votes_until| {
        let voters = if mode == Mode::Quorum { names.to_vec() } else { Vec::new() };
        let config = FleetConfig { version: ConfigVersion(7), mode, voters, ..FleetConfig::default() };
        let promise = election::Promise { lease: config.lease, stop_grace: config.stop_grace };
        let record = election::Record {
            vote: Some(election::Vote { term: Term(7), candidate: sheffield.clone() }),
            promise: (mode == Mode::Quorum).then_some(promise),
            term: Term(7),
            config,
            ..Machine::new(founder_config(), Arc::new(unsigned), begin).election.record().clone()
        };
        let restored = Restored { record: Some(record), ..Restored::default() };
        let mut config = MachineConfig { restored, votes_until, ..founder_config() };
        config.spec.election.candidate = false;
        let mut machine = Machine::new(config, Arc::new(unsigned), begin);
        meet(&mut machine, "sheffield", 1, begin);
        machine
    };
    let all = votes(&mut voter(Mode::Quorum, None), begin);
    assert!(all >= 3, "a renewal, a record and a grant: {all}");
    let lease = Duration::from_secs(2);
    let mut machine = voter(Mode::Quorum, Some(begin + lease));
    assert_eq!(votes(&mut machine, begin), all);
    assert_eq!((votes(&mut machine, begin + lease), machine.votes_withheld() > 0), (0, true));
    machine.held_until(begin + lease * 2);
    assert!(votes(&mut machine, begin + lease) > 0, "the API server answers again");
    machine.held_until(Instant::ZERO);
    assert_eq!(votes(&mut machine, begin + lease), 0, "it is lost for good");
    // Without a majority there are no two, and who waits for it would wait in vain.
    let free = votes(&mut voter(Mode::Availability, None), begin);
    assert_eq!(votes(&mut voter(Mode::Availability, Some(begin)), begin), free);
    // Where there is none, there is nothing to lose.
    let mut witness = voter(Mode::Quorum, None);
    witness.held_until(begin);
    assert_eq!(votes(&mut witness, begin + lease), all);
}

#[test]
fn the_others_are_told_whether_a_promotion_here_fences_an_earlier_leader_off() {
    let now = Instant::ZERO + Duration::from_secs(1);
    let mut machine = founder(now);
    let fences = |machine: &Machine| machine.snapshot(now).members[0].fences;
    assert!(!fences(&machine));
    let spec = founder_config().spec;
    let with_hook = election::Spec { fences: true, ..spec.election.clone() };
    machine.spec(NodeSpec { election: with_hook.clone(), ..spec.clone() }, now);
    assert!(fences(&machine) && machine.metadata.fences);
    machine.spec(spec.clone(), now);
    assert!(!fences(&machine), "a hook can be removed");

    let from_the_start = MachineConfig { spec: NodeSpec { election: with_hook, ..spec }, ..founder_config() };
    assert!(fences(&Machine::new(from_the_start, Arc::new(unsigned), now)));
}
