//! Signals, as events of the control thread.
//!
//! ```text
//! HUP  reload            TERM, QUIT  finish requests, then stop     second TERM, QUIT or INT  stop at once
//! USR1 reopen logs       INT         stop without the drain         USR2                      replace the program
//! ```

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Load the configuration anew.
    Reload,
    /// Stop accepting, finish what runs up to the drain deadline, end.
    StopGraceful,
    /// Stop with a short deadline.
    StopFast,
    /// End at once: stopping was asked for before.
    StopNow,
    /// Open the log files anew.
    ReopenLogs,
    /// Start the program anew and hand over to it.
    Upgrade,
}

/// The signals that the process listens to. They lose their default effect while this lives, and after.
#[derive(Debug)]
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    user1: Signal,
    user2: Signal,
    escalation: Escalation,
}

impl Signals {
    /// Takes the signals over. Must be called on the control thread's runtime, before the process says that it is
    /// ready.
    ///
    /// # Errors
    /// When a handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            escalation: Escalation::default(),
        })
    }

    /// The next event. Equal signals that arrive together are one. Safe to drop and call again: nothing is lost.
    pub async fn next(&mut self) -> Event {
        let event = tokio::select! {
            // A stop goes before everything else that is waiting.
            biased;
            _ = self.interrupt.recv() => Event::StopFast,
            _ = self.terminate.recv() => Event::StopGraceful,
            _ = self.quit.recv() => Event::StopGraceful,
            _ = self.hangup.recv() => Event::Reload,
            _ = self.user1.recv() => Event::ReopenLogs,
            _ = self.user2.recv() => Event::Upgrade,
        };
        self.escalation.on(event)
    }
}

/// Whether a stop was asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Escalation {
    stopping: bool,
}

impl Escalation {
    fn on(&mut self, event: Event) -> Event {
        let is_stop = matches!(event, Event::StopGraceful | Event::StopFast | Event::StopNow);
        match is_stop && std::mem::replace(&mut self.stopping, true) {
            true => Event::StopNow,
            false => event,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_stop_is_at_once_and_others_stay_what_they_are() {
        use Event::{Reload, ReopenLogs, StopFast, StopGraceful, StopNow, Upgrade};
        for first in [StopFast, StopGraceful] {
            let mut escalation = Escalation::default();
            for event in [Reload, ReopenLogs, Upgrade, first] {
                assert_eq!(escalation.on(event), event);
            }
            for event in [StopGraceful, StopFast] {
                assert_eq!(escalation.on(event), StopNow);
            }
            assert_eq!(escalation.on(Reload), Reload);
        }
    }

    #[tokio::test]
    async fn sent_signals_become_events() {
        let mut signals = Signals::new().expect("handlers");
        for (name, event) in [
            ("HUP", Event::Reload),
            ("USR1", Event::ReopenLogs),
            ("USR2", Event::Upgrade),
            ("TERM", Event::StopGraceful),
            ("HUP", Event::Reload),
            ("INT", Event::StopNow),
        ] {
            let own = std::process::id().to_string();
            let sent = std::process::Command::new("kill").args(["-s", name, &own]).status().expect("kill");
            assert!(sent.success());
            assert_eq!(signals.next().await, event, "{name}");
        }
    }
}
