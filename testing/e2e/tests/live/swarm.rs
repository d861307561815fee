//! A dozen real nodes in this process: on rings, so that what one says of itself reaches most others second-hand.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test as it should")]

use std::time::Duration;

use flagship_e2e::swarm::{Options, run};

const OPTIONS: Options = Options {
    members: 12,
    electors: 4,
    rest: Duration::from_secs(5),
    losses: 1,
    boot_limit: Duration::from_secs(30),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dozen_nodes_find_each_other_and_miss_who_is_gone() {
    let report = tokio::time::timeout(Duration::from_secs(90), run(&OPTIONS, |_| {})).await.unwrap().unwrap();
    println!("{report}");
    assert_eq!(report.failures(), Vec::<String>::new(), "{report}");
    assert_eq!((report.exit.observers, report.silence.observers), (11, 10));
    // Generous, as other tests run beside this one: the bounds themselves are the simulator's matter.
    assert!(report.exit.worst < Duration::from_secs(5), "{report}");
    assert!(report.silence.worst < Duration::from_secs(8), "{report}");
    assert!(report.payload_per_second() > 10.0 && report.payload_per_second() < 500.0, "{report}");
    assert!(report.wire_per_second() > report.payload_per_second(), "{report}");
    assert!(report.cpu_percent() > 0.0, "{report}");
}

#[test]
fn what_cannot_be_run_is_refused_with_a_sentence() {
    let refused = |options: Options| options.check().unwrap_err().to_string();
    assert!(OPTIONS.check().is_ok());
    assert!(refused(Options { members: 1, ..OPTIONS }).contains("at least 2"));
    assert!(refused(Options { members: 1_001, ..OPTIONS }).contains("at most 1000"));
    assert!(refused(Options { electors: 0, ..OPTIONS }).contains("at least 1 member may lead"));
    assert!(refused(Options { electors: 13, ..OPTIONS }).contains("no more than the 12"));
    assert!(refused(Options { losses: 5, ..OPTIONS }).contains("are too few"));
    assert!(refused(Options { rest: Duration::ZERO, ..OPTIONS }).contains("a rest of 0 s"));
    assert!(refused(Options { boot_limit: Duration::ZERO, ..OPTIONS }).contains("a boot limit of 0 s"));
}
