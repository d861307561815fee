use std::fs;
use std::path::Path;

use flagship_node::{ElectionRecord, Vote};
use flagship_types::{FleetConfig, PeerAddress, Term};

use super::*;

fn fleet(name: &str) -> Callsign {
    name.parse().unwrap()
}

fn name(name: &str) -> MemberName {
    name.parse().unwrap()
}

/// As a process finds it.
fn open(dir: &Path) -> Result<FleetFile, StateError> {
    FleetFile::open(Arc::new(StateDir::open(dir)?), fleet("federation"))
}

fn granted(term: u64, candidate: &str) -> ElectionRecord {
    ElectionRecord {
        version: term,
        vote: Some(Vote { term: Term(term), candidate: name(candidate) }),
        term: Term(term),
        ..ElectionRecord::new(FleetConfig::default())
    }
}

fn store(file: &FleetFile, epoch: Epoch, election: ElectionRecord) -> Result<(), StateError> {
    file.store(DurableRecord { epoch, election })
}

fn newyork() -> KnownMember {
    let address = PeerAddress::parse("172.18.100.100:9990", 1).ok();
    KnownMember { name: name("newyork"), epoch: Epoch(4), address, record: None }
}

#[test]
fn a_restart_has_the_vote_the_peers_and_a_later_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let file = open(dir.path()).unwrap();
    let first = file.begin(&name("witness"), 5_000).unwrap();
    let (begun, known) = (Epoch(5_000), Vec::new());
    assert_eq!(first, Start { begun, epoch: begun, restored: Restored::default(), known });
    store(&file, first.epoch, granted(7, "newyork")).unwrap();
    file.remember(vec![newyork()]).unwrap();
    drop(file);

    // The clock was set back meanwhile.
    let second = open(dir.path()).unwrap().begin(&name("witness"), 4_000).unwrap();
    assert_eq!((second.begun, second.epoch), (begun, Epoch(5_001)));
    assert_eq!(second.restored.record, Some(ElectionRecord { version: 0, ..granted(7, "newyork") }));
    assert_eq!((second.restored.known_peers, second.known), (vec![name("newyork")], vec![newyork()]));
    // And one that was only started is above it too.
    let third = open(dir.path()).unwrap().begin(&name("witness"), 4_000).unwrap();
    assert_eq!(third.epoch, Epoch(5_002));
}

#[test]
fn a_witness_that_never_voted_has_no_record() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap().begin(&name("witness"), 1).unwrap();
    // There is a file now, and it must not pass for a voter's record.
    assert_eq!(open(dir.path()).unwrap().begin(&name("witness"), 1).unwrap().restored.record, None);
}

#[test]
fn a_crash_before_the_rename_leaves_the_record_from_before() {
    let dir = tempfile::tempdir().unwrap();
    let file = open(dir.path()).unwrap();
    let epoch = file.begin(&name("witness"), 1).unwrap().epoch;
    store(&file, epoch, granted(7, "newyork")).unwrap();
    drop(file);
    let path = dir.path().join("fleet-federation.json");
    let unfinished = dir.path().join(".flagship-unfinished-a1b2c3");
    fs::write(&unfinished, &fs::read(&path).unwrap()[..100]).unwrap();

    let start = open(dir.path()).unwrap().begin(&name("witness"), 1).unwrap();
    assert_eq!(start.restored.record.unwrap().vote, granted(7, "newyork").vote);
    assert!(!unfinished.exists(), "nothing piles up");
}

#[test]
fn a_damaged_record_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = open(dir.path()).unwrap();
    file.begin(&name("witness"), 1).unwrap();
    drop(file);
    let path = dir.path().join("fleet-federation.json");
    let whole = fs::read(&path).unwrap();
    for content in [&whole[..whole.len() / 2], b"", b"\0\0\0\0", b"{}"] {
        fs::write(&path, content).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, StateError::Unreadable { .. }), "{error}");
        let said = error.to_string();
        let what_to_do = format!("mv {0} {0}.bad", path.display());
        assert!(said.starts_with(path.to_str().unwrap()) && said.contains(&what_to_do), "{said}");
        assert!(said.contains("--admit"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), content, "the evidence stays");
    }
    fs::rename(&path, dir.path().join("fleet-federation.json.bad")).unwrap();
    assert_eq!(open(dir.path()).unwrap().begin(&name("witness"), 1).unwrap().restored.record, None);
}

