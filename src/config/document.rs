//! The JSON Schema and the reference page, both from the declarations of the model.

use serde_json::{Value as Json, json};

use super::model::Config;
use super::template::Template;
use crate::schema::json_schema::Builder;
use crate::schema::reference::Reference;
use crate::schema::{Decode, PolicyKind, codes, prose};

/// The JSON Schema (draft 2020-12) of configuration files, with the policies of this build (U14).
pub fn schema_json(policies: &[PolicyKind]) -> Json {
    let mut builder = Builder::new(policies);
    let native = builder.visit(&Config::describe());
    let template = builder.visit(&Template::describe());
    let mut definitions = builder.finish();
    for root in [&native, &template] {
        allow_extras(root, &mut definitions);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ringway configuration",
        "if": {"required": ["api_gateway"]},
        "then": template,
        "else": native,
        "$defs": definitions,
    })
}

/// The top level may hold `x-…` keys.
fn allow_extras(root: &Json, definitions: &mut serde_json::Map<String, Json>) {
    let name = root["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
    if let Some(definition) = name.and_then(|name| definitions.get_mut(name)) {
        definition["patternProperties"] = json!({"^x-": true});
    }
}

/// The reference page in Markdown: every key with type, default, range and meaning (U45).
pub fn reference_markdown(policies: &[PolicyKind]) -> String {
    let mut page = Reference::new();
    page.text(INTRODUCTION);
    page.text("## The file\n\n");
    page.sections("Top level", &Config::describe());
    page.text("## Policies\n\n");
    page.text("A policy is a mapping with one key, its name: `- name: {…}`.\n\n");
    for kind in policies {
        page.text(&format!("{}\n\n", kind.summary));
        page.sections(&format!("`{}`", kind.name), &kind.describe());
    }
    page.text("## The `api_gateway` template\n\n");
    page.text("A file with this key is read in this form; mappings that are native are described above.\n\n");
    page.sections("Template", &Template::describe());
    page.text("## Codes of diagnostics\n\n| code | meaning |\n|---|---|\n");
    for (id, meaning) in codes::ALL {
        page.text(&format!("| {id} | {} |\n", prose(meaning).replace('|', "\\|")));
    }
    page.finish()
}

const INTRODUCTION: &str = "\
# Configuration

This page is made from the declarations in `src/config` by the test `reference_page_is_current`; change those instead.

One file, YAML or JSON. The smallest useful one:

```yaml
listeners: [\":8080\"]
services:
  - name: users
    endpoints: [\"127.0.0.1:3000\"]
routes:
  - {path: /api/users/*, service: users}
```

- Times and sizes carry their unit: `250ms`, `30s`, `1h30m`; `512B`, `64KiB`, `10MiB`.
- `${NAME}` and `${NAME:-default}` stand for environment variables in any value, `$$` for a `$`. A `$` before anything
  else is left alone. Inside `[…]` and `{…}` such values need quotes.
- Secrets may also be `file:/path`.
- Unknown keys, keys that stand twice and values of the wrong kind are errors, all reported in one run.
- YAML anchors, aliases and merge keys (`<<`) work; top-level keys that begin with `x-` are a place for them.

";
