//! What is done to the fleet: starts, kills, cuts, pauses, changes of objects.

use flagship_election::{Input, Presence, Spec};
use flagship_types::{MemberName, Term};
use rand::Rng;

use super::{Ev, Fleet, Pair, ms, name};

impl Fleet {
    pub(super) fn pair(&mut self, a: &MemberName, b: &MemberName) -> &mut Pair {
        let key = if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
        self.pairs.entry(key).or_default()
    }

    pub(super) fn touch(&mut self, a: &MemberName, b: &MemberName) -> u64 {
        let pair = self.pair(a, b);
        pair.state += 1;
        pair.state
    }

    pub(super) fn lose(&mut self, a: &MemberName, b: &MemberName) -> u64 {
        let now = self.now;
        self.pair(a, b).lost = now;
        self.touch(a, b)
    }

    pub(super) fn others(&self, node: &MemberName) -> Vec<MemberName> {
        self.nodes.keys().filter(|n| *n != node).cloned().collect()
    }

    pub(super) fn is_cut(&self, a: &MemberName, b: &MemberName) -> bool {
        self.cuts.contains(&(a.clone(), b.clone())) || self.cuts.contains(&(b.clone(), a.clone()))
    }

    pub fn start(&mut self, node: &str) {
        let name = name(node);
        self.say(&format!("{node} starts"));
        let seed = u64::from(self.rng.next_u32());
        let (now, bug) = (self.now, self.bug);
        let me = self.nodes.get_mut(&name).unwrap();
        me.start(seed, now, bug);
        let (life, known, pending) = (me.life, me.known.clone(), me.persist_pending());
        if pending {
            self.after(ms(10), Ev::Persist { node: name.clone(), life });
        }
        for other in self.others(&name) {
            let state = self.touch(&name, &other);
            self.pair(&name, &other).up_since = None;
            if self.is_cut(&name, &other) {
                self.schedule_silence(&name, &other, state);
            }
            self.schedule_link(&name, &other, state);
            if known.contains(&other) {
                let delay = self.between(4000, 5500);
                self.after(delay, Ev::Down { observer: name.clone(), subject: other.clone(), state });
            }
        }
        self.drain(&name);
    }

    pub(super) fn schedule_link(&mut self, a: &MemberName, b: &MemberName, state: u64) {
        let delay = self.between(30, 900);
        self.after(delay, Ev::LinkUp { a: a.clone(), b: b.clone(), state });
    }

    /// SIGKILL.
    pub fn crash(&mut self, node: &str) {
        let name = name(node);
        self.say(&format!("{node} is killed"));
        let applied = self.below(2) == 0;
        self.nodes.get_mut(&name).unwrap().crash(applied);
        for other in self.others(&name) {
            let state = self.lose(&name, &other);
            if self.is_cut(&name, &other) {
                self.schedule_silence(&name, &other, state);
                continue;
            }
            self.pair(&name, &other).up_since = None;
            let delay = self.between(250, 450);
            let (observer, subject) = (other.clone(), name.clone());
            self.after(ms(40), Ev::Exited { observer: observer.clone(), subject: subject.clone(), state });
            self.after(delay, Ev::Down { observer, subject, state });
        }
    }

    /// The object loses its status while the daemon is down.
    pub fn lose_status(&mut self, node: &str) {
        self.say(&format!("{node} loses its status"));
        let node = self.nodes.get_mut(&name(node)).unwrap();
        node.durable = None;
        node.highest_stored = Term::NONE;
        // The promise of its votes goes with it: what it does to voters is checked by asking all others.
        let name = node.name.clone();
        self.votes.retain(|(voter, _), _| *voter != name);
    }

    pub fn cut_one_way(&mut self, from: &str, to: &str) {
        let (a, b) = (name(from), name(to));
        self.say(&format!("{from} -> {to} cut"));
        if self.cuts.insert((a.clone(), b.clone())) {
            let state = self.lose(&a, &b);
            self.schedule_silence(&a, &b, state);
        }
    }

    pub(super) fn schedule_silence(&mut self, a: &MemberName, b: &MemberName, state: u64) {
        self.after(ms(3000), Ev::LinkDown { a: a.clone(), b: b.clone(), state });
        for (observer, subject) in [(a, b), (b, a)] {
            let detect = self.detect * self.nodes[observer].caution();
            let delay = detect + self.between(0, 600);
            self.after(delay, Ev::Down { observer: observer.clone(), subject: subject.clone(), state });
        }
    }

