//! Counters, gauges and histograms, with labels, in Prometheus' text format.
//!
//! Names are given in full (`hedge_requests_total`); a counter's name must end in `_total`. A metric without labels is
//! a handle: moving it is one atomic operation. A family finds the handle of its label values in a map; a hot path
//! with few values keeps the handles ([`Counters::with`]).
//!
//! Each distinct set of label values lives as long as the process: label values come from enums or from the
//! configuration, never from the network.
//!
//! The text is OpenMetrics 1.0, which Prometheus reads by its content type; serve [`render`] as [`CONTENT_TYPE`].

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder, text},
    metrics::{counter, family, gauge, histogram},
    registry,
};

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Buckets for durations in seconds: 100 µs to 10 s.
pub const SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Buckets for numbers of rows.
pub const ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The metrics of one program; clones are the same registry.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<registry::Registry>>);

/// All metrics of a registry as text; see [`CONTENT_TYPE`].
pub fn render(registry: &Registry) -> String {
    let mut out = String::new();
    text::encode(&mut out, &registry.lock()).expect("writing to a String cannot fail");
    out
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// A counter without labels.
    pub fn counter(&self, name: &'static str, help: &str) -> Counter {
        let counter = Counter::default();
        self.lock().register(counter_base(name), help, counter.0.clone());
        counter
    }

    /// Counters by label values.
    pub fn counters<const N: usize>(&self, name: &'static str, help: &str, labels: [&'static str; N]) -> Counters<N> {
        let family = family::Family::default();
        self.lock().register(counter_base(name), help, family.clone());
        Counters { names: labels, family }
    }

    /// A gauge without labels, 0 at first.
    pub fn gauge(&self, name: &'static str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.lock().register(name, help, gauge.0.clone());
        gauge
    }

    /// Gauges by label values.
    pub fn gauges<const N: usize>(&self, name: &'static str, help: &str, labels: [&'static str; N]) -> Gauges<N> {
        let family = family::Family::default();
        self.lock().register(name, help, family.clone());
        Gauges { names: labels, family }
    }

    /// A histogram without labels; `buckets` are upper bounds in the name's unit, ascending.
    pub fn histogram(&self, name: &'static str, help: &str, buckets: &'static [f64]) -> Histogram {
        let histogram = Histogram(histogram::Histogram::new(buckets.iter().copied()));
        self.lock().register(name, help, histogram.0.clone());
        histogram
    }

    /// Histograms by label values; `buckets` are upper bounds in the name's unit, ascending.
    pub fn histograms<const N: usize>(
        &self,
        name: &'static str,
        help: &str,
        labels: [&'static str; N],
        buckets: &'static [f64],
    ) -> Histograms<N> {
        let family = family::Family::new_with_constructor(Buckets(buckets));
        self.lock().register(name, help, family.clone());
        Histograms { names: labels, family }
    }

    fn lock(&self) -> MutexGuard<'_, registry::Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The encoder appends `_total` itself.
fn counter_base(name: &'static str) -> &'static str {
    debug_assert!(name.ends_with("_total"), "a counter's name ends in _total: {name}");
    name.strip_suffix("_total").unwrap_or(name)
}

/// A number that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(counter::Counter);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// Adds `n`.
    pub fn inc_by(&self, n: u64) {
        self.0.inc_by(n);
    }

    /// The number so far.
    pub fn value(&self) -> u64 {
        self.0.get()
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(gauge::Gauge<f64, AtomicU64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    /// Sets it to a count.
    pub fn set_count(&self, value: usize) {
        self.0.set(value as f64);
    }

    /// 1 for true, 0 for false.
    pub fn set_flag(&self, value: bool) {
        self.0.set(f64::from(u8::from(value)));
    }

    /// The present number.
    pub fn value(&self) -> f64 {
        self.0.get()
    }
}

/// A distribution.
#[derive(Clone, Debug)]
pub struct Histogram(histogram::Histogram);

impl Histogram {
    /// Adds one observation.
    pub fn observe(&self, value: f64) {
        self.0.observe(value);
    }

    /// Adds a duration, in seconds.
    pub fn observe_duration(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

/// Counters by label values.
#[derive(Clone, Debug)]
pub struct Counters<const N: usize> {
    names: [&'static str; N],
    family: family::Family<Labels<N>, counter::Counter>,
}

impl<const N: usize> Counters<N> {
    /// Adds one; allocates nothing once the values were seen.
    pub fn inc(&self, values: [&'static str; N]) {
        self.family.get_or_create(&Labels::fixed(self.names, values)).inc();
    }

    /// Adds `n`.
    pub fn inc_by(&self, values: [&'static str; N], n: u64) {
        self.family.get_or_create(&Labels::fixed(self.names, values)).inc_by(n);
    }

    /// The counter of these values, which is rendered from now on (0 at first).
    pub fn with(&self, values: [&str; N]) -> Counter {
        Counter(self.family.get_or_create_owned(&Labels::owned(self.names, values)))
    }
}

/// Gauges by label values.
#[derive(Clone, Debug)]
pub struct Gauges<const N: usize> {
    names: [&'static str; N],
    family: family::Family<Labels<N>, gauge::Gauge<f64, AtomicU64>>,
}

impl<const N: usize> Gauges<N> {
    /// The gauge of these values, which is rendered from now on (0 at first).
    pub fn with(&self, values: [&str; N]) -> Gauge {
        Gauge(self.family.get_or_create_owned(&Labels::owned(self.names, values)))
    }
}

/// Histograms by label values.
#[derive(Clone, Debug)]
pub struct Histograms<const N: usize> {
    names: [&'static str; N],
    family: family::Family<Labels<N>, histogram::Histogram, Buckets>,
}

impl<const N: usize> Histograms<N> {
    /// Adds one observation; allocates nothing once the values were seen.
    pub fn observe(&self, values: [&'static str; N], value: f64) {
        self.family.get_or_create(&Labels::fixed(self.names, values)).observe(value);
    }

    /// Adds a duration, in seconds.
    pub fn observe_duration(&self, values: [&'static str; N], duration: Duration) {
        self.observe(values, duration.as_secs_f64());
    }

    /// The histogram of these values, which is rendered from now on (empty at first).
    pub fn with(&self, values: [&str; N]) -> Histogram {
        Histogram(self.family.get_or_create_owned(&Labels::owned(self.names, values)))
    }
}

/// Makes the histograms of a family.
#[derive(Clone, Debug)]
struct Buckets(&'static [f64]);

impl family::MetricConstructor<histogram::Histogram> for Buckets {
    fn new_metric(&self) -> histogram::Histogram {
        histogram::Histogram::new(self.0.iter().copied())
    }
}

/// Label names with their values; the names are the family's and take no part in comparisons.
#[derive(Clone, Debug)]
struct Labels<const N: usize> {
    names: [&'static str; N],
    values: [Cow<'static, str>; N],
}

impl<const N: usize> Labels<N> {
    fn fixed(names: [&'static str; N], values: [&'static str; N]) -> Self {
        Self { names, values: values.map(Cow::Borrowed) }
    }

    fn owned(names: [&'static str; N], values: [&str; N]) -> Self {
        Self { names, values: values.map(|value| Cow::Owned(value.to_owned())) }
    }
}

impl<const N: usize> PartialEq for Labels<N> {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl<const N: usize> Eq for Labels<N> {}

impl<const N: usize> std::hash::Hash for Labels<N> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.values.hash(state);
    }
}

impl<const N: usize> EncodeLabelSet for Labels<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, value) in self.names.iter().zip(&self.values) {
            (*name, value.as_ref()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_metrics_renders_an_end() {
        assert_eq!(render(&Registry::new()), "# EOF\n");
    }

    #[test]
    fn plain_metrics_render_under_their_names() {
        let registry = Registry::new();
        let served = registry.counter("hedge_served_total", "Requests served");
        let up = registry.gauge("hedge_link_up", "Whether the link is up");
        served.inc();
        served.inc_by(2);
        up.set_flag(true);
        let text = render(&registry);
        assert!(text.contains("# TYPE hedge_served counter\nhedge_served_total 3\n"), "{text}");
        assert!(text.contains("# TYPE hedge_link_up gauge\nhedge_link_up 1.0\n"), "{text}");
        assert_eq!((served.value(), up.value()), (3, 1.0));
    }

    #[test]
    fn static_and_dynamic_values_of_a_label_are_one_series() {
        let registry = Registry::new();
        let requests = registry.counters("hedge_requests_total", "Requests", ["source", "status"]);
        requests.inc(["edge", "certified"]);
        requests.inc_by(["edge", "certified"], 4);
        requests.with([&String::from("edge"), "certified"]).inc();
        requests.with(["cloud", "cloud"]);
        let text = render(&registry);
        assert!(text.contains("hedge_requests_total{source=\"edge\",status=\"certified\"} 6\n"), "{text}");
        assert!(text.contains("hedge_requests_total{source=\"cloud\",status=\"cloud\"} 0\n"), "{text}");
    }

    #[test]
    fn a_label_value_is_escaped() {
        let registry = Registry::new();
        registry.gauges("hedge_info", "Info", ["device"]).with(["a \"b\"\\\n"]).set_count(1);
        assert!(render(&registry).contains(r#"hedge_info{device="a \"b\"\\\n"} 1.0"#), "{}", render(&registry));
    }

    #[test]
    fn a_histogram_counts_into_its_buckets() {
        let registry = Registry::new();
        let seconds = registry.histogram("hedge_run_seconds", "Run time", SECONDS);
        let rows = registry.histograms("hedge_rows", "Rows", ["model"], ROWS);
        seconds.observe_duration(Duration::from_millis(3));
        rows.observe(["digits"], 8.0);
        rows.with(["digits"]).observe(300.0);
        let text = render(&registry);
        assert!(text.contains("hedge_run_seconds_bucket{le=\"0.0025\"} 0\n"), "{text}");
        assert!(text.contains("hedge_run_seconds_bucket{le=\"0.005\"} 1\n"), "{text}");
        assert!(text.contains("hedge_rows_bucket{le=\"8.0\",model=\"digits\"} 1\n"), "{text}");
        assert!(text.contains("hedge_rows_count{model=\"digits\"} 2\n"), "{text}");
    }
}
