//! Whose turn it is to send on a connection that has no room for all.

use std::collections::VecDeque;

use super::core::{Key, Sent};

/// Streams that wait with data for room, first come first served.
#[derive(Debug, Default)]
pub struct Turn(VecDeque<Key>);

/// What became of a piece of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// All of it is on its way.
    Done,
    /// A rest waits for room.
    Waits,
    /// The stream takes nothing more.
    Closed,
}

impl Turn {
    /// Sends what there is room for by `send`, when it is this stream's turn. `is_empty` says that an end alone is to
    /// be sent, which needs no room. Returns also whom it is to wake: who is first from now on.
    pub fn send(&mut self, key: Key, is_empty: bool, mut send: impl FnMut() -> Sent) -> (Sending, Option<Key>) {
        if !is_empty && self.first().is_some_and(|first| first != key) {
            self.wait(key);
            return (Sending::Waits, None);
        }
        loop {
            match send() {
                Sent::All => return (Sending::Done, self.leave(key)),
                Sent::Some if self.0.len() > 1 => {
                    // A frame for each, in turn.
                    self.0.retain(|other| *other != key);
                    self.0.push_back(key);
                    return (Sending::Waits, self.first());
                }
                Sent::Some => {}
                // It keeps nobody else waiting.
                Sent::NoStreamWindow => return (Sending::Waits, self.leave(key)),
                Sent::NoConnectionWindow | Sent::NoRoom => {
                    self.wait(key);
                    return (Sending::Waits, None);
                }
                Sent::Closed => return (Sending::Closed, self.leave(key)),
            }
        }
    }

    /// Who is to send next.
    pub fn first(&self) -> Option<Key> {
        self.0.front().copied()
    }

    /// A stream waits no longer. Returns whom that is to wake.
    #[must_use]
    pub fn leave(&mut self, key: Key) -> Option<Key> {
        self.0.retain(|other| *other != key);
        self.first()
    }

    fn wait(&mut self, key: Key) {
        if !self.0.contains(&key) {
            self.0.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Key = Key { slot: 0, id: 1 };
    const B: Key = Key { slot: 1, id: 3 };

    #[test]
    fn who_waits_has_a_frame_in_turn() {
        let mut turn = Turn::default();
        assert_eq!(turn.send(A, false, || Sent::NoConnectionWindow), (Sending::Waits, None));
        assert_eq!(turn.send(B, false, || unreachable!("not its turn")), (Sending::Waits, None));
        assert_eq!(turn.send(B, true, || Sent::All), (Sending::Done, Some(A)), "an end waits for nobody");
        assert_eq!(turn.send(B, false, || unreachable!("not its turn")), (Sending::Waits, None));
        assert_eq!(turn.send(A, false, || Sent::Some), (Sending::Waits, Some(B)), "one frame");
        assert_eq!(turn.send(B, false, || Sent::NoStreamWindow), (Sending::Waits, Some(A)), "it keeps nobody waiting");
        let mut frames = 0;
        let sent = turn.send(A, false, || {
            frames += 1;
            if frames < 3 { Sent::Some } else { Sent::All }
        });
        assert_eq!((sent, frames), ((Sending::Done, None), 3), "alone it sends all");
        assert_eq!(turn.send(A, false, || Sent::NoRoom), (Sending::Waits, None));
        assert_eq!(turn.send(A, false, || Sent::Closed), (Sending::Closed, None));
    }
}
