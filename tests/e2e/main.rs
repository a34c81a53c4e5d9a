//! The program itself over real sockets: each test starts the binary and speaks to it as clients and origins do.

mod support;

mod access_log;
mod admin;
mod bad_input;
mod connections;
mod examples;
mod forwarding;
mod lifecycle;
mod malformed;
mod policies;
mod proxying;
mod reload;
mod routing;
