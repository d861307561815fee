//! Checkers: what must hold at every moment, and after quiet.

use std::collections::BTreeMap;

use flagship_node::DurableRecord;
use flagship_types::{Epoch, Instant, MemberName, Term};

/// Something that must not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A voter stored two grants for one term.
    TwoGrants {
        /// Who.
        voter: MemberName,
        /// In which term.
        term: Term,
        /// To whom.
        candidates: [MemberName; 2],
    },
    /// A stored number went back.
    WentBack {
        /// Whose.
        member: MemberName,
        /// Which number.
        what: &'static str,
    },
    /// A payload object was created under a term that is not durable at its member.
    AppliedUnderUnheldTerm {
        /// Who.
        member: MemberName,
        /// Which term.
        term: Term,
    },
    /// Two members applied under one term.
    TwoLeadersInTerm {
        /// Which.
        term: Term,
        /// Who.
        members: [MemberName; 2],
    },
    /// The payload was created while another healthy, connected, running member had it.
    Overlap {
        /// The newcomer.
        member: MemberName,
        /// Who still had it.
        other: MemberName,
        /// When.
        at: Instant,
    },
}

/// Collects violations and what is needed to see them.
#[derive(Debug, Default)]
pub struct Violations {
    found: Vec<Violation>,
    grants: BTreeMap<(MemberName, Term), MemberName>,
    highest: BTreeMap<MemberName, (Epoch, Term)>,
    applied: BTreeMap<Term, MemberName>,
}

impl Violations {
    /// What was found.
    pub fn found(&self) -> &[Violation] {
        &self.found
    }

    /// A record became durable.
    pub fn stored(&mut self, member: &MemberName, record: &DurableRecord) {
        if let Some(vote) = &record.election.vote {
            let first =
                self.grants.entry((member.clone(), vote.term)).or_insert_with(|| vote.candidate.clone());
            if *first != vote.candidate {
                let candidates = [first.clone(), vote.candidate.clone()];
                self.found.push(Violation::TwoGrants { voter: member.clone(), term: vote.term, candidates });
            }
        }
        let (epoch, term) = self.highest.entry(member.clone()).or_default();
        if record.epoch < *epoch {
            self.found.push(Violation::WentBack { member: member.clone(), what: "epoch" });
        }
        if record.election.term < *term {
            self.found.push(Violation::WentBack { member: member.clone(), what: "term" });
        }
        (*epoch, *term) = (record.epoch, record.election.term);
    }

    /// The payload was created or kept under this term.
    pub fn applied(&mut self, member: &MemberName, term: Term, durable: Option<&DurableRecord>) {
        if durable.and_then(|record| record.election.held) != Some(term) {
            self.found.push(Violation::AppliedUnderUnheldTerm { member: member.clone(), term });
        }
    }

    /// The payload was created at `member` under `term` while the `others`, each healthy and connected, had it.
    pub fn created(&mut self, member: &MemberName, term: Term, others: &[MemberName], at: Instant) {
        for other in others {
            let (member, other) = (member.clone(), other.clone());
            self.found.push(Violation::Overlap { member, other, at });
        }
        let first = self.applied.entry(term).or_insert_with(|| member.clone());
        // Cut-off parts may count terms on their own; the caller asks only when nothing was ever cut.
        if first != member && others.is_empty() {
            let members = [first.clone(), member.clone()];
            self.found.push(Violation::TwoLeadersInTerm { term, members });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flagship_node::{ElectionRecord, Vote};
    use flagship_types::FleetConfig;

    fn name(n: &str) -> MemberName {
        MemberName::new(n).unwrap()
    }

    fn record(epoch: u64, term: u64, to: &str) -> DurableRecord {
        let election = ElectionRecord {
            promise: None,
            version: 1,
            vote: Some(Vote { term: Term(term), candidate: name(to) }),
            held: None,
            stopping: None,
            term: Term(term),
            leader: None,
            config: FleetConfig::default(),
            forgotten: vec![],
            chosen: false,
        };
        DurableRecord { epoch: Epoch(epoch), election }
    }

    #[test]
    fn two_grants_in_a_term_are_seen() {
        let mut check = Violations::default();
        check.stored(&name("a"), &record(1, 4, "b"));
        check.stored(&name("a"), &record(1, 4, "b"));
        assert_eq!(check.found(), []);
        check.stored(&name("a"), &record(1, 4, "c"));
        assert!(matches!(check.found(), [Violation::TwoGrants { .. }]));
    }

    #[test]
    fn numbers_that_go_back_are_seen() {
        let mut check = Violations::default();
        check.stored(&name("a"), &record(2, 4, "b"));
        check.stored(&name("a"), &record(1, 3, "b"));
        assert_eq!(check.found().len(), 2);
    }

    #[test]
    fn unheld_terms_and_overlaps_are_seen() {
        let mut check = Violations::default();
        check.applied(&name("a"), Term(3), Some(&record(1, 3, "a")));
        assert!(matches!(check.found(), [Violation::AppliedUnderUnheldTerm { .. }]));
        check.created(&name("a"), Term(3), &[name("b")], Instant::ZERO);
        assert_eq!(check.found().len(), 2);
    }
}