    pub fn cut(&mut self, a: &str, b: &str) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    pub fn isolate(&mut self, node: &str) {
        for other in self.others(&name(node)) {
            self.cut(node, other.as_str());
        }
    }

    pub fn heal(&mut self, a: &str, b: &str) {
        let (a, b) = (name(a), name(b));
        let was =
            [(a.clone(), b.clone()), (b.clone(), a.clone())].iter().filter(|c| self.cuts.remove(c)).count()
                > 0;
        if was {
            self.say(&format!("{a} - {b} healed"));
            let state = self.touch(&a, &b);
            self.schedule_link(&a, &b, state);
        }
    }

    pub fn heal_all(&mut self) {
        for (a, b) in self.cuts.clone() {
            self.heal(a.as_str(), b.as_str());
        }
    }

    /// SIGSTOP.
    pub fn freeze(&mut self, node: &str) {
        self.say(&format!("{node} freezes"));
        let name = name(node);
        self.nodes.get_mut(&name).unwrap().frozen = true;
        for other in self.others(&name) {
            let state = self.lose(&name, &other);
            self.schedule_silence(&name, &other, state);
        }
    }

    pub fn thaw(&mut self, node: &str) {
        let name = name(node);
        if !std::mem::take(&mut self.nodes.get_mut(&name).unwrap().frozen) {
            return;
        }
        self.say(&format!("{node} continues"));
        self.input(&name, Input::Paused);
        for other in self.others(&name) {
            let state = self.touch(&name, &other);
            if !self.is_cut(&name, &other) {
                self.schedule_link(&name, &other, state);
            }
        }
        for ev in std::mem::take(&mut self.nodes.get_mut(&name).unwrap().inbox) {
            self.perform(ev);
        }
    }

    /// An operator's `fleet forget` on one member, as membership passes it on: the link is closed, and it takes a
    /// new epoch, which a cut keeps away, to come back.
    pub fn forget(&mut self, on: &str, gone: &str) {
        let (on, gone) = (name(on), name(gone));
        self.say(&format!("{gone} is forgotten on {on}"));
        self.touch(&on, &gone);
        self.pair(&on, &gone).up_since = None;
        self.view(&gone, &on, |v| v.linked = false);
        self.view(&on, &gone, |v| {
            v.presence = Presence::Left;
            v.linked = false;
        });
        self.input(&on, Input::Forget(gone));
    }

    /// One member's detector gives its verdict now.
    pub fn view_down(&mut self, observer: &str, subject: &str) {
        self.view(&name(observer), &name(subject), |v| {
            v.presence = Presence::Down;
            v.linked = false;
        });
    }

    /// It announced a pause before its process ended, and no verdict about it follows.
    pub fn view_away(&mut self, observer: &str, subject: &str) {
        self.touch(&name(observer), &name(subject));
        self.view(&name(observer), &name(subject), |v| {
            v.presence = Presence::Away;
            v.linked = false;
        });
    }

    pub fn api(&mut self, node: &str, up: bool) {
        self.say(&format!("{node} API {}", if up { "up" } else { "down" }));
        let name = name(node);
        let me = self.nodes.get_mut(&name).unwrap();
        me.api = up;
        let life = me.life;
        self.health(&name);
        if up {
            self.after(ms(10), Ev::Persist { node: name, life });
        }
    }

    pub fn change_spec(&mut self, node: &str, change: impl FnOnce(&mut Spec)) {
        let name = name(node);
        let me = self.nodes.get_mut(&name).unwrap();
        change(&mut me.spec);
        let spec = me.spec.clone();
        self.say(&format!("{node} spec {spec:?}"));
        self.input(&name, Input::Spec(spec));
        self.spread(&name);
    }

    /// The pods break, or work again.
    pub fn break_pods(&mut self, node: &str, broken: bool) {
        self.say(&format!("{node} pods {}", if broken { "break" } else { "work" }));
        let now = self.now;
        let me = self.nodes.get_mut(&name(node)).unwrap();
        if me.is_ready() {
            me.payload.ready_until = now;
        }
        me.broken = broken;
        self.health(&name(node));
    }
}
