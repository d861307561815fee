//! What this member remembers of one peer.

use std::time::Duration;

use flagship_types::{ConfigVersion, FleetConfig, Instant, MemberName, Metadata, Rank, Role, Term};

use crate::io::{PeerView, Presence};

/// The most peers reckoned with. A fleet has far fewer electors; more members than this only watch, and the
/// election needs no state about them.
pub const MAX_PEERS: usize = 64;

/// Kinds of messages that are state and repeated until the receiver shows that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paced {
    Announce,
    Claim,
    Confirm,
    Handover,
    Record,
    Release,
}

const PACED_KINDS: usize = 6;

/// A peer's answer in the campaign's current round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The round it belongs to; an answer of another round counts for nothing.
    pub(crate) round: u64,
    /// When it was first asked over a link.
    pub(crate) since: Option<Instant>,
    /// It granted, or said that it has no vote.
    pub(crate) granted: bool,
    /// With its grant: when the payload of those before is gone.
    pub(crate) owed_until: Option<Instant>,
    /// It refused, and asking again makes sense then.
    pub(crate) refused_until: Option<Instant>,
}

#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) view: PeerView,
    /// When at the earliest its newest proven beat was sent.
    pub(crate) heard: Option<Instant>,
    /// When somebody else last heard it, as far as that told. It may lie: nothing is decided by this.
    pub(crate) vouched: Option<Instant>,
    /// When it was first told that its process ended; `None`: it lives, or went silent.
    pub(crate) exited_at: Option<Instant>,
    /// What it announced as a leader over the present link.
    pub(crate) announced: Option<(Term, FleetConfig)>,
    /// The newest term whose payload it said is gone.
    pub(crate) released: Term,
    /// Since when it says that it is deleting its payload.
    pub(crate) stopping_since: Option<Instant>,
    /// It told its record since this process started.
    pub(crate) told: bool,
    /// It has yet to say whether a higher term than the held one exists.
    pub(crate) unconfirmed: bool,
    /// It said that it stored this configuration.
    pub(crate) config_stored: ConfigVersion,
    pub(crate) ask: Ask,
    paced: [Option<Instant>; PACED_KINDS],
}

impl Peer {
    /// A member known from before: reckoned with until membership says what became of it.
    pub(crate) fn unresolved(name: MemberName) -> Self {
        let presence = Presence::Present;
        Self::new(PeerView { name, presence, metadata: None, exited: false, linked: false })
    }

    pub(crate) fn new(view: PeerView) -> Self {
        Self {
            view,
            heard: None,
            vouched: None,
            exited_at: None,
            announced: None,
            released: Term::NONE,
            stopping_since: None,
            told: false,
            unconfirmed: false,
            config_stored: ConfigVersion(0),
            ask: Ask::default(),
            paced: [None; PACED_KINDS],
        }
    }

    /// Takes a new view. Returns whether a link came up.
    pub(crate) fn update(&mut self, view: PeerView, now: Instant) -> bool {
        let linked_now = view.linked && !self.view.linked;
        if linked_now {
            // A leader announces itself on every new link: what it said on the last one may be over.
            self.announced = None;
            self.paced = [None; PACED_KINDS];
        }
        if matches!(view.presence, Presence::Down | Presence::Left) {
            self.announced = None;
            self.ask = Ask::default();
        }
        if view.exited {
            self.exited_at.get_or_insert(now);
        } else if view.presence == Presence::Present {
            self.exited_at = None;
        }
        match view.metadata.as_ref().map(|metadata| metadata.role) {
            Some(Role::Stopping) => {
                self.stopping_since.get_or_insert(now);
            }
            Some(Role::Leader) => self.stopping_since = None,
            _ => {}
        }
        let metadata = view.metadata.or_else(|| self.view.metadata.take());
        self.view = PeerView { metadata, ..view };
        linked_now
    }

    /// Its newest sign of life, its own or by the word of others.
    pub(crate) fn last_sign(&self) -> Option<Instant> {
        self.heard.max(self.vouched)
    }

    pub(crate) fn name(&self) -> &MemberName {
        &self.view.name
    }

    pub(crate) fn metadata(&self) -> Option<&Metadata> {
        self.view.metadata.as_ref()
    }

    pub(crate) fn is_present(&self) -> bool {
        self.view.presence == Presence::Present
    }

    pub(crate) fn is_linked(&self) -> bool {
        self.view.linked && self.is_present()
    }

    pub(crate) fn rank(&self) -> Rank {
        self.metadata().map_or(Rank(i64::MAX), |m| m.rank)
    }

    /// May lead, as far as it said.
    pub(crate) fn is_candidate(&self) -> bool {
        self.metadata().is_some_and(|m| m.candidate)
    }

    /// Could run the payload right now.
    pub(crate) fn is_healthy(&self) -> bool {
        self.metadata().is_some_and(|m| m.candidate && m.health.is_fit())
    }

    /// Could run the payload, though it may have failed to lately.
    pub(crate) fn is_able(&self) -> bool {
        self.metadata().is_some_and(|m| m.candidate && m.health.is_able())
    }

    /// Whether it still holds the lead, or may: its payload may run. `followed` is the term under which this
    /// member follows it, if it does.
    pub(crate) fn holds_lead(&self, followed: Option<Term>) -> bool {
        let announced = self.announced.as_ref().map(|(term, _)| *term);
        let Some(metadata) = self.metadata() else {
            return followed.is_some() || announced.is_some();
        };
        let newest = announced.unwrap_or_default().max(followed.unwrap_or_default());
        if self.released > Term::NONE && self.released >= newest.max(metadata.term) {
            return false;
        }
        // Metadata and announcements travel apart: older metadata does not contradict a newer announcement.
        self.says_it_holds()
            || match (announced, followed) {
                (Some(term), _) => metadata.term < term,
                (None, Some(term)) => !self.view.linked && metadata.term < term,
                (None, None) => false,
            }
    }

    /// Whether its metadata say so.
    pub(crate) fn says_it_holds(&self) -> bool {
        self.metadata().is_some_and(|metadata| match metadata.role {
            Role::Leader | Role::Stopping => true,
            // Restarted, or about to lead: whether it does is being found out.
            Role::Joining | Role::Candidate => metadata.leader.as_ref() == Some(self.name()),
            Role::Standby | Role::Witness => false,
        })
    }

    /// Whether a message of this kind is due now; if not, when it will be.
    pub(crate) fn due(&mut self, kind: Paced, every: Duration, now: Instant) -> Result<(), Instant> {
        let slot = &mut self.paced[kind as usize];
        match *slot {
            Some(last) if now < last + every => Err(last + every),
            _ => {
                *slot = Some(now);
                Ok(())
            }
        }
    }

    /// Makes a message of this kind due at once.
    pub(crate) fn hasten(&mut self, kind: Paced) {
        self.paced[kind as usize] = None;
    }
}