#[test]
fn a_record_stays_with_its_fleet_and_member() {
    let dir = tempfile::tempdir().unwrap();
    let file = open(dir.path()).unwrap();
    file.begin(&name("witness"), 1).unwrap();
    let error = file.begin(&name("other"), 1).unwrap_err();
    assert!(matches!(error, StateError::OtherMember { .. }), "{error}");
    assert!(error.to_string().contains("record of member witness, and this witness is other"), "{error}");
    drop(file);
    let (path, renamed) = (dir.path().join("fleet-federation.json"), dir.path().join("fleet-empire.json"));
    fs::rename(path, renamed).unwrap();
    let state_dir = Arc::new(StateDir::open(dir.path()).unwrap());
    let error = FleetFile::open(state_dir, fleet("empire")).unwrap_err();
    assert!(error.to_string().contains("the record of fleet federation, not of empire"), "{error}");
}

#[test]
fn a_directory_serves_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let first = StateDir::open(dir.path()).unwrap();
    let error = StateDir::open(dir.path()).unwrap_err();
    assert!(matches!(error, StateError::InUse(_)), "{error}");
    assert!(error.to_string().contains("could vote twice"), "{error}");
    drop(first);
    StateDir::open(dir.path()).unwrap();
}

#[test]
fn a_directory_that_is_not_there_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("volume");
    let error = StateDir::open(&missing).unwrap_err();
    assert!(error.to_string().contains("its volume is not mounted"), "{error}");
    assert!(!missing.exists());
}

#[test]
fn what_could_not_be_written_is_in_the_next_write() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("state");
    fs::create_dir(&dir).unwrap();
    let file = open(&dir).unwrap();
    let epoch = file.begin(&name("witness"), 1).unwrap().epoch;
    let away = outer.path().join("away");
    fs::rename(&dir, &away).unwrap();
    let error = store(&file, epoch, granted(7, "newyork")).unwrap_err();
    assert!(error.to_string().contains("state"), "{error}");
    fs::rename(&away, &dir).unwrap();
    // Even by a write that is about something else; and the same again is written, as it is not known to be there.
    file.remember(vec![newyork()]).unwrap();
    store(&file, epoch, granted(7, "newyork")).unwrap();
    drop(file);
    let start = open(&dir).unwrap().begin(&name("witness"), 1).unwrap();
    assert_eq!(start.restored.record.unwrap().vote, granted(7, "newyork").vote);
    assert_eq!(start.known, [newyork()]);
}

#[test]
fn what_is_stored_already_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = open(dir.path()).unwrap();
    let epoch = file.begin(&name("witness"), 1).unwrap().epoch;
    store(&file, epoch, granted(7, "newyork")).unwrap();
    let path = dir.path().join("fleet-federation.json");
    fs::remove_file(&path).unwrap();
    // Another version of the same record.
    store(&file, epoch, ElectionRecord { version: 99, ..granted(7, "newyork") }).unwrap();
    assert!(!path.exists());
    store(&file, epoch, granted(8, "newyork")).unwrap();
    assert!(path.exists());
}

/// Root may do everything, so that the test takes another user for it.
#[test]
fn a_directory_of_somebody_else_is_refused_with_what_to_do() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    const DIR: &str = "FLAGSHIP_TEST_FOREIGN_DIR";
    const NOBODY: u32 = 65_534;
    if let Some(dir) = std::env::var_os(DIR) {
        let error = StateDir::open(Path::new(&dir)).unwrap_err();
        println!("said: {error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    // Where everybody may read and run it, which a build directory need not be.
    let program = tempfile::tempdir().unwrap();
    fs::set_permissions(program.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let test = program.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    let mut command = std::process::Command::new(&test);
    command.args(["--exact", "file::tests::a_directory_of_somebody_else_is_refused_with_what_to_do"]);
    command.args(["--nocapture"]).env(DIR, dir.path()).current_dir("/");
    if nix::unistd::Uid::effective().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = format!("said: cannot open {}/flagship.lock: Permission denied", dir.path().display());
    assert!(said.contains(&expected) && said.contains("must belong to the user"), "{said}\n{output:?}");
}
