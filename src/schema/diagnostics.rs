//! What is wrong with a configuration file, with its place, and how that is shown.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use super::span::{Source, Span};

/// How many errors, and how many warnings, are kept; the rest is counted.
pub const DIAGNOSTICS_MAX: usize = 100;
/// How many characters of a source line are shown.
const EXCERPT_CHARS_MAX: usize = 110;

/// Whether a diagnostic refuses the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted.
    Warning,
}

impl Severity {
    /// The word that messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code from [`super::codes`]; its first letter tells the severity.
    pub code: &'static str,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where.
    pub span: Span,
}

impl Diagnostic {
    /// Whether it refuses the file.
    pub fn severity(&self) -> Severity {
        if self.code.starts_with('W') { Severity::Warning } else { Severity::Error }
    }

    /// Adds what to do about it.
    pub fn hint(&mut self, hint: impl Into<String>) -> &mut Diagnostic {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the nearest of `known` to `word` as the hint, or all of `known` when they are few and none is near.
    pub fn suggest<'a>(&mut self, word: &str, known: impl Iterator<Item = &'a str> + Clone) -> &mut Diagnostic {
        if let Some(near) = super::suggest::nearest(word, known.clone()) {
            return self.hint(format!("did you mean `{near}`?"));
        }
        let all: Vec<&str> = known.take(LISTED_MAX + 1).collect();
        if !all.is_empty() && all.len() <= LISTED_MAX {
            self.hint(format!("known here: {}", all.join(", ")));
        }
        self
    }
}

/// How many names a hint lists at most.
const LISTED_MAX: usize = 16;

/// All findings on one file. At most [`DIAGNOSTICS_MAX`] errors and as many warnings are kept.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    source: Arc<Source>,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    errors_dropped: usize,
    warnings_dropped: usize,
    spare: Diagnostic,
    hidden: Vec<Span>,
}

impl Diagnostics {
    /// No findings yet on `source`.
    pub fn new(source: Arc<Source>) -> Diagnostics {
        let spare = Diagnostic { code: "", message: String::new(), hint: None, span: Span::NOWHERE };
        Diagnostics {
            source,
            errors: Vec::new(),
            warnings: Vec::new(),
            errors_dropped: 0,
            warnings_dropped: 0,
            spare,
            hidden: Vec::new(),
        }
    }

    /// The file they are about.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Adds a finding; the answer lets the caller add a hint.
    pub fn report(&mut self, code: &'static str, span: Span, message: impl Into<String>) -> &mut Diagnostic {
        let item = Diagnostic { code, message: message.into(), hint: None, span };
        let (list, dropped) = match item.severity() {
            Severity::Error => (&mut self.errors, &mut self.errors_dropped),
            Severity::Warning => (&mut self.warnings, &mut self.warnings_dropped),
        };
        // What an alias repeats, or two passes find, is one mistake.
        let full = list.len() >= DIAGNOSTICS_MAX;
        let repeated = !full && list.iter().any(|known| same_finding(known, &item));
        if repeated || full {
            *dropped += usize::from(!repeated);
            self.spare = item;
            return &mut self.spare;
        }
        list.push(item);
        let last = list.len() - 1;
        &mut list[last]
    }

    /// Keeps what stands at `span` out of the source lines that [`Self::render`] shows: it is a secret.
    pub fn hide(&mut self, span: Span) {
        self.hidden.push(span);
    }

    /// Whether further errors are only counted, so that work on their hints is wasted.
    pub fn is_full(&self) -> bool {
        self.errors.len() >= DIAGNOSTICS_MAX
    }

    /// Whether the file is refused.
    pub fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Whether an error stands inside `span`; false for nowhere.
    pub fn has_errors_within(&self, span: Span) -> bool {
        let inside =
            |item: &Diagnostic| item.span.is_known() && item.span.start >= span.start && item.span.end <= span.end;
        span.is_known() && self.errors.iter().any(inside)
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.errors_total() + self.warnings_total() == 0
    }

    /// How many errors there are, also those that were not kept.
    pub fn errors_total(&self) -> usize {
        self.errors.len() + self.errors_dropped
    }

    /// How many warnings there are, also those that were not kept.
    pub fn warnings_total(&self) -> usize {
        self.warnings.len() + self.warnings_dropped
    }

    /// The kept findings in the order of the file.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut all: Vec<&Diagnostic> = self.errors.iter().chain(&self.warnings).collect();
        all.sort_by_key(|item| (!item.span.is_known(), item.span.start, item.severity(), item.code));
        all
    }

    /// All findings as text: place, code, message, the source line with a mark under the place, hint.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for item in self.sorted() {
            render_one(&mut out, &self.source, &self.hidden, item);
        }
        let dropped = self.errors_dropped + self.warnings_dropped;
        if dropped > 0 {
            let _ = writeln!(out, "and {dropped} more");
        }
        out
    }

    /// All findings as JSON: `{file, errors, warnings, diagnostics: [{severity, code, message, hint, file, line, …}]}`.
    ///
    /// Source lines are not part of it, so that a literal secret does not travel with an error.
    pub fn to_json(&self) -> Value {
        let items: Vec<Value> = self.sorted().into_iter().map(|item| item_json(&self.source.name, item)).collect();
        json!({
            "file": self.source.name,
            "errors": self.errors_total(),
            "warnings": self.warnings_total(),
            "diagnostics": items,
        })
    }
}

