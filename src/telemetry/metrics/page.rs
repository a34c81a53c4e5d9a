//! The Prometheus text format, version 0.0.4.

use std::fmt::Write;

use super::stats::{BUCKETS_US, Buckets};
use crate::http::decimal::Decimal;

/// Content type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page that is being written, family after family.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    name: String,
}

impl Page {
    /// An empty page with room for so many bytes.
    pub fn with_room(bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), name: String::new() }
    }

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
        self.series("", labels);
        self.value(value);
    }

    /// Samples with integer values that differ in one more label. What they have in common is written once.
    pub fn counts<'a>(
        &mut self,
        labels: &[(&str, &str)],
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        let common = self.common("", labels, label);
        for (text, value) in values {
            self.text.push_str(&common);
            escape_label(&mut self.text, text);
            self.text.push_str("\"}");
            self.value(value);
        }
    }

    /// A sample with any value.
    pub fn number(&mut self, labels: &[(&str, &str)], value: f64) {
        self.series("", labels);
        self.text.push(' ');
        number(&mut self.text, value);
        self.text.push('\n');
    }

    /// Samples in seconds of so many microseconds that differ in one more label.
    pub fn microseconds(
        &mut self,
        labels: &[(&str, &str)],
        label: &str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) {
        let common = self.common("", labels, label);
        for (text, us) in values {
            self.text.push_str(&common);
            self.text.push_str(text);
            self.text.push_str("\"} ");
            fraction(&mut self.text, us, 6);
            self.text.push('\n');
        }
    }

    /// The samples of histograms with the bounds [`BUCKETS_US`], by their labels.
    pub fn histograms<'a, const N: usize>(
        &mut self,
        unit: Unit,
        all: impl IntoIterator<Item = ([(&'a str, &'a str); N], &'a Buckets)>,
    ) {
        let bound = |at: usize| BUCKETS_US.get(at).map_or(f64::INFINITY, |&us| f64::from(us) * unit.per_second() / 1e6);
        let bounds: [String; BUCKETS_US.len() + 1] = std::array::from_fn(|at| {
            let mut text = String::new();
            number(&mut text, bound(at));
            text
        });
        for (labels, buckets) in all {
            let common = self.common("_bucket", &labels, "le");
            let mut sum = 0;
            for (bound, count) in bounds.iter().zip(&buckets.counts) {
                sum += count;
                self.text.push_str(&common);
                self.text.push_str(bound);
                self.text.push_str("\"}");
                self.value(sum);
            }
            self.series("_sum", &labels);
            self.text.push(' ');
            unit.write(&mut self.text, buckets.sum_ns);
            self.text.push('\n');
            self.series("_count", &labels);
            self.value(sum);
        }
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.text
    }

    fn series(&mut self, suffix: &str, labels: &[(&str, &str)]) {
        self.text.push_str(&self.name);
        self.text.push_str(suffix);
        if !labels.is_empty() {
            write_labels(&mut self.text, labels);
            self.text.push('}');
        }
    }

    /// What samples have in common that differ in this last label: all up to its value.
    fn common(&self, suffix: &str, labels: &[(&str, &str)], last: &str) -> String {
        let mut common = String::with_capacity(128);
        common.push_str(&self.name);
        common.push_str(suffix);
        write_labels(&mut common, labels);
        common.push(if labels.is_empty() { '{' } else { ',' });
        common.push_str(last);
        common.push_str("=\"");
        common
    }

    fn value(&mut self, value: u64) {
        self.text.push(' ');
        digits(&mut self.text, value);
        self.text.push('\n');
    }
}

/// The unit of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

impl Unit {
    fn per_second(self) -> f64 {
        match self {
            Unit::Seconds => 1.0,
            Unit::Milliseconds => 1e3,
        }
    }

    fn write(self, out: &mut String, ns: u64) {
        match self {
            _ if ns >= EXACT_BELOW => number(out, ns as f64 * self.per_second() / 1e9),
            Unit::Seconds => fraction(out, ns, 9),
            Unit::Milliseconds => fraction(out, ns, 6),
        }
    }
}

