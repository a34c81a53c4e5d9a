//! Type descriptions as JSON Schema (draft 2020-12), for editors.

use serde_json::{Map, Value as Json, json};

use super::decode::default_node;
use super::doc::{FieldDoc, Shape, StructDoc, TypeDoc, WordDoc, prose};
use super::node::{Node, Value};
use super::policy::PolicyKind;

/// A schema in the making: named definitions are gathered while types are visited.
pub struct Builder<'a> {
    policies: &'a [PolicyKind],
    definitions: Map<String, Json>,
}

impl<'a> Builder<'a> {
    /// A builder that knows the policies of this build.
    pub fn new(policies: &'a [PolicyKind]) -> Builder<'a> {
        Builder { policies, definitions: Map::new() }
    }

    /// The definitions gathered so far, with one for policies when one was used.
    pub fn finish(self) -> Map<String, Json> {
        self.definitions
    }

    /// The schema of one type; mappings become a reference to a definition.
    pub fn visit(&mut self, ty: &TypeDoc) -> Json {
        match &ty.shape {
            Shape::Bool => or_variable(json!({"type": "boolean"})),
            Shape::Integer { min, max } => or_variable(integer(*min, *max)),
            Shape::Number => or_variable(json!({"type": "number"})),
            Shape::Text { pattern } => text(*pattern),
            Shape::Words(words) => word_schema(words),
            Shape::List(item) => json!({"type": "array", "items": self.visit(item)}),
            Shape::Map(value) => {
                json!({"type": "object", "additionalProperties": self.visit(value)})
            }
            Shape::Struct(doc) => self.structure(doc),
            Shape::Any(types) if types.is_empty() => json!({}),
            Shape::Any(types) => {
                let any: Vec<Json> = types.iter().map(|ty| self.visit(ty)).collect();
                json!({ "anyOf": any })
            }
            Shape::Policy => self.policy(),
        }
    }

    fn structure(&mut self, doc: &StructDoc) -> Json {
        let id = doc.id.replace("::", ".");
        let reference = json!({"$ref": format!("#/$defs/{id}")});
        if self.definitions.contains_key(&id) {
            return reference;
        }
        // Reserved first, so that a type that contains itself ends.
        self.definitions.insert(id.clone(), Json::Null);
        let object = self.object(doc);
        let shorthand = doc.fields.iter().find(|field| Some(field.spec.key) == doc.shorthand);
        let schema = match shorthand {
            Some(field) => json!({"anyOf": [self.visit(&field.ty), object]}),
            None => object,
        };
        self.definitions.insert(id, schema);
        reference
    }

    fn object(&mut self, doc: &StructDoc) -> Json {
        let mut properties = Map::new();
        for field in &doc.fields {
            properties.insert(field.spec.key.to_owned(), self.property(field));
            for alias in field.spec.aliases {
                let mut schema = self.visit(&field.ty);
                annotate(&mut schema, "description", json!(format!("The same as `{}`.", field.spec.key)));
                properties.insert((*alias).to_owned(), schema);
            }
        }
        let required = doc.fields.iter().filter(|field| field.required && field.spec.aliases.is_empty());
        let required: Vec<&str> = required.map(|field| field.spec.key).collect();
        let mut schema = json!({
            "type": "object",
            "description": prose(doc.doc),
            "properties": properties,
            "additionalProperties": false,
        });
        if !required.is_empty() {
            annotate(&mut schema, "required", json!(required));
        }
        schema
    }

    fn property(&mut self, field: &FieldDoc) -> Json {
        let mut schema = self.visit(&field.ty);
        annotate(&mut schema, "description", json!(prose(field.spec.doc)));
        if let Some(default) = field.spec.default {
            annotate(&mut schema, "default", default_json(default, &field.ty));
        }
        schema
    }

    fn policy(&mut self) -> Json {
        const ID: &str = "policy";
        let reference = json!({"$ref": "#/$defs/policy"});
        if self.definitions.contains_key(ID) {
            return reference;
        }
        self.definitions.insert(ID.to_owned(), Json::Null);
        let mut forms = Vec::new();
        for kind in self.policies {
            let mut settings = self.visit(&kind.describe());
            annotate(&mut settings, "description", json!(kind.summary));
            forms.push(json!({
                "type": "object",
                "properties": {kind.name: settings},
                "required": [kind.name],
                "additionalProperties": false,
            }));
        }
        let names: Vec<&str> = self.policies.iter().map(|kind| kind.name).collect();
        forms.push(json!({ "enum": names }));
        self.definitions.insert(ID.to_owned(), json!({"description": "One policy.", "anyOf": forms}));
        reference
    }
}

fn annotate(schema: &mut Json, key: &str, value: Json) {
    if let Json::Object(map) = schema {
        map.insert(key.to_owned(), value);
    }
}

fn integer(min: u64, max: u64) -> Json {
    let mut schema = json!({"type": "integer", "minimum": min});
    if max < u64::MAX {
        annotate(&mut schema, "maximum", json!(max));
    }
    schema
}

/// A number or yes/no may also come from a variable, which editors see as text.
fn or_variable(schema: Json) -> Json {
    json!({"anyOf": [schema, {"type": "string", "pattern": "\\$\\{"}]})
}

fn text(pattern: Option<&str>) -> Json {
    match pattern {
        Some(pattern) => json!({"type": "string", "pattern": format!("({pattern})|\\$\\{{")}),
        // Text without a form of its own may look like a number or a yes.
        None => json!({"type": ["string", "number", "boolean"]}),
    }
}

fn word_schema(words: &[WordDoc]) -> Json {
    let choices = words.iter().flat_map(|word| {
        let all = std::iter::once(word.word).chain(word.aliases.iter().copied());
        all.map(|text| json!({"const": text, "description": prose(word.doc)}))
    });
    let mut choices: Vec<Json> = choices.collect();
    choices.push(json!({"type": "string", "pattern": "\\$\\{"}));
    json!({ "anyOf": choices })
}

/// A default as the JSON that one would write.
fn default_json(text: &str, ty: &TypeDoc) -> Json {
    match ty.shape {
        Shape::Text { .. } | Shape::Words(_) => Json::from(text.trim_matches('"')),
        _ => node_json(&default_node(text)),
    }
}

/// A tree as JSON, by YAML's core rules for what a plain scalar is.
pub fn node_json(node: &Node) -> Json {
    match &node.value {
        _ if node.is_null() => Json::Null,
        Value::Scalar(scalar) if scalar.plain => {
            let number = || scalar.text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Json::from);
            let whole = scalar.text.parse::<u64>().ok().map(Json::from);
            let truth = scalar.text.parse::<bool>().ok().map(Json::from);
            whole.or(truth).or_else(number).unwrap_or_else(|| Json::from(scalar.text.as_str()))
        }
        Value::Scalar(scalar) => Json::from(scalar.text.as_str()),
        Value::Sequence(items) => Json::Array(items.iter().map(node_json).collect()),
        Value::Mapping(entries) => {
            Json::Object(entries.iter().map(|entry| (entry.key.clone(), node_json(&entry.value))).collect())
        }
        // An item of the services or routes, which are never raw.
        Value::Known(_) => Json::Null,
    }
}
