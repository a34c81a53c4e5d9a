//! F48: no CR, LF or NUL is ever written into a head, whatever the source: a path, a capture, a rewrite, a redirect's
//! target, a header policy, a field of the client or of the endpoint.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::e2e::client::find;
use crate::support::e2e::{Client, Gateway};
use crate::support::{Recorder, recorder};

/// A gateway that writes what a client sends into every place that it can be written into.
fn transforming(origin: &Recorder, path_policy: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", path_policy: {path_policy}, via: true, forwarded: true}}]\n\
         services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         policies:\n\
         - headers:\n    \
             request: {{set: {{X-Path: \"p=$path\", X-Host: \"$host\", X-Method: $method, X-Id: $request_id}}}}\n    \
             response: {{set: {{X-Path: \"p=$path\", X-Host: \"$host\", X-Method: $method}}}}\n\
         routes:\n\
         - {{path: \"/tpl/{{one}}/x\", service: up, rewrite: {{path: \"/to/{{one}}\"}}}}\n\
         - {{path: /re/*, service: up, rewrite: {{pattern: \"^/re/(.*)$\", to: \"/$1/end\"}}}}\n\
         - {{path: /strip/*, service: up, rewrite: {{prefix: /}}}}\n\
         - {{path: \"/go/{{one}}\", redirect: {{to: \"/items/{{one}}\", status: 308}}}}\n\
         - {{path: \"/away/{{one}}\", redirect: \"https://x.example/{{one}}?keep=1\"}}\n\
         - {{path: /all/*, redirect: \"https://y.example\"}}\n\
         - {{path: /*, service: up}}\n",
        origin.address
    ))
}

const PREFIXES: [&str; 7] = ["/tpl/", "/re/", "/strip/", "/go/", "/away/", "/all/", "/"];

/// Whether these are heads (and bodies of known length) with nothing in them that a tolerant reader takes for more.
fn check_heads(mut bytes: &[u8]) -> Result<(), String> {
    while !bytes.is_empty() {
        let end = find(bytes, b"\r\n\r\n").ok_or("no end of a head")?;
        let head = &bytes[..end];
        let mut length = 0;
        for (at, line) in head.split(|&byte| byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.iter().any(|&byte| matches!(byte, b'\r' | 0)) {
                return Err(format!("CR or NUL in {:?}", line.escape_ascii().to_string()));
            }
            let name = line.split(|&byte| byte == b':').next().unwrap_or_default().to_ascii_lowercase();
            if name.starts_with(b"injected") || (at > 0 && name.len() == line.len()) {
                return Err(format!("an injected line: {:?}", line.escape_ascii().to_string()));
            }
            if name == b"content-length" {
                let value = String::from_utf8_lossy(&line[name.len() + 1..]).trim().parse();
                length = value.map_err(|_| "a length")?;
            }
        }
        let line_feeds = head.iter().filter(|&&byte| byte == b'\n').count();
        if memchr::memmem::find_iter(head, b"\r\n").count() != line_feeds {
            return Err("bare LF".into());
        }
        bytes = bytes.get(end + 4 + length..).ok_or("a body that is too short")?;
    }
    Ok(())
}