fn write_labels(out: &mut String, labels: &[(&str, &str)]) {
    let mut before = '{';
    for (name, value) in labels {
        out.push(before);
        out.push_str(name);
        out.push_str("=\"");
        escape_label(out, value);
        out.push('"');
        before = ',';
    }
}

fn number(out: &mut String, value: f64) {
    let _ = match value {
        f64::INFINITY => write!(out, "+Inf"),
        f64::NEG_INFINITY => write!(out, "-Inf"),
        value => write!(out, "{value}"),
    };
}

fn digits(out: &mut String, value: u64) {
    match value {
        0..=9 => out.push(char::from(b'0' + value as u8)),
        _ => out.push_str(std::str::from_utf8(Decimal::of(value).as_bytes()).unwrap_or_default()),
    }
}

/// Below this a number with so many decimal places has fifteen digits at most: the shortest text that a float of it has
/// is the number itself.
const EXACT_BELOW: u64 = 1_000_000_000_000;

/// A number that counts parts of one, with so many decimal places at most: as a float would be written, for a fraction
/// of the work.
fn fraction(out: &mut String, parts: u64, places: u32) {
    let one = 10_u64.pow(places);
    digits(out, parts / one);
    let mut left = parts % one;
    if left == 0 {
        return;
    }
    let mut length = places as usize;
    while left.is_multiple_of(10) {
        left /= 10;
        length -= 1;
    }
    let text = Decimal::of(left);
    out.push('.');
    (text.as_bytes().len()..length).for_each(|_| out.push('0'));
    digits(out, left);
}

fn escape_label(out: &mut String, mut value: &str) {
    while let Some(at) = memchr::memchr3(b'\\', b'"', b'\n', value.as_bytes()) {
        out.push_str(&value[..at]);
        out.push_str(match value.as_bytes()[at] {
            b'\\' => "\\\\",
            b'"' => "\\\"",
            _ => "\\n",
        });
        value = &value[at + 1..];
    }
    out.push_str(value);
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
        page.histograms(Unit::Milliseconds, [([("s", "a")], &buckets)]);
        let text = page.into_text();
        assert!(text.contains("d_bucket{s=\"a\",le=\"0.5\"} 2\n"), "{text}");
        assert!(text.contains("d_bucket{s=\"a\",le=\"10000\"} 2\nd_bucket{s=\"a\",le=\"+Inf\"} 3\n"));
        assert!(text.ends_with("d_sum{s=\"a\"} 11500\nd_count{s=\"a\"} 3\n"));
    }
    #[test]
    fn what_samples_have_in_common_is_written_as_for_one() {
        let (mut one, mut all) = (Page::default(), Page::with_room(64));
        let words = [("a\"", 0), ("b", 10), ("c", u64::MAX)];
        for labels in [&[("service", "x\\y")][..], &[]] {
            for (word, count) in words {
                let labels: Vec<_> = labels.iter().copied().chain([("state", word)]).collect();
                one.count(&labels, count);
            }
            all.counts(labels, "state", words);
        }
        assert_eq!(one.into_text(), all.into_text());
    }

    /// Pages of earlier versions were written with floats.
    #[test]
    fn fractions_are_written_as_floats_are() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut check = |ns: u64| {
            let (mut seconds, mut milliseconds, mut of_us) = (String::new(), String::new(), String::new());
            Unit::Seconds.write(&mut seconds, ns);
            Unit::Milliseconds.write(&mut milliseconds, ns);
            assert_eq!((seconds, milliseconds), ((ns as f64 / 1e9).to_string(), (ns as f64 * 1e3 / 1e9).to_string()));
            let us = ns % 10_000_000_000;
            fraction(&mut of_us, us, 6);
            assert_eq!(of_us, (us as f64 / 1e6).to_string());
        };
        for power in 0..20 {
            let near = 10_u64.pow(power);
            [near - 1, near, near + 1].into_iter().for_each(&mut check);
        }
        for round in 0..100_000 {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            check(random >> (round % 64));
        }
    }
}
