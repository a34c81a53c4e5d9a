//! The request that is asked about, through the parser that serves.

use std::net::{IpAddr, SocketAddr};

use crate::error::Failure;
use crate::http::exchange::ShortText;
use crate::pipeline::drive;
use crate::pipeline::env::Request;
use crate::proto::h1::parse::Parsed;
use crate::proto::h1::request::parse_lines;
use crate::snapshot::Listener;
use crate::sys::buf::Buf;

/// The Host of a request for which none is given.
const HOST_DEFAULT: &str = "localhost";

/// A request as a person describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Method.
    pub method: String,
    /// URL, `host/path`, or a path alone.
    pub url: String,
    /// Header lines, `Name: value`.
    pub headers: Vec<String>,
    /// Address of the peer that connects.
    pub peer: IpAddr,
}

impl Asked {
    /// The request target that a client sends for the URL: its path and query. A fragment stays with the client.
    pub fn target(&self) -> &str {
        let (_, target) = self.split();
        target
    }

    /// The request head as a client would send it.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn head(&self) -> Result<Vec<u8>, String> {
        let (authority, target) = self.split();
        let slash = if target.is_empty() || target.starts_with('?') { "/" } else { "" };
        let mut head = format!("{} {slash}{target} HTTP/1.1\r\n", self.method);
        let names_host = |line: &String| line.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case("host"));
        if !self.headers.iter().any(names_host) {
            head += &format!("Host: {}\r\n", authority.unwrap_or(HOST_DEFAULT));
        }
        for line in &self.headers {
            if !line.contains(':') {
                return Err(format!("the header `{line}` is not of the form `Name: value`"));
            }
            head += &format!("{line}\r\n");
        }
        head += "\r\n";
        Ok(head.into_bytes())
    }

    /// Parses the head by the listener's rules.
    ///
    /// # Errors
    /// A sentence for the user when there is no whole request; inside, the reason for which the listener refuses it.
    pub fn parse(&self, listener: &Listener) -> Result<(Box<Request>, Result<(), Failure>), String> {
        let bytes = self.head()?;
        let mut request = Box::<Request>::default();
        let x = &mut request.x;
        x.peer = SocketAddr::new(self.peer, 0);
        x.peer_text = ShortText::of(&self.peer);
        x.port_text = ShortText::of(&listener.address.port());
        let accepted = match parse_lines(&bytes, &listener.rules.head, &mut x.request) {
            Ok(Parsed::Complete(length)) => listener.rules.accept(x, Buf::copy_of(&bytes), length).map(|_| ()),
            Ok(Parsed::Partial) => return Err("this is not a whole request".to_owned()),
            Err(failure) => Err(failure),
        };
        if accepted.is_ok() {
            drive::locate_client(listener, x);
        }
        Ok((request, accepted))
    }

    /// Authority and target.
    fn split(&self) -> (Option<&str>, &str) {
        let url = self.url.split('#').next().unwrap_or_default();
        if url.starts_with('/') || url == "*" {
            return (None, url);
        }
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        (Some(&rest[..end]), &rest[end..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(url: &str, headers: &[&str]) -> String {
        let headers = headers.iter().map(|line| line.to_string()).collect();
        let asked = Asked { method: "GET".into(), url: url.into(), headers, peer: [127, 0, 0, 1].into() };
        String::from_utf8(asked.head().expect("legal")).expect("text")
    }

    #[test]
    fn urls_become_heads() {
        assert_eq!(head("http://a.b:1/c?d#e", &[]), "GET /c?d HTTP/1.1\r\nHost: a.b:1\r\n\r\n");
        assert_eq!(head("a.b", &["X: y"]), "GET / HTTP/1.1\r\nHost: a.b\r\nX: y\r\n\r\n");
        assert_eq!(head("https://a.b?q", &[]), "GET /?q HTTP/1.1\r\nHost: a.b\r\n\r\n");
        assert_eq!(head("/p", &["host: z"]), "GET /p HTTP/1.1\r\nhost: z\r\n\r\n");
        assert_eq!(head("*", &[]), "GET * HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
}
