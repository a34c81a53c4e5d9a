"""Flame graphs without outside tools: folds what `perf script` prints and draws the SVG."""
from __future__ import annotations

import collections
import hashlib
import html
import re
from dataclasses import dataclass, field

WIDTH_PX = 1600
FRAME_PX = 17
CHARACTER_PX = 6.6
NARROWEST_PX = 0.3
HEAD_PX = 40
OFFSET = re.compile(r"\+0x[0-9a-f]+$")
RUST_HASH = re.compile(r"::h[0-9a-f]{16}$")
FRAME_LINE = re.compile(r"^\s+[0-9a-f]+ (.*) \(([^()]*)\)$")

SCRIPT = """
const frames=[...document.querySelectorAll('g.f')],W=%d;
function zoom(g){const x0=+g.dataset.x,w0=+g.dataset.w,d0=+g.dataset.d;
 for(const f of frames){const x=+f.dataset.x,w=+f.dataset.w,d=+f.dataset.d,r=f.children[1],t=f.children[2];
  const above=d<d0&&x<=x0+1e-6&&x+w>=x0+w0-1e-6,inside=x>=x0-1e-6&&x+w<=x0+w0+1e-6&&d>=d0;
  f.style.display=above||inside?'':'none';if(!(above||inside))continue;
  const nx=above?0:(x-x0)/w0*W,nw=above?W:w/w0*W;r.setAttribute('x',nx);r.setAttribute('width',nw);
  t.setAttribute('x',nx+3);const n=Math.floor((nw-6)/%g);
  t.textContent=n<3?'':f.dataset.n.length<=n?f.dataset.n:f.dataset.n.slice(0,n-1)+'…';}}
for(const f of frames)f.addEventListener('click',()=>zoom(f));
"""


@dataclass
class Node:
    """A frame in the tree of stacks; `count` is the samples in it and below."""

    count: int = 0
    children: dict = field(default_factory=dict)


def fold(perf_script: str) -> collections.Counter:
    """Stacks (outermost frame first) with their number of samples, from the text of `perf script`."""
    stacks: collections.Counter = collections.Counter()
    for block in perf_script.split("\n\n"):
        head, *lines = block.strip("\n").splitlines() or [""]
        frames = [_frame(match) for line in lines if (match := FRAME_LINE.match(line))]
        if frames:
            stacks[(head.split()[0], *reversed(frames))] += 1
    return stacks


def top(stacks: collections.Counter, number: int = 25) -> str:
    """The symbols with most samples of their own, and with most in and below them."""
    own, inclusive = collections.Counter(), collections.Counter()
    for stack, count in stacks.items():
        own[stack[-1]] += count
        for name in set(stack[1:]):
            inclusive[name] += count
    total = max(sum(stacks.values()), 1)
    tables = (_table("self", own, total, number), _table("inclusive", inclusive, total, number))
    return "\n".join((f"{total} samples", *tables))


def svg(stacks: collections.Counter, title: str) -> str:
    """The picture: width is time, one row per depth; a click on a frame zooms, a click on the bottom resets."""
    root = _tree(stacks)
    depth_max = max((len(stack) for stack in stacks), default=0)
    height = HEAD_PX + (depth_max + 1) * FRAME_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {height}" width="{WIDTH_PX}" '
        f'height="{height}" font-family="monospace" font-size="11">',
        f'<rect width="100%" height="100%" fill="#fff"/><text x="8" y="22" font-size="15">{html.escape(title)}</text>',
    ]
    _draw(parts, "all", root, 0.0, 0, height, max(root.count, 1))
    parts.append(f"<script><![CDATA[{SCRIPT % (WIDTH_PX, CHARACTER_PX)}]]></script></svg>")
    return "\n".join(parts) + "\n"


def _frame(match: re.Match) -> str:
    symbol, module = match[1], match[2]
    name = RUST_HASH.sub("", OFFSET.sub("", symbol))
    if name == "[unknown]":
        name = f"[{module.rpartition('/')[2]}]"
    return name + ("_[k]" if module.startswith("[kernel") or module.startswith("[guest") else "")


def _table(what: str, counts: collections.Counter, total: int, number: int) -> str:
    lines = [f"  {count / total:6.1%}  {name}" for name, count in counts.most_common(number)]
    return "\n".join((f"\ntop {number}, {what}:", *lines))


def _tree(stacks: collections.Counter) -> Node:
    root = Node()
    for stack, count in sorted(stacks.items()):
        root.count += count
        node = root
        for name in stack:
            node = node.children.setdefault(name, Node())
            node.count += count
    return root


def _draw(parts: list, name: str, node: Node, left: float, depth: int, height: int, total: int) -> None:
    width = node.count / total * WIDTH_PX
    if width < NARROWEST_PX:
        return
    parts.append(_rectangle(name, node.count, left, width, depth, height, total))
    for child_name, child in node.children.items():
        _draw(parts, child_name, child, left, depth + 1, height, total)
        left += child.count / total * WIDTH_PX


def _rectangle(name: str, count: int, left: float, width: float, depth: int, height: int, total: int) -> str:
    y = height - (depth + 1) * FRAME_PX
    text, room = html.escape(name, quote=True), int((width - 6) / CHARACTER_PX)
    label = "" if room < 3 else name if len(name) <= room else name[:room - 1] + "…"
    return (
        f'<g class="f" data-x="{left:.3f}" data-w="{width:.3f}" data-d="{depth}" data-n="{text}">'
        f"<title>{text}: {count} samples, {count / total:.2%}</title>"
        f'<rect x="{left:.2f}" y="{y}" width="{width:.2f}" height="{FRAME_PX - 1}" fill="{_colour(name)}" rx="1"/>'
        f'<text x="{left + 3:.2f}" y="{y + 12}">{html.escape(label)}</text></g>'
    )


def _colour(name: str) -> str:
    """Kernel frames blue, the rest warm; the same name has the same colour in every picture."""
    shade = hashlib.md5(name.encode()).digest()[0] % 60
    if name.endswith("_[k]"):
        return f"hsl({200 + shade // 3},60%,{70 + shade // 6}%)"
    return f"hsl({10 + shade * 2 // 3},85%,{65 + shade // 6}%)"
