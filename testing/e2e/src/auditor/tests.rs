//! Planted overlaps, found; handovers, not; gaps, said.

use super::super::follower::Follower;
use super::super::ledger::{Kind, Ledger, Seen};
use super::*;

/// Two clusters on one clock in milliseconds.
struct Run {
    start: Instant,
    ledgers: [Ledger; 2],
    objects: [Follower; 2],
    sets: [Follower; 2],
    pods: [Follower; 2],
    version: u64,
}

impl Run {
    /// Nothing is there at 0 ms.
    fn new() -> Self {
        let two = |kind| [Follower::new(kind), Follower::new(kind)];
        let mut run = Self {
            start: Instant::now().checked_sub(Duration::from_secs(3600)).expect("an hour after boot"),
            ledgers: Default::default(),
            objects: two(Kind::Object),
            sets: two(Kind::Between),
            pods: two(Kind::Pod),
            version: 100,
        };
        let at = run.at(0);
        for cluster in 0..2 {
            let ledger = &mut run.ledgers[cluster];
            for follower in [&mut run.objects[cluster], &mut run.sets[cluster], &mut run.pods[cluster]] {
                follower.listed(ledger, 100, Vec::new(), (at, at));
            }
        }
        run
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn apply(&mut self, cluster: usize, uid: &str, ms: u64) {
        self.version += 1;
        let (version, at) = (self.version, self.at(ms));
        self.objects[cluster].came(&mut self.ledgers[cluster], version, labelled(uid), at);
    }

    fn delete(&mut self, cluster: usize, uid: &str, ms: u64) {
        self.version += 1;
        let (version, at) = (self.version, self.at(ms));
        self.objects[cluster].went(&mut self.ledgers[cluster], version, uid, at);
    }

    /// A pod of a ReplicaSet of this object.
    fn pod(&mut self, cluster: usize, uid: &str, object: &str, ms: u64) {
        self.version += 1;
        let (version, at) = (self.version, self.at(ms));
        let set = format!("set-of-{object}");
        let ledger = &mut self.ledgers[cluster];
        // The pod is seen before its ReplicaSet, as may well be.
        self.pods[cluster].came(ledger, version, owned(uid, &set), at);
        self.sets[cluster].came(ledger, version, owned(&set, object), at);
    }

    fn end_pod(&mut self, cluster: usize, uid: &str, ms: u64) {
        self.version += 1;
        let (version, at) = (self.version, self.at(ms));
        self.pods[cluster].went(&mut self.ledgers[cluster], version, uid, at);
    }

    /// The API server has forgotten what happened since the watch of a cluster's objects ended.
    fn gap(&mut self, cluster: usize, (from, to): (u64, u64), left: Vec<Seen>) {
        let times = (self.at(to - 100), self.at(to));
        let ended = self.at(from);
        self.objects[cluster].ended(ended);
        self.version += 1;
        self.objects[cluster].listed(&mut self.ledgers[cluster], self.version, left, times);
    }

    fn report(&self, now: u64) -> Report {
        self.report_since(0, now)
    }

    fn report_since(&self, since: u64, now: u64) -> Report {
        let presences: Vec<_> = self.ledgers.iter().map(|ledger| ledger.presence(|_| "", "")).collect();
        report(&presences, self.at(since), self.at(now))
    }
}

fn labelled(uid: &str) -> Seen {
    Seen { uid: uid.to_owned(), label: Some("default.newyork".to_owned()), owner: None }
}

fn owned(uid: &str, owner: &str) -> Seen {
    Seen { uid: uid.to_owned(), label: None, owner: Some(owner.to_owned()) }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn an_overlap_of_50_ms_is_found() {
    let mut run = Run::new();
    run.apply(0, "a", 1000);
    run.apply(1, "b", 5000);
    run.delete(0, "a", 5050);
    let report = run.report(9000);
    assert_eq!(report.objects, Verdict::For(ms(50)));
    assert_eq!((report.pods, report.anything), (Verdict::Never, Verdict::For(ms(50))));
}

#[test]
fn one_after_the_other_is_none_and_the_time_between_is_told() {
    let mut run = Run::new();
    run.apply(0, "a", 1000);
    run.delete(0, "a", 5000);
    run.apply(1, "b", 5000);
    run.delete(1, "b", 7000);
    run.apply(1, "c", 7250);
    let report = run.report(9000);
    assert_eq!((report.objects, report.anything), (Verdict::Never, Verdict::Never));
    assert_eq!(report.nobody, ms(250));
}

#[test]
fn what_still_runs_counts_until_now_and_not_before_it_is_asked_for() {
    let mut run = Run::new();
    run.apply(0, "a", 1000);
    run.apply(1, "b", 3000);
    assert_eq!(run.report(4000).objects, Verdict::For(ms(1000)));
    assert_eq!(run.report_since(3600, 4000).objects, Verdict::For(ms(400)));
    run.delete(0, "a", 4000);
    assert_eq!(run.report_since(4000, 9000).objects, Verdict::Never);
}

#[test]
fn a_pod_that_outlives_its_deployment_is_found() {
    let mut run = Run::new();
    run.apply(0, "a", 1000);
    run.pod(0, "pod-a", "a", 1100);
    run.delete(0, "a", 5000);
    run.apply(1, "b", 6000);
    run.end_pod(0, "pod-a", 6050);
    let alone = run.report(9000);
    assert_eq!((alone.objects, alone.pods), (Verdict::Never, Verdict::Never));
    assert_eq!(alone.anything, Verdict::For(ms(50)), "the old pod ran when the new object was there");
    run.pod(1, "pod-b", "b", 6020);
    assert_eq!(run.report(9000).pods, Verdict::For(ms(30)));
}

#[test]
fn pods_of_others_do_not_count() {
    let mut run = Run::new();
    run.pod(0, "pod-a", "somebody-elses", 1000);
    run.apply(1, "b", 2000);
    run.pod(1, "pod-b", "b", 2000);
    assert_eq!(run.report(9000).anything, Verdict::Never);
}

#[test]
fn fleets_are_told_apart() {
    let mut run = Run::new();
    run.apply(0, "a", 1000);
    run.version += 1;
    let (version, at) = (run.version, run.at(1000));
    let other = Seen { label: Some("default.paris".to_owned()), ..labelled("b") };
    run.objects[1].came(&mut run.ledgers[1], version, other, at);
    let presences: Vec<_> =
        run.ledgers.iter().map(|ledger| ledger.presence(|label| label, "default.paris")).collect();
    assert_eq!(report(&presences, run.at(0), run.at(2000)).objects, Verdict::Never);
    assert_eq!(run.report(2000).objects, Verdict::For(ms(1000)));
}

#[test]
fn what_a_watch_tells_late_is_not_taken_for_late() {
    let mut run = Run::new();
    run.apply(0, "a", 1000);
    // Cluster 1's watch ends at 2000 and is taken up at 6000, when b has been there for an unknown time.
    let [ended, taken_up] = [run.at(2000), run.at(6000)];
    run.objects[1].ended(ended);
    run.delete(0, "a", 5000);
    run.objects[1].taken_up(run.version + 1);
    run.apply(1, "b", 6000);
    let late = run.report(9000);
    assert_eq!(late.objects, Verdict::Unknown(ms(3000)), "b came between 2000 and 6000");
    assert!(taken_up > ended);
    // What is newer than the version at that time happens now.
    run.apply(0, "c", 7000);
    run.delete(1, "b", 7000);
    assert_eq!(run.report_since(6500, 9000).objects, Verdict::Never);
    run.apply(1, "d", 8000);
    assert_eq!(run.report_since(6500, 9000).objects, Verdict::For(ms(1000)));
}

#[test]
fn a_watch_that_ended_for_a_moment_while_nothing_happened_changes_nothing() {
    let mut run = Run::new();
    run.apply(0, "a", 1000);
    run.objects[1].ended(run.at(2000));
    run.objects[1].taken_up(run.version);
    run.delete(0, "a", 5000);
    run.apply(1, "b", 5000);
    assert_eq!(run.report(9000).objects, Verdict::Never);
    // A bookmark says as much, without any event.
    run.objects[0].ended(run.at(6000));
    run.objects[0].taken_up(run.version);
    run.objects[0].told_up_to(run.version);
    run.objects[0].ended(run.at(8000));
    run.objects[0].taken_up(run.version + 2);
    run.delete(1, "b", 7000);
    run.apply(0, "c", 8100);
    assert_eq!(run.report(9000).objects, Verdict::Never, "c came after 8000");
}

#[test]
fn a_gap_is_unknown_and_not_never() {
    let mut run = Run::new();
    run.apply(0, "a", 1000);
    run.gap(1, (2000, 4000), Vec::new());
    assert_eq!(run.report(9000).objects, Verdict::Unknown(ms(2000)), "anything may have come and gone");
    assert_eq!(run.report_since(4000, 9000).objects, Verdict::Never, "not since");
    // In a gap in which nobody else had the payload, nothing can have overlapped.
    run.delete(0, "a", 5000);
    run.gap(1, (6000, 7000), Vec::new());
    assert_eq!(run.report_since(5000, 9000).objects, Verdict::Never);
}

#[test]
fn what_a_gap_hides_the_end_of_is_only_possibly_there() {
    let mut run = Run::new();
    run.apply(0, "a", 1000);
    run.apply(1, "b", 3000);
    run.gap(0, (2000, 4000), Vec::new());
    assert_eq!(run.report(9000).objects, Verdict::Unknown(ms(1000)), "a went between 2000 and 4000");
    // And what was there before and after the gap was there in it.
    let mut run = Run::new();
    run.apply(0, "a", 1000);
    run.apply(1, "b", 3000);
    run.gap(0, (2000, 4000), vec![labelled("a")]);
    assert_eq!(run.report(5000).objects, Verdict::For(ms(2000)));
}

#[test]
fn three_at_once_count_once() {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let clusters = [vec![(at(0), at(100))], vec![(at(50), at(150))], vec![(at(60), at(80))]];
    assert_eq!(held_by(2, &clusters), ms(50));
    assert_eq!(held_by(3, &clusters), ms(20));
    assert_eq!(held_by(1, &clusters), ms(150));
}
