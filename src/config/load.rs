//! From a file to a checked [`Config`].

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use super::check::{self, Known};
use super::model::Config;
use super::template;
use crate::schema::{
    Cx, Decode, Diagnostics, Env, Json, Kept, Node, Pieces, PolicyKind, Read, SOURCE_BYTES_MAX, Source, Span, Value,
    codes, parse_after, parse_json, read,
};
use crate::snapshot::{Snapshot, Written};

/// A configuration that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration; every route has a name.
    pub config: Arc<Config>,
    /// What was found; warnings only.
    pub warnings: Diagnostics,
    /// The file.
    pub source: Arc<Source>,
    /// What can be used again when the file is read the next time.
    pub kept: Arc<Kept>,
}

impl Loaded {
    /// The configuration as JSON, every default written out, secrets masked (C60, R263).
    pub fn effective(&self) -> Json {
        self.config.dump()
    }
}

/// A configuration that serves.
#[derive(Debug)]
pub struct Present {
    /// As it was written.
    pub config: Arc<Config>,
    /// What the next one may share with it. Nothing where there were warnings, whose places are those of this file.
    pub kept: Option<Arc<Kept>>,
}

impl Present {
    /// What was loaded, and what was found in it in all.
    pub fn of(loaded: &Loaded, found: &Diagnostics) -> Self {
        Self { config: loaded.config.clone(), kept: found.is_empty().then(|| loaded.kept.clone()) }
    }

    /// Of a snapshot, which has one.
    pub fn in_snapshot(snapshot: &Snapshot) -> Option<&Self> {
        let written: &dyn Any = &*snapshot.written;
        written.downcast_ref()
    }
}

