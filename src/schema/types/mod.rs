//! The values of the configuration: each knows its written form, its range and what to suggest.

mod basic;
mod http;
mod net;
mod quantity;
mod text;

pub use basic::{Int, MAP_ENTRIES_MAX, Map, Raw};
pub use http::{HeaderName, HeaderValue, HostPattern, KeySource, Method, PathPattern};
pub use net::{Cidr, Endpoint, ListenAddress, Scheme, ServiceUrl};
pub use quantity::{ByteSize, DURATION_MAX, Duration, Percent, Rate};
pub use text::{Name, Pattern, REGEX_BYTES_MAX, SECRET_BYTES_MAX, Secret};

use super::codes;
use super::decode::Cx;
use super::doc::TypeDoc;
use super::node::Node;

/// A value written as one word or text.
pub trait ScalarType: Sized {
    /// The word for it in messages, with its article: `a duration`.
    const WANTED: &'static str;

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with `text`, with a hint where there is one.
    fn parse(text: &str) -> Result<Self, Fault>;

    /// Its written form: `parse` reads it back.
    fn show(&self) -> String;

    /// What the schema and the reference say about it.
    fn document() -> TypeDoc;
}

/// Why a text is not the wanted value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Stable code.
    pub code: &'static str,
    /// What is wrong; none means "`text` is not WANTED".
    pub message: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl Fault {
    /// "`text` is not WANTED", with a hint.
    pub fn hint(hint: impl Into<String>) -> Fault {
        Fault { code: codes::BAD_VALUE, message: None, hint: Some(hint.into()) }
    }

    /// A sentence of its own.
    pub fn message(message: impl Into<String>) -> Fault {
        Fault { code: codes::BAD_VALUE, message: Some(message.into()), hint: None }
    }

    /// The same with another code.
    pub fn code(self, code: &'static str) -> Fault {
        Fault { code, ..self }
    }

    /// The same with a hint.
    pub fn and_hint(self, hint: impl Into<String>) -> Fault {
        Fault { hint: Some(hint.into()), ..self }
    }
}

/// Reads a [`ScalarType`] and reports what is wrong with it.
///
/// Sentences of a fault may repeat the value, so they are not shown when a variable gave it.
pub fn decode_scalar<T: ScalarType>(node: &Node, cx: &mut Cx) -> Option<T> {
    let scalar = cx.scalar(node, T::WANTED)?;
    let secret = scalar.written.is_some();
    match T::parse(&scalar.text) {
        Ok(value) => Some(value),
        Err(fault) => {
            let standard = || format!("`{}` is not {}", scalar.shown(), T::WANTED);
            let message = fault.message.filter(|_| !secret).unwrap_or_else(standard);
            let item = cx.report(fault.code, node.span, message);
            if let Some(hint) = fault.hint.filter(|_| !secret) {
                item.hint(hint);
            }
            None
        }
    }
}

/// Makes types that are a [`ScalarType`] decodable.
#[macro_export]
macro_rules! config_scalar {
    ($($ty:ty),+ $(,)?) => {$(
        impl $crate::schema::Decode for $ty {
            fn decode(node: &$crate::schema::Node, cx: &mut $crate::schema::Cx) -> Option<Self> {
                $crate::schema::types::decode_scalar(node, cx)
            }

            fn dump(&self) -> $crate::schema::Json {
                $crate::schema::Json::from($crate::schema::types::ScalarType::show(self))
            }

            fn describe() -> $crate::schema::TypeDoc {
                <$ty as $crate::schema::types::ScalarType>::document()
            }
        }
    )+};
}

config_scalar!(
    ByteSize,
    Cidr,
    Endpoint,
    HeaderName,
    HostPattern,
    KeySource,
    ListenAddress,
    Name,
    PathPattern,
    Pattern,
    Percent,
    Rate,
    ServiceUrl,
);
