//! Lists and events of one kind in one cluster, as entries of the ledger. A watch that ended is taken up again where it
//! was: what is told late then is dated back to the end of the watch, which resource versions tell apart from what
//! happens afterwards. A watch that cannot be taken up leaves a gap.

use std::collections::BTreeSet;
use std::time::Instant;

use super::ledger::{Kind, Ledger, Moment, Seen};

/// One kind in one cluster.
#[derive(Debug)]
pub(super) struct Follower {
    kind: Kind,
    alive: BTreeSet<String>,
    /// The version up to which all is known; `None` before the first list.
    version: Option<u64>,
    late: Option<Late>,
}

/// The watch ended, and has told since then what happened meanwhile, or not yet.
#[derive(Clone, Copy, Debug)]
struct Late {
    /// When it ended.
    since: Instant,
    /// The version of the moment in which it was taken up again; `None`: not yet.
    until: Option<u64>,
}

impl Follower {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, alive: BTreeSet::new(), version: None, late: None }
    }

    /// Where a watch has to begin. `None`: list first.
    pub(super) fn version(&self) -> Option<u64> {
        self.version
    }

    /// All that there is, asked for and answered at these times. Any list but the first one closes a gap.
    pub(super) fn listed(
        &mut self,
        ledger: &mut Ledger,
        version: u64,
        all: Vec<Seen>,
        (asked, answered): (Instant, Instant),
    ) {
        let since = self.late.take().map_or(asked, |late| late.since);
        let moment = Moment { after: since, by: answered };
        if self.version.is_some() {
            ledger.blind(self.kind, since, answered);
        }
        let listed: BTreeSet<String> = all.iter().map(|seen| seen.uid.clone()).collect();
        for gone in self.alive.difference(&listed) {
            ledger.went(gone, moment);
        }
        for seen in all {
            ledger.came(self.kind, seen, moment);
        }
        (self.alive, self.version) = (listed, Some(version));
    }

    /// Something was created or changed.
    pub(super) fn came(&mut self, ledger: &mut Ledger, version: u64, seen: Seen, at: Instant) {
        let moment = self.moment(version, at);
        self.alive.insert(seen.uid.clone());
        ledger.came(self.kind, seen, moment);
    }

    /// Something was deleted.
    pub(super) fn went(&mut self, ledger: &mut Ledger, version: u64, uid: &str, at: Instant) {
        let moment = self.moment(version, at);
        self.alive.remove(uid);
        ledger.went(uid, moment);
    }

    /// Nothing of this kind happened up to this version.
    pub(super) fn told_up_to(&mut self, version: u64) {
        self.version = Some(version.max(self.version.unwrap_or(0)));
        let caught_up = |late: &Late| late.until.is_some_and(|until| version >= until);
        self.late = self.late.filter(|late| !caught_up(late));
    }

    /// The watch ended.
    pub(super) fn ended(&mut self, at: Instant) {
        let since = self.late.map_or(at, |late| late.since);
        self.late = Some(Late { since, until: None });
    }

    /// The watch is about to be taken up again; the API server is at this version.
    pub(super) fn taken_up(&mut self, version: u64) {
        self.late = self.late.map(|late| Late { until: Some(version), ..late });
    }

    fn moment(&mut self, version: u64, at: Instant) -> Moment {
        self.version = Some(version.max(self.version.unwrap_or(0)));
        match self.late {
            Some(Late { until: Some(until), .. }) if version > until => {
                self.late = None;
                Moment { after: at, by: at }
            }
            Some(Late { since, .. }) => Moment { after: since, by: at },
            None => Moment { after: at, by: at },
        }
    }
}