impl Written for Present {
    fn effective(&self) -> Json {
        self.config.dump()
    }
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// Every mistake of the file, with warnings among them.
pub fn load_file(path: &Path, env: &dyn Env, policies: &[PolicyKind]) -> Result<Loaded, Box<Diagnostics>> {
    let name = path.display().to_string();
    match read_file(path) {
        Ok(text) => load_str(&name, &text, env, policies),
        Err(reason) => Err(unreadable(name, format!("the file cannot be read: {reason}"))),
    }
}

/// What is said of a source that cannot be read.
pub fn unreadable(name: String, what: String) -> Box<Diagnostics> {
    let mut diagnostics = Diagnostics::new(Arc::new(Source::new(name, "")));
    diagnostics.report(codes::UNREADABLE, Span::NOWHERE, what);
    Box::new(diagnostics)
}

/// A file that was read before.
pub enum Again {
    /// It says what it said, and nothing else has a say in what that means.
    Unchanged,
    /// It says something else, or something new.
    Loaded(Box<Loaded>),
}

/// The same, with what an earlier reading kept. None where there is anything to report: places are those of earlier
/// files then, and it is to be read once more without.
pub fn load_file_after(before: &Kept, path: &Path, env: &dyn Env, policies: &[PolicyKind]) -> Option<Again> {
    load_text_after(before, path.display().to_string(), read_file(path).ok()?, env, policies)
}

/// The same for a text that comes from elsewhere.
pub fn load_text_after(
    before: &Kept,
    name: String,
    text: String,
    env: &dyn Env,
    policies: &[PolicyKind],
) -> Option<Again> {
    if before.is_of(&text) {
        return Some(Again::Unchanged);
    }
    let source = Arc::new(Source { name, text });
    let loaded = load_after(Some(before), source, env, policies).ok()?;
    loaded.warnings.is_empty().then(|| Again::Loaded(Box::new(loaded)))
}

/// Checks `text`, which messages call `name`; a name that ends in `.json` makes it strict JSON.
///
/// # Errors
/// Every mistake of the text, with warnings among them.
pub fn load_str(name: &str, text: &str, env: &dyn Env, policies: &[PolicyKind]) -> Result<Loaded, Box<Diagnostics>> {
    load_str_after(None, name, text, env, policies)
}

/// The same, with what an earlier reading kept: values are shared with
/// that.
///
/// # Errors
/// As above.
pub fn load_str_after(
    before: Option<&Kept>,
    name: &str,
    text: &str,
    env: &dyn Env,
    policies: &[PolicyKind],
) -> Result<Loaded, Box<Diagnostics>> {
    load_after(before, Arc::new(Source::new(name, text)), env, policies)
}

fn load_after(
    before: Option<&Kept>,
    source: Arc<Source>,
    env: &dyn Env,
    policies: &[PolicyKind],
) -> Result<Loaded, Box<Diagnostics>> {
    let is_json = source.name.ends_with(".json");
    let again = before.filter(|_| !is_json).and_then(|before| load_pieces(before, &source, env, policies));
    if let Some(loaded) = again {
        return Ok(loaded);
    }
    let mut diagnostics = Diagnostics::new(source.clone());
    let (root, pieces) = match is_json {
        true => (parse_json(env, &mut diagnostics), None),
        false => match read(env, &mut diagnostics) {
            Some(Read { root, has_aliases, .. }) => {
                let pieces = if has_aliases { None } else { Pieces::of(&source.text, &root) };
                (Some(root), pieces)
            }
            None => (None, None),
        },
    };
    let mut cx = Cx::new(diagnostics, env, policies);
    cx.before = before;
    let native = root.and_then(|root| native_root(root, &mut cx));
    let config = native.and_then(|root| config_of(&root, pieces, &mut cx));
    match config {
        Some(config) if !cx.diagnostics.has_errors() => Ok(loaded(config, cx, source)),
        _ => Err(Box::new(cx.diagnostics)),
    }
}

/// The configuration, of which only what is new was read. None where the whole has to be: where it is written in a way
/// that hides its pieces, and where there is anything to report.
fn load_pieces(before: &Kept, source: &Arc<Source>, env: &dyn Env, policies: &[PolicyKind]) -> Option<Loaded> {
    let (root, pieces) = parse_after(before, source, env)?;
    let mut cx = Cx::new(Diagnostics::new(source.clone()), env, policies);
    cx.before = Some(before);
    let config = config_of(&without_extras(root), Some(pieces), &mut cx)?;
    cx.diagnostics.is_empty().then(|| loaded(config, cx, source.clone()))
}

fn config_of(root: &Node, pieces: Option<Pieces>, cx: &mut Cx) -> Option<Config> {
    let mut config = Config::decode(root, cx)?;
    let before = cx.before.zip(pieces.as_ref()).filter(|(before, pieces)| before.has_rest_of(pieces));
    let known = before.map(|(before, pieces)| Known::of(&config, before, pieces)).unwrap_or_default();
    check::check(&config, root, &known, cx);
    if let Some(pieces) = pieces.filter(|_| cx.diagnostics.is_empty()) {
        cx.kept.keep_list("services", &pieces, config.services.iter().map(|item| item.value.clone()));
        cx.kept.keep_list("routes", &pieces, config.routes.iter().map(|item| item.value.clone()));
        if cx.files_read() == 0 {
            cx.kept.keep_rest(&pieces);
        }
        cx.kept.keep_pieces(pieces);
    }
    check::name_routes(&mut config, cx);
    Some(config)
}

fn loaded(config: Config, mut cx: Cx, source: Arc<Source>) -> Loaded {
    cx.kept.keep_source(&source, cx.files_read() == 0 && !config.uses_files());
    let kept = Arc::new(std::mem::take(&mut cx.kept));
    Loaded { config: Arc::new(config), warnings: cx.diagnostics, source, kept }
}

fn read_file(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let limit = SOURCE_BYTES_MAX as u64 + 1;
    // A size is a hint: the file may grow, or be a pipe.
    let size = file.metadata().map_or(0, |facts| facts.len().min(limit));
    let mut bytes = Vec::with_capacity(size as usize + 1);
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
