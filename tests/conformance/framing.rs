//! F46: one reading of where a message ends, or none.

use crate::support::{Case, Want, check};

const BAD_FRAMING: Want = Want::Refused(400, "bad_framing");

/// Content-Length and Transfer-Encoding (RFC 9112 section 6).
pub fn lengths() -> Vec<Case> {
    let post = |fields: &str, body: &str| format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}");
    vec![
        Case::new("one length", post("Content-Length: 5\r\n", "hello"), Want::Served).kept(&["content-length: 5"]),
        Case::new(
            "length and chunked",
            post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            BAD_FRAMING,
        ),
    ]
}

#[test]
fn lengths_have_one_reading() {
    check(&lengths());
}
