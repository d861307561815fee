//! The members of a fleet: names, addresses and signed records, once for all cores.

use flagship_membership::{Config, KnownMember, Membership, Proof, Record, SelfState, Signed, Statement};
use flagship_types::{
    ConfigVersion, Epoch, Health, Incarnation, Instant, MemberName, Metadata, PeerAddress, Rank, Role, Term,
};
use flagship_wire::statement_bytes;

/// When all members started, in ms.
const EPOCH_MS: u64 = 1_700_000_000_000;
const PORT: u16 = 9990;

/// A fleet. Its records are shared by all cores, as in one process.
#[derive(Debug)]
pub struct Fleet {
    names: Vec<MemberName>,
    records: Vec<Signed<Record>>,
}

impl Fleet {
    /// A fleet of that many members, at most 2^16.
    pub fn new(members: usize) -> Self {
        let names: Vec<MemberName> = (0..members).map(name).collect();
        let leader = names.first();
        let records =
            (0..members).map(|member| sign(record(member, names[member].clone(), leader))).collect();
        Self { names, records }
    }

    /// All names, by number.
    pub fn names(&self) -> &[MemberName] {
        &self.names
    }

    /// What a member says of itself.
    pub fn record(&self, member: usize) -> &Signed<Record> {
        &self.records[member]
    }

    /// The core of one member, which knows all others from before but those that `without` names.
    pub fn core(&self, member: usize, without: &[usize], now: Instant) -> Membership {
        let epoch = Epoch(EPOCH_MS);
        let known = (0..self.names.len()).filter(|other| *other != member && !without.contains(other));
        let known = known.map(|other| KnownMember {
            name: self.names[other].clone(),
            epoch,
            address: None,
            record: Some(self.records[other].clone()),
        });
        let config = Config::new(self.names[member].clone(), epoch, EPOCH_MS);
        let metadata = self.records[member].metadata.clone();
        Membership::new(config, metadata, known.collect(), member as u64, now)
    }

    /// Holds records that a core had signed, so that they do not count as the core's.
    pub(crate) fn keep(&mut self, records: impl Iterator<Item = Signed<Record>>) {
        self.records.extend(records);
    }

    /// Who is found at an address.
    pub fn member_at(&self, address: &PeerAddress) -> Option<usize> {
        let mut parts = address.host().split('.').skip(2).map(|part| part.parse::<usize>().ok());
        let member = parts.next()?? * 256 + parts.next()??;
        (member < self.names.len()).then_some(member)
    }
}

/// Signs as the transport side does, with a signature and a certificate of the usual lengths: nobody here checks them.
pub(crate) fn sign(record: Record) -> Signed<Record> {
    let (_, bytes) = statement_bytes(&Statement::Record(record.clone()), EPOCH_MS);
    let proof = Proof { bytes: bytes.into(), signature: [0; 71].into(), leaf: [0; 480].into() };
    Signed::new(record, proof)
}

fn name(member: usize) -> MemberName {
    MemberName::new(&format!("member-{member:05}")).expect("letters, '-' and digits are a name")
}

fn record(member: usize, name: MemberName, leader: Option<&MemberName>) -> Record {
    let address = format!("10.0.{}.{}", member / 256, member % 256);
    let metadata = Metadata {
        address: PeerAddress::parse(&address, PORT).ok(),
        rank: Rank(10),
        candidate: true,
        health: Health {
            api: true,
            payload_valid: true,
            payload_ready: member == 0,
            gates: true,
            failed: false,
        },
        role: if member == 0 { Role::Leader } else { Role::Standby },
        term: Term(7),
        leader: leader.cloned(),
        config: ConfigVersion(1),
        interrupted: false,
        fences: false,
        quorum: false,
        promoted: Term::NONE,
    };
    Record {
        member: name,
        epoch: Epoch(EPOCH_MS),
        incarnation: Incarnation(0),
        version: 1,
        status: SelfState::Alive,
        metadata,
    }
}
