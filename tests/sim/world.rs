//! What has happened in one seed, as its peers saw it, and the invariants that need more than one of them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::plan::{After, Answer, Client, Damage, Scale};

/// Events that are kept for a failure's report.
const TRACE_MAX: usize = 4_000;

/// From here on the deadline of the whole request may have passed.
const LATE_MS: u64 = 2_500;

/// The answer to an attempt, by its number.
pub type Script = Rc<dyn Fn(usize) -> Answer>;

pub struct World {
    pub seed: u64,
    pub scale: Scale,
    pub clients: Vec<Client>,
    /// By connection and request: what origins were asked, in order.
    pub attempts: RefCell<Vec<Vec<Vec<Rc<Attempt>>>>>,
    pub draining: Cell<bool>,
    pub reloads: Cell<u64>,
    /// Responses that were read to their end, and connections to origins: the sum of what was exercised.
    pub responses: Cell<u64>,
    pub connects: Cell<u64>,
    /// When the gateway was done with its last client, in milliseconds.
    pub over_ms: Cell<u64>,
    /// Clients that it is done with.
    pub over: Cell<usize>,
    /// What origins answer, where that is not drawn: a scenario of its own.
    pub script: Option<Script>,
    /// Whether there are reloads and drains; a script has none unless it asks for them.
    pub disturbed: Cell<bool>,
    trace: Option<RefCell<Vec<String>>>,
    digest: Cell<u64>,
}

/// One delivery of a request to an origin.
pub struct Attempt {
    pub answer: Answer,
    /// The body that the origin means to send.
    pub body: Vec<u8>,
    pub at_ms: u64,
}

impl World {
    pub fn new(seed: u64, scale: Scale, clients: Vec<Client>, script: Option<Script>, traced: bool) -> Rc<Self> {
        let attempts = clients.iter().map(|client| vec![Vec::new(); client.requests.len()]).collect();
        Rc::new(Self {
            seed,
            scale,
            clients,
            attempts: RefCell::new(attempts),
            draining: Cell::default(),
            reloads: Cell::default(),
            responses: Cell::default(),
            connects: Cell::default(),
            over_ms: Cell::default(),
            over: Cell::default(),
            disturbed: Cell::new(script.is_none()),
            script,
            trace: traced.then(RefCell::default),
            digest: Cell::default(),
        })
    }

    /// Notes an event: into the digest by which two runs are compared, and into the trace where one is kept.
    pub fn note(&self, at_ms: u64, what: std::fmt::Arguments<'_>) {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let text = format!("{at_ms:>6} {what}");
        let mut hasher = DefaultHasher::new();
        (self.digest.get(), &text).hash(&mut hasher);
        self.digest.set(hasher.finish());
        if let Some(trace) = &self.trace {
            let mut trace = trace.borrow_mut();
            if trace.len() < TRACE_MAX {
                trace.push(text);
            }
        }
    }

    pub fn trace(&self) -> String {
        self.trace.as_ref().map(|trace| trace.borrow().join("\n")).unwrap_or_default()
    }

    pub fn digest(&self) -> u64 {
        self.digest.get()
    }

    /// An origin has seen the head of a request.
    pub fn deliver(&self, conn: usize, at: usize, attempt: Attempt) -> Rc<Attempt> {
        let request = &self.clients[conn].requests[at];
        let mut attempts = self.attempts.borrow_mut();
        let all = &mut attempts[conn][at];
        assert!(all.is_empty() || request.repeatable(), "{} {conn}/{at} was delivered twice", request.method);
        assert!(all.len() < 3, "{} {conn}/{at} was delivered {} times", request.method, all.len() + 1);
        all.push(Rc::new(attempt));
        all[all.len() - 1].clone()
    }

    pub fn attempts_of(&self, conn: usize, at: usize) -> Vec<Rc<Attempt>> {
        self.attempts.borrow()[conn][at].clone()
    }
}

impl Attempt {
    /// Whether the origin never sends the whole of this answer.
    pub fn is_damaged(&self) -> bool {
        self.answer.damage != Damage::None
    }

    /// Whether the client may see less than the whole of it. A reset destroys what is still on its way.
    pub fn may_be_cut(&self, now_ms: u64) -> bool {
        let is_late = now_ms >= self.at_ms + LATE_MS;
        is_late || self.is_damaged() || matches!(self.answer.after, After::Reset(_))
    }
}
