//! Names and addresses of simulated members, and back to their places without a search.

use flagship_membership::{Record, SelfState, Signed};
use flagship_types::{
    ConfigVersion, Epoch, Health, Incarnation, MemberName, Metadata, PeerAddress, Rank, Role, Term,
};

use super::fault::Host;
use super::signing::proof;
use super::world::WALL_MS;

/// Names of one fleet. They carry a salt, so that rings differ from run to run.
#[derive(Debug)]
pub struct Names {
    names: Vec<MemberName>,
    addresses: Vec<PeerAddress>,
    /// What each says of itself at its first start, signed.
    first_records: Vec<Signed<Record>>,
}

impl Names {
    /// Of the run of a seed.
    pub fn of_run(members: usize, seed: u64) -> Self {
        let mixed = (seed ^ 0x6e61_6d65).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self::new(members, (mixed >> 48) as u16)
    }

    /// For so many members.
    pub fn new(members: usize, salt: u16) -> Self {
        let name = |i: usize| MemberName::new(&format!("m{i:05}-{salt:04x}")).expect("a valid name");
        let names: Vec<MemberName> = (0..members).map(name).collect();
        let addresses: Vec<PeerAddress> = (0..members).map(|i| address(10, i)).collect();
        let first = |i: usize| {
            let record = Record {
                member: names[i].clone(),
                epoch: Epoch(WALL_MS),
                incarnation: Incarnation(0),
                version: 1,
                status: SelfState::Alive,
                metadata: metadata(&addresses[i], 1),
            };
            Signed::new(record, proof(i))
        };
        let first_records = (0..members).map(first).collect();
        Self { names, addresses, first_records }
    }

    /// Its name.
    pub fn name(&self, host: Host) -> &MemberName {
        &self.names[host]
    }

    /// What it says of itself at its first start.
    pub fn first_record(&self, host: Host) -> &Signed<Record> {
        &self.first_records[host]
    }

    /// Its address.
    pub fn address(&self, host: Host) -> &PeerAddress {
        &self.addresses[host]
    }

    /// Who has this name; `None` for one that a liar made up.
    pub fn host(&self, name: &MemberName) -> Option<Host> {
        let digits = name.as_str().strip_prefix('m')?.get(..5)?;
        let host = digits
            .bytes()
            .try_fold(0usize, |n, b| b.is_ascii_digit().then(|| n * 10 + usize::from(b - b'0')))?;
        (self.names.get(host)? == name).then_some(host)
    }

    /// Who has this address.
    pub fn host_at(&self, address: &PeerAddress) -> Option<Host> {
        let mut parts = address.host().strip_prefix("10.")?.split('.').map(str::parse::<usize>);
        let mut next = || parts.next()?.ok();
        let host = (next()? << 16) + (next()? << 8) + next()?;
        (host < self.names.len()).then_some(host)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// The address of the i-th host of a network.
pub(super) fn address(network: u8, i: usize) -> PeerAddress {
    let text = format!("{network}.{}.{}.{}", i >> 16 & 255, i >> 8 & 255, i & 255);
    PeerAddress::parse(&text, 9990).expect("a valid address")
}

/// What a member says of itself. The term stands for all that changes in it.
pub(super) fn metadata(address: &PeerAddress, term: u64) -> Metadata {
    Metadata {
        address: Some(address.clone()),
        rank: Rank(0),
        candidate: true,
        health: Health::default(),
        role: Role::Joining,
        term: Term(term),
        leader: None,
        config: ConfigVersion(0),
        interrupted: false,
        fences: false,
        quorum: false,
        promoted: Term::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_lead_back() {
        let names = Names::new(10_000, 0xbeef);
        for host in [0, 1, 255, 256, 9_999] {
            assert_eq!(names.host(names.name(host)), Some(host));
            assert_eq!(names.host_at(names.address(host)), Some(host));
        }
        for other in ["m00001-dead", "ghost", "m10000-beef", "m1"] {
            assert_eq!(names.host(&MemberName::new(other).unwrap()), None);
        }
        assert_eq!(names.host_at(&address(11, 3)), None);
        assert_eq!(names.host_at(&address(10, 10_000)), None);
    }
}
