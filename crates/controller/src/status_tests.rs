use flagship_k8s_api::{ConditionType, HookPoint, InventoryEntry, MultiClusterStatus, ObjectState};
use flagship_node::Directive;
use flagship_types::Term;

use super::*;
use crate::fixtures::{peer, settings, snapshot};
use crate::progress::{Activity, Validity};
use crate::status_writer::Judgement;

pub(crate) fn running() -> Progress {
    let entry = InventoryEntry {
        group: "apps".into(),
        version: "v1".into(),
        kind: "Deployment".into(),
        namespace: "default".into(),
        name: "web".into(),
        uid: "u".into(),
        generation: 1,
        state: ObjectState::Ready,
    };
    Progress {
        inventory: vec![entry],
        validity: Validity::Valid,
        applied: Some((Term(7), 3)),
        ready: true,
        ..Default::default()
    }
}

fn standby() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.role = Role::Standby;
    snapshot.directive = Directive::Absent;
    snapshot.leader = Some("sheffield".parse().unwrap());
    snapshot.members.push(MemberSnapshot { role: Some(Role::Leader), ..peer("sheffield", State::Alive) });
    snapshot
}

pub(crate) struct Scene {
    pub(crate) snapshot: Option<Snapshot>,
    progress: Progress,
    reach: Reachability,
    stall: Option<Stall>,
    service: Option<Trouble>,
    pub(crate) second: Second,
    fence: Fence,
    pub(crate) settings: Settings,
    gates: Gates,
}

impl Scene {
    pub(crate) fn new(snapshot: Snapshot, progress: Progress) -> Self {
        Self {
            snapshot: Some(snapshot),
            progress,
            reach: Reachability::Up,
            stall: None,
            service: None,
            second: Second::Missing { here: "n1".into() },
            fence: Fence::Off,
            settings: settings(),
            gates: Gates::Open,
        }
    }

    fn picture(&self) -> Picture {
        let noon = "2026-01-02T12:03:11Z".parse().unwrap();
        picture(&View {
            namespace: "shop",
            member: &"newyork".parse().unwrap(),
            generation: Some(3),
            settings: Some(&self.settings),
            snapshot: self.snapshot.as_ref(),
            progress: &self.progress,
            gates: &self.gates,
            reach: self.reach.clone(),
            stall: self.stall.as_ref(),
            second: &self.second,
            fence: &self.fence,
            service: self.service.as_ref(),
            removal: false,
            history: &[],
            last_order: None,
            leader_since: Some(noon),
            wall: noon,
            boot: Instant::ZERO,
        })
    }

    pub(crate) fn says(&self, which: ConditionType) -> (Option<bool>, String, String) {
        let picture = self.picture();
        let found = picture.judgements.iter().find(|judgement| judgement.which == which);
        let found = found.unwrap_or_else(|| panic!("{which:?} is not set"));
        (found.status, found.reason.clone(), found.message.clone())
    }

    fn has(&self, which: ConditionType) -> bool {
        self.picture().judgements.iter().any(|judgement| judgement.which == which)
    }
}

#[test]
fn a_leader_reads_well() {
    let scene = Scene::new(snapshot(), running());
    let status = scene.picture().status;
    assert!(status.ready && status.leading);
    assert_eq!(status.leader_address.as_deref(), Some("172.18.100.100:9990"));
    assert_eq!((status.port, status.role.as_deref()), (Some(9990), Some("Leader")));
    assert_eq!(status.member_counts.unwrap().summary, "1/1");
    assert!(status.lead_since.is_some());
    assert!(!scene.has(ConditionType::Stalled) && !scene.has(ConditionType::Reconciling));
    let (leading, _, message) = scene.says(ConditionType::Leading);
    assert_eq!(leading, Some(true));
    assert_eq!(message, "this member leads under term 7 since 12:03:11Z");
    assert_eq!(scene.says(ConditionType::SplitBrainProtected).0, Some(false), "nothing more is claimed");
}

#[test]
fn pods_that_nobody_confirms_gone_are_named() {
    let mut stopping = snapshot();
    stopping.role = Role::Stopping;
    let unconfirmed = vec!["Pod default/web-1 on node n1".to_owned()];
    let activity = Activity::Deleting(Some("Pod default/web-1 to be gone".into()));
    let scene = Scene::new(stopping, Progress { unconfirmed, activity, ..running() });
    let (stalled, reason, message) = scene.says(ConditionType::Stalled);
    assert_eq!((stalled, reason.as_str()), (Some(true), "PodsUnconfirmed"));
    assert!(message.contains("have ended: Pod default/web-1 on node n1. They"), "{message}");
    assert_eq!(scene.says(ConditionType::Ready).1, "PodsUnconfirmed");
}

