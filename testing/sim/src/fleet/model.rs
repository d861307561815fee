//! Whole members as a model to hunt on.

use super::fault::Plan;
use super::plans;
use super::run::{run, run_twice};
use super::shrink::candidates;
use super::world::Record;
use crate::model::{Model, Outcome, Violation, fault_line};

/// Fleets of whole members.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fleet;

impl Model for Fleet {
    type Plan = Plan;

    fn plans(&self) -> Vec<&'static str> {
        plans::KINDS.iter().map(|kind| kind.name).collect()
    }

    fn draw(&self, seed: u64, plan: Option<&str>, members: Option<usize>) -> Plan {
        plans::draw(seed, plan.and_then(plans::by_name), members)
    }

    fn run(&self, plan: &Plan, seed: u64, timeline: bool) -> Outcome {
        run(plan, seed, Record { timeline, ..Record::default() })
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
        (plan.name, plan.hosts.len())
    }

    fn tell(&self, plan: &Plan) -> Vec<String> {
        let network = plan.network;
        let head = format!(
            "plan {}, {} members, one-way delay {:?} + {:?}, loss {} in 1000",
            plan.name,
            plan.hosts.len(),
            network.one_way,
            network.jitter,
            network.lost_per_mille
        );
        let hosts = plan.hosts.iter().map(|spec| {
            let config = &spec.config;
            format!(
                "  {} rank {}{}{}{}, {:?}, seeds {:?}, {:?} failback after {:?}, restart grace {:?}",
                spec.name,
                spec.rank,
                if spec.ready { ", ready" } else { "" },
                if spec.witness { ", witness" } else { "" },
                if spec.second { ", two replicas" } else { "" },
                config.mode,
                spec.seeds,
                config.failback,
                config.failback_delay,
                config.restart_grace
            )
        });
        let faults = plan.faults.iter().map(|timed| {
            format!("  {}", fault_line(timed.at, timed.lasts, &timed.fault.describe(&plan.hosts)))
        });
        std::iter::once(head).chain(hosts).chain(faults).collect()
    }
}