#[test]
fn the_check_of_heads_checks() {
    assert_eq!(check_heads(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"), Ok(()));
    for bad in ["A: b\nC: d", "A: b\rC: d", "A: b\0", "A: b\r\nInjected: 1", "A: b\r\nno colon"] {
        let head = format!("GET / HTTP/1.1\r\n{bad}\r\n\r\n");
        assert!(check_heads(head.as_bytes()).is_err(), "{bad:?}");
    }
}

/// Sends a request and looks at all that left the gateway for it.
fn try_one(gateway: &Gateway, origin: &Recorder, request: &[u8]) -> Result<(), String> {
    origin.begin(recorder::PLAIN);
    let mut client = Client::connect(gateway.address);
    client.send(request);
    client.shutdown_write();
    let answer = client.read_to_end();
    check_heads(&answer)?;
    let received = origin.received();
    if received.len() > 1 {
        return Err(format!("{} requests of one", received.len()));
    }
    received.iter().try_for_each(|bytes| check_heads(bytes))
}

/// Every byte value, raw and percent-encoded (in both cases, and twice), in every place.
#[test]
fn every_byte_value_in_every_place_stays_within_its_line() {
    let origin = Recorder::start();
    let gateways = ["strict", "merge", "preserve"].map(|policy| transforming(&origin, policy));
    let mut wrong = Vec::new();
    for byte in 0..=255u8 {
        let spellings =
            [vec![byte], format!("%{byte:02x}").into(), format!("%{byte:02X}").into(), format!("%25{byte:02x}").into()];
        for (number, spelling) in spellings.iter().enumerate() {
            let payload = [b"a", &spelling[..], b"Injected: 1", &spelling[..], b"b"].concat();
            let gateway = &gateways[(number + byte as usize) % gateways.len()];
            for prefix in PREFIXES {
                let path: Vec<u8> = payload.iter().map(|&byte| if byte == b' ' { b'+' } else { byte }).collect();
                let request = [
                    b"GET ",
                    prefix.as_bytes(),
                    &path,
                    b"/x?q=",
                    &path,
                    b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                ]
                .concat();
                if let Err(why) = try_one(gateway, &origin, &request) {
                    wrong.push(format!("{why} of {}", request.escape_ascii()));
                }
            }
            for field in [&b"X-Field: "[..], b"X-Request-ID: ", b"Cookie: ", b"X-Na"] {
                let request =
                    [b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", field, &payload, b": c\r\n\r\n"].concat();
                // CR LF begins another line of the client's own: nothing is injected by the gateway there.
                if byte != b'\n'
                    && let Err(why) = try_one(gateway, &origin, &request)
                {
                    wrong.push(format!("{why} of {}", request.escape_ascii()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"));
}

/// Any sequence of awkward pieces in a path and a query.
#[test]
fn no_sequence_of_pieces_leaves_its_line() {
    let origin = Recorder::start();
    let gateways = ["strict", "merge", "preserve"].map(|policy| transforming(&origin, policy));
    let piece = prop_oneof![
        Just("%0d%0a"),
        Just("%0D"),
        Just("%0a"),
        Just("%00"),
        Just("%250d%250a"),
        Just("%u000d"),
        Just("%c4%8d"),
        Just("%e5%98%8a"),
        Just("\r"),
        Just("\n"),
        Just("\u{85}"),
        Just("\u{2028}"),
        Just("Injected:1"),
        Just(";"),
        Just("%2f"),
        Just("//"),
        Just("/"),
        Just("$1"),
        Just("{one}"),
        Just("a"),
    ];
    let target = (0..PREFIXES.len(), proptest::collection::vec(piece, 0..8), 0..gateways.len(), any::<bool>());
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&target, |(prefix, pieces, gateway, in_query)| {
        let mark = if in_query { "?" } else { "" };
        let request = format!(
            "GET {}{mark}{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            PREFIXES[prefix],
            pieces.concat()
        );
        try_one(&gateways[gateway], &origin, request.as_bytes()).map_err(TestCaseError::fail)
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// Fields of an endpoint's answer, each byte value: refused, or passed on in its line.
#[test]
fn answers_stay_within_their_lines() {
    let origin = Recorder::start();
    let gateway = transforming(&origin, "strict");
    for byte in 0..=255u8 {
        for place in ["X-Field: a@Injected: 1", "X-@Injected: 1", "Location: /@Injected: 1", "Set-Cookie: a=@"] {
            let (before, behind) = place.split_once('@').expect("a place");
            let line = [before.as_bytes(), &[byte], behind.as_bytes()].concat();
            // What stands behind CR LF is a line of the endpoint's own; behind a colon, a value.
            if byte == b'\n' || (byte == b':' && place.starts_with("X-@")) {
                continue;
            }
            let answer = [b"HTTP/1.1 200 OK\r\n", &line[..], b"\r\nContent-Length: 0\r\n\r\n"].concat();
            origin.begin(&answer);
            let mut client = gateway.connect();
            client.send("GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let got = client.read_to_end();
            assert_eq!(check_heads(&got), Ok(()), "{}", line.escape_ascii());
        }
    }
}