#[test]
fn the_fence_is_spoken_of_only_when_it_is_asked_for() {
    let mut scene = Scene::new(snapshot(), running());
    assert!(!scene.has(ConditionType::Fenced));
    scene.fence = Fence::Missing { reason: "Forbidden", message: "kubectl apply -f x".into() };
    assert_eq!(
        scene.says(ConditionType::Fenced),
        (Some(false), "Forbidden".into(), "kubectl apply -f x".into())
    );
    scene.fence = Fence::Pending;
    assert_eq!(scene.says(ConditionType::Fenced).0, Some(false));
    scene.fence = Fence::Up { tells_processes: false };
    let (up, reason, message) = scene.says(ConditionType::Fenced);
    assert_eq!((up, reason.as_str()), (Some(true), "TermOnly"));
    assert!(message.contains("term"), "{message}");
    scene.fence = Fence::Up { tells_processes: true };
    assert_eq!(scene.says(ConditionType::Fenced).1, "AdmissionPolicy");
}

#[test]
fn the_worst_case_is_shown_when_somebody_could_take_over() {
    let alone = Scene::new(snapshot(), running()).picture().status;
    assert_eq!(alone.worst_case_failover_seconds, None);
    let two = Scene::new(standby(), Progress::default()).picture().status;
    assert_eq!(two.worst_case_failover_seconds.map(|worst| worst.crash), Some(11));
}

#[test]
fn a_healthy_standby_is_ready_and_says_who_leads() {
    let scene =
        Scene::new(standby(), Progress { validity: Validity::Valid, settled: true, ..Default::default() });
    let status = scene.picture().status;
    assert!(status.ready && !status.leading && status.lead_since.is_none());
    assert_eq!(status.leader_address.as_deref(), Some("172.18.100.200:9990"));
    assert_eq!(scene.says(ConditionType::Ready).1, "Standby");
    let (leading, _, message) = scene.says(ConditionType::Leading);
    assert_eq!(leading, Some(false));
    assert_eq!(message, "sheffield leads under term 7 since 12:03:11Z; this member has rank 5, sheffield 10");
    assert_eq!(scene.says(ConditionType::PayloadApplied).1, "NotLeading");
}

#[test]
fn a_refused_payload_is_stalled_with_its_sentence() {
    let message = "spec.payload, document 2 (line 7): expected ...".to_owned();
    let validity = Validity::Invalid { reason: "InvalidPayload", message: message.clone() };
    let scene = Scene::new(standby(), Progress { validity, ..Default::default() });
    assert_eq!(scene.says(ConditionType::Stalled), (Some(true), "InvalidPayload".into(), message.clone()));
    assert_eq!(scene.says(ConditionType::Ready), (Some(false), "InvalidPayload".into(), message));
}

#[test]
fn a_stall_is_shown_before_there_is_a_node() {
    let stall = Stall { reason: "NoCertificate".into(), message: "run flagship pki init".into() };
    let mut scene = Scene::new(snapshot(), Progress::default());
    (scene.snapshot, scene.stall) = (None, Some(stall));
    assert_eq!(scene.says(ConditionType::Stalled).1, "NoCertificate");
    assert!(!scene.has(ConditionType::Reconciling), "nothing goes on");
    assert!(!scene.picture().status.ready);
}

#[test]
fn what_takes_time_is_reconciling() {
    let applying =
        Progress { activity: Activity::Applying(Term(7)), ready: false, applied: None, ..running() };
    assert_eq!(Scene::new(snapshot(), applying).says(ConditionType::Reconciling).1, "Applying");
    let waiting =
        Progress { ready: false, not_ready: Some("Deployment default/web: 1 of 3".into()), ..running() };
    let scene = Scene::new(snapshot(), waiting);
    assert!(scene.says(ConditionType::Reconciling).2.contains("1 of 3"));
    assert_eq!(scene.says(ConditionType::PayloadApplied).0, Some(true));
    let deleting = Progress { activity: Activity::Deleting(Some("Pod web-1".into())), ..running() };
    let stopping = Snapshot { role: Role::Stopping, ..snapshot() };
    assert!(Scene::new(stopping, deleting).says(ConditionType::Reconciling).2.contains("Pod web-1"));
}

