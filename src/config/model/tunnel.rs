//! Tunnels and the PROXY protocol: parts of `listeners`, `services` and `routes`.

use crate::proto::h1::upgrade;
use crate::schema::types::{Cidr, Duration, Fault, ScalarType};
use crate::schema::{Cx, Node, Spanned, TypeDoc, codes};
use crate::{config_enum, config_scalar, config_struct};

config_struct! {
    /// How long a request that has changed to another protocol may go on.
    pub struct Tunnel {
        /// Without a byte in either direction.
        idle_timeout: Duration = "1h",
        /// From its opening to its end, whatever passes.
        duration_max: Duration = "24h",
    }
}

config_struct! {
    /// Pings of the gateway's own in the WebSockets of a route.
    #[shorthand(interval)]
    pub struct WebSocketPing {
        /// A side that has sent nothing for so long is sent a ping.
        interval: Duration,
        /// How long it has to send anything. Then the WebSocket is closed.
        timeout: Duration = "10s",
    }
}

config_struct! {
    /// Connections begin with a PROXY protocol header, version 1 or 2, that names the client (U36).
    #[check(check_trusted)]
    pub struct ProxyProtocol {
        /// Load balancers that send the header. Whoever else connects is answered 400.
        trusted: Vec<Spanned<Cidr>>,
    }
}

fn check_trusted(proxy_protocol: &ProxyProtocol, node: &Node, cx: &mut Cx) {
    if proxy_protocol.trusted.is_empty() {
        cx.report(codes::BAD_VALUE, node.span, "nobody is trusted, so that no client can connect")
            .hint("name your load balancers: `trusted: [10.0.0.0/8]`");
    }
}

config_enum! {
    /// A version of the PROXY protocol.
    pub enum ProxyVersion {
        /// One line of text.
        V1 = "v1",
        /// Binary.
        V2 = "v2",
    }
}

/// A protocol that requests may change to with `Upgrade`, as in `websocket` or `name/1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol(pub String);

impl ScalarType for Protocol {
    const WANTED: &'static str = "a protocol";

    fn parse(text: &str) -> Result<Self, Fault> {
        if !upgrade::is_protocol(text.as_bytes()) {
            return Err(Fault::hint("write a token such as websocket, or name/version"));
        }
        if !upgrade::may_pass(text.as_bytes()) {
            let message = format!("`{text}` is never passed on: its requests would go past every route and policy");
            return Err(Fault::message(message));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn document() -> TypeDoc {
        TypeDoc::text("protocol", "a token, or name/version; never h2c", None)
    }
}

config_scalar!(Protocol);
