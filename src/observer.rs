//! Lets the telemetry room count what the controller does: neither knows the other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flagship_controller::{LeadPhase, Observer, PayloadResult};
use flagship_node::NodeHandle;
use flagship_telemetry::{MemberRecorder, Outcome, Phase, Running, Telemetry};
use flagship_types::{Callsign, MemberName};

type Members = BTreeMap<(Callsign, MemberName), Running>;

/// Hands what is observed to telemetry.
pub(crate) struct TelemetryObserver {
    telemetry: Telemetry,
    /// Guards that keep a member in the metrics: as many as this daemon serves.
    members: Arc<Mutex<Members>>,
}

impl TelemetryObserver {
    pub(crate) fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, members: Arc::default() }
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recorder(&self, callsign: &Callsign, member: &MemberName) -> Option<MemberRecorder> {
        self.telemetry.fleets().recorder(callsign, member)
    }
}

fn outcome(result: PayloadResult) -> Outcome {
    match result {
        PayloadResult::Success => Outcome::Success,
        PayloadResult::Failure => Outcome::Failure,
        PayloadResult::Superseded => Outcome::Superseded,
    }
}

impl Observer for TelemetryObserver {
    fn api_request(&self, verb: &'static str, code: u16) {
        self.telemetry.recorder().api_request(verb, code);
    }

    fn payload_applied(
        &self,
        callsign: &Callsign,
        member: &MemberName,
        result: PayloadResult,
        took: Duration,
    ) {
        if let Some(recorder) = self.recorder(callsign, member) {
            recorder.applied(took, outcome(result));
        }
    }

    fn lead_phase(&self, callsign: &Callsign, member: &MemberName, phase: LeadPhase, after: Duration) {
        let phase = match phase {
            LeadPhase::PayloadCreated => Phase::PayloadCreated,
            LeadPhase::PayloadReady => Phase::PayloadReady,
        };
        if let Some(recorder) = self.recorder(callsign, member) {
            recorder.lead_phase(phase, after);
        }
    }

    fn payload_deleted(
        &self,
        callsign: &Callsign,
        member: &MemberName,
        result: PayloadResult,
        took: Duration,
    ) {
        if let Some(recorder) = self.recorder(callsign, member) {
            recorder.deleted(took, outcome(result));
        }
    }

    fn payload_objects(&self, callsign: &Callsign, member: &MemberName, objects: usize) {
        if let Some(recorder) = self.recorder(callsign, member) {
            recorder.payload_objects(objects as u64);
        }
    }

    fn reconcile_error(&self, callsign: &Callsign, member: &MemberName) {
        if let Some(recorder) = self.recorder(callsign, member) {
            recorder.reconcile_error();
        }
    }

    fn member_gone(&self, callsign: &Callsign, member: &MemberName) {
        self.members().remove(&(callsign.clone(), member.clone()));
    }

    fn member_joined(&self, callsign: &Callsign, member: &MemberName, node: &NodeHandle) {
        let running = self.telemetry.fleets().add(node.clone());
        self.members().insert((callsign.clone(), member.clone()), running);
    }
}
