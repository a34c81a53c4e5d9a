//! `headers`: adds, sets, removes and renames fields of the request and of the response (R144, R148, R149, C35).
//!
//! ```yaml
//! policies:
//!   - headers:
//!       request: { set: { X-Client-Address: $client_ip }, remove: [X-Debug] }
//!       response: { add: { X-Served-By: ringway }, rename: { X-Old: X-New } }
//! ```
//! Steps in order: `remove`, `rename`, `set`, `add`. Renames happen all at once, so two fields can change places; with
//! `only` the renamed fields and those that the gateway owns are all that is left (C35). A value may hold
//! `$request_id`, `$client_ip`, `$host`, `$path`, `$method` and `$scheme`. What comes from a client is checked once
//! more when it is inserted: a value that could end the field (F48) removes it instead.

use std::io::Write as _;

use smallvec::SmallVec;

use super::{Compile, CompileEnv, Flow, Hooks, WorkerSeed};
use crate::config_struct;
use crate::http::exchange::Exchange;
use crate::http::fields::{Fields, Line, Text};
use crate::http::name::{Name, NameSet};
use crate::http::secure::ClientIdentity;
use crate::schema::Spanned;
use crate::schema::types::{HeaderName, HeaderValue, Map};
use crate::time::Now;

/// Most edits of one policy.
pub const EDITS_MAX: usize = 256;

config_struct! {
    /// Adds, sets, removes and renames fields of the request and of the response (R144, R148, R149, C35).
    pub struct Config {
        /// Edits of the request before it goes upstream.
        request: Edits = "{}",
        /// Edits of the response before it goes downstream.
        response: Edits = "{}",
    }
}

config_struct! {
    /// The edits of one message, in the order of their steps.
    pub struct Edits {
        /// Names that are removed.
        remove: Vec<HeaderName> = "[]",
        /// Old names with their new ones. A field that has the new name already gives way.
        rename | header_mapping: Map<HeaderName, HeaderName> = "{}",
        /// Keep nothing but the renamed fields and what the gateway itself writes.
        only: bool = "false",
        /// Names with values: replaces fields of these names. A value may hold `$request_id`, `$client_ip`, `$host`,
        /// `$path`, `$method`, `$scheme` and, of the certificate that the client has shown, `$client_cert_subject`,
        /// `$client_cert_san` and `$client_cert_fingerprint`. Where all of a value is empty no field is written.
        set: Map<HeaderName, HeaderValue> = "{}",
        /// Names with values: one more field of each, whatever there is.
        add: Map<HeaderName, HeaderValue> = "{}",
    }
}

/// The compiled edits.
#[derive(Debug)]
pub struct Headers {
    request: Steps,
    response: Steps,
}

/// What a worker keeps: the room in which a value is put together.
#[derive(Debug, Default)]
pub struct State {
    value: Vec<u8>,
}

#[derive(Debug)]
struct Steps {
    remove: Vec<FieldName>,
    rename: Vec<(FieldName, FieldName)>,
    only: bool,
    set: Vec<Written>,
    add: Vec<Written>,
}

/// A field to be written.
#[derive(Debug)]
enum Written {
    /// The same for all requests: checked by the compiler.
    Fixed(Line),
    /// Put together for each request, and checked then.
    Made(FieldName, Template),
}

/// A name that is not [`OWNED`].
type FieldName = Box<[u8]>;

/// A value: literal bytes and what the request knows.
#[derive(Debug, PartialEq, Eq)]
struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<[u8]>),
    Known(Variable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    RequestId,
    ClientIp,
    Host,
    Path,
    Method,
    Scheme,
    ClientCertSubject,
    ClientCertSan,
    ClientCertFingerprint,
}

const VARIABLES: [(&str, Variable); 9] = [
    ("request_id", Variable::RequestId),
    ("client_ip", Variable::ClientIp),
    ("host", Variable::Host),
    ("path", Variable::Path),
    ("method", Variable::Method),
    ("scheme", Variable::Scheme),
    ("client_cert_subject", Variable::ClientCertSubject),
    ("client_cert_san", Variable::ClientCertSan),
    ("client_cert_fingerprint", Variable::ClientCertFingerprint),
];

