//! Policies as the configuration sees them: a name, and a type to decode. The registry of policies passes a table.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::codes;
use super::decode::{Cx, Decode};
use super::doc::{Shape, TypeDoc};
use super::node::{Entry, Node};
use super::span::Span;

/// One kind of policy of this build.
#[derive(Clone, Copy)]
pub struct PolicyKind {
    /// Its name in files.
    pub name: &'static str,
    /// One sentence on what it does.
    pub summary: &'static str,
    decode: fn(&Node, &mut Cx) -> Option<Arc<dyn PolicyConfig>>,
    describe: fn() -> TypeDoc,
}

impl PolicyKind {
    /// The kind whose configuration is a `C`.
    pub const fn of<C>(name: &'static str, summary: &'static str) -> PolicyKind
    where
        C: Decode + fmt::Debug + Send + Sync + 'static,
    {
        PolicyKind { name, summary, decode: decode_as::<C>, describe: C::describe }
    }

    /// What the schema says about its configuration.
    pub fn describe(&self) -> TypeDoc {
        (self.describe)()
    }
}

fn decode_as<C>(node: &Node, cx: &mut Cx) -> Option<Arc<dyn PolicyConfig>>
where
    C: Decode + fmt::Debug + Send + Sync + 'static,
{
    C::decode(node, cx).map(|config| Arc::new(config) as Arc<dyn PolicyConfig>)
}

/// A policy's decoded configuration, of a type that only its own module knows.
pub trait PolicyConfig: Any + fmt::Debug + Send + Sync {
    /// For the downcast to the policy's own type.
    fn as_any(&self) -> &dyn Any;
    /// As JSON, secrets masked.
    fn dump(&self) -> Json;
}

impl<C: Decode + fmt::Debug + Send + Sync + 'static> PolicyConfig for C {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn dump(&self) -> Json {
        Decode::dump(self)
    }
}

/// One item of a list of policies: `- name: {…}`, or only `- name` when nothing is to be set.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The kind's name, as in the table.
    pub name: &'static str,
    /// Where the name stands.
    pub span: Span,
    /// Its settings.
    pub config: Arc<dyn PolicyConfig>,
}

impl Policy {
    /// The settings as a `C`, if that is their type.
    pub fn config_as<C: 'static>(&self) -> Option<&C> {
        self.config.as_any().downcast_ref()
    }
}

/// Policies and sections that the design knows and that this build does not contain.
pub const NOT_BUILT: &[&str] = &[
    "aggregation",
    "api_key",
    "authentication",
    "authorization",
    "basic_auth",
    "caching",
    "cache",
    "circuit_breaker",
    "compression",
    "consumers",
    "cors",
    "external_auth",
    "fault_injection",
    "graphql",
    "grpc_web",
    "health_check",
    "jwt",
    "llm",
    "mirror",
    "oauth2",
    "oidc",
    "plugin",
    "request_validation",
    "retry",
    "service_discovery",
    "status_map",
    "tracing",
    "transform",
    "versioning",
    "wasm",
];

impl Decode for Policy {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        let empty = Node::mapping(Vec::new(), node.span);
        let (name, span, config) = match (node.as_mapping(), node.as_scalar()) {
            (Some([Entry { key, key_span, value }]), _) => (key.as_str(), *key_span, value),
            (_, Some(scalar)) => (scalar.text.as_str(), node.span, &empty),
            (Some([_, second, ..]), _) => {
                cx.report(codes::WRONG_TYPE, second.key_span, "a policy is a mapping with one key, its name")
                    .hint("begin each policy with `- `, and indent its settings under its name");
                return None;
            }
            _ => {
                cx.wrong_type(node, "a policy, as `- name: {…}`");
                return None;
            }
        };
        let policies = cx.policies;
        let Some(kind) = policies.iter().find(|kind| kind.name == name) else {
            unknown(name, span, cx);
            return None;
        };
        let config = if config.is_null() { &empty } else { config };
        let config = (kind.decode)(config, cx)?;
        Some(Policy { name: kind.name, span, config })
    }

    fn dump(&self) -> Json {
        json!({ self.name: self.config.dump() })
    }

    fn describe() -> TypeDoc {
        TypeDoc { word: "policy".to_owned(), range: String::new(), shape: Shape::Policy }
    }
}

fn unknown(name: &str, span: Span, cx: &mut Cx) {
    if NOT_BUILT.contains(&name) {
        cx.report(codes::NOT_BUILT, span, format!("the policy `{name}` is not in this build yet"))
            .hint("take it out, or use a build that has it; `ringway policies` lists what this one has");
        return;
    }
    let known = cx.policies;
    cx.report(codes::UNKNOWN_POLICY, span, format!("there is no policy `{name}`"))
        .suggest(name, known.iter().map(|kind| kind.name));
}
