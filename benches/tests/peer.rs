//! The peer does what it is measured by.

use flagship_bench::FocaNode;

#[test]
fn every_probe_is_answered_and_nobody_is_forgotten() {
    for members in [2, 100] {
        let mut node = FocaNode::new(members);
        for probe in 0..1_000 {
            let before = node.answered_bytes();
            node.probe();
            assert!(node.answered_bytes() > before, "probe {probe} of {members} members");
        }
        assert_eq!(node.known(), members - 1);
    }
}