/// Fields that only the gateway writes: they frame the message, belong to one connection, say who the client is, or
/// what the gateway did.
const OWNED: NameSet = NameSet::of(&[
    Name::Host,
    Name::Connection,
    Name::ContentLength,
    Name::TransferEncoding,
    Name::Te,
    Name::Trailer,
    Name::Upgrade,
    Name::KeepAlive,
    Name::ProxyConnection,
    Name::ProxyAuthenticate,
    Name::ProxyAuthorization,
    Name::Expect,
    Name::Via,
    Name::Forwarded,
    Name::XForwardedFor,
    Name::XForwardedProto,
    Name::XForwardedHost,
    Name::XForwardedPort,
    Name::XForwardedPrefix,
    Name::XRealIp,
    Name::TrueClientIp,
    Name::XRequestId,
    Name::XUserId,
    Name::XUserRole,
    Name::XClientId,
    Name::XTargetService,
    Name::Proxy,
    Name::Date,
]);

impl Compile for Headers {
    type Config = Config;

    fn compile(config: &Config, _env: &CompileEnv) -> Result<Self, String> {
        Ok(Self { request: Steps::compile(&config.request)?, response: Steps::compile(&config.response)? })
    }
}

impl Hooks for Headers {
    type State = State;

    fn new_state(&self, _seed: &WorkerSeed) -> State {
        State::default()
    }

    #[inline]
    fn on_request(&self, state: &mut State, x: &mut Exchange, _now: Now) -> Flow {
        self.request.apply(state, x, |x| &mut x.request.fields);
        Flow::Continue
    }

    #[inline]
    fn on_response(&self, state: &mut State, x: &mut Exchange, _now: Now) {
        self.response.apply(state, x, |x| &mut x.response.fields);
    }

    fn explain(&self) -> String {
        format!("request: {}; response: {}", self.request.explain(), self.response.explain())
    }
}

impl Steps {
    fn compile(edits: &Edits) -> Result<Self, String> {
        let count = edits.remove.len() + edits.rename.len() + edits.set.len() + edits.add.len();
        if count > EDITS_MAX {
            return Err(format!("more than {EDITS_MAX} edits"));
        }
        let written = |map: &Map<HeaderName, HeaderValue>| -> Result<Vec<_>, String> {
            map.iter().map(|(name, value)| Written::compile(name, value)).collect()
        };
        let renamed = |(old, new): (&Spanned<HeaderName>, &HeaderName)| Ok((name(old)?, name(new)?));
        Ok(Self {
            remove: edits.remove.iter().map(name).collect::<Result<_, String>>()?,
            rename: edits.rename.iter().map(renamed).collect::<Result<_, String>>()?,
            only: edits.only,
            set: written(&edits.set)?,
            add: written(&edits.add)?,
        })
    }

    fn apply(&self, state: &mut State, x: &mut Exchange, fields: impl Fn(&mut Exchange) -> &mut Fields) {
        for name in &self.remove {
            fields(x).remove(name);
        }
        if self.only || !self.rename.is_empty() {
            self.rename(fields(x));
        }
        for written in &self.set {
            fields(x).remove(written.name());
            written.append(state, x, &fields);
        }
        for written in &self.add {
            written.append(state, x, &fields);
        }
    }

    fn rename(&self, fields: &mut Fields) {
        let mut moved: SmallVec<[(usize, Text); 8]> = SmallVec::new();
        for line in fields.lines() {
            let name = fields.text(line.name);
            if let Some(at) = self.rename.iter().position(|(old, _)| old.eq_ignore_ascii_case(name)) {
                moved.push((at, line.value));
            }
        }
        if self.only {
            fields.retain(|name, _| is_owned(name));
        }
        for &(at, _) in &moved {
            fields.remove(&self.rename[at].0);
            fields.remove(&self.rename[at].1);
        }
        for (at, value) in moved {
            let new = &self.rename[at].1;
            let name = fields.keep(new);
            fields.push_parsed(name, value, Name::of(new));
        }
    }

    fn explain(&self) -> String {
        let counts = [
            (self.remove.len(), "removed"),
            (self.rename.len(), "renamed"),
            (self.set.len(), "set"),
            (self.add.len(), "added"),
        ];
        let some = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
        let some: Vec<String> = some.collect();
        if some.is_empty() { "unchanged".to_owned() } else { some.join(", ") }
    }
}

