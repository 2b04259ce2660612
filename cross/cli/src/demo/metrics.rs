//! Reading what agent and gateway publish at `/metrics` (Prometheus' text format, as far as they use it).

/// One scrape.
#[derive(Debug)]
pub(super) struct Metrics {
    samples: Vec<Sample>,
}

/// One line: `name{label="value",…} number`.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads a scrape; lines that are no samples are left out.
    pub(super) fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter_map(Sample::parse).collect() }
    }

    /// The sum of all samples of that name that have all of `labels`; 0 where there is none, as counters begin.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matching = self.samples.iter().filter(|sample| sample.name == name && sample.has(labels));
        matching.map(|sample| sample.value).sum()
    }

    /// The value of `label` in the first sample of that name that has all of `labels`.
    pub(super) fn label(&self, name: &str, labels: &[(&str, &str)], label: &str) -> Option<&str> {
        let sample = self.samples.iter().find(|sample| sample.name == name && sample.has(labels))?;
        sample.get(label)
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let end = line.find(['{', ' '])?;
        let (name, rest) = line.split_at(end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => parse_labels(rest)?,
            None => (Vec::new(), rest),
        };
        let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self { name: name.to_owned(), labels, value })
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.get(name) == Some(value))
    }

    fn get(&self, label: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == label).map(|(_, value)| value.as_str())
    }
}

type Labels = Vec<(String, String)>;

/// Labels up to the closing brace, and what follows it.
fn parse_labels(mut rest: &str) -> Option<(Labels, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, value_on) = rest.split_once("=\"")?;
        let (value, after) = parse_value(value_on)?;
        labels.push((name.to_owned(), value));
        rest = after;
    }
}

/// A quoted value after its opening quote, and what follows the closing one.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            plain => value.push(plain),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = r#"# HELP hedge_link_up 1 while the broker is connected
# TYPE hedge_link_up gauge
hedge_link_up 1.0
hedge_requests_total{source="edge",status="uncertified"} 7
hedge_requests_total{source="cloud",status="cloud"} 2
hedge_gateway_model_info{model="digits",device="gpu (A, \"B\" {}, vulkan)"} 1
# EOF
"#;

    #[test]
    fn samples_are_added_up_by_name_and_labels() {
        let metrics = Metrics::parse(SCRAPE);
        assert_eq!(metrics.sum("hedge_link_up", &[]), 1.0);
        assert_eq!(metrics.sum("hedge_requests_total", &[]), 9.0);
        assert_eq!(metrics.sum("hedge_requests_total", &[("source", "cloud")]), 2.0);
        assert_eq!(metrics.sum("hedge_requests_total", &[("source", "cache")]), 0.0);
        assert_eq!(metrics.sum("hedge_requests", &[]), 0.0);
    }

    #[test]
    fn a_label_may_hold_braces_commas_and_quotes() {
        let metrics = Metrics::parse(SCRAPE);
        let device = metrics.label("hedge_gateway_model_info", &[("model", "digits")], "device");
        assert_eq!(device, Some(r#"gpu (A, "B" {}, vulkan)"#));
        assert_eq!(metrics.label("hedge_gateway_model_info", &[("model", "other")], "device"), None);
    }

    #[test]
    fn lines_that_are_no_samples_are_left_out() {
        for line in ["", "name", "name{", "name{a=\"b", "name{a=\"b\"}", "name{a} 1", "name x"] {
            assert!(Metrics::parse(line).samples.is_empty(), "{line:?}");
        }
    }
}
