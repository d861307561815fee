//! Any plan: the model of crates/membership/tests/properties.rs and its checks, under libFuzzer.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/membership/tests/properties/honest.rs"]
mod honest;
#[path = "../../crates/membership/tests/properties/hostile.rs"]
mod hostile;
#[path = "../../crates/membership/tests/properties/steps.rs"]
mod steps;
#[path = "../../crates/membership/tests/properties/world.rs"]
mod world;

fuzz_target!(|plan: steps::Plan| {
    let trace = hostile::run(&plan);
    // Twice costs twice: for some.
    if plan.setup.seed % 16 == 0 {
        assert_eq!(trace, hostile::run(&plan), "the same inputs led to other outputs");
    }
});
