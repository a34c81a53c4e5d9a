//! Services and their endpoints in one worker: choosing one, connecting, keeping connections.

pub mod balance;
pub mod health;
pub mod pool;
pub mod service;
pub mod streams;
pub mod state;