impl Written {
    fn compile(field: &HeaderName, value: &HeaderValue) -> Result<Self, String> {
        let (name, template) = (name(field)?, Template::parse(field.as_str(), value.as_str())?);
        match &*template.parts {
            [Part::Literal(literal)] => Line::new(&name, literal)
                .map(Written::Fixed)
                .map_err(|_| format!("the value of `{}` has bytes that end a field", field.as_str())),
            _ => Ok(Written::Made(name, template)),
        }
    }

    fn name(&self) -> &[u8] {
        match self {
            Written::Fixed(line) => line.name(),
            Written::Made(name, _) => name,
        }
    }

    /// Adds the field. A value that is empty or refused is left out: there is no older one to hide behind.
    #[inline]
    fn append(&self, state: &mut State, x: &mut Exchange, fields: impl Fn(&mut Exchange) -> &mut Fields) {
        match self {
            Written::Fixed(line) => fields(x).append_line(line),
            Written::Made(name, template) => {
                template.write(&mut state.value, x);
                if !state.value.is_empty() {
                    let _ = fields(x).append(name, &state.value);
                }
            }
        }
    }
}

impl Template {
    fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = next_variable(rest) {
            if at > 0 {
                parts.push(Part::Literal(rest.as_bytes()[..at].into()));
            }
            let (variable, len) = variable(&rest[at..]).map_err(|error| format!("the value of `{name}`: {error}"))?;
            parts.push(Part::Known(variable));
            rest = &rest[at + len..];
        }
        if parts.is_empty() || !rest.is_empty() {
            parts.push(Part::Literal(rest.as_bytes().into()));
        }
        Ok(Self { parts })
    }

    /// Puts the value for this request together in `room`.
    fn write(&self, room: &mut Vec<u8>, x: &Exchange) {
        room.clear();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => room.extend_from_slice(literal),
                Part::Known(variable) => variable.write(room, x),
            }
        }
    }
}

impl Variable {
    fn write(self, out: &mut Vec<u8>, x: &Exchange) {
        let mut of_client = |part: fn(&ClientIdentity) -> &String| {
            out.extend_from_slice(x.client_identity().map(part).map_or(b"", |text| text.as_bytes()));
        };
        match self {
            Variable::ClientCertSubject => of_client(|client| &client.subject),
            Variable::ClientCertSan => of_client(|client| &client.names),
            Variable::ClientCertFingerprint => of_client(|client| &client.fingerprint),
            Variable::RequestId => out.extend_from_slice(x.id.as_bytes()),
            // Writing into a vector does not fail.
            Variable::ClientIp => drop(write!(out, "{}", x.client_ip)),
            Variable::Host => out.extend_from_slice(x.request.host()),
            Variable::Path => out.extend_from_slice(x.request.path()),
            Variable::Method => out.extend_from_slice(x.request.fields.text(x.request.method_text)),
            Variable::Scheme => out.extend_from_slice(x.scheme.text().as_bytes()),
        }
    }
}

/// Where the next `$name` or `${name}` begins; a `$` before anything else is itself.
fn next_variable(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let begins = |at: usize| bytes.get(at + 1).is_some_and(|b| b.is_ascii_lowercase() || *b == b'{');
    memchr::memchr_iter(b'$', bytes).find(|&at| begins(at))
}

/// The variable that `text` begins with, and its length as written.
fn variable(text: &str) -> Result<(Variable, usize), String> {
    let braced = text.strip_prefix("${");
    let tail = braced.unwrap_or(&text[1..]);
    let len = tail.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(tail.len());
    let (word, after) = tail.split_at(len);
    if braced.is_some() && !after.starts_with('}') {
        return Err("`${` without its `}`".to_owned());
    }
    let known = VARIABLES.iter().find(|(known, _)| *known == word).map(|(_, variable)| *variable);
    let known = known.ok_or_else(|| {
        let names: Vec<&str> = VARIABLES.iter().map(|(name, _)| *name).collect();
        format!("there is no `${word}`; known: {}", names.join(", "))
    })?;
    Ok((known, len + if braced.is_some() { 3 } else { 1 }))
}

/// Whether only the gateway writes this field. Many servers read `_` as `-`, so those spellings count too (F53).
fn is_owned(name: &[u8]) -> bool {
    let dashed: SmallVec<[u8; 64]> = name.iter().map(|&b| if b == b'_' { b'-' } else { b }).collect();
    OWNED.has(Name::of(&dashed))
}