#[test]
fn an_api_server_that_is_away_is_said() {
    let mut scene = Scene::new(snapshot(), running());
    let since = "2026-01-02T12:00:00Z".parse().unwrap();
    scene.reach = Reachability::Down { since, error: "refused".into() };
    let (ready, reason, message) = scene.says(ConditionType::Ready);
    assert_eq!((ready, reason.as_str()), (Some(false), "ApiUnreachable"));
    assert!(message.contains("12:00:00Z"), "{message}");
    assert!(scene.picture().status.leading, "it goes on leading");
}

#[test]
fn two_leaders_say_so() {
    let other_leaders = vec!["sheffield".parse().unwrap()];
    let scene = Scene::new(Snapshot { other_leaders, ..snapshot() }, running());
    assert_eq!(scene.says(ConditionType::SplitBrainProtected).1, "SplitBrain");
    assert!(scene.says(ConditionType::Leading).2.contains("so does sheffield"));
}

#[test]
fn links_are_told_apart() {
    let mut alone = Scene::new(snapshot(), running());
    assert_eq!(alone.says(ConditionType::Joined).1, "NoSeedAnswers");
    alone.settings.seeds.clear();
    assert_eq!(alone.says(ConditionType::Joined).1, "Alone");
    let mut cut = snapshot();
    cut.members.push(peer("sheffield", State::Down));
    let (_, reason, message) = Scene::new(cut.clone(), running()).says(ConditionType::Joined);
    assert_eq!(reason, "NoLink");
    assert!(message.ends_with(": flagship check -n shop --context CONTEXT"), "{message}");
    cut.members.push(peer("leeds", State::Alive));
    assert_eq!(Scene::new(cut, running()).says(ConditionType::Joined).1, "PartlyLinked");
}

#[test]
fn who_is_away_is_not_a_broken_link() {
    let mut paused = snapshot();
    paused.members.push(peer("sheffield", State::Away));
    let (status, reason, message) = Scene::new(paused.clone(), running()).says(ConditionType::Joined);
    assert_eq!((status, reason.as_str()), (Some(false), "Away"));
    assert_eq!(message, "sheffield announced a pause, as for a restart, and is waited for");
    paused.members.extend([peer("leeds", State::Alive), peer("paris", State::Down)]);
    let (status, _, message) = Scene::new(paused, running()).says(ConditionType::Joined);
    assert_eq!(status, Some(true));
    assert!(message.ends_with("; linked to leeds; no link to paris"), "{message}");
}

#[test]
fn what_is_waited_for_is_told_as_it_is() {
    let waiting_for = Some("nobody leads: this member waits for its turn to ask".to_owned());
    let joining =
        Snapshot { role: Role::Joining, leader: None, waiting_for: waiting_for.clone(), ..standby() };
    let scene = Scene::new(joining, Progress::default());
    assert_eq!(Some(scene.says(ConditionType::Leading).2), waiting_for);
    assert_eq!(Some(scene.says(ConditionType::Reconciling).2), waiting_for);
}

#[test]
fn who_stops_names_its_own_term() {
    let directive = Directive::Stop { term: Term(7), reason: flagship_node::ResignReason::Superseded };
    let stopping = Snapshot { role: Role::Stopping, term: Term(9), directive, ..standby() };
    assert!(Scene::new(stopping, running()).says(ConditionType::Leading).2.contains("the lead of term 7"));
}

#[test]
fn an_outdated_payload_is_not_applied() {
    let old = Progress { applied: Some((Term(7), 2)), ..running() };
    assert_eq!(Scene::new(snapshot(), old).says(ConditionType::PayloadApplied).1, "Outdated");
}

#[test]
fn many_members_are_cut_to_those_that_matter() {
    let mut snapshot = snapshot();
    for number in 0..100 {
        let mut member = peer(&format!("member-{number:03}"), State::Alive);
        member.rank = Some(flagship_types::Rank(-1));
        snapshot.members.push(member);
    }
    snapshot.members.push(peer("zurich", State::Down));
    let status = Scene::new(snapshot, running()).picture().status;
    assert_eq!(status.members.len(), MultiClusterStatus::MAX_MEMBERS);
    let names: Vec<_> = status.members.iter().map(|member| member.name.as_str()).collect();
    assert!(names.contains(&"zurich") && names.contains(&"newyork"));
    assert_eq!(status.member_counts.unwrap().summary, "101/102");
}

