//! What a configuration may read from outside its file, and `${…}` substitution.

/// The outside of a configuration file: variables and secret files. Tests pass their own.
pub trait Env {
    /// The variable called `name`, if it is set.
    fn var(&self, name: &str) -> Option<String>;

    /// The file at `path` as text.
    ///
    /// # Errors
    /// A sentence when it cannot be read, holds more than `bytes_max`, or is not UTF-8.
    fn read_file(&self, path: &str, bytes_max: usize) -> Result<String, String>;
}

/// The environment of the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read_file(&self, path: &str, bytes_max: usize) -> Result<String, String> {
        use std::io::Read as _;
        let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() > bytes_max {
            return Err(format!("it holds more than {bytes_max} bytes"));
        }
        String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
    }
}

/// A fixed set of variables and files: no outside at all when empty.
#[derive(Clone, Debug, Default)]
pub struct FixedEnv {
    /// Names and values of variables.
    pub vars: Vec<(String, String)>,
    /// Paths and contents of files.
    pub files: Vec<(String, String)>,
}

impl FixedEnv {
    /// Variables from pairs.
    pub fn of(vars: &[(&str, &str)]) -> FixedEnv {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        FixedEnv { vars, files: Vec::new() }
    }
}

impl Env for FixedEnv {
    fn var(&self, name: &str) -> Option<String> {
        self.vars.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn read_file(&self, path: &str, bytes_max: usize) -> Result<String, String> {
        match self.files.iter().find(|(known, _)| known == path) {
            Some((_, text)) if text.len() <= bytes_max => Ok(text.clone()),
            Some(_) => Err(format!("it holds more than {bytes_max} bytes")),
            None => Err("no such file".to_owned()),
        }
    }
}

/// Why a substitution failed; `part` is the text from `${` on, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SubstituteError {
    /// The variable is not set and no default is given.
    Unset { name: String, part: String },
    /// Not `${NAME}` nor `${NAME:-default}`.
    Malformed { part: String },
}

/// `text` with `${NAME}` and `${NAME:-default}` replaced and `$$` made `$`; `None` when there is nothing to replace.
///
/// A `$` before anything else is left alone, so that regular expressions can be written as they are. As in a shell,
/// `:-` also replaces a variable that is set but empty.
pub(super) fn substitute(text: &str, env: &dyn Env) -> Result<Option<String>, SubstituteError> {
    if !text.contains("${") && !text.contains("$$") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        if let Some(after) = tail.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if tail.starts_with("${") {
            let (value, len) = variable(tail, env)?;
            out.push_str(&value);
            rest = &tail[len..];
        } else {
            out.push('$');
            rest = &tail[1..];
        }
    }
    out.push_str(rest);
    Ok(Some(out))
}

/// The value of the `${…}` that `tail` begins with, and its length as written.
fn variable(tail: &str, env: &dyn Env) -> Result<(String, usize), SubstituteError> {
    let Some(end) = tail.find('}') else {
        return Err(SubstituteError::Malformed { part: tail.to_owned() });
    };
    let part = &tail[..=end];
    let inside = &tail[2..end];
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if !is_variable_name(name) {
        return Err(SubstituteError::Malformed { part: part.to_owned() });
    }
    match (env.var(name), default) {
        (Some(value), None) => Ok((value, part.len())),
        (Some(value), Some(_)) if !value.is_empty() => Ok((value, part.len())),
        (_, Some(default)) => Ok((default.to_owned(), part.len())),
        (None, None) => Err(SubstituteError::Unset { name: name.to_owned(), part: part.to_owned() }),
    }
}

fn is_variable_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitute_follows_its_forms() {
        let env = FixedEnv::of(&[("A", "1"), ("EMPTY", "")]);
        for (text, want) in [
            ("x${A}y", "x1y"),
            ("${A}${A}", "11"),
            ("${B:-two}", "two"),
            ("${EMPTY:-three}", "three"),
            ("[${EMPTY}]", "[]"),
            ("$$", "$"),
            ("$${A}", "${A}"),
            ("^a$ ${A}", "^a$ 1"),
            ("${B:-}", ""),
        ] {
            assert_eq!(substitute(text, &env), Ok(Some(want.to_owned())), "{text}");
        }
        assert_eq!(substitute("^/a$", &env), Ok(None));
    }

    #[test]
    fn substitute_refuses_what_it_cannot_replace() {
        let env = FixedEnv::default();
        let unset = SubstituteError::Unset { name: "B".into(), part: "${B}".into() };
        assert_eq!(substitute("a${B}", &env), Err(unset));
        for text in ["${", "${1}", "${A-B}", "${}", "${A:?x}"] {
            assert!(matches!(substitute(text, &env), Err(SubstituteError::Malformed { .. })), "{text}");
        }
    }
}