fn name(name: &HeaderName) -> Result<FieldName, String> {
    let text = name.as_str();
    match is_owned(text.as_bytes()) {
        true => Err(format!("`{text}` is written by the gateway alone")),
        false => Ok(text.as_bytes().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::exchange::RequestId;
    use crate::http::fields::is_field_value;
    use crate::schema::decode_str;

    fn compile(config: &str) -> Result<Headers, String> {
        Headers::compile(&decode_str(config)?, &CompileEnv { workers: 1, random: 0 })
    }

    fn run(config: &str, fields: &[(&str, &str)]) -> Vec<String> {
        let policy = compile(config).expect("legal");
        let mut x = Exchange { id: RequestId::from_peer(b"id-1").expect("legal"), ..Exchange::default() };
        for (name, value) in fields {
            x.request.fields.append(name.as_bytes(), value.as_bytes()).expect("legal");
        }
        assert!(matches!(policy.on_request(&mut State::default(), &mut x, Now(0)), Flow::Continue));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        x.request.fields.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
    }

    #[test]
    fn steps_run_in_order() {
        let config = "request: {remove: [x-gone], rename: {X-Old: X-New}, add: {X-Set: '3'}, \
                      set: {X-Set: '2', X-Too: '$request_id-$client_ip$'}}";
        let before = [("X-Gone", "1"), ("X-Old", "v"), ("X-New", "forged"), ("X-Set", "1"), ("Accept", "*/*")];
        let want = ["Accept: */*", "x-new: v", "x-set: 2", "x-too: id-1-0.0.0.0$", "x-set: 3"];
        assert_eq!(run(config, &before), want);
    }

    #[test]
    fn renames_can_swap_and_keep_the_rest_unless_only() {
        let before = [("A", "1"), ("B", "2"), ("C", "3"), ("Content-Length", "0")];
        let swapped = ["C: 3", "Content-Length: 0", "b: 1", "a: 2"];
        assert_eq!(run("request: {rename: {a: b, b: a}}", &before), swapped);
        assert_eq!(run("request: {rename: {a: b, b: a}, only: true}", &before), swapped[1..]);
    }

    #[test]
    fn owned_names_and_bad_values_are_refused() {
        for name in ["Host", "content-length", "Transfer-Encoding", "X_User_Id", "x-forwarded-for"] {
            for edit in
                ["remove: [NAME]", "rename: {NAME: a}", "rename: {a: NAME}", "set: {NAME: '1'}", "add: {NAME: '1'}"]
            {
                let edit = edit.replace("NAME", name);
                assert!(compile(&format!("response: {{{edit}}}")).is_err(), "{edit}");
            }
        }
        for value in ["$nothing", "$${host", "$${Host}"] {
            assert!(compile(&format!("request: {{set: {{a: '{value}'}}}}")).is_err(), "{value:?}");
        }
        assert!(compile("request: {set: {a: '$${host}'}}").is_ok());
    }

    #[test]
    fn a_value_from_the_client_cannot_end_the_field() {
        let policy = compile("request: {set: {X-Path: p=$path}}").expect("legal");
        for byte in 0..=255u8 {
            let mut x = Exchange::default();
            x.request.path = x.request.fields.keep(&[b'/', byte]);
            x.request.fields.append(b"X-Path", b"forged").expect("legal");
            policy.on_request(&mut State::default(), &mut x, Now(0));
            let legal = is_field_value(&[byte]);
            assert_eq!(x.request.fields.find(b"x-path"), legal.then_some(&[b'p', b'=', b'/', byte][..]));
        }
    }

    #[test]
    fn literals_are_written_beforehand_and_dollars_stay() {
        let template = Template::parse("X", "costs $5 or $").expect("legal");
        assert_eq!(template.parts, [Part::Literal(b"costs $5 or $"[..].into())]);
        assert_eq!(Template::parse("X", "").expect("legal").parts, [Part::Literal(b""[..].into())]);
        let policy = compile("request: {set: {a: costs $5}, add: {b: '', c: $path}}").expect("legal");
        assert!(matches!(&policy.request.set[..], [Written::Fixed(_)]));
        assert!(matches!(&policy.request.add[..], [Written::Fixed(_), Written::Made(..)]));
        let both = Template::parse("X", "${host}$path").expect("legal");
        assert_eq!(both.parts, [Part::Known(Variable::Host), Part::Known(Variable::Path)]);
    }
}
