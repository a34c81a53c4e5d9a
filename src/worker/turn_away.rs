//! Clients for whom there is no memory are told so, at the cost of a socket for half a second (F10).
//!
//! Nothing of what they send is read as a request: the answer is the same for all, and stands in the program.

use std::cell::Cell;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use monoio::net::TcpStream;

use crate::limits::{TURNED_AWAY_MAX, TURNED_AWAY_MS};
use crate::sys::stream::SharedStream;

/// [`Reason::MemoryShort`](crate::error::Reason::MemoryShort) as a response. It has no request id: there is no request.
const RESPONSE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 62\r\n\
    Retry-After: 1\r\nConnection: close\r\n\r\n{\"error\":\"Gateway \
    overloaded\",\"status\":503,\"reason\":\"memory\"}\n";

/// Tells a client, as long as few are being told; others are closed without a word. The connection must be one on which
/// HTTP/1.1 is spoken.
pub fn tell(present: &Rc<Cell<u32>>, stream: TcpStream) {
    if present.get() >= TURNED_AWAY_MAX {
        return;
    }
    present.set(present.get() + 1);
    let present = present.clone();
    monoio::spawn(async move {
        let stream = SharedStream::new(stream);
        stream.send_now(RESPONSE);
        stream.shutdown(Shutdown::Write);
        // A close with its request unread would be a reset, which takes the response along.
        monoio::time::sleep(Duration::from_millis(TURNED_AWAY_MS)).await;
        stream.discard_now();
        present.set(present.get() - 1);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    #[test]
    fn the_answer_is_that_of_its_reason() {
        let text = std::str::from_utf8(RESPONSE).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let json: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let reason = Reason::MemoryShort;
        assert_eq!((&json["error"], &json["reason"]), (&reason.text().into(), &reason.word().into()));
        assert_eq!(json["status"], reason.status());
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", reason.status())));
    }
}
