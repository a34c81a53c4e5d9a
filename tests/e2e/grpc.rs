//! gRPC and gRPC-Web as far as they need no HTTP/2: status codes of the gateway's own answers, deadlines, translation.

use crate::support::{Gateway, Origin, Step};

fn answer(head: &str, body: &[u8], trailers: &str) -> Vec<Step> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\n{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    if !body.is_empty() {
        bytes.extend(format!("{:x}\r\n", body.len()).into_bytes());
        bytes.extend(body);
        bytes.extend(b"\r\n");
    }
    bytes.extend(format!("0\r\n{trailers}\r\n").into_bytes());
    vec![Step::Send(bytes)]
}

fn call(path: &str, content_type: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: t\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{fields}\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn gateway(origin: &Origin) -> Gateway {
    Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}, {{name: none, endpoints: []}}]\n\
         routes:\n\
         - {{path: /a.B/*, service: up, grpc_web: true}}\n\
         - {{path: /plain.B/*, service: up}}\n\
         - {{path: /none.B/*, service: none}}\n\
         - {{path: /limited.B/*, service: up, policies: [{{rate_limit: {{rate: 1/h}}}}]}}\n",
        origin.address
    ))
}

const MESSAGE: &[u8] = b"\0\0\0\0\x03abc";

#[test]
fn what_the_gateway_says_itself_is_a_status_of_grpc() {
    let origin = Origin::start(|_| answer("Content-Type: application/grpc\r\n", MESSAGE, "grpc-status: 0\r\n"));
    let gateway = gateway(&origin);
    let ask = |path: &str, content_type: &str| {
        let answer = gateway.ask(call(path, content_type, "", MESSAGE));
        let status = answer.header("grpc-status").map(str::to_owned);
        (answer.status, status, answer.header("content-type").map(str::to_owned), answer.body.len())
    };
    let said = |code: &str, content_type: &str| (200, Some(code.to_owned()), Some(content_type.to_owned()), 0);
    assert_eq!(ask("/nowhere/M", "application/grpc"), said("12", "application/grpc"));
    assert_eq!(ask("/none.B/M", "application/grpc+proto"), said("14", "application/grpc"));
    assert_eq!(ask("/none.B/M", "application/grpc-web+proto"), said("14", "application/grpc-web"));
    assert_eq!(ask("/limited.B/M", "application/grpc").0, 200);
    assert_eq!(ask("/limited.B/M", "application/grpc"), said("8", "application/grpc"));
    assert_eq!(ask("/none.B/M", "application/json").0, 503, "what is no call gets an answer of HTTP");
}

#[test]
fn a_deadline_bounds_the_call_and_goes_on_reduced() {
    let origin = Origin::start(|seen| match seen.path() {
        "/plain.B/Hang" => vec![Step::Hang],
        _ => answer("Content-Type: application/grpc\r\n", MESSAGE, "grpc-status: 0\r\n"),
    });
    let gateway = gateway(&origin);
    let late = gateway.ask(call("/plain.B/Hang", "application/grpc", "grpc-timeout: 200m\r\n", MESSAGE));
    assert_eq!((late.status, late.header("grpc-status")), (200, Some("4")), "{late:?}");
    gateway.ask(call("/plain.B/M", "application/grpc", "grpc-timeout: 5S\r\n", MESSAGE));
    let left = origin.last().header("grpc-timeout").map(str::to_owned).expect("a deadline");
    let (number, unit) = left.split_at(left.len() - 1);
    let number: u64 = number.parse().expect("a number");
    assert!(unit == "u" && (4_000_000..=5_000_000).contains(&number), "{left}");
    gateway.ask(call("/plain.B/M", "application/grpc", "", MESSAGE));
    assert_eq!(origin.last().header("grpc-timeout"), None);
    let count = |labels: &[&str]| gateway.metric("gateway_grpc_requests_total", labels);
    assert_eq!(count(&["grpc_service=\"plain.B\"", "grpc_method=\"M\"", "grpc_code=\"0\""]), 2.0);
    assert_eq!(count(&["grpc_service=\"other\"", "grpc_code=\"4\""]), 1.0);
}

#[test]
fn trailers_become_a_frame_for_web_clients() {
    let origin = Origin::start(|seen| match seen.path() {
        "/a.B/Fail" => {
            let head = "Content-Type: application/grpc\r\ngrpc-status: 5\r\n";
            vec![Step::Send(format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 0\r\n\r\n").into_bytes())]
        }
        _ => answer("Content-Type: application/grpc+proto\r\n", &seen.body, "Grpc-Status: 0\r\nx-a: b\r\n"),
    });
    let gateway = gateway(&origin);
    let frame = b"\x80\0\0\0\x18grpc-status: 0\r\nx-a: b\r\n";
    let binary = gateway.ask(call("/a.B/M", "application/grpc-web+proto", "", MESSAGE));
    assert_eq!(binary.header("content-type"), Some("application/grpc-web+proto"));
    assert_eq!((binary.body.as_slice(), origin.last().body.as_slice()), (&[MESSAGE, frame].concat()[..], MESSAGE));
    assert_eq!(origin.last().header("content-type"), Some("application/grpc+proto"));
    // "AAAAAANhYmM=" is MESSAGE.
    let text = gateway.ask(call("/a.B/M", "application/grpc-web-text", "", b"AAAAAANhYmM="));
    assert_eq!(text.header("content-type"), Some("application/grpc-web-text+proto"));
    assert_eq!(origin.last().body, MESSAGE);
    let text = String::from_utf8(text.body).expect("text");
    // In one read or in two.
    let whole = [
        "AAAAAANhYmOAAAAAGGdycGMtc3RhdHVzOiAwDQp4LWE6IGINCg==",
        "AAAAAANhYmM=gAAAABhncnBjLXN0YXR1czogMA0KeC1hOiBiDQo=",
    ];
    assert!(whole.contains(&text.as_str()), "{text}");
    let failed = gateway.ask(call("/a.B/Fail", "application/grpc-web", "", MESSAGE));
    assert_eq!((failed.header("grpc-status"), failed.body.len()), (Some("5"), 0));
    let garbage = gateway.ask(call("/a.B/M", "application/grpc-web-text", "", b"!!!!"));
    assert_eq!(garbage.header("grpc-status"), Some("13"), "{garbage:?}");
    let untouched = gateway.ask(call("/plain.B/M", "application/grpc-web", "", MESSAGE));
    assert_eq!(untouched.body, MESSAGE, "a route that does not translate");
    assert_eq!(origin.last().header("content-type"), Some("application/grpc-web"));
}