fn same_finding(a: &Diagnostic, b: &Diagnostic) -> bool {
    a.span.is_known() && a.span == b.span && a.code == b.code && a.message == b.message
}

fn item_json(file: &str, item: &Diagnostic) -> Value {
    json!({
        "severity": item.severity().as_str(),
        "code": item.code,
        "message": item.message,
        "hint": item.hint,
        "file": file,
        "line": item.span.line,
        "column": item.span.column,
        "start": item.span.start,
        "end": item.span.end,
    })
}

fn render_one(out: &mut String, source: &Source, hidden: &[Span], item: &Diagnostic) {
    let Span { line, column, .. } = item.span;
    let severity = item.severity().as_str();
    let _ = match item.span.is_known() {
        true => write!(out, "{}:{line}:{column}: ", source.name),
        false => write!(out, "{}: ", source.name),
    };
    let _ = writeln!(out, "{severity}[{}]: {}", item.code, printable(&item.message));
    if item.span.is_known() {
        render_excerpt(out, source, hidden, item.span);
    }
    if let Some(hint) = &item.hint {
        let _ = writeln!(out, "  help: {}", printable(hint));
    }
}

/// The line that `span` begins on, and a mark under its part of that line.
fn render_excerpt(out: &mut String, source: &Source, hidden: &[Span], span: Span) {
    let Some((begin, line)) = line_at(&source.text, span) else {
        return;
    };
    let marked = source.slice(span).lines().next().unwrap_or("").chars().count().max(1);
    let at = span.column as usize - 1;
    // A long line (JSON is often one) is shown from a little before the mark.
    let from = if at + marked > EXCERPT_CHARS_MAX { at.saturating_sub(EXCERPT_CHARS_MAX / 3) } else { 0 };
    let line = masked(line, begin, hidden);
    let shown: String = line.chars().skip(from).take(EXCERPT_CHARS_MAX).collect();
    let width = marked.min(EXCERPT_CHARS_MAX.saturating_sub(at - from).max(1));
    let number = span.line.to_string();
    let margin = " ".repeat(number.len());
    let _ = writeln!(out, "  {number} | {}", printable(shown.trim_end()));
    let _ = writeln!(out, "  {margin} | {}{}", " ".repeat(at - from), "^".repeat(width));
}

/// The line that holds the beginning of `span`, and its first byte.
fn line_at(text: &str, span: Span) -> Option<(usize, &str)> {
    let start = (span.start as usize).min(text.len());
    let before = text.get(..start)?;
    let begin = before.rfind('\n').map_or(0, |at| at + 1);
    Some((begin, text.get(begin..)?.split('\n').next()?))
}

/// The line that begins at byte `begin`, with `*` for each character of a secret.
fn masked<'a>(line: &'a str, begin: usize, hidden: &[Span]) -> Cow<'a, str> {
    let end = begin + line.len();
    let here = |span: &&Span| (span.start as usize) < end && span.end as usize > begin;
    let here: Vec<&Span> = hidden.iter().filter(here).collect();
    if here.is_empty() {
        return Cow::Borrowed(line);
    }
    let inside = |at: usize| here.iter().any(|span| (span.start as usize..span.end as usize).contains(&at));
    let mask = |(at, c)| if inside(begin + at) { '*' } else { c };
    Cow::Owned(line.char_indices().map(mask).collect())
}

/// Control characters become spaces of the same width: the text goes to terminals.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::codes;
    use super::*;

    fn findings(text: &str) -> Diagnostics {
        Diagnostics::new(Arc::new(Source::new("f.yaml", text)))
    }

    #[test]
    fn render_marks_the_place() {
        let mut d = findings("a: 1\nlisteners:\n  - adress: x\n");
        let span = Span { start: 20, end: 26, line: 3, column: 5 };
        d.report(codes::UNKNOWN_KEY, span, "unknown key `adress`").suggest("adress", ["address"].into_iter());
        let want = "f.yaml:3:5: error[E0102]: unknown key `adress`\n  3 |   - adress: x\n    |     ^^^^^^\n  \
                    help: did you mean `address`?\n";
        assert_eq!(d.render(), want);
    }

    #[test]
    fn report_keeps_a_bounded_number_and_counts_the_rest() {
        let mut d = findings("");
        for _ in 0..DIAGNOSTICS_MAX + 7 {
            d.report(codes::BAD_VALUE, Span::NOWHERE, "x").hint("y");
        }
        d.report(codes::NO_EFFECT, Span::NOWHERE, "w");
        assert_eq!(d.errors_total(), DIAGNOSTICS_MAX + 7);
        assert_eq!(d.sorted().len(), DIAGNOSTICS_MAX + 1);
        assert!(d.render().ends_with("and 7 more\n"));
    }

    #[test]
    fn render_never_passes_control_characters() {
        let mut d = findings("a: \u{1b}[31m\n");
        d.report(codes::BAD_VALUE, Span { start: 3, end: 5, line: 1, column: 4 }, "bad \u{1b}[0m");
        assert!(!d.render().contains('\u{1b}'));
    }

    #[test]
    fn long_lines_are_cut_around_the_mark() {
        let text = format!("{}bad{}", "x".repeat(5000), "y".repeat(5000));
        let mut d = findings(&text);
        d.report(codes::BAD_VALUE, Span { start: 5000, end: 5003, line: 1, column: 5001 }, "bad");
        let shown = d.render();
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].len() < 130);
        let at = lines[2].find('^').unwrap_or(0);
        assert_eq!(&lines[1][at..at + 3], "bad");
    }
}