#[test]
fn voters_are_listed_however_many_others_there_are() {
    let mut snapshot = snapshot();
    snapshot.config.voters = ["newyork", "sheffield", "witness"].map(|name| name.parse().unwrap()).into();
    let witness = MemberSnapshot { rank: None, role: Some(Role::Witness), ..peer("witness", State::Alive) };
    snapshot.members.extend([peer("sheffield", State::Alive), witness]);
    // As many that are not well as are listed, and as many that would be better leaders.
    for number in 0..MultiClusterStatus::MAX_MEMBERS {
        snapshot.members.push(peer(&format!("down-{number:03}"), State::Down));
        let rank = Some(flagship_types::Rank(99));
        snapshot.members.push(MemberSnapshot { rank, ..peer(&format!("well-{number:03}"), State::Alive) });
    }
    let status = Scene::new(snapshot, running()).picture().status;
    assert_eq!(status.members.len(), MultiClusterStatus::MAX_MEMBERS);
    let names: Vec<_> = status.members.iter().map(|member| member.name.as_str()).collect();
    for voter in ["newyork", "sheffield", "witness"] {
        assert!(names.contains(&voter), "{voter}: {names:?}");
    }
}

#[test]
fn the_picture_does_not_change_by_itself() {
    let scene = Scene::new(standby(), running());
    assert_eq!(scene.picture(), scene.picture());
}

#[test]
fn an_address_that_is_not_known_is_said() {
    let trouble =
        |stalled| Trouble { stalled, reason: "NoServiceAddress", message: "Service a/b has none".into() };
    let mut scene = Scene::new(standby(), Progress { validity: Validity::Valid, ..Default::default() });
    assert_eq!(scene.says(ConditionType::Ready).0, Some(true));
    scene.service = Some(trouble(false));
    let (status, reason, message) = scene.says(ConditionType::Reconciling);
    assert_eq!((status, reason.as_str()), (Some(true), "NoServiceAddress"));
    assert!(message.contains("a/b") && !scene.has(ConditionType::Stalled));
    assert_eq!(scene.says(ConditionType::Ready).0, Some(false));
    scene.service = Some(trouble(true));
    assert_eq!(scene.says(ConditionType::Stalled).0, Some(true));
    assert!(!scene.has(ConditionType::Reconciling));
    scene.snapshot = None;
    scene.service = Some(trouble(false));
    assert!(scene.says(ConditionType::Reconciling).2.contains("a/b"), "also while it joins");
}

#[test]
fn a_standby_whose_gate_is_closed_is_not_ready_and_names_it() {
    let mut scene = Scene::new(standby(), Progress { settled: true, ..Default::default() });
    assert_eq!(scene.says(ConditionType::Ready).0, Some(true));
    scene.gates = Gates::Closed(vec!["spec.health.gates[0]: Service shop/db does not exist".into()]);
    let (status, reason, message) = scene.says(ConditionType::Ready);
    assert_eq!((status, reason.as_str()), (Some(false), "GateClosed"));
    assert!(message.contains("Service shop/db does not exist"), "{message}");
    // A leader's payload runs: what a gate says of its fitness does not make it less well.
    scene.snapshot = Some(snapshot());
    scene.progress = running();
    assert_eq!(scene.says(ConditionType::Ready).0, Some(true));
}

#[test]
fn a_hook_that_blocks_is_named() {
    let hooks =
        [(HookPoint::BeforePromote, "spec.hooks.beforePromote: http://fence answered 503".to_owned())];
    let scene = Scene::new(snapshot(), Progress { hooks: hooks.into(), ..Default::default() });
    for which in [ConditionType::Ready, ConditionType::Reconciling] {
        let (status, reason, message) = scene.says(which);
        assert_eq!(status, Some(which == ConditionType::Reconciling));
        assert_eq!(reason, "HookBlocks");
        assert!(message.contains("nothing is written") && message.contains("answered 503"), "{message}");
    }
}

