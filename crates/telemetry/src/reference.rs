//! The reference page of the metrics, made from the table.

use std::fmt::Write as _;

use crate::metric::METRICS;

/// `docs/reference/metrics.md`, checked for drift by a test.
pub fn metrics_reference() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         <!-- Generated from crates/telemetry/src/metric.rs: UPDATE_DOCS=1 cargo test -p flagship-telemetry -->\n\n\
         Served at `/metrics` on `--metrics-bind-address`, as OpenMetrics or, for clients that do not ask for it, as \
         Prometheus text. Every name begins with `flagship_`. The labels `callsign` and `member` say which fleet and \
         which of its members speaks; `peer` is another member of that fleet. All other labels take one of the few \
         values that the description names. A member's series end with its object.\n\n\
         | metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a String does not fail.
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            metric.full_name(),
            metric.kind.as_str(),
            labels.join(", "),
            metric.help
        );
    }
    page
}
