//! Services and their endpoints.

pub mod balance;
