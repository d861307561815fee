//! Who was alive in one cluster, and how exactly that is known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::FleetOf;

/// More objects than the longest run has; beyond, nothing is claimed any more.
const MAX_LIVES: usize = 20_000;
/// A pod's ReplicaSet and its Deployment are two steps; a CronJob's pod has as many.
const MAX_OWNERS: usize = 4;

/// A moment that is known to lie in here. Both are the same if it was seen when it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) after: Instant,
    pub(super) by: Instant,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Carries the label: applied by a daemon.
    Object,
    /// Counts if what owns it, over however many steps, is an [`Kind::Object`].
    Pod,
    /// Only says who owns whom.
    Between,
}

/// An object as a list or an event shows it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) uid: String,
    /// The label's value.
    pub(super) label: Option<String>,
    /// The uid of its controller.
    pub(super) owner: Option<String>,
}

#[derive(Clone, Debug)]
struct Life {
    kind: Kind,
    label: Option<String>,
    owner: Option<String>,
    from: Moment,
    to: Option<Moment>,
}

/// All that was seen in one cluster.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By uid, so that two objects of one name are two.
    lives: BTreeMap<String, Life>,
    /// When something may have come and gone unseen.
    blind: Vec<(Kind, Instant, Instant)>,
    /// Since when something was not noted, for want of room.
    full: Option<Instant>,
}

/// From and to; `None`: until now.
pub(super) type Interval = (Instant, Option<Instant>);

/// When something of a fleet was alive in one cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Presence {
    pub(super) objects: Known,
    pub(super) pods: Known,
}

impl Presence {
    /// Whether something has not ended.
    pub(super) fn is_alive(&self) -> bool {
        let all = self.objects.possible.iter().chain(&self.pods.possible);
        all.into_iter().any(|(_, to)| to.is_none())
    }
}

/// Intervals as certain as they are known. They may overlap each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// It was alive in here.
    pub(super) certain: Vec<Interval>,
    /// It was alive nowhere outside of here.
    pub(super) possible: Vec<Interval>,
}

impl Known {
    fn add(&mut self, from: Moment, to: Option<Moment>, certain: bool) {
        self.possible.push((from.after, to.map(|to| to.by)));
        let ends_after_start = to.is_none_or(|to| to.after > from.by);
        if certain && ends_after_start {
            self.certain.push((from.by, to.map(|to| to.after)));
        }
    }
}

impl Ledger {
    /// It came at this moment, unless it is known.
    pub(super) fn came(&mut self, kind: Kind, seen: Seen, from: Moment) {
        if let Some(life) = self.lives.get_mut(&seen.uid) {
            // A label or an owner that it got later on is as good.
            life.label = life.label.take().or(seen.label);
            life.owner = life.owner.take().or(seen.owner);
            return;
        }
        if self.lives.len() >= MAX_LIVES {
            self.full.get_or_insert(from.after);
            return;
        }
        let Seen { uid, label, owner } = seen;
        self.lives.insert(uid, Life { kind, label, owner, from, to: None });
    }

    /// It had gone at this moment.
    pub(super) fn went(&mut self, uid: &str, to: Moment) {
        if let Some(life) = self.lives.get_mut(uid) {
            life.to.get_or_insert(to);
        }
    }

    /// Something may have come and gone unseen.
    pub(super) fn blind(&mut self, kind: Kind, from: Instant, to: Instant) {
        self.blind.push((kind, from, to));
    }

    pub(super) fn presence(&self, fleet_of: FleetOf, fleet: &str) -> Presence {
        let mut presence = Presence::default();
        for life in self.lives.values() {
            let known = match life.kind {
                Kind::Object => &mut presence.objects,
                Kind::Pod => &mut presence.pods,
                Kind::Between => continue,
            };
            match self.label_of(life) {
                Owner::Label(label) if fleet_of(label) == fleet => known.add(life.from, life.to, true),
                // Its owner was not seen: it may be anybody's.
                Owner::Unknown => known.add(life.from, life.to, false),
                Owner::Label(_) | Owner::Nobody => {}
            }
        }
        for (kind, from, to) in &self.blind {
            match kind {
                Kind::Object => presence.objects.possible.push((*from, Some(*to))),
                Kind::Pod => presence.pods.possible.push((*from, Some(*to))),
                // Pods without a known owner are uncertain by themselves.
                Kind::Between => {}
            }
        }
        if let Some(since) = self.full {
            presence.objects.possible.push((since, None));
            presence.pods.possible.push((since, None));
        }
        presence
    }

    pub(super) fn fleets(&self, fleet_of: FleetOf) -> BTreeSet<String> {
        let labels = self.lives.values().filter_map(|life| life.label.as_deref());
        labels.map(|label| fleet_of(label).to_owned()).collect()
    }

    fn label_of<'a>(&'a self, life: &'a Life) -> Owner<'a> {
        let mut at = life;
        for _ in 0..MAX_OWNERS {
            if let Some(label) = &at.label {
                return Owner::Label(label);
            }
            let Some(owner) = &at.owner else { return Owner::Nobody };
            let Some(next) = self.lives.get(owner) else { return self.unseen(at) };
            at = next;
        }
        Owner::Unknown
    }

    /// Who owns this object is known by its uid only. Objects without the label are not looked at, so that is the usual
    /// case for what somebody else applied; a ReplicaSet is looked at in any case.
    fn unseen(&self, owned: &Life) -> Owner<'_> {
        if owned.kind == Kind::Between && self.blind.is_empty() && self.full.is_none() {
            Owner::Nobody
        } else {
            Owner::Unknown
        }
    }
}

enum Owner<'a> {
    Label(&'a str),
    Nobody,
    Unknown,
}
