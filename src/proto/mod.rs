//! One directory per wire: a pure codec, and a thin server and client that drive it.

pub mod client_hello;
pub mod h1;
pub mod h2;
pub mod proxy_protocol;
pub mod upstream;
pub mod websocket;
