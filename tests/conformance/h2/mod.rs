//! HTTP/2 against the real program over raw sockets: RFC 9113 and RFC 7541 section by section, and the floods of
//! F41 to F45.

#[path = "../../support/h2.rs"]
pub mod wire;

mod floods;
mod frames;
mod messages;

use crate::support::e2e::gateway::Plan;
use crate::support::e2e::{Gateway, Origin, ok};
use wire::{H2, get};

/// A gateway that speaks HTTP/2 without TLS, before this origin.
pub fn before(origin: &Origin, limits: &str) -> Gateway {
    let config = format!(
        "listeners: [{{address: \"127.0.0.1:0\", protocols: [http1, h2c], limits: {{{limits}}}}}]\n\
         logging: {{access_log: {{format: json}}}}\n\
         services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes: [{{name: fixed, path: /fixed, respond: {{body: fixed}}}}, {{name: all, path: /*, service: up}}]\n",
        origin.address
    );
    Plan::new(&config).start()
}

/// An origin and a gateway for most tests.
pub fn bed() -> (Origin, Gateway) {
    let origin = Origin::start(|seen| ok(&seen.body));
    let gateway = before(&origin, "");
    (origin, gateway)
}

/// What comes of what a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// GOAWAY with one of these codes, and the close.
    Over(&'static [u32]),
    /// Stream 1 is reset with one of these codes, and the connection goes on.
    Reset(&'static [u32]),
    /// Stream 1 is answered with this status, and the connection goes on.
    Status(u16),
    /// Nothing but that the connection goes on.
    Fine,
}

/// Runs rows: the section, what is done in words, the bytes behind the preface and SETTINGS, what comes of it.
pub fn check(gateway: &Gateway, rows: &[(&str, &str, Vec<u8>, Want)]) {
    let mut wrong = Vec::new();
    for (section, what, bytes, want) in rows {
        let mut client = H2::connect(gateway.address);
        client.send(bytes);
        let got = outcome(&mut client, *want);
        if let Err(got) = got {
            wrong.push(format!("{section}: {what}: wanted {want:?}, got {got}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn outcome(client: &mut H2, want: Want) -> Result<(), String> {
    match want {
        Want::Over(codes) => match client.end() {
            Some((code, _)) if codes.contains(&code) => return Ok(()),
            other => return Err(format!("{other:?}, answers {:?}", client.answers)),
        },
        Want::Reset(codes) => {
            let answer = client.answer(1);
            if !answer.reset.is_some_and(|code| codes.contains(&code)) || answer.status != 0 {
                return Err(format!("{answer:?}, goaway {:?}", client.goaway));
            }
        }
        Want::Status(status) => {
            let answer = client.answer(1);
            if answer.status != status || !answer.ended {
                return Err(format!("{answer:?}, goaway {:?}", client.goaway));
            }
        }
        Want::Fine => {}
    }
    client.send(&get(9_999, "/fixed"));
    let answer = client.answer(9_999);
    if answer.status == 200 { Ok(()) } else { Err(format!("no further answer: {:?}", client.goaway)) }
}
