"""The gateways that are compared, and the upstreams behind them."""
from __future__ import annotations

from pathlib import Path

from .base import Peer, Spec
from .envoy import Envoy
from .floor import Floor
from .haproxy import Haproxy
from .nghttpd import Nghttpd
from .nginx import Nginx, NginxStream, NginxUpstream
from .ringway import Ringway, RingwayUpstream

BASELINE = "nginx"
"""The peer that ratios are taken to."""

NAMES = ("nginx", "nginx-stream", "haproxy", "envoy", "floor", "ringway")
UPSTREAM_NAMES = ("nginx", "ringway")


def make(name: str, ringway: Path, venv: Path) -> Peer:
    makers = {
        "nginx": Nginx,
        "nginx-stream": NginxStream,
        "haproxy": Haproxy,
        "envoy": lambda: Envoy(venv),
        "floor": lambda: Floor(ringway),
        "ringway": lambda: Ringway(ringway),
    }
    return makers[name]()


def make_upstream(name: str, ringway: Path) -> Peer:
    return NginxUpstream() if name == "nginx" else RingwayUpstream(ringway)


def make_backend(back: str) -> Peer:
    """The upstream of the rows whose gateways speak HTTP/2 to it."""
    return Nghttpd(trailers=back == "grpc")


__all__ = ["BASELINE", "NAMES", "UPSTREAM_NAMES", "Peer", "Spec", "make", "make_backend", "make_upstream"]
