//! The path trie: one step per segment, in flat arrays that are built once and never change.
//!
//! A node is reached at one depth only and by one parent, so that a walk visits every node at most once, however many
//! parameters and literals compete. The walk holds its alternatives on an explicit stack, at most one frame per
//! segment of the deepest pattern ([`SEGMENTS_MAX`](super::SEGMENTS_MAX)); nothing recurses.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use ahash::RandomState;
use smallvec::SmallVec;

use super::hosts::hasher;
use super::pattern::{End, Shape, Step};

/// Nodes with more literal children than this find them by hash, others one after another.
const SCAN_CHILDREN_MAX: usize = 6;

/// Frames of a walk that need no allocation.
const FRAMES_INLINE: usize = 12;

const NONE: u32 = u32::MAX;

/// Routes at one place of the trie, in the order in which they are tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'t> {
    /// The caller's indices.
    pub routes: &'t [u32],
    /// How much of the path the pattern's fixed part took, without a slash at its end.
    pub prefix_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Trie {
    nodes: Box<[Node]>,
    edges: Box<[Edge]>,
    extras: Box<[Extra]>,
    raws: Box<[Raw]>,
    routes: Box<[u32]>,
    text: Box<[u8]>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    length: u32,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// The literal that leads here.
    text: Span,
    /// Literal children: a list, or a hash table if there are more than [`SCAN_CHILDREN_MAX`]. The only one stands here
    /// itself.
    edges: Span,
    /// The child for any one segment.
    one: u32,
    /// What else may follow, an index into `extras`.
    extra: u32,
    /// Routes that end here.
    exact: Routes,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    tag: u32,
    /// `NONE` for an empty slot of a hash table.
    child: u32,
}

#[derive(Clone, Copy, Debug)]
struct Extra {
    raws: Span,
    below: Routes,
    tail: Routes,
}

#[derive(Clone, Copy, Debug)]
struct Raw {
    text: Span,
    routes: Routes,
}

/// The routes of a place: a span of the array of routes; the only one, as nearly everywhere, stands here itself.
#[derive(Clone, Copy, Debug)]
struct Routes(Span);

/// A place where the walk goes on when what it tried first was not taken.
#[derive(Clone, Copy)]
struct Frame {
    node: u32,
    /// Where the segment begins.
    at: usize,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// The literal child has been tried.
    Others,
    /// So has everything that wants a certain segment.
    Tails,
}

type Frames = SmallVec<[Frame; FRAMES_INLINE]>;

/// The node to enter next and where its segment begins, or none.
type Next = Option<(u32, usize)>;

impl Trie {
    /// Calls `visit` with the places below `root` that take `path` (which begins with `/`), the most specific first,
    /// until it breaks.
    #[inline]
    pub(super) fn walk<'t>(
        &'t self,
        root: u32,
        path: &[u8],
        mut visit: impl FnMut(Place<'t>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut frames = Frames::new();
        let mut next = Some((root, 1));
        loop {
            next = if let Some((node, at)) = next {
                self.enter(node, at, path, &mut frames, &mut visit)?
            } else if let Some(frame) = frames.pop() {
                self.resume(frame, path, &mut frames, &mut visit)?
            } else {
                return ControlFlow::Continue(());
            };
        }
    }

    /// The part of a node that comes first: the path's end, or the literal child.
    #[inline]
    fn enter<'t>(
        &'t self,
        index: u32,
        at: usize,
        path: &[u8],
        frames: &mut Frames,
        visit: &mut impl FnMut(Place<'t>) -> ControlFlow<()>,
    ) -> ControlFlow<(), Next> {
        let node = &self.nodes[index as usize];
        if at > path.len() {
            self.offer(&node.exact, path.len(), visit)?;
            if node.extra != NONE {
                self.offer(&self.extras[node.extra as usize].tail, path.len(), visit)?;
            }
            return ControlFlow::Continue(None);
        }
        let end = segment_end(path, at);
        let child = self.literal(node, &path[at..end]);
        let next = child.map(|child| (child, end + 1));
        if node.one == NONE && node.extra == NONE {
            return ControlFlow::Continue(next);
        }
        let others = Frame { node: index, at, stage: Stage::Others };
        if next.is_none() {
            return self.resume(others, path, frames, visit);
        }
        frames.push(others);
        ControlFlow::Continue(next)
    }

