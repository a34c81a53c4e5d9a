//! Type descriptions as Markdown, for people.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;

use super::doc::{FieldDoc, Shape, StructDoc, TypeDoc, prose};

/// Writes the sections of a mapping and of all mappings below it, each once, the outer first.
pub struct Reference {
    out: String,
    seen: HashSet<String>,
}

impl Default for Reference {
    fn default() -> Self {
        Reference::new()
    }
}

impl Reference {
    /// An empty page.
    pub fn new() -> Reference {
        Reference { out: String::new(), seen: HashSet::new() }
    }

    /// Adds Markdown as it is.
    pub fn text(&mut self, markdown: &str) {
        self.out.push_str(markdown);
    }

    /// Adds the sections of `ty`, headed by `title`, and of what it holds, headed by their keys.
    pub fn sections(&mut self, title: &str, ty: &TypeDoc) {
        let mut waiting = VecDeque::new();
        find_structs(title, ty, &mut waiting);
        while let Some((path, doc)) = waiting.pop_front() {
            if !self.seen.insert(doc.id.clone()) {
                continue;
            }
            self.section(&path, doc);
            let prefix = if path == title && !title.contains('`') { "" } else { path.trim_matches('`') };
            let mut below = VecDeque::new();
            for field in &doc.fields {
                let key = match prefix {
                    "" => field.spec.key.to_owned(),
                    prefix => format!("{prefix}.{}", field.spec.key),
                };
                find_structs(&format!("`{key}`"), &field.ty, &mut below);
            }
            // Depth first: what belongs to one part of the file stays together.
            for item in below.into_iter().rev() {
                waiting.push_front(item);
            }
        }
    }

    /// The page.
    pub fn finish(self) -> String {
        self.out
    }

    fn section(&mut self, title: &str, doc: &StructDoc) {
        let _ = writeln!(self.out, "### {title}\n\n{}\n", prose(doc.doc));
        if let Some(key) = doc.shorthand {
            let _ = writeln!(self.out, "A bare value stands for `{{{key}: …}}`.\n");
        }
        self.out.push_str("| key | type | default | allowed | meaning |\n|---|---|---|---|---|\n");
        for field in &doc.fields {
            self.row(field);
        }
        self.out.push('\n');
        for field in &doc.fields {
            self.words(field);
        }
    }

    fn row(&mut self, field: &FieldDoc) {
        let spec = field.spec;
        let default = match spec.default {
            Some(default) => format!("`{default}`"),
            None if field.required => "required".to_owned(),
            None => "–".to_owned(),
        };
        let mut meaning = prose(spec.doc);
        if !spec.aliases.is_empty() {
            let _ = write!(meaning, " Also written `{}`.", spec.aliases.join("`, `"));
        }
        let cells = [format!("`{}`", spec.key), field.ty.word.clone(), default, allowed(&field.ty), meaning];
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(self.out, "| {} |", cells.join(" | "));
    }

    fn words(&mut self, field: &FieldDoc) {
        let Shape::Words(words) = &field.ty.shape else {
            return;
        };
        let _ = writeln!(self.out, "`{}` is one of\n", field.spec.key);
        for word in *words {
            let _ = writeln!(self.out, "- `{}`: {}", word.word, prose(word.doc));
        }
        self.out.push('\n');
    }
}

fn allowed(ty: &TypeDoc) -> String {
    match &ty.shape {
        Shape::Bool => "`true`, `false`".to_owned(),
        Shape::Words(words) => words.iter().map(|word| format!("`{}`", word.word)).collect::<Vec<_>>().join(", "),
        _ => ty.range.clone(),
    }
}

/// The mappings directly inside `ty`, with how a file reaches them.
fn find_structs<'t>(path: &str, ty: &'t TypeDoc, out: &mut VecDeque<(String, &'t StructDoc)>) {
    let inside = |mark: &str| match path.strip_suffix('`') {
        Some(open) => format!("{open}{mark}`"),
        None => path.to_owned(),
    };
    match &ty.shape {
        Shape::Struct(doc) => out.push_back((path.to_owned(), doc)),
        Shape::List(item) => find_structs(&inside("[]"), item, out),
        Shape::Map(value) => find_structs(&inside(".*"), value, out),
        Shape::Any(types) => types.iter().for_each(|ty| find_structs(path, ty, out)),
        _ => {}
    }
}
