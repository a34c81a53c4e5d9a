//! The Prometheus text format, version 0.0.4.

use std::fmt::Write;

use super::stats::{BUCKETS_US, Buckets};

/// Content type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page that is being written, family after family.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    name: String,
}

impl Page {
    /// Begins a family: its `# HELP` and `# TYPE` lines. All of its samples must follow before the next family.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.name.clear();
        self.name.push_str(name);
        let _ = write!(self.text, "# HELP {name} ");
        escape_help(&mut self.text, help);
        let _ = writeln!(self.text, "\n# TYPE {name} {kind}");
    }

    /// A sample with an integer value.
    pub fn count(&mut self, labels: &[(&str, &str)], value: u64) {
        self.series("", labels, None);
        let _ = writeln!(self.text, " {value}");
    }

    /// A sample with any value.
    pub fn number(&mut self, labels: &[(&str, &str)], value: f64) {
        self.series("", labels, None);
        let _ = writeln!(self.text, " {}", number(value));
    }

    /// The samples of a histogram. `per_second` is how many units of the metric a second has: 1 for seconds, 1000 for
    /// milliseconds.
    pub fn histogram(&mut self, labels: &[(&str, &str)], buckets: &Buckets, per_second: f64) {
        let mut sum = 0;
        for (at, count) in buckets.counts.iter().enumerate() {
            sum += count;
            let bound = BUCKETS_US.get(at).map_or(f64::INFINITY, |&us| f64::from(us) * per_second / 1e6);
            self.series("_bucket", labels, Some(("le", &number(bound))));
            let _ = writeln!(self.text, " {sum}");
        }
        self.series("_sum", labels, None);
        let _ = writeln!(self.text, " {}", number(buckets.sum_ns as f64 * per_second / 1e9));
        self.series("_count", labels, None);
        let _ = writeln!(self.text, " {sum}");
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.text
    }

    fn series(&mut self, suffix: &str, labels: &[(&str, &str)], last: Option<(&str, &str)>) {
        self.text.push_str(&self.name);
        self.text.push_str(suffix);
        let mut before = '{';
        for (name, value) in labels.iter().chain(&last) {
            self.text.push(before);
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape_label(&mut self.text, value);
            self.text.push('"');
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
    }
}

fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value if value.is_nan() => "NaN".to_owned(),
        value => value.to_string(),
    }
}

fn escape_label(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

fn escape_help(out: &mut String, help: &str) {
    for c in help.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_help_are_escaped() {
        let mut page = Page::default();
        page.family("x", "gauge", "a\\b\nc\"");
        page.number(&[("l", "q\"\\\n")], 1.5);
        page.number(&[], f64::NAN);
        assert_eq!(page.into_text(), "# HELP x a\\\\b\\nc\"\n# TYPE x gauge\nx{l=\"q\\\"\\\\\\n\"} 1.5\nx NaN\n");
    }

    #[test]
    fn histograms_are_cumulative_in_their_unit() {
        let mut buckets = Buckets::default();
        buckets.counts[0] = 2;
        buckets.counts[14] = 1;
        buckets.sum_ns = 11_500_000_000;
        let mut page = Page::default();
        page.family("d", "histogram", "h");
        page.histogram(&[("s", "a")], &buckets, 1_000.0);
        let text = page.into_text();
        assert!(text.contains("d_bucket{s=\"a\",le=\"0.5\"} 2\n"), "{text}");
        assert!(text.contains("d_bucket{s=\"a\",le=\"10000\"} 2\nd_bucket{s=\"a\",le=\"+Inf\"} 3\n"));
        assert!(text.ends_with("d_sum{s=\"a\"} 11500\nd_count{s=\"a\"} 3\n"));
    }
}
