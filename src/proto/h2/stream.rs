//! The life of a stream (RFC 9113 section 5.1). Reserved states do not exist: nothing is ever pushed.
//!
//! ```text
//!                  ┌──────┐
//!                  │ Idle │
//!                  └──┬───┘
//!          head sent or received
//!                     ▼
//!   ended here    ┌──────┐    ended by the peer
//!        ┌────────┤ Open ├────────┐
//!        ▼        └──┬───┘        ▼
//!  ┌───────────┐     │      ┌────────────┐
//!  │ HalfLocal │     │      │ HalfRemote │
//!  └─────┬─────┘     │      └─────┬──────┘
//!        │ ended by  │ reset      │ ended here
//!        │ the peer  ▼ by either  │
//!        │       ┌────────┐       │
//!        └──────►│ Closed │◄──────┘
//!                └────────┘
//! ```

use super::code::Code;

/// Where a stream is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing has come or gone.
    Idle,
    /// Both sides may send.
    Open,
    /// This side has ended.
    HalfLocal,
    /// The peer has ended.
    HalfRemote,
    /// Both have.
    Closed,
}

/// What may happen to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A head or trailers come, as the last frame or not.
    RecvHead {
        /// END_STREAM.
        end: bool,
    },
    /// Data comes.
    RecvData {
        /// END_STREAM.
        end: bool,
    },
    /// The peer resets it.
    RecvReset,
    /// The peer widens its window.
    RecvWindow,
    /// A head or trailers go out.
    SendHead {
        /// END_STREAM.
        end: bool,
    },
    /// Data goes out.
    SendData {
        /// END_STREAM.
        end: bool,
    },
    /// It is reset here.
    SendReset,
}

/// Why something may not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Illegal {
    /// The peer loses the connection.
    Connection(Code),
    /// The peer loses the stream.
    Stream(Code),
    /// It may have been on its way already: ignored.
    Late,
    /// A mistake of this side: nothing is sent.
    Own,
}

impl State {
    /// The state after `event`.
    ///
    /// # Errors
    /// [`Illegal`]; the state stays.
    #[inline]
    pub fn after(self, event: Event) -> Result<State, Illegal> {
        use Event::*;
        use State::*;
        match (self, event) {
            (Idle, RecvHead { end }) => Ok(if end { HalfRemote } else { Open }),
            (Idle, SendHead { end }) => Ok(if end { HalfLocal } else { Open }),
            (Idle, RecvData { .. } | RecvReset | RecvWindow) => Err(Illegal::Connection(Code::Protocol)),
            (Idle, SendData { .. } | SendReset) => Err(Illegal::Own),
            (Open, RecvHead { end } | RecvData { end }) => Ok(if end { HalfRemote } else { Open }),
            (Open, SendHead { end } | SendData { end }) => Ok(if end { HalfLocal } else { Open }),
            (HalfLocal, RecvHead { end } | RecvData { end }) => Ok(if end { Closed } else { HalfLocal }),
            (HalfLocal | Closed, SendHead { .. } | SendData { .. }) => Err(Illegal::Own),
            (HalfRemote, RecvHead { .. } | RecvData { .. }) => Err(Illegal::Stream(Code::StreamClosed)),
            (HalfRemote, SendHead { end } | SendData { end }) => Ok(if end { Closed } else { HalfRemote }),
            (Open | HalfLocal | HalfRemote, RecvWindow) => Ok(self),
            (Open | HalfLocal | HalfRemote, RecvReset | SendReset) => Ok(Closed),
            (Closed, RecvHead { .. }) => Err(Illegal::Connection(Code::StreamClosed)),
            (Closed, RecvData { .. }) => Err(Illegal::Stream(Code::StreamClosed)),
            (Closed, RecvReset | RecvWindow) => Err(Illegal::Late),
            (Closed, SendReset) => Err(Illegal::Own),
        }
    }

    /// Whether the peer may still send.
    pub fn may_receive(self) -> bool {
        matches!(self, State::Open | State::HalfLocal)
    }

    /// Whether this side may still send.
    pub fn may_send(self) -> bool {
        matches!(self, State::Open | State::HalfRemote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 5] = [State::Idle, State::Open, State::HalfLocal, State::HalfRemote, State::Closed];

    /// The whole matrix: `.` stays, `x` is a mistake of this side, `C` and `S` end connection and stream, `-` is late.
    #[test]
    fn every_state_and_every_event() {
        use Event::*;
        let events = [
            RecvHead { end: false },
            RecvHead { end: true },
            RecvData { end: false },
            RecvData { end: true },
            RecvReset,
            RecvWindow,
            SendHead { end: false },
            SendHead { end: true },
            SendData { end: false },
            SendData { end: true },
            SendReset,
        ];
        let letter = |from: State, event| match from.after(event) {
            Ok(to) if to == from => '.',
            Ok(State::Idle) => unreachable!("nothing becomes idle"),
            Ok(State::Open) => 'o',
            Ok(State::HalfLocal) => 'l',
            Ok(State::HalfRemote) => 'r',
            Ok(State::Closed) => 'c',
            Err(Illegal::Connection(_)) => 'C',
            Err(Illegal::Stream(_)) => 'S',
            Err(Illegal::Late) => '-',
            Err(Illegal::Own) => 'x',
        };
        let rows = STATES.map(|from| events.iter().map(|&event| letter(from, event)).collect::<String>());
        // Received: head, head+end, data, data+end, reset, window; sent: head, head+end, data, data+end, reset.
        assert_eq!(rows[0], "orCCCColxxx", "idle");
        assert_eq!(rows[1], ".r.rc..l.lc", "open");
        assert_eq!(rows[2], ".c.cc.xxxxc", "half closed (local)");
        assert_eq!(rows[3], "SSSSc..c.cc", "half closed (remote)");
        assert_eq!(rows[4], "CCSS--xxxxx", "closed");
    }

    #[test]
    fn nothing_leaves_closed_and_both_ends_lead_there() {
        for state in STATES {
            let receives = state.after(Event::RecvData { end: false }).is_ok();
            let sends = state.after(Event::SendData { end: false }).is_ok();
            assert_eq!((state.may_receive(), state.may_send()), (receives, sends), "{state:?}");
        }
        let ended =
            State::Idle.after(Event::RecvHead { end: true }).and_then(|s| s.after(Event::SendHead { end: true }));
        assert_eq!(ended, Ok(State::Closed));
    }
}
