//! F50: one Host, valid, the same as the target's.

use crate::support::{Case, Want, check};

/// Host and the four forms of a target (RFC 9112 section 3.2).
pub fn cases() -> Vec<Case> {
    let bad = Want::Refused(400, "bad_host");
    let get =
        |name: &str, target: &str, hosts: &str| Case::new(name, format!("GET {target} HTTP/1.1\r\n{hosts}\r\n"), bad);
    let host = |name: &str, value: &str| get(name, "/", &format!("Host:{value}\r\n"));
    let served = |mut case: Case, kept: &'static str| {
        case.want = Want::Served;
        case.kept(&[kept])
    };
    vec![
        served(host("a name", " example.com"), "host: example.com\r\n"),
        served(host("name and port", " example.com:8080"), "host: example.com:8080\r\n"),
        served(host("IPv6 literal", " [2001:db8::1]:80"), "host: [2001:db8::1]:80\r\n"),
        get("no Host", "/", ""),
        host("empty Host", ""),
        get("two equal Hosts", "/", "Host: a\r\nHost: a\r\n"),
        get("two different Hosts", "/", "Host: a\r\nHost: evil\r\n"),
        get("Host and host", "/", "Host: a\r\nhost: evil\r\n"),
        get("Host with a space before the colon", "/", "Host: a\r\nHost : evil\r\n").want(400, "bad_header"),
        host("user information", " user@a"),
        host("at sign alone", " @a"),
        host("list of hosts", " a, b"),
        host("path in Host", " a/b"),
        host("backslash in Host", " a\\b"),
        host("query in Host", " a?b"),
        host("fragment in Host", " a#b"),
        host("space in Host", " a b"),
        host("tab in Host", " a\tb"),
        host("percent in Host", " a%00b"),
        host("raw byte above 127 in Host", " a\u{e9}"),
        host("quotes in Host", " \"a\""),
        host("semicolon in Host", " a;b"),
        host("scheme in Host", " http://a"),
        host("port in words", " a:port"),
        host("port of six digits", " a:123456"),
        host("port above 65535", " a:65536"),
        host("negative port", " a:-1"),
        host("two ports", " a:1:2"),
        host("port alone", " :80"),
        host("open bracket", " [::1"),
        host("bad IPv6 literal", " [::g]"),
        host("IPv6 literal with a zone", " [fe80::1%25eth0]"),
        host("text behind an IPv6 literal", " [::1]a"),
        host("IPv6 without brackets", " ::1"),
        host("dot alone", " ."),
        host("two dots", " a..b"),
        get("absolute target agrees", "http://a/x", "Host: a\r\n").serve("get /x http/1.1\r\nhost: a\r\n"),
        get("absolute target disagrees", "http://a/", "Host: b\r\n"),
        get("absolute target with another port", "http://a:81/", "Host: a\r\n"),
        get("absolute target without Host", "http://a/", ""),
        get("absolute target with user information", "http://u@a/", "Host: u@a\r\n"),
        get("absolute target with an empty authority", "http:///", "Host: a\r\n"),
        get("absolute target with another scheme", "ftp://a/", "Host: a\r\n").want(400, "bad_path"),
        get("authority-form for GET", "a:80", "Host: a:80\r\n").want(400, "bad_path"),
        get("asterisk for GET", "*", "Host: a\r\n").want(400, "bad_path"),
        get("target that begins with two slashes", "//evil/x", "Host: a\r\n").want(400, "bad_path"),
        Case::new("no Host in HTTP/1.0", "GET /x HTTP/1.0\r\n\r\n", Want::Served).kept(&["host: 127.0.0.1"]),
        Case::new("two Hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", bad),
        Case::new("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Want::Failed(404, "no_route")),
    ]
}

#[test]
fn one_host_and_it_agrees() {
    check(&cases());
}
