//! Guesses at what a YAML syntax error comes from.

use super::span::Span;

/// What to do about the error `info` of the scanner at `span`, if that can be guessed.
pub(super) fn syntax_hint(text: &str, span: Span, info: &str) -> Option<String> {
    let line = text.lines().nth((span.line as usize).saturating_sub(1)).unwrap_or("");
    if line.trim_start_matches(' ').starts_with('\t') {
        return Some("indent with spaces; YAML does not allow tabs there".to_owned());
    }
    if info.contains("anchor") {
        let hint = "an alias `*name` needs an anchor `&name` before it; quote text that begins with `*` or `&`";
        return Some(hint.to_owned());
    }
    let before = text.get(..span.start as usize).unwrap_or(text);
    if let Some((bracket, line)) = open_bracket(before) {
        let hint = "quote text that holds brackets, such as \"${NAME}\" in a list";
        return Some(format!("the `{bracket}` in line {line} is not closed; {hint}"));
    }
    let quote = before.matches('"').count() % 2 == 1;
    if quote && info.contains("quoted") {
        return Some("a quote is not closed".to_owned());
    }
    info.contains("mapping values").then(|| {
        "a `key: value` stands where none may: check the indentation, and quote text that holds `: `".to_owned()
    })
}

/// The last `[` or `{` that begins a value in `text` and is not closed there, with its line.
///
/// This is a guess for a hint: it knows quotes and comments, and nothing else of YAML.
fn open_bracket(text: &str) -> Option<(char, usize)> {
    let mut open: Vec<(char, usize)> = Vec::new();
    let (mut line, mut quote, mut previous) = (1, None, '\n');
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        line += usize::from(c == '\n');
        let begins = previous.is_whitespace() || matches!(previous, '[' | '{' | ',' | ':');
        match (quote, c) {
            (Some('"'), '\\') => drop(chars.next()),
            (Some(mark), c) if c == mark => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if begins => quote = Some(c),
            (None, '#') if previous.is_whitespace() => {
                // The rest of the line is a comment.
                line += usize::from(chars.by_ref().any(|c| c == '\n'));
                previous = '\n';
                continue;
            }
            (None, '[' | '{') if begins => open.push((c, line)),
            (None, ']' | '}') => drop(open.pop()),
            _ => {}
        }
        previous = c;
    }
    open.pop()
}
