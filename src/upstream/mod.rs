//! Services and their endpoints in one worker: choosing one, connecting, keeping connections.

pub mod balance;
pub mod breaker;
pub mod budget;
pub mod check;
pub mod endpoint;
mod failures;
pub mod health;
pub mod latency;
pub mod passive;
pub mod pool;
pub mod record;
pub mod rules;
pub mod selection;
pub mod service;
pub mod spread;
pub mod streams;
pub mod state;
pub mod sticky;