    /// The rest of a node: raw prefixes, the child for any segment, prefixes.
    fn resume<'t>(
        &'t self,
        frame: Frame,
        path: &[u8],
        frames: &mut Frames,
        visit: &mut impl FnMut(Place<'t>) -> ControlFlow<()>,
    ) -> ControlFlow<(), Next> {
        let node = &self.nodes[frame.node as usize];
        let extra = self.extras.get(node.extra as usize);
        if frame.stage == Stage::Others {
            let end = segment_end(path, frame.at);
            for raw in extra.map_or(&[][..], |extra| slice(&self.raws, extra.raws)) {
                let text = slice(&self.text, raw.text);
                if path[frame.at..end].starts_with(text) {
                    self.offer(&raw.routes, frame.at + text.len(), visit)?;
                }
            }
            if node.one != NONE && end > frame.at {
                if extra.is_some() {
                    frames.push(Frame { stage: Stage::Tails, ..frame });
                }
                return ControlFlow::Continue(Some((node.one, end + 1)));
            }
        }
        if let Some(extra) = extra {
            self.offer(&extra.below, frame.at - 1, visit)?;
            self.offer(&extra.tail, frame.at - 1, visit)?;
        }
        ControlFlow::Continue(None)
    }

    #[inline]
    fn offer<'t>(
        &'t self,
        routes: &'t Routes,
        prefix_bytes: usize,
        visit: &mut impl FnMut(Place<'t>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let routes = match routes.0.length {
            0 => return ControlFlow::Continue(()),
            1 => std::slice::from_ref(&routes.0.start),
            _ => slice(&self.routes, routes.0),
        };
        visit(Place { routes, prefix_bytes })
    }

    /// The child for exactly this segment.
    #[inline]
    fn literal(&self, node: &Node, segment: &[u8]) -> Option<u32> {
        if node.edges.length == 1 {
            return self.leads(node.edges.start, segment).then_some(node.edges.start);
        }
        let edges = slice(&self.edges, node.edges);
        if edges.len() <= SCAN_CHILDREN_MAX {
            let tag = scan_tag(segment);
            let same = |edge: &&Edge| edge.tag == tag && self.leads(edge.child, segment);
            return edges.iter().find(same).map(|edge| edge.child);
        }
        let hash = self.hasher.hash_one(segment);
        let mask = edges.len() - 1;
        let mut slot = hash as usize & mask;
        // At least half of the slots are empty, so this ends.
        loop {
            let edge = &edges[slot];
            if edge.child == NONE {
                return None;
            }
            if edge.tag == hash_tag(hash) && self.leads(edge.child, segment) {
                return Some(edge.child);
            }
            slot = (slot + 1) & mask;
        }
    }

    #[inline]
    fn leads(&self, child: u32, segment: &[u8]) -> bool {
        slice(&self.text, self.nodes[child as usize].text) == segment
    }

    /// The routes of each place that has several.
    pub(super) fn lists(&self) -> impl Iterator<Item = &[u32]> {
        let ends = self.nodes.iter().map(|node| node.exact).chain(self.raws.iter().map(|raw| raw.routes));
        let all = ends.chain(self.extras.iter().flat_map(|extra| [extra.below, extra.tail]));
        all.filter(|routes| routes.0.length > 1).map(|routes| slice(&self.routes, routes.0))
    }

    /// How many bytes it takes on the heap.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.nodes)
            + size_of_val(&*self.edges)
            + size_of_val(&*self.extras)
            + size_of_val(&*self.raws)
            + size_of_val(&*self.routes)
            + self.text.len()
    }
}

/// Collects routes and yields the trie.
#[derive(Debug, Default)]
pub(super) struct Builder {
    nodes: Vec<Growing>,
    hasher: RandomState,
    /// Literal children by their parent and the hash of their text: the newest of those that have it in common.
    children: HashMap<(u32, u64), u32, RandomState>,
}

#[derive(Debug, Default)]
struct Growing {
    text: Box<[u8]>,
    /// Its literal children.
    literals: Vec<u32>,
    /// An older sibling with the same hash.
    alike: Option<u32>,
    one: Option<u32>,
    exact: Vec<u32>,
    raws: BTreeMap<Vec<u8>, Vec<u32>>,
    below: Vec<u32>,
    tail: Vec<u32>,
}

impl Builder {
    /// A new root; its index is that of [`Trie::walk`].
    pub(super) fn root(&mut self) -> u32 {
        self.grow(Growing::default())
    }

    /// Adds `route` below `root`. Routes of one place are tried in the order in which they were added.
    pub(super) fn add(&mut self, root: u32, shape: &Shape<'_>, route: u32) {
        let mut at = root;
        for step in &shape.steps {
            at = match step {
                Step::Literal(text) => self.literal(at, text),
                Step::One => self.one(at),
            };
        }
        let node = &mut self.nodes[at as usize];
        match shape.end {
            End::Exact => node.exact.push(route),
            End::Raw(text) => node.raws.entry(text.to_vec()).or_default().push(route),
            End::Below => node.below.push(route),
            End::Tail => node.tail.push(route),
        }
    }

