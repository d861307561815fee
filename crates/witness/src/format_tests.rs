use super::*;

fn name(name: &str) -> MemberName {
    name.parse().unwrap()
}

/// Every field differs from its default.
fn memory() -> Memory {
    let config = FleetConfig {
        version: ConfigVersion(3),
        mode: Mode::Quorum,
        voters: vec![name("newyork"), name("sheffield"), name("witness")],
        lease: Duration::from_secs(4),
        stop_grace: Duration::from_secs(11),
        pause: Some(Pause { since_ms: 1_700_000_000_002, reason: "a \"reason\"".into() }),
        failback: Failback::Manual,
        failback_delay: Duration::from_millis(1_500),
        restart_grace: Duration::from_secs(7),
    };
    let election = ElectionRecord {
        replaced: None,
        chosen: false,
        version: 0,
        vote: Some(Vote { term: Term(7), candidate: name("newyork") }),
        promise: Some(Promise { lease: Duration::from_secs(5), stop_grace: Duration::from_millis(12_345) }),
        held: Some(Term(5)),
        stopping: Some(Term(6)),
        released: None,
        term: Term(8),
        leader: Some(name("sheffield")),
        config,
        forgotten: vec![name("paris")],
    };
    let peer = |peer: &str, address: Option<&str>| KnownMember {
        name: name(peer),
        epoch: Epoch(1_700_000_000_001),
        address: address.map(|address| PeerAddress::parse(address, 1).unwrap()),
        record: None,
    };
    Memory {
        callsign: "flotte-é=1".parse().unwrap(),
        member: name("witness"),
        begun: Epoch(1_600_000_000_000),
        epoch: Epoch(1_700_000_000_000),
        election: Some(election),
        peers: vec![peer("newyork", Some("[2001:db8::1]:9991")), peer("sheffield", None)],
    }
}

#[test]
fn a_record_comes_back_as_it_was() {
    for memory in [memory(), Memory { election: None, peers: Vec::new(), ..memory() }] {
        let text = memory.to_text().unwrap();
        assert_eq!(Memory::from_bytes(text.as_bytes()), Ok(memory));
    }
}

/// Files of this version must be readable by all later ones: there may be new texts here, and none may go.
#[test]
fn the_first_format_is_still_read() {
    let first = include_str!("../tests/golden/format-1.json");
    assert_eq!(Memory::from_bytes(first.as_bytes()), Ok(memory()));
    assert_eq!(memory().to_text().unwrap(), first, "it is still what is written");
}

#[test]
fn what_was_cut_off_is_no_record() {
    let text = memory().to_text().unwrap();
    // Without its last newline it is whole.
    for length in 0..text.len() - 1 {
        let cut = Memory::from_bytes(&text.as_bytes()[..length]);
        assert!(cut.is_err(), "{length} of {} bytes: {cut:?}", text.len());
    }
    let mut zeroed = text.clone().into_bytes();
    zeroed[text.len() / 2..].fill(0);
    assert!(Memory::from_bytes(&zeroed).is_err());
    assert_eq!(Memory::from_bytes(b""), Err(FormatError::Empty));
    assert_eq!(Memory::from_bytes(&[0; 4096]), Err(FormatError::Empty));
    assert_eq!(Memory::from_bytes(&vec![b' '; MAX_BYTES + 1]), Err(FormatError::TooLong));
    assert!(matches!(Memory::from_bytes(b"\xff"), Err(FormatError::Damaged(_))));
}

#[test]
fn no_byte_can_change_unnoticed() {
    let memory = memory();
    let text = memory.to_text().unwrap();
    for at in 0..text.len() {
        let mut changed = text.clone().into_bytes();
        changed[at] ^= 1;
        // White space outside of the record says nothing.
        if let Ok(read) = Memory::from_bytes(&changed) {
            assert_eq!(read, memory, "byte {at}");
        }
    }
    let edited = text.replace("\"term\": 7", "\"term\": 6");
    assert_eq!(Memory::from_bytes(edited.as_bytes()), Err(FormatError::Checksum));
}

#[test]
fn a_later_format_is_named() {
    let later = br#"{"format": 2, "votes": "in another way"}"#;
    assert_eq!(Memory::from_bytes(later), Err(FormatError::Later(2)));
}
