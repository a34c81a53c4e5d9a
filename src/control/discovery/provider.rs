//! What a provider is, and the loop that all have in common: ask, tell, wait; ask less often when it fails.
//!
//! A further kind (etcd, a cloud's own registry) is a type with one method, and an arm where providers are made.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use crate::limits::{DISCOVERY_BACK_OFF_MS, DISCOVERY_BACK_OFF_MS_MAX, DISCOVERY_PAUSE_MS};

/// One endpoint that was found. What is None comes from the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Where it is.
    pub address: SocketAddr,
    /// The name that it was found under, for the Host that it may see; empty for none.
    pub host: String,
    /// Its share.
    pub weight: Option<u32>,
    /// Its tier.
    pub priority: Option<u32>,
    /// Its zone.
    pub zone: Option<String>,
    /// What it says of itself.
    pub metadata: Vec<(String, String)>,
}

impl Member {
    /// At this address, with nothing more said.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, host: String::new(), weight: None, priority: None, zone: None, metadata: Vec::new() }
    }
}

/// What a lookup gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The endpoints there are now.
    pub members: Vec<Member>,
    /// How long they hold; the provider is asked again then.
    pub holds: Duration,
}

/// Why a lookup gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For operators. Nothing secret, and no more than a line.
    pub text: String,
    /// What it means for the next try.
    pub kind: Kind,
}

/// What kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It did not work.
    Failed,
    /// The one that was asked answered well: what is looked up is not there.
    Missing,
    /// The one that was asked answered well: it does not keep any more what the question goes on from.
    Expired,
}

impl Trouble {
    /// It did not work.
    pub fn failed(text: impl std::fmt::Display) -> Self {
        Self { text: line(&text.to_string()), kind: Kind::Failed }
    }

    /// It is not there.
    pub fn missing(text: impl std::fmt::Display) -> Self {
        Self { text: line(&text.to_string()), kind: Kind::Missing }
    }

    /// It must be asked for from the beginning.
    pub fn expired(text: impl std::fmt::Display) -> Self {
        Self { text: line(&text.to_string()), kind: Kind::Expired }
    }

    /// Whether it is not there.
    pub fn is_missing(&self) -> bool {
        self.kind == Kind::Missing
    }
}

/// One line of bounded length: it may hold what a stranger sent.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(240).collect()
}

/// What [`Provider::next`] gives.
pub type Lookout<'a> = Pin<Box<dyn Future<Output = Result<News, Trouble>> + Send + 'a>>;

/// Something that knows endpoints. It runs on the control thread, and must bound what it reads and how long it waits.
pub trait Provider: Send {
    /// The endpoints there are now: at the first call and after trouble at once, else when they may have changed.
    fn next(&mut self) -> Lookout<'_>;
}

/// How often a provider is asked that fails, and for how long the last answer is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// First pause after a failure, in milliseconds; doubled each time.
    pub error_ms: u64,
    /// Longest pause, and the pause after being told that it is not there, in milliseconds.
    pub error_ms_max: u64,
    /// How long the last good answer is used, in milliseconds; None for as long as no other comes.
    pub stale_ms: Option<u64>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { error_ms: DISCOVERY_BACK_OFF_MS, error_ms_max: DISCOVERY_BACK_OFF_MS_MAX, stale_ms: None }
    }
}

impl Patience {
    /// The pause after the `failures`th trouble in a row. `random` spreads it: gateways that lost the same registry do
    /// not come back to it together.
    pub fn pause(&self, trouble: &Trouble, failures: u32, random: u64) -> Duration {
        let doubled = self.error_ms.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let ms = if trouble.is_missing() { self.error_ms_max } else { doubled.min(self.error_ms_max) };
        Duration::from_millis(spread(ms, random))
    }
}

/// Between nine tenths of it and all of it: never later than it was meant to be.
pub fn spread(ms: u64, random: u64) -> u64 {
    ms - (random % 1024) * (ms / 10) / 1024
}

/// Asks for ever; `tell` takes what comes.
pub async fn watch(
    mut provider: Box<dyn Provider>,
    patience: Patience,
    mut random: impl FnMut() -> u64,
    tell: impl Fn(Result<Vec<Member>, Trouble>),
) {
    let mut failures = 0_u32;
    loop {
        let pause = match provider.next().await {
            Ok(News { mut members, holds }) => {
                failures = 0;
                members.sort();
                members.dedup_by(|one, other| one.address == other.address);
                tell(Ok(members));
                holds.max(Duration::from_millis(DISCOVERY_PAUSE_MS))
            }
            Err(trouble) => {
                failures = failures.saturating_add(1);
                let pause = patience.pause(&trouble, failures, random());
                tell(Err(trouble));
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn failures_are_backed_off_and_spread() {
        let patience = Patience { error_ms: 1_000, error_ms_max: 30_000, stale_ms: None };
        let failed = Trouble::failed("x");
        let ms: Vec<_> = (1..=8).map(|n| patience.pause(&failed, n, 0).as_millis()).collect();
        assert_eq!(ms, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(patience.pause(&failed, u32::MAX, 0).as_millis(), 30_000);
        assert_eq!(patience.pause(&Trouble::missing("x"), 1, 0).as_millis(), 30_000);
        for random in 0..5_000 {
            assert!((900..=1_000).contains(&spread(1_000, random)));
        }
        assert_ne!(spread(1_000, 0), spread(1_000, 512));
        assert_eq!(spread(0, 77), 0);
    }

    #[test]
    fn what_a_stranger_sent_stays_one_line() {
        let text = Trouble::failed(format!("a\r\n\u{1b}[0mb{}", "x".repeat(1_000))).text;
        assert!(text.starts_with("a   [0mb") && text.chars().count() == 240);
    }

    struct Script(Vec<Result<News, Trouble>>);

    impl Provider for Script {
        fn next(&mut self) -> Lookout<'_> {
            let next = if self.0.is_empty() { None } else { Some(self.0.remove(0)) };
            Box::pin(async move { next.unwrap_or_else(|| Err(Trouble::failed("over"))) })
        }
    }

    #[tokio::test]
    async fn the_loop_tells_in_order_and_only_once_for_each_address() {
        let at = |text: &str| Member::at(text.parse().expect("an address"));
        let news = |members: Vec<Member>| Ok(News { members, holds: Duration::ZERO });
        let script = Script(vec![
            news(vec![at("10.0.0.2:80"), at("10.0.0.1:80"), at("10.0.0.2:80")]),
            Err(Trouble::missing("gone")),
            news(vec![]),
        ]);
        let patience = Patience { error_ms: 1, error_ms_max: 2, stale_ms: None };
        let told = Mutex::new(Vec::new());
        let tell = |what: Result<Vec<Member>, Trouble>| told.lock().expect("told").push(what);
        let run = watch(Box::new(script), patience, || 0, tell);
        let wait = async {
            while told.lock().expect("told").len() < 4 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { () = run => {}, () = wait => {} }
        let told = told.into_inner().expect("told");
        assert_eq!(told[0], Ok(vec![at("10.0.0.1:80"), at("10.0.0.2:80")]));
        assert_eq!(told[1..4], [Err(Trouble::missing("gone")), Ok(vec![]), Err(Trouble::failed("over"))]);
    }
}
