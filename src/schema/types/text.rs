//! Names, secrets and regular expressions.

use std::fmt;

use serde_json::Value as Json;

use super::{Fault, ScalarType};
use crate::schema::codes;
use crate::schema::decode::{Cx, Decode};
use crate::schema::doc::TypeDoc;
use crate::schema::node::Node;

/// Largest file behind a secret.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;
/// Largest compiled regular expression: bounds memory and the time of a match.
pub const REGEX_BYTES_MAX: usize = 1024 * 1024;

/// A value that is never shown: `${NAME}`, `file:/path`, or plain text with a warning (C60, U42).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// What stands for a secret wherever it would be shown.
const REDACTED: &str = "[redacted]";

impl Secret {
    /// The value itself; for the code that uses it, never for output.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Decode for Secret {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        let scalar = cx.scalar(node, "a secret, as ${NAME} or file:/path")?;
        let Some(path) = scalar.text.strip_prefix("file:") else {
            if scalar.written.is_none() {
                cx.diagnostics.hide(node.span);
                cx.report(codes::PLAIN_SECRET, node.span, "a secret stands in the file in plain text")
                    .hint("write ${NAME} for an environment variable, or file:/path");
            }
            return Some(Secret(scalar.text.clone()));
        };
        match cx.read_file(path, SECRET_BYTES_MAX) {
            Ok(text) => Some(Secret(without_newline(text))),
            Err(reason) => {
                let shown = scalar.shown();
                cx.report(codes::BAD_SECRET, node.span, format!("the secret `{shown}` cannot be read: {reason}"));
                None
            }
        }
    }

    fn dump(&self) -> Json {
        Json::from(REDACTED)
    }

    fn describe() -> TypeDoc {
        TypeDoc::text("secret", "${NAME}, file:/path (at most 64KiB) or text", None)
    }
}

/// One newline at the end belongs to the file and not to the secret.
fn without_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// A name that the file gives to something: 1 to 128 visible ASCII characters, none of `"`, `\\`, `,`.
///
/// It appears in logs, metric labels and URLs of the admin listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Name {
    /// A name made of any text: what a name may not hold becomes `_`, what is too long is cut, nothing becomes `_`.
    pub fn from_text(text: &str) -> Name {
        let allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | ',');
        let name: String = text.chars().take(128).map(|c| if allowed(c) { c } else { '_' }).collect();
        Name(if name.is_empty() { "_".to_owned() } else { name })
    }
}

impl ScalarType for Name {
    const WANTED: &'static str = "a name";

    fn parse(text: &str) -> Result<Self, Fault> {
        let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b',');
        if !text.is_empty() && text.len() <= 128 && text.bytes().all(allowed) {
            return Ok(Name(text.to_owned()));
        }
        Err(Fault::hint("names have 1 to 128 visible ASCII characters and no blanks, commas or quotes"))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn document() -> TypeDoc {
        TypeDoc::text("name", "1 to 128 visible characters", Some(r#"^[^\s",\\]{1,128}$"#))
    }
}

/// A regular expression (linear time, RE2 syntax), compiled when it is read (R5).
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As written.
    pub source: String,
    /// Compiled.
    pub regex: regex::Regex,
}

impl ScalarType for Pattern {
    const WANTED: &'static str = "a regular expression";

    fn parse(text: &str) -> Result<Self, Fault> {
        let built = regex::RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).build();
        match built {
            Ok(regex) => Ok(Pattern { source: text.to_owned(), regex }),
            Err(error) => Err(regex_fault(&error)),
        }
    }

    fn show(&self) -> String {
        self.source.clone()
    }

    fn document() -> TypeDoc {
        TypeDoc::text("regular expression", "RE2 syntax; at most 1MiB compiled", None)
    }
}

fn regex_fault(error: &regex::Error) -> Fault {
    let text = error.to_string();
    // The library draws several lines; the last one holds the cause.
    let cause = text.lines().last().unwrap_or("").trim_start_matches("error: ").to_owned();
    let fault = Fault::message(format!("the regular expression does not compile: {cause}")).code(codes::BAD_REGEX);
    match cause.contains("look-around") || cause.contains("backreference") {
        true => fault.and_hint("look-around and back-references are left out, since they can take exponential time"),
        false => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::decode_str;

    #[test]
    fn secrets_are_never_shown() {
        let secret = Secret("hunter2".to_owned());
        assert_eq!(format!("{secret} {secret:?} {}", secret.dump()), "[redacted] [redacted] \"[redacted]\"");
        assert_eq!(without_newline("a\n\n".to_owned()), "a\n");
        assert_eq!(without_newline("a\r\n".to_owned()), "a");
    }

    #[test]
    fn a_bad_pattern_says_why() {
        let error = decode_str::<Pattern>("'^/a(b$'").err().unwrap_or_default();
        assert!(error.contains("E0108") && error.contains("unclosed group"), "{error}");
        let error = decode_str::<Pattern>("'(a{1000}){1000}'").err().unwrap_or_default();
        assert!(error.contains("E0108"), "{error}");
    }
}
