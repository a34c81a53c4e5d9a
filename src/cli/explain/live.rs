//! What a running gateway knows of the services that a request may go to, by its admin API.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use super::report::Report;
use crate::cli::ask;

/// What was told; nothing without a running gateway.
#[derive(Clone, Debug, Default)]
pub struct Live {
    endpoints: BTreeMap<String, Value>,
    breakers: BTreeMap<String, String>,
}

impl Live {
    /// Asks for the services of an explanation that was made without. One that the gateway does not have is told of as
    /// it is configured.
    ///
    /// # Errors
    /// Why the gateway tells nothing.
    pub fn ask(admin: SocketAddr, report: &Report) -> Result<Self, String> {
        let mut live = Self::default();
        if let Some(breakers) = ask::get(admin, "/circuit-breakers")? {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let of = |one: &Value| (text(&one["service"]), text(&one["state"]));
            live.breakers = breakers.as_array().into_iter().flatten().map(of).collect();
        }
        for service in &report.services {
            let path = format!("/services/{}/endpoints", encoded(&service.name));
            live.endpoints.extend(ask::get(admin, &path)?.map(|told| (service.name.clone(), told)));
        }
        Ok(live)
    }

    /// What was told of a service's endpoints.
    pub fn endpoints(&self, label: &str) -> Option<&Value> {
        self.endpoints.get(label)
    }

    /// The state of a circuit breaker.
    pub fn breaker(&self, name: &str) -> Option<&str> {
        self.breakers.get(name).map(String::as_str)
    }
}

/// A name as one segment of a path.
fn encoded(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(char::from(byte)),
            _ => text += &format!("%{byte:02X}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment() {
        assert_eq!(encoded("users-1.x_y~"), "users-1.x_y~");
        assert_eq!(encoded("https://a:1/é"), "https%3A%2F%2Fa%3A1%2F%C3%A9");
    }
}
