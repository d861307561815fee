//! Membership cores as a model to hunt on.

use super::fault::Plan;
use super::plans;
use super::run::{run, run_twice};
use super::shrink::candidates;
use super::trace::describe;
use super::world::Record;
use crate::model::{Model, Outcome, Violation, fault_line};

/// Fleets of membership cores alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cores;

impl Model for Cores {
    type Plan = Plan;

    fn plans(&self) -> Vec<&'static str> {
        plans::KINDS.iter().map(|kind| kind.name).collect()
    }

    fn draw(&self, seed: u64, plan: Option<&str>, members: Option<usize>) -> Plan {
        plans::draw(seed, plan.and_then(plans::by_name), members)
    }

    fn run(&self, plan: &Plan, seed: u64, timeline: bool) -> Outcome {
        run(plan, seed, Record { trace: timeline, ..Record::default() })
    }

    fn repeats(&self) -> u8 {
        12
    }

    fn run_twice(&self, plan: &Plan, seed: u64) -> Option<Violation> {
        run_twice(plan, seed, Record::default())
    }

    fn smaller(&self, plan: &Plan) -> Vec<Plan> {
        candidates(plan)
    }

    fn label(&self, plan: &Plan) -> (&'static str, usize) {
        (plan.name, plan.members)
    }

    fn tell(&self, plan: &Plan) -> Vec<String> {
        let network = plan.network;
        let head = format!(
            "plan {}, {} members, one-way delay {:?} + {:?}, loss {} in 1000",
            plan.name, plan.members, network.one_way, network.jitter, network.lost_per_mille
        );
        let faults =
            plan.faults.iter().map(|timed| fault_line(timed.at, timed.lasts, &describe(&timed.fault)));
        std::iter::once(head).chain(faults.map(|line| format!("  {line}"))).collect()
    }
}
