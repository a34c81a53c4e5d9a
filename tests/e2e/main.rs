//! The program itself over real sockets: each test starts the binary and speaks to it as clients and origins do.

#![allow(clippy::disallowed_methods, reason = "the program under test runs in real time")]

mod slow;
mod support;

mod access_log;
mod acme;
mod addresses;
mod admin;
mod all_dead;
mod bad;
mod bad_h2_servers;
mod bad_input;
mod bad_servers;
mod breakers;
mod cert;
mod concurrency;
mod connections;
mod consul_agent;
mod discovery;
mod examples;
mod explained;
mod forwarding;
mod grpc;
mod grpc_checks;
mod hedging;
mod http2;
mod lifecycle;
mod long_bodies;
mod malformed;
mod many;
mod mirroring;
mod name_servers;
mod orders;
mod placement;
mod policies;
mod protocol_auto;
mod proxy_protocol;
mod proxying;
mod registries;
mod reload;
mod resilience;
mod rings;
mod routing;
mod survival;
mod tcp;
mod tls;
mod trust;
mod tunnels;
mod upgrade;
mod upstream_tls;
mod websocket_h2;
mod websocket_ping;
mod wires;
mod workers;
