//! From a file to a checked [`Config`].

use std::path::Path;
use std::sync::Arc;

use super::model::Config;
use super::{check, template};
use crate::schema::{
    Cx, Decode, Diagnostics, Env, Json, Node, PolicyKind, SOURCE_BYTES_MAX, Source, Span, Value, codes, parse,
    parse_json,
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
pub fn load_file(path: &Path, env: &dyn Env, policies: &[PolicyKind]) -> Result<Loaded, Box<Diagnostics>> {
    let name = path.display().to_string();
    match read(path) {
        Ok(text) => load_str(&name, &text, env, policies),
        Err(reason) => {
            let mut diagnostics = Diagnostics::new(Arc::new(Source::new(name, "")));
            diagnostics.report(codes::UNREADABLE, Span::NOWHERE, format!("the file cannot be read: {reason}"));
            Err(Box::new(diagnostics))
        }
    }
}

/// Checks `text`, which messages call `name`; a name that ends in `.json` makes it strict JSON.
///
/// # Errors
/// Every mistake of the text, with warnings among them.
pub fn load_str(name: &str, text: &str, env: &dyn Env, policies: &[PolicyKind]) -> Result<Loaded, Box<Diagnostics>> {
    let source = Arc::new(Source::new(name, text));
    let mut diagnostics = Diagnostics::new(source.clone());
    let root = match name.ends_with(".json") {
        true => parse_json(env, &mut diagnostics),
        false => parse(env, &mut diagnostics),
    };
    let mut cx = Cx::new(diagnostics, env, policies);
    let native = root.and_then(|root| native_root(root, &mut cx));
    let config = native.and_then(|root| {
        let mut config = Config::decode(&root, &mut cx)?;
        check::check(&config, &root, &mut cx);
        check::name_routes(&mut config);
        Some(config)
    });
    match config {
        Some(config) if !cx.diagnostics.has_errors() => Ok(Loaded { config, warnings: cx.diagnostics, source }),
        _ => Err(Box::new(cx.diagnostics)),
    }
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let limit = SOURCE_BYTES_MAX as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > SOURCE_BYTES_MAX {
        return Err(format!("it is larger than {SOURCE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| format!("byte {} is not UTF-8", error.utf8_error().valid_up_to()))
}

/// The tree in native form.
fn native_root(root: Node, cx: &mut Cx) -> Option<Node> {
    if root.is_null() {
        cx.report(codes::SYNTAX, Span::NOWHERE, "the file is empty")
            .hint("the smallest useful one has `listeners`, `services` and `routes`");
        return None;
    }
    let root = without_extras(root);
    if root.get(template::KEY).is_some() {
        return template::convert(&root, cx);
    }
    Some(root)
}

/// Keys of the top level that begin with `x-` hold anchors for use elsewhere.
fn without_extras(mut root: Node) -> Node {
    if let Value::Mapping(entries) = &mut root.value {
        entries.retain(|entry| !entry.key.starts_with("x-"));
    }
    root
}
