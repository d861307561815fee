//! One scrape: samples gathered by metric, then written in the order of the table.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::histogram::Histogram;

use crate::metric::{Kind, METRICS, Metric};

/// A value at the time of the scrape.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Number(f64),
    Count(u64),
    Histogram(Histogram),
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Count(u64::from(yes))
    }
}

impl From<&Histogram> for Value {
    fn from(histogram: &Histogram) -> Self {
        Self::Histogram(histogram.clone())
    }
}

/// The samples of one scrape.
#[derive(Debug, Default)]
pub(crate) struct Page {
    samples: BTreeMap<&'static str, Vec<(Vec<String>, Value)>>,
}

impl Page {
    /// Adds a sample; `labels` are values in the order of the metric's label names.
    pub(crate) fn put(&mut self, metric: &'static Metric, labels: &[&str], value: impl Into<Value>) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        let labels = labels.iter().map(ToString::to_string).collect();
        self.samples.entry(metric.name).or_default().push((labels, value.into()));
    }

    /// Writes all samples.
    pub(crate) fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for metric in METRICS {
            let Some(samples) = self.samples.get(metric.name) else { continue };
            let unit = metric.unit();
            let mut family = encoder.encode_descriptor(
                metric.name,
                metric.help,
                unit.as_ref(),
                metric.kind.metric_type(),
            )?;
            for (values, value) in samples {
                let labels: Vec<(&str, &str)> =
                    metric.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                let mut sample = family.encode_family(&labels)?;
                match (value, metric.kind) {
                    (Value::Histogram(histogram), _) => histogram.encode(sample)?,
                    (Value::Count(count), Kind::Counter) => {
                        sample.encode_counter::<NoLabelSet, _, f64>(count, None)?;
                    }
                    (Value::Number(number), Kind::Counter) => {
                        sample.encode_counter::<NoLabelSet, _, f64>(number, None)?;
                    }
                    (Value::Count(count), Kind::Gauge | Kind::Histogram) => sample.encode_gauge(count)?,
                    (Value::Number(number), Kind::Gauge | Kind::Histogram) => sample.encode_gauge(number)?,
                }
            }
        }
        Ok(())
    }
}
