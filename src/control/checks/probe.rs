//! One check of one endpoint.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::grpc;
use crate::limits::CHECK_ANSWER_BYTES_MAX;
use crate::tls::ClientTls;
use crate::upstream::check::{CheckRules, Probe};

/// Asks an endpoint how it is. `authority` is its name as written.
///
/// # Errors
/// Why it is not well, for operators.
pub(super) async fn ask(
    address: SocketAddr,
    authority: &str,
    rules: &CheckRules,
    tls: Option<&Arc<ClientTls>>,
) -> Result<(), String> {
    let asked = async {
        match tls {
            _ if matches!(rules.probe, Probe::Grpc { .. }) => grpc::ask(address, authority, rules, tls).await,
            None => probe(address, authority, &rules.probe).await,
            Some(tls) => probe_tls(address, authority, rules, tls).await,
        }
    };
    match timeout(Duration::from_millis(rules.timeout_ms), asked).await {
        Ok(result) => result,
        Err(_) => Err(format!("no result within {} ms", rules.timeout_ms)),
    }
}

async fn probe(address: SocketAddr, authority: &str, probe: &Probe) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    let Probe::Http { body, .. } = probe else { return Ok(()) };
    stream.write_all(&request(authority, probe)).await.map_err(|error| format!("send: {error}"))?;
    judge(&receive(&mut stream, body.is_some()).await?, probe)
}

/// The same over TLS, with the service's own settings, on a thread that may wait.
async fn probe_tls(
    address: SocketAddr,
    authority: &str,
    rules: &CheckRules,
    tls: &Arc<ClientTls>,
) -> Result<(), String> {
    let name = tls.name(authority).ok_or("the endpoint has no name for TLS")?;
    // Checks speak HTTP/1.1.
    let mut config = (*tls.config()).clone();
    config.alpn_protocols = Vec::new();
    let (asked, limit) = (rules.probe.clone(), Duration::from_millis(rules.timeout_ms));
    let request = request(authority, &asked);
    let blocking = move || {
        let mut stream = std::net::TcpStream::connect_timeout(&address, limit).map_err(|e| format!("connect: {e}"))?;
        stream
            .set_read_timeout(Some(limit))
            .and_then(|()| stream.set_write_timeout(Some(limit)))
            .map_err(|e| e.to_string())?;
        let connection = rustls::ClientConnection::new(Arc::new(config), name);
        let mut connection = connection.map_err(|error| format!("TLS: {error}"))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).map_err(|error| format!("TLS: {error}"))?;
        }
        let Probe::Http { body, .. } = &asked else { return Ok(()) };
        let mut stream = rustls::Stream::new(&mut connection, &mut stream);
        stream.write_all(&request).map_err(|error| format!("send: {error}"))?;
        let mut answer = Vec::new();
        let mut piece = vec![0; 4096];
        while !is_enough(&answer, body.is_some()) {
            match stream.read(&mut piece) {
                Ok(count) if count > 0 => answer.extend_from_slice(&piece[..count]),
                _ => break,
            }
        }
        judge(&answer, &asked)
    };
    tokio::task::spawn_blocking(blocking).await.unwrap_or_else(|_| Err("the check broke".to_owned()))
}

/// Whether the answer is what it should be.
fn judge(answer: &[u8], probe: &Probe) -> Result<(), String> {
    let Probe::Http { statuses, body, .. } = probe else { return Ok(()) };
    if answer.is_empty() {
        return Err("closed without an answer".to_owned());
    }
    let status = status_of(answer).ok_or("the answer is not HTTP")?;
    if !statuses.contains(&status) {
        return Err(format!("status {status}"));
    }
    match body {
        Some(text) if memchr::memmem::find(answer, text.as_bytes()).is_none() => {
            Err("the body does not hold the text".to_owned())
        }
        _ => Ok(()),
    }
}

fn request(authority: &str, probe: &Probe) -> Vec<u8> {
    let Probe::Http { method, path, host, fields, .. } = probe else { return Vec::new() };
    let host = host.as_deref().unwrap_or(authority);
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ringway-check\r\n");
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("Connection: close\r\n\r\n");
    head.into_bytes()
}

/// The answer, up to a bound: its head, or all of it where the body counts.
async fn receive(stream: &mut TcpStream, whole: bool) -> Result<Vec<u8>, String> {
    let mut answer = Vec::new();
    let mut piece = vec![0; 4096];
    while !is_enough(&answer, whole) {
        let head = memchr::memmem::find(&answer, b"\r\n\r\n");
        match stream.read(&mut piece).await {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            // A reset behind a whole answer says nothing.
            Err(_) if head.is_some() => break,
            Err(error) => return Err(format!("receive: {error}")),
        }
    }
    Ok(answer)
}

/// Whether no more of the answer is needed, or may be read.
fn is_enough(answer: &[u8], whole: bool) -> bool {
    let head = memchr::memmem::find(answer, b"\r\n\r\n");
    answer.len() >= CHECK_ANSWER_BYTES_MAX || head.is_some_and(|head| !whole || is_complete(answer, head + 4))
}

/// Whether a body of known length is there; one without waits for the close.
fn is_complete(answer: &[u8], body_at: usize) -> bool {
    let head = String::from_utf8_lossy(&answer[..body_at]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() - body_at >= length)
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.1 ").or_else(|| answer.strip_prefix(b"HTTP/1.0 "))?;
    let digits = rest.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(body: Option<&str>) -> CheckRules {
        let probe = Probe::Http {
            method: "GET".into(),
            path: "/health?full".into(),
            host: None,
            fields: vec![("X-Check".into(), "1".into())],
            statuses: vec![200, 204],
            body: body.map(str::to_owned),
        };
        CheckRules { probe, timeout_ms: 300, ..CheckRules::default() }
    }

    /// The outcome of a check whose endpoint answers with these bytes, and what it was sent.
    async fn asked(answer: &'static [u8], rules: &CheckRules) -> (Result<(), String>, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let endpoint = async {
            let (mut stream, _) = listener.accept().await.expect("a check");
            let mut got = vec![0; 4096];
            let count = stream.read(&mut got).await.expect("a request");
            stream.write_all(answer).await.expect("sent");
            String::from_utf8_lossy(&got[..count]).into_owned()
        };
        tokio::join!(ask(address, "up:80", rules, None), endpoint)
    }

    #[tokio::test]
    async fn answers_are_judged_by_status_and_body() {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
        let (result, sent) = asked(ok, &http(None)).await;
        assert_eq!(result, Ok(()));
        assert!(sent.starts_with("GET /health?full HTTP/1.1\r\nHost: up:80\r\n") && sent.contains("X-Check: 1\r\n"));
        assert_eq!(asked(ok, &http(Some("fine"))).await.0, Ok(()));
        assert!(asked(ok, &http(Some("else"))).await.0.is_err_and(|why| why.contains("text")));
        let busy = b"HTTP/1.1 503 Busy\r\n\r\n";
        assert_eq!(asked(busy, &http(None)).await.0, Err("status 503".to_owned()));
        assert!(asked(b"SSH-2.0-x\r\n", &http(None)).await.0.is_err_and(|why| why.contains("not HTTP")));
    }

    #[tokio::test]
    async fn silence_and_refusal_fail() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        assert!(ask(address, "up:80", &http(None), None).await.is_err_and(|why| why.contains("300 ms")));
        let tcp = CheckRules::default();
        assert_eq!(ask(address, "up:80", &tcp, None).await, Ok(()));
        drop(listener);
        assert!(ask(address, "up:80", &tcp, None).await.is_err_and(|why| why.contains("connect")));
    }
}
