//! How far the clocks of the clusters are apart, by the Date header of their API servers.

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use kube::client::Body;

use super::report::{Finding, Topic};
use crate::cluster::Cluster;

/// Below it nothing is said: a Date header has whole seconds, and the answer takes time.
const WARN_SECONDS: i64 = 3;
/// From here on certificates and epochs are judged differently on both sides.
const FAIL_SECONDS: i64 = 60;

/// How far a cluster's clock is ahead of ours.
pub(crate) struct Offset {
    context: String,
    seconds: i64,
}

/// Asks one cluster for the time.
pub(crate) async fn measure(cluster: &Cluster) -> Result<Offset, Finding> {
    let failed = |why: String| {
        let message = format!("{}: the API server's time is not known: {why}", cluster.context);
        Finding::warn(Topic::Clocks, message, format!("{} get --raw /version -v 8", cluster.kubectl))
    };
    let request =
        http::Request::get("/version").body(Body::empty()).map_err(|error| failed(error.to_string()))?;
    let before = Timestamp::now();
    let response =
        cluster.call(cluster.client.send(request)).await.map_err(|error| failed(error.to_string()))?;
    let after = Timestamp::now();
    let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
    let date = date.ok_or_else(|| failed("no Date header".into()))?;
    let theirs =
        rfc2822::DateTimeParser::new().parse_timestamp(date).map_err(|error| failed(error.to_string()))?;
    let ours = (before.as_second() + after.as_second()) / 2;
    Ok(Offset { context: cluster.context.clone(), seconds: theirs.as_second() - ours })
}

/// Compares all clusters, and this machine.
pub(crate) fn compare(offsets: &[Offset]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (Some(least), Some(most)) = (
        offsets.iter().min_by_key(|offset| offset.seconds),
        offsets.iter().max_by_key(|offset| offset.seconds),
    ) else {
        return findings;
    };
    let apart = most.seconds - least.seconds;
    let hint = "timedatectl status on the nodes: all should be synchronised by NTP";
    if offsets.len() > 1 {
        let message = format!("{} is {apart}s ahead of {}", most.context, least.context);
        findings.push(match apart {
            FAIL_SECONDS.. => Finding::fail(Topic::Clocks, message, hint),
            WARN_SECONDS.. => Finding::warn(Topic::Clocks, message, hint),
            _ => Finding::ok(
                Topic::Clocks,
                format!("{} clusters agree to within {WARN_SECONDS}s", offsets.len()),
            ),
        });
    }
    for offset in
        offsets.iter().filter(|offset| offset.seconds.abs() >= WARN_SECONDS && apart < WARN_SECONDS).take(1)
    {
        let message = format!(
            "this machine is {}s off the clusters: ages in flagship status are wrong by that",
            offset.seconds.abs()
        );
        findings.push(Finding::warn(Topic::Clocks, message, "timedatectl status on this machine"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    fn levels(seconds: &[i64]) -> Vec<Level> {
        let offsets: Vec<Offset> = seconds
            .iter()
            .map(|seconds| Offset { context: format!("c{seconds}"), seconds: *seconds })
            .collect();
        compare(&offsets).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn clocks_are_judged_against_each_other() {
        assert_eq!(levels(&[]), []);
        assert_eq!(levels(&[0]), []);
        assert_eq!(levels(&[0, 1, -1]), [Level::Ok]);
        assert_eq!(levels(&[0, 5]), [Level::Warn]);
        assert_eq!(levels(&[-3600, 0]), [Level::Fail]);
        assert_eq!(levels(&[100, 100]), [Level::Ok, Level::Warn]);
    }
}
