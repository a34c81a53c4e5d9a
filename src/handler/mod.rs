//! Who answers a request. A handler produces the response; a policy only looks, changes or stops.

mod eyeballs;
pub mod forward;
pub mod nap;
pub mod grpc_web;
mod hedge;
pub mod proxy;
pub mod relay;
pub mod replay;
pub mod tunnel;
pub mod upgrade;
