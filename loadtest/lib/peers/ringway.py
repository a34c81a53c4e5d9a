"""ringway, the gateway of this repository."""
from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from .. import routes
from .base import Peer, Spec, first_line_of


class _Built(Peer):
    """What this repository's program can be: the gateway, or an origin."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary

    def missing(self) -> str | None:
        return None if self.binary.exists() else f"{self.binary} is not built (cargo build --release)"

    def version(self) -> str:
        return first_line_of([self.binary, "--version"])


class Ringway(_Built):
    name = "ringway"

    def files(self, spec: Spec) -> dict[str, str]:
        sections = {
            "server": {"workers": spec.workers},
            "admin": {"listen": f"127.0.0.1:{spec.admin_port}"},
            # As many requests on a connection as the others are told; the default of 10,000 ends those of HTTP/2 midway.
            "listeners": [{"name": "public", "address": f"127.0.0.1:{spec.port}", "limits": {"requests_max": 1_000_000_000},
                           **_front(spec)}],
            "services": [{
                "name": "up",
                "endpoints": [{"address": f"127.0.0.1:{spec.upstream_port}"}],
                "load_balancer": "round_robin",
                **({} if spec.back == "h1" else {"protocol": "h2"}),
            }],
            "routes": [
                {"name": f"r{index}", "prefix": prefix, "service": "up"}
                for index, prefix in enumerate(routes.prefixes(spec.routes, spec.generation))
            ],
            **_policies(spec),
            "logging": {"access_log": _access_log(spec)},
        }
        return {"ringway.yaml": _yaml(sections)}

    def command(self, spec: Spec) -> list:
        return [self.binary, "run", "-c", spec.directory / "ringway.yaml"]

    def signal_reload(self, spec: Spec, pid: int) -> None:
        os.kill(pid, signal.SIGHUP)


class RingwayUpstream(_Built):
    """ringway's built-in demo upstream, in place of NGINX behind the peers (`--upstream ringway`)."""

    name = "upstream-ringway"

    def files(self, spec: Spec) -> dict[str, str]:
        return {}

    def command(self, spec: Spec) -> list:
        return [self.binary, "demo-upstream", "--listen", f"127.0.0.1:{spec.port}"]


def _front(spec: Spec) -> dict:
    """HTTP/2 is offered over TLS by default; without TLS it has to be asked for."""
    if spec.front.tls:
        return {"tls": {"cert": str(spec.certificate.chain), "key": str(spec.certificate.key)}}
    return {"protocols": ["http1", "h2c"]} if spec.front.http2 else {}


def _policies(spec: Spec) -> dict:
    if spec.series != "full":
        return {}
    return {"policies": [
        {"rate_limit": {"requests": 1_000_000, "per": "1s", "burst": 1_000_000, "key": "client_ip"}},
        {"headers": {"request": {"set": {"x-a": "b"}}, "response": {"set": {"x-b": "c"}}}},
    ]}


def _access_log(spec: Spec) -> dict:
    if spec.series == "plain":
        return {"format": "off"}
    return {"format": "json", "path": f"{spec.directory}/access.log"}


def _yaml(sections: dict) -> str:
    """YAML with one entry per line in flow style, which is JSON: no emitter needed, and people can read it."""
    lines = []
    for key, value in sections.items():
        if isinstance(value, list):
            lines.append(f"{key}:")
            lines.extend(f"  - {json.dumps(entry)}" for entry in value)
        else:
            lines.append(f"{key}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"
