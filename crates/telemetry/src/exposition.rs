//! The two text formats of `/metrics`, chosen by the Accept header.

use std::fmt::Write as _;

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The older Prometheus text format, which everything reads.
    Prometheus,
}

impl Format {
    /// OpenMetrics if the client asks for it, and not with a lower preference than plain text.
    pub(crate) fn negotiate(accept: Option<&str>) -> Self {
        let mut open = 0.0;
        let mut plain = 0.0;
        for entry in accept.unwrap_or_default().split(',').take(MAX_ACCEPT_ENTRIES) {
            let mut parts = entry.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let quality = parts
                .find_map(|part| part.strip_prefix("q="))
                .map_or(1.0, |q| q.parse::<f32>().unwrap_or_default());
            match media {
                "application/openmetrics-text" => open = quality.max(open),
                "text/plain" | "text/*" | "*/*" => plain = quality.max(plain),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The Content-Type header.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The text in this format, from OpenMetrics.
    pub(crate) fn write(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Prometheus => to_prometheus(&open_metrics),
        }
    }
}

/// No scraper names more types than this.
const MAX_ACCEPT_ENTRIES: usize = 16;

/// In the older format a counter's HELP and TYPE lines carry `_total` as its samples do, and there are neither
/// UNIT lines nor an end mark.
fn to_prometheus(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let total = if kind == "counter" { "_total" } else { "" };
            if let Some((_, text)) = help.take().filter(|(named, _)| *named == name) {
                // Writing to a String does not fail.
                let _ = writeln!(out, "# HELP {name}{total} {text}");
            }
            let _ = writeln!(out, "# TYPE {name}{total} {kind}");
        } else if !line.starts_with("# ") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_header_chooses() {
        let table = [
            (None, Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (Some("text/plain"), Format::Prometheus),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
                ),
                Format::OpenMetrics,
            ),
            (Some("text/plain;q=0.9, application/openmetrics-text; q=0.4"), Format::Prometheus),
            (Some("application/openmetrics-text;q=0"), Format::Prometheus),
            (Some(";;,q=,,;q=nan"), Format::Prometheus),
        ];
        for (accept, format) in table {
            assert_eq!(Format::negotiate(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn counters_keep_their_type_in_the_older_format() {
        let open = "# HELP a_x help me\n# TYPE a_x counter\n# UNIT a_x seconds\na_x_total{l=\"# TYPE\"} 1\n\
                    # HELP a_g g\n# TYPE a_g gauge\na_g 2\n# EOF\n";
        let plain = "# HELP a_x_total help me\n# TYPE a_x_total counter\na_x_total{l=\"# TYPE\"} 1\n\
                     # HELP a_g g\n# TYPE a_g gauge\na_g 2\n";
        assert_eq!(to_prometheus(open), plain);
    }
}
