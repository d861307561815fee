//! What is measured: one table, from which the registry, the reference page and its drift test are made.

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often a value fell into which range.
    Histogram,
}

impl Kind {
    /// The word of the exposition formats.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    pub(crate) fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
        }
    }
}

/// One metric family.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name without prefix, unit and `_total`.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Whether it is in seconds or bytes.
    pub unit: Option<&'static str>,
    /// Its label names, in order.
    pub labels: &'static [&'static str],
    /// One sentence without a full stop.
    pub help: &'static str,
}

impl Metric {
    /// What all names begin with.
    pub const PREFIX: &'static str = "flagship";

    /// The name under which samples appear (histograms add `_bucket`, `_sum` and `_count`).
    pub fn full_name(&self) -> String {
        let unit = self.unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}_{}{unit}{total}", Self::PREFIX, self.name)
    }

    pub(crate) fn unit(&self) -> Option<Unit> {
        self.unit.map(|unit| match unit {
            "seconds" => Unit::Seconds,
            "bytes" => Unit::Bytes,
            other => Unit::Other(other.into()),
        })
    }
}

const MEMBER: &[&str] = &["callsign", "member"];
const PEER: &[&str] = &["callsign", "member", "peer"];

macro_rules! metrics {
    ($($konst:ident = $name:literal $kind:ident $unit:expr, $labels:expr, $help:literal;)*) => {
        $(pub(crate) const $konst: &Metric =
            &Metric { name: $name, kind: Kind::$kind, unit: $unit, labels: $labels, help: $help };)*
        /// All metrics, in the order in which they are shown.
        pub const METRICS: &[&Metric] = &[$($konst),*];
    };
}

metrics! {
    BUILD_INFO = "build_info" Gauge None, &["version"], "Always 1; the label says which version runs";
    ROLE = "role" Gauge None, &["callsign", "member", "role"], "1 for the role this member has (Joining, Standby, Candidate, Leader, Stopping, Witness), 0 for the others";
    TERM = "term" Gauge None, MEMBER, "Term of the leader that this member follows, or its own";
    MEMBERS = "members" Gauge None, &["callsign", "member", "state"], "Members of the fleet by state (Alive, Suspect, Away, Down, Left) as this member sees them, itself included";
    LEADER_SECONDS = "leader" Counter Some("seconds"), MEMBER, "Time for which this member has led since its start";
    LEADER_CHANGES = "leader_changes" Counter None, MEMBER, "How often this member began to follow another leader, itself included";
    ELECTIONS = "elections" Counter None, &["callsign", "member", "result"], "What came of attempts to lead: elected (founding or handover), failover (the predecessor failed), resumed (after a restart), refused, unanswered, handover_failed";
    FAILOVER_DURATION = "failover_duration" Histogram Some("seconds"), MEMBER, "From the moment the leader was known to be gone until this member was elected";
    LEAD_PHASE = "lead_phase" Histogram Some("seconds"), &["callsign", "member", "phase"], "From the cause of a change of the lead to this member (the last sign of life of a leader that failed, or the moment it was seen to stop) until detected, predecessor_stopped, elected, payload_created, payload_ready";
    GRANTS = "grants" Counter None, MEMBER, "Claims of other members that this one granted";
    HANDOVERS = "handovers" Counter None, MEMBER, "Handovers that moved the lead away from this member";
    SPLIT_BRAIN_SECONDS = "split_brain" Counter Some("seconds"), MEMBER, "Time for which another member was seen to claim the lead at the same time as the one followed";
    SPLITS = "splits" Counter None, MEMBER, "How often a second leader was met";
    CONFIG_VERSION = "config_version" Gauge None, MEMBER, "Version of the fleet configuration in force";
    CONFIG_CONFLICT = "config_conflict" Gauge None, MEMBER, "1 while this member's object asks for other settings than those in force";
    PAUSED = "paused" Gauge None, MEMBER, "1 while an operator has paused the fleet: nothing moves the lead by itself";
    NAME_IN_USE = "name_in_use" Gauge None, MEMBER, "1 while another process with this member's name is alive; nothing is written then";
    INTERRUPTED = "interrupted" Gauge None, MEMBER, "1 while this member was paused and has not yet learnt what it missed";
    PAUSES = "pauses" Counter None, MEMBER, "How often this process found that it had not been running";
    STORE_FAILURES = "store_failures" Counter None, MEMBER, "How often the durable record could not be written (it is tried again)";
    EVENTS_LOST = "events_lost" Counter None, MEMBER, "Events that were not counted here, because more came than could be kept";
    LINK_UP = "link_up" Gauge None, PEER, "1 while there is a link to the peer";
    LINK_HEARD = "link_heard_age" Gauge Some("seconds"), PEER, "Age of the newest proof that the peer lives";
    LINK_RTT = "link_rtt" Histogram Some("seconds"), PEER, "Smoothed round trip time, sampled once a second while linked";
    BEATS = "beats" Counter None, &["callsign", "member", "result"], "Beats sent, received, and late (not there when expected)";
    SUSPICIONS = "suspicions" Counter None, MEMBER, "Members that this one held Suspect";
    FALSE_SUSPICIONS = "false_suspicions" Counter None, MEMBER, "Suspicions of this member's that the suspect refuted";
    REFUTATIONS = "refutations" Counter None, MEMBER, "How often this member refuted that it is gone";
    DOWNS = "downs" Counter None, MEMBER, "Members that went Down in this member's view";
    STALE_LINKS = "links_stale" Counter None, MEMBER, "Links closed because nothing fresh was heard";
    HANDSHAKES = "handshakes" Counter None, &["callsign", "member", "result"], "Links by how their handshake ended: ok, or why it was refused";
    REFUSED_CONNECTIONS = "refused_connections" Counter None, &["reason"], "Connections refused before it was known for which fleet they were";
    FRAMES = "frames" Counter None, &["direction", "kind"], "Frames by direction (sent, received) and kind";
    FRAME_BYTES = "frame" Counter Some("bytes"), &["direction", "kind"], "Bytes of frames by direction and kind, before TLS";
    STATEMENTS = "statements" Counter None, &["result"], "Signed records and accusations checked, each once, by result (verified, refused); a refused one was dropped";
    CERTIFICATE_EXPIRY = "certificate_expiry_timestamp" Gauge Some("seconds"), MEMBER, "When this member's certificate expires, in Unix time";
    PAYLOAD_OBJECTS = "payload_objects" Gauge None, MEMBER, "Objects of the payload that exist in this member's cluster, as far as is known";
    RECONCILE_ERRORS = "reconcile_errors" Counter None, MEMBER, "Work for this member that failed and was tried again";
    APPLY_DURATION = "payload_apply_duration" Histogram Some("seconds"), &["callsign", "member", "result"], "How long applying the whole payload took, by result (success, failure, superseded)";
    DELETE_DURATION = "payload_delete_duration" Histogram Some("seconds"), &["callsign", "member", "result"], "How long deleting the whole payload took, pods included, by result (success, failure, superseded)";
    API_REQUESTS = "api_requests" Counter None, &["verb", "code"], "Requests to the API server by verb and HTTP status code; code none: no answer";
}

/// Upper bounds of the buckets for failover, apply and delete, in seconds: from a handover on a fast network to
/// a payload whose pods take their whole grace period.
pub(crate) const DURATION_BUCKETS: [f64; 14] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.5, 10.0, 20.0, 45.0, 120.0, 300.0];
/// Upper bounds of the buckets for round trips, in seconds: from one rack to around the world.
pub(crate) const RTT_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