    /// The finished trie. Node indices stay what they are.
    pub(super) fn finish(self) -> Trie {
        let mut flat = Flat { hasher: hasher(), ..Flat::default() };
        // Texts first, then the edges, which are placed by their texts.
        let mut nodes: Vec<Node> = self.nodes.iter().map(|node| flat.node(node)).collect();
        for (node, growing) in nodes.iter_mut().zip(&self.nodes) {
            node.edges = flat.edges(&growing.literals, &self.nodes);
        }
        Trie {
            nodes: nodes.into(),
            edges: flat.edges.into(),
            extras: flat.extras.into(),
            raws: flat.raws.into(),
            routes: flat.routes.into(),
            text: flat.text.into(),
            hasher: flat.hasher,
        }
    }

    fn grow(&mut self, node: Growing) -> u32 {
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }

    fn literal(&mut self, at: u32, text: &[u8]) -> u32 {
        let key = (at, self.hasher.hash_one(text));
        let newest = self.children.get(&key).copied();
        let mut alike = newest;
        while let Some(child) = alike {
            let node = &self.nodes[child as usize];
            if *node.text == *text {
                return child;
            }
            alike = node.alike;
        }
        let child = self.grow(Growing { text: text.into(), alike: newest, ..Growing::default() });
        self.nodes[at as usize].literals.push(child);
        self.children.insert(key, child);
        child
    }

    fn one(&mut self, at: u32) -> u32 {
        if let Some(child) = self.nodes[at as usize].one {
            return child;
        }
        let child = self.grow(Growing::default());
        self.nodes[at as usize].one = Some(child);
        child
    }
}

/// The arrays of a trie while they fill.
#[derive(Default)]
struct Flat {
    edges: Vec<Edge>,
    extras: Vec<Extra>,
    raws: Vec<Raw>,
    routes: Vec<u32>,
    text: Vec<u8>,
    hasher: RandomState,
}

impl Flat {
    fn node(&mut self, node: &Growing) -> Node {
        let extra = match node.raws.is_empty() && node.below.is_empty() && node.tail.is_empty() {
            true => NONE,
            false => self.extra(node),
        };
        Node {
            text: append(&mut self.text, &node.text),
            edges: Span { start: 0, length: 0 },
            one: node.one.unwrap_or(NONE),
            extra,
            exact: self.list(&node.exact),
        }
    }

    fn extra(&mut self, node: &Growing) -> u32 {
        let mut longest_first: Vec<_> = node.raws.iter().collect();
        longest_first.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let raws: Vec<Raw> = longest_first
            .into_iter()
            .map(|(text, routes)| Raw { text: append(&mut self.text, text), routes: self.list(routes) })
            .collect();
        let (below, tail) = (self.list(&node.below), self.list(&node.tail));
        self.extras.push(Extra { raws: append(&mut self.raws, &raws), below, tail });
        self.extras.len() as u32 - 1
    }

    fn list(&mut self, routes: &[u32]) -> Routes {
        Routes(match routes {
            [only] => Span { start: *only, length: 1 },
            _ => append(&mut self.routes, routes),
        })
    }

    fn edges(&mut self, literals: &[u32], nodes: &[Growing]) -> Span {
        if let [only] = literals {
            return Span { start: *only, length: 1 };
        }
        let literals = || literals.iter().map(|child| (&*nodes[*child as usize].text, *child));
        if literals().len() <= SCAN_CHILDREN_MAX {
            let start = self.edges.len() as u32;
            self.edges.extend(literals().map(|(text, child)| Edge { tag: scan_tag(text), child }));
            return Span { start, length: self.edges.len() as u32 - start };
        }
        let mut slots = vec![Edge { tag: 0, child: NONE }; (literals().len() * 2).next_power_of_two()];
        let mask = slots.len() - 1;
        for (text, child) in literals() {
            let hash = self.hasher.hash_one(text);
            let mut slot = hash as usize & mask;
            while slots[slot].child != NONE {
                slot = (slot + 1) & mask;
            }
            slots[slot] = Edge { tag: hash_tag(hash), child };
        }
        append(&mut self.edges, &slots)
    }
}

fn append<T: Copy>(all: &mut Vec<T>, some: &[T]) -> Span {
    let start = all.len() as u32;
    all.extend_from_slice(some);
    Span { start, length: some.len() as u32 }
}

#[inline]
fn slice<T>(all: &[T], span: Span) -> &[T] {
    &all[span.start as usize..][..span.length as usize]
}

/// Where the segment that begins at `at` ends.
#[inline]
fn segment_end(path: &[u8], at: usize) -> usize {
    memchr::memchr(b'/', &path[at..]).map_or(path.len(), |length| at + length)
}

/// Length and first bytes, so that most siblings are told apart without their text.
#[inline]
fn scan_tag(segment: &[u8]) -> u32 {
    let byte = |at: usize| segment.get(at).map_or(0, |byte| u32::from(*byte));
    (segment.len() as u32) << 24 | byte(0) << 16 | byte(1) << 8 | byte(segment.len().wrapping_sub(1))
}

#[inline]
fn hash_tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}