#[test]
fn a_failed_lead_is_shown_kept_and_cleared() {
    let lapse = Some(flagship_node::Lapse { times: 2, left: std::time::Duration::from_secs(600) });
    let mut scene =
        Scene::new(Snapshot { lapse, ..standby() }, Progress { settled: true, ..Default::default() });
    let (status, reason, message) = scene.says(ConditionType::Ready);
    assert_eq!((status, reason.as_str()), (Some(false), "FailedAsLeader"));
    assert!(message.contains("2 in a row"), "{message}");
    let failed = scene.picture().status.failed_lead.unwrap();
    assert_eq!(failed.times, 2);
    let status = MultiClusterStatus { failed_lead: Some(failed), ..Default::default() };
    // As the next process reads it, 100 s later.
    let later = "2026-01-02T12:04:51Z".parse().unwrap();
    let back = memory::lapse(&status, later).unwrap();
    assert!(back.times == 2 && (499..=501).contains(&back.left.as_secs()), "{back:?}");
    // Over: it may lead again, and the next time will be longer.
    scene.snapshot.as_mut().unwrap().lapse =
        Some(flagship_node::Lapse { times: 2, left: std::time::Duration::ZERO });
    assert_eq!(scene.says(ConditionType::Ready).0, Some(true));
    assert_eq!(scene.picture().status.failed_lead.unwrap().until, None);
}

#[test]
fn a_leader_that_is_not_ready_in_time_and_stays_says_why() {
    let waiting_for = Some("the lead stays here: there is no healthy standby: sheffield is Down".to_owned());
    let progress =
        Progress { ready: false, not_ready: Some("Deployment shop/web: 0 of 1".into()), ..running() };
    let scene = Scene::new(Snapshot { waiting_for, ..snapshot() }, progress);
    let (status, reason, message) = scene.says(ConditionType::Ready);
    assert_eq!((status, reason.as_str()), (Some(false), "NotReadyInTime"));
    assert!(message.contains("sheffield is Down") && message.contains("0 of 1"), "{message}");
}

fn judged(picture: &Picture, which: ConditionType) -> Judgement {
    let found = picture.judgements.iter().find(|judgement| judgement.which == which);
    found.cloned().unwrap_or_else(|| panic!("{which:?} is not set"))
}

#[test]
fn a_paused_fleet_is_shown_by_every_member_with_who_has_yet_to_store_it() {
    let pause = flagship_types::Pause { since_ms: 1_767_355_391_000, reason: "network work".into() };
    let mut leader = snapshot();
    leader.config.pause = Some(pause.clone());
    leader.config_missing = vec!["paris".parse().unwrap()];
    let picture = Scene::new(leader, running()).picture();
    let paused = judged(&picture, ConditionType::Paused);
    assert_eq!(paused.status, Some(true));
    assert_eq!(
        paused.message,
        "an operator paused the fleet since 2026-01-02 12:03:11Z (network work): no failure, rank or health moves the \
         lead until: flagship resume; not stored yet by paris"
    );
    assert_eq!(picture.status.configuration_missing, ["paris"]);
    let mut standby = standby();
    standby.config.pause = Some(pause);
    let picture = Scene::new(standby, Progress::default()).picture();
    assert!(judged(&picture, ConditionType::Paused).message.contains("network work"));
    let picture = Scene::new(snapshot(), running()).picture();
    assert!(!picture.judgements.iter().any(|one| one.which == ConditionType::Paused), "only when true");
}

#[test]
fn a_suspended_member_says_what_that_means() {
    let mut scene = Scene::new(snapshot(), running());
    scene.settings.suspend = true;
    scene.progress.ready = false;
    let picture = scene.picture();
    let ready = judged(&picture, ConditionType::Ready);
    assert_eq!((ready.status, ready.reason.as_str()), (Some(true), "Suspended"));
    assert!(ready.message.contains("left as it is"), "{}", ready.message);
    assert_eq!(judged(&picture, ConditionType::PayloadApplied).reason, "Suspended");
    assert!(!picture.judgements.iter().any(|one| one.which == ConditionType::Reconciling));
    let mut scene = Scene::new(standby(), Progress { settled: true, ..Progress::default() });
    scene.settings.suspend = true;
    assert!(judged(&scene.picture(), ConditionType::Ready).message.contains("takes no lead"));
}

#[test]
fn the_leader_says_who_could_not_take_its_lead() {
    let mut leader = snapshot();
    let unfit = Some("sheffield cannot reach its API server".to_owned());
    leader.members.push(MemberSnapshot { unfit: unfit.clone(), ..peer("sheffield", State::Alive) });
    let picture = Scene::new(leader, running()).picture();
    let row = picture.status.members.iter().find(|member| member.name == "sheffield").unwrap();
    assert_eq!(row.unfit, unfit);
}
