//! From a file to a checked [`Config`].

use std::path::Path;
use std::sync::Arc;

use serde::de::IgnoredAny;

use super::model::Config;
use super::{check, template};
use crate::schema::{
    Cx, Decode, Diagnostics, Env, Json, Node, PolicyKind, SOURCE_BYTES_MAX, Source, Span, Value,
    codes, parse,
};

/// A configuration that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration; every route has a name.
    pub config: Config,
    /// What was found; warnings only.
    pub warnings: Diagnostics,
    /// The file.
    pub source: Arc<Source>,
}

impl Loaded {
    /// The configuration as JSON, every default written out, secrets masked (C60, R263).
    pub fn effective(&self) -> Json {
        self.config.dump()
    }
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// Every mistake of the file, with warnings among them.
pub fn load_file(
    path: &Path,
    env: &dyn Env,
    policies: &[PolicyKind],
) -> Result<Loaded, Box<Diagnostics>> {
    let name = path.display().to_string();
    match read(path) {
        Ok(text) => load_str(&name, &text, env, policies),
        Err(reason) => {
            let mut diagnostics = Diagnostics::new(Arc::new(Source::new(name, "")));
            diagnostics.report(
                codes::UNREADABLE,
                Span::NOWHERE,
                format!("the file cannot be read: {reason}"),
            );
            Err(Box::new(diagnostics))
        }
    }
}

/// Checks `text`, which messages call `name`; a name that ends in `.json` makes it strict JSON.
///
/// # Errors
/// Every mistake of the text, with warnings among them.
pub fn load_str(
    name: &str,
    text: &str,
    env: &dyn Env,
    policies: &[PolicyKind],
) -> Result<Loaded, Box<Diagnostics>> {
    let source = Arc::new(Source::new(name, text));
    let mut diagnostics = Diagnostics::new(source.clone());
    if name.ends_with(".json") && !is_json(text, &mut diagnostics) {
        return Err(Box::new(diagnostics));
    }
    let root = parse(env, &mut diagnostics);
    let mut cx = Cx::new(diagnostics, env, policies);
    let config = root.and_then(|root| decode_root(root, &mut cx));
    let config = config.map(|mut config| {
        check::check(&config, &mut cx);
        check::name_routes(&mut config);
        config
    });
    match config {
        Some(config) if !cx.diagnostics.has_errors() => Ok(Loaded {
            config,
            warnings: cx.diagnostics,
            source,
        }),
        _ => Err(Box::new(cx.diagnostics)),
    }
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let limit = SOURCE_BYTES_MAX as u64 + 1;
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() > SOURCE_BYTES_MAX {
        return Err(format!("it is larger than {SOURCE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("byte {} is not UTF-8", error.utf8_error().valid_up_to()))
}

fn is_json(text: &str, diagnostics: &mut Diagnostics) -> bool {
    let Err(error) = serde_json::from_str::<IgnoredAny>(text) else {
        return true;
    };
    let (line, column) = (error.line().max(1), error.column().max(1));
    let before: usize = text
        .split_inclusive('\n')
        .take(line - 1)
        .map(str::len)
        .sum();
    let start = (before + column - 1).min(text.len()) as u32;
    let span = Span {
        start,
        end: start,
        line: line as u32,
        column: column as u32,
    };
    let cause = error.to_string();
    let cause = cause.split(" at line ").next().unwrap_or("");
    diagnostics.report(codes::SYNTAX, span, format!("this is not JSON: {cause}"));
    false
}

fn decode_root(root: Node, cx: &mut Cx) -> Option<Config> {
    if root.is_null() {
        cx.report(codes::SYNTAX, Span::NOWHERE, "the file is empty")
            .hint("the smallest useful one has `listeners`, `services` and `routes`");
        return None;
    }
    let root = without_extras(root);
    if root.get(template::KEY).is_some() {
        let native = template::convert(&root, cx)?;
        return Config::decode(&native, cx);
    }
    Config::decode(&root, cx)
}

/// Keys of the top level that begin with `x-` hold anchors for use elsewhere.
fn without_extras(mut root: Node) -> Node {
    if let Value::Mapping(entries) = &mut root.value {
        entries.retain(|entry| !entry.key.starts_with("x-"));
    }
    root
}
